//! Escapes text from a model or user for a Markdown file, so that it affects neither a terminal nor
//! the formatting.

use std::fmt::Write as _;

/// Appends a level-2 heading and `body` as an indented code block, in which Markdown has no effect.
pub fn section(text: &mut String, title: &str, body: &str) {
    // Writing to a string cannot fail.
    let _ = write!(text, "\n## {title}\n\n");
    if body.trim().is_empty() {
        text.push_str("(empty)\n");
        return;
    }
    for line in body.split('\n') {
        let _ = writeln!(text, "    {}", escape(line));
    }
}

/// Escapes control characters, and characters that change the text direction, as `\u{1b}`.
fn escape(line: &str) -> String {
    let acts = |c: char| {
        c.is_control() && c != '\t'
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    line.chars().fold(String::with_capacity(line.len()), |mut text, c| {
        if acts(c) {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
        text
    })
}
