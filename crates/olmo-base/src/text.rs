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
