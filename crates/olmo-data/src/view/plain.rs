//! Untrusted text, for a terminal.

/// Escapes control characters and text-direction marks in `text`, for a terminal.
pub fn plain(text: &str) -> String {
    let hidden =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    text.chars()
        .flat_map(|c| match c {
            '\n' | '\t' => vec![c],
            c if c.is_control() || hidden(c) => c.escape_default().collect(),
            c => vec![c],
        })
        .collect()
}
