//! Text as Python and the evaluation harnesses see it.

/// Whether Python's `str.isspace` is true for `c`.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `text` without its trailing whitespace (Python's `str.rstrip`), and that whitespace.
pub fn split_trailing_space(text: &str) -> (&str, &str) {
    text.split_at(text.trim_end_matches(is_space).len())
}

/// Number of Unicode characters.
pub fn characters(text: &str) -> usize {
    text.chars().count()
}

/// Number of words: pieces of text between whitespace, with the empty ones at its ends, as of Python's
/// `re.split(r"\s+", text)`.
pub fn words(text: &str) -> usize {
    let mut words = 1;
    let mut in_space = false;
    for c in text.chars() {
        if is_space(c) && !in_space {
            words += 1;
        }
        in_space = is_space(c);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_and_words_are_pythons() {
        assert_eq!(split_trailing_space("a b \n\t\u{1c}\u{3000}"), ("a b", " \n\t\u{1c}\u{3000}"));
        assert_eq!(split_trailing_space(" \n"), ("", " \n"));
        assert_eq!(split_trailing_space("a\u{200b}"), ("a\u{200b}", ""));
        assert_eq!([words("a b  c"), words(""), words(" a "), words("a\n\nb")], [3, 1, 3, 2]);
        assert_eq!(characters("é中🙂"), 3);
    }
}
