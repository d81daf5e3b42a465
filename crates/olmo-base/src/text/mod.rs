//! Text for messages: words ([`nearest`]), sizes and times ([`units`]), and quoted text.

pub mod nearest;
pub mod units;

/// Puts `text` in backticks, and cuts it after 60 characters.
pub fn quoted(text: &str) -> String {
    const MAX: usize = 60;
    if text.chars().count() > MAX {
        let start: String = text.chars().take(MAX).collect();
        format!("`{start}…`")
    } else {
        format!("`{text}`")
    }
}

/// Adds the indefinite article to `word`: "an experiment".
pub fn with_article(word: &str) -> String {
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {word}", if vowel { "an" } else { "a" })
}
