//! Text inside messages.

/// `text` in backticks, cut after 60 characters.
pub fn quoted(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() > MOST {
        let start: String = text.chars().take(MOST).collect();
        format!("`{start}…`")
    } else {
        format!("`{text}`")
    }
}

/// `word` with its indefinite article: "an experiment".
pub fn with_article(word: &str) -> String {
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {word}", if vowel { "an" } else { "a" })
}
