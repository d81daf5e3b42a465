//! "Did you mean …?": finds the known words that are most similar to a misspelled one.

use std::path::Path;

use crate::text::quoted;

/// Maximum number of suggested words.
const MAX_SUGGESTIONS: usize = 3;
/// Minimum Jaro-Winkler similarity of a suggestion.
const MIN_SIMILARITY: f64 = 0.75;
/// Maximum number of candidates to compare.
const MAX_COMPARED: usize = 1_000;

/// A hint for `word`, which was found where one of `known` was expected. It lists the most similar
/// words, or the known words if none is similar. Returns `None` if `known` is empty.
pub fn help<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().take(MAX_COMPARED).collect();
    let near = nearest(word, &known);
    if !near.is_empty() {
        return Some(format!("did you mean {}?", listed(&near, "or")));
    }
    match known.len() {
        0 => None,
        1..=8 => Some(format!("known: {}", listed(&known, "and"))),
        more => Some(format!(
            "known: {} and {} more",
            known[..7].iter().map(|k| quoted(k)).collect::<Vec<_>>().join(", "),
            more - 7
        )),
    }
}

/// The words of `known` that are most similar to `word`, best first.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Vec<&'a str> {
    // Computing the similarity takes quadratic time, and a word this long is not a typo.
    if word.len() > 200 {
        return Vec::new();
    }
    let folded = word.to_lowercase();
    let mut scored: Vec<(f64, &str)> = known
        .iter()
        .filter(|candidate| candidate.len() <= 200)
        .map(|candidate| {
            let candidate_folded = candidate.to_lowercase();
            // A part of a candidate counts as similar, however short: `lr` in `peak_lr`.
            let inside = folded.len() > 1 && candidate_folded.split(['_', '-']).any(|part| part == folded);
            // Jaro-Winkler misses swapped letters in short words: `fti` for `fit`.
            let slip = folded.len() > 2 && strsim::osa_distance(&folded, &candidate_folded) == 1;
            let floor = if slip {
                MIN_SIMILARITY + 0.05
            } else if inside {
                MIN_SIMILARITY
            } else {
                0.0
            };
            (strsim::jaro_winkler(&folded, &candidate_folded).max(floor), *candidate)
        })
        .filter(|(score, _)| *score >= MIN_SIMILARITY)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    // If there is an almost identical word, leave out less similar ones.
    if let Some(&(best, _)) = scored.first() {
        scored.retain(|(score, _)| best < 0.9 || best - score < 0.1);
    }
    scored.into_iter().map(|(_, word)| word).take(MAX_SUGGESTIONS).collect()
}

/// Joins words to a list such as "`a`, `b` or `c`".
pub fn listed(words: &[&str], conjunction: &str) -> String {
    match words {
        [] => String::new(),
        [one] => quoted(one),
        [most @ .., last] => {
            format!("{} {conjunction} {}", most.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(", "), quoted(last))
        }
    }
}

/// A hint for a missing file: the most similar names in its folder, or that the folder is missing.
pub fn files_near(path: &Path) -> Option<String> {
    let folder = path.parent()?;
    let name = path.file_name()?.to_str()?;
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Some(format!("there is no folder {}", quoted(&folder.to_string_lossy())));
    };
    let names: Vec<String> =
        entries.flatten().take(MAX_COMPARED).filter_map(|e| e.file_name().into_string().ok()).collect();
    let near = nearest(name, &names.iter().map(String::as_str).collect::<Vec<_>>());
    (!near.is_empty()).then(|| format!("did you mean {}?", listed(&near, "or")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_words_come_first_and_at_most_three() {
        let known = ["learning_rate", "learning_rates", "learn_rate", "learning_rat", "seed"];
        let near = nearest("learning_rte", &known);
        assert!(near.len() == 3 && near[0].starts_with("learning_rat") && !near.contains(&"seed"), "{near:?}");
        assert_eq!(nearest("SEED", &known), ["seed"]);
        assert_eq!(nearest("lr", &["peak_lr", "seed"]), ["peak_lr"]);
        assert_eq!(nearest("fti", &["fit", "seed"]), ["fit"]);
    }

    #[test]
    fn without_a_near_word_the_known_ones_are_listed() {
        assert_eq!(help("zzz", ["a", "b"]).unwrap(), "known: `a` and `b`");
        assert_eq!(help("zzz", []), None);
        let many: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
        assert!(help("zzz", many.iter().map(String::as_str)).unwrap().ends_with("and 13 more"));
    }
}
