//! [`StopStrings`]: ends an answer before the first of some strings.

/// Strings that end an answer, as its text arrives in pieces.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that has not appeared, because it may be the beginning of a stop string.
    held: String,
}

impl StopStrings {
    /// Ends an answer before the first of `stops`. Empty strings are ignored.
    pub fn new(stops: &[String]) -> StopStrings {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        StopStrings { stops, held: String::new() }
    }

    /// Adds a piece of the text. Returns the text that certainly belongs to the answer, and whether
    /// a stop string follows it.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        if self.stops.is_empty() {
            return (piece.to_owned(), false);
        }
        self.held.push_str(piece);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(end) = first {
            self.held.truncate(end);
            return (std::mem::take(&mut self.held), true);
        }
        let text = self.held.as_str();
        let may_begin = |start: &usize| self.stops.iter().any(|stop| stop.starts_with(&text[*start..]));
        let start = text.char_indices().map(|(start, _)| start).find(may_begin).unwrap_or(text.len());
        let rest = self.held.split_off(start);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text that was held back, once no more follows.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stops = StopStrings::new(&stops);
        let mut text = String::new();
        for piece in pieces {
            let (new, is_over) = stops.push(piece);
            text += &new;
            if is_over {
                return (text, true);
            }
        }
        (text + &stops.finish(), false)
    }

    #[test]
    fn an_answer_ends_before_the_first_stop_string_however_it_is_split() {
        let text = "one\n\ntwo END three";
        for size in 1..text.len() {
            let pieces: Vec<String> =
                text.chars().collect::<Vec<_>>().chunks(size).map(|piece| piece.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            assert_eq!(split(&["END"], &pieces), ("one\n\ntwo ".into(), true));
            assert_eq!(split(&["END", "\n\n"], &pieces), ("one".into(), true));
            assert_eq!(split(&["", "nowhere", "three!"], &pieces), (text.into(), false));
        }
    }

    #[test]
    fn text_is_held_back_only_while_a_stop_string_may_follow() {
        let mut stops = StopStrings::new(&["aab".into()]);
        assert_eq!(stops.push("xa"), ("x".into(), false));
        assert_eq!(stops.push("a"), (String::new(), false));
        assert_eq!(stops.push("a"), ("a".into(), false));
        assert_eq!(stops.push("é"), ("aaé".into(), false));
        assert_eq!(stops.push("aab"), (String::new(), true));
    }
}
