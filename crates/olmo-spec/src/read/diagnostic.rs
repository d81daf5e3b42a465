//! [`Diagnostic`]: an error in a file, and how a terminal shows it.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

/// A place in a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The file as given, or `--set`.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The line in which it ends.
    pub end_line: u32,
    /// The column after its last character.
    pub end_column: u32,
    /// The source's line `line`, or the part of a very long line around `column`.
    pub text: String,
    /// The column at which `text` begins; 1 if it is the whole line.
    pub text_column: u32,
}

/// An error: what, where, why, and how to fix it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// A stable code, `area::reason`.
    pub code: String,
    /// What is wrong, in one line.
    pub message: String,
    /// Where it is; `None` if it is in no text.
    pub span: Option<Location>,
    /// A few words next to the carets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Additional facts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How to fix it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// All errors found at once, in the order of their places. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

/// Terminal styles; all empty without colour.
struct Style {
    error: &'static str,
    bold: &'static str,
    gutter: &'static str,
    end: &'static str,
}

const PLAIN: Style = Style { error: "", bold: "", gutter: "", end: "" };
const COLOR: Style = Style { error: "\x1b[1;31m", bold: "\x1b[1m", gutter: "\x1b[1;34m", end: "\x1b[0m" };

impl Diagnostic {
    /// An error without a place.
    pub fn plain(code: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code: code.to_owned(), message, span: None, label: None, notes: Vec::new(), help: None }
    }

    /// The error in the form of a compiler's, with a final newline. ANSI colours only with `color`.
    pub fn render(&self, color: bool) -> String {
        let mut out = String::new();
        self.write(&mut out, "error", if color { &COLOR } else { &PLAIN }).unwrap_or_default();
        out
    }

    /// Like [`Diagnostic::render`], for a warning.
    pub fn render_warning(&self, color: bool) -> String {
        let mut out = String::new();
        self.write(&mut out, "warning", if color { &COLOR } else { &PLAIN }).unwrap_or_default();
        out
    }

    fn write(&self, out: &mut String, level: &str, style: &Style) -> fmt::Result {
        let Style { error, bold, gutter, end } = style;
        writeln!(out, "{error}{level}[{}]{end}{bold}: {}{end}", escape(&self.code), escape(&self.message))?;
        let mut width = 1;
        if let Some(span) = &self.span {
            width = span.line.to_string().len();
            writeln!(out, "{:width$}{gutter}-->{end} {}:{}:{}", "", escape(&span.file), span.line, span.column)?;
            writeln!(out, "{:width$} {gutter}|{end}", "")?;
            let (line, before, carets) = marked(span);
            writeln!(out, "{gutter}{:width$} |{end} {line}", span.line)?;
            write!(out, "{:width$} {gutter}|{end} {:before$}{error}{}", "", "", "^".repeat(carets))?;
            if let Some(label) = &self.label {
                write!(out, " {}", escape(label))?;
            }
            writeln!(out, "{end}")?;
            if !self.notes.is_empty() || self.help.is_some() {
                writeln!(out, "{:width$} {gutter}|{end}", "")?;
            }
        }
        let notes = self.notes.iter().map(|text| ("note", text));
        for (kind, text) in notes.chain(self.help.iter().map(|text| ("help", text))) {
            writeln!(out, "{:width$} {gutter}={end} {bold}{kind}{end}: {}", "", escape(text))?;
        }
        Ok(())
    }
}

/// The line as shown, the width before the carets, and the number of carets.
fn marked(span: &Location) -> (String, usize, usize) {
    let first = span.column.saturating_sub(span.text_column) as usize;
    let last =
        if span.end_line == span.line { span.end_column.saturating_sub(span.text_column) as usize } else { usize::MAX };
    let (mut line, mut before, mut carets) = (String::new(), 0, 0);
    // A block that continues on the next line is marked to the end of this line, without its comment.
    let marked_text = span.text.trim_end().chars().count();
    for (index, c) in span.text.chars().enumerate() {
        let shown = if c == '\t' { "    ".to_owned() } else { escape(c.encode_utf8(&mut [0; 4])) };
        let width: usize = shown.chars().map(columns).sum();
        if index < first {
            before += width;
        } else if index < last.min(marked_text) {
            carets += width;
        }
        line.push_str(&shown);
    }
    (line.trim_end().to_owned(), before, carets.max(1))
}

/// How many columns a terminal gives `c`.
fn columns(c: char) -> usize {
    match u32::from(c) {
        // Combining marks, joiners and variation selectors.
        0x300..=0x36f | 0x200b..=0x200d | 0xfe00..=0xfe0f => 0,
        // East Asian wide forms and emoji.
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe4f => 2,
        0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1f64f | 0x1f900..=0x1f9ff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// `text` with escapes for characters that could act on a terminal or reorder a line.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                out.extend(c.escape_unicode());
            }
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

impl Diagnostics {
    pub fn new(found: Vec<Diagnostic>) -> Self {
        debug_assert!(!found.is_empty(), "no diagnostics without an error");
        Self(found)
    }

    /// The errors in order.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }

    /// How many there are, at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them as text, an empty line between two.
    pub fn render(&self, color: bool) -> String {
        self.0.iter().map(|diagnostic| diagnostic.render(color)).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32, column: u32, end_column: u32, text: &str) -> Diagnostic {
        let span = Location {
            file: "a.yaml".into(),
            line,
            column,
            end_line: line,
            end_column,
            text: text.into(),
            text_column: 1,
        };
        Diagnostic { span: Some(span), help: Some("way out".into()), ..Diagnostic::plain("spec::x", "it is wrong") }
    }

    #[test]
    fn it_reads_like_a_compiler() {
        insta::assert_snapshot!(at(12, 3, 6, "  abc: 1").render(false), @r"
        error[spec::x]: it is wrong
          --> a.yaml:12:3
           |
        12 |   abc: 1
           |   ^^^
           |
           = help: way out
        ");
    }

    #[test]
    fn carets_stand_under_wide_and_tabbed_text() {
        insta::assert_snapshot!(at(1, 5, 7, "\t語: ab").render(false), @r"
        error[spec::x]: it is wrong
         --> a.yaml:1:5
          |
        1 |     語: ab
          |         ^^
          |
          = help: way out
        ");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let mut diagnostic = at(1, 1, 2, "\x1b[2J\u{202e}x");
        diagnostic.message = "a\x07\nb".into();
        let text = diagnostic.render(false);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
        assert!(text.contains("\\u{1b}[2J\\u{202e}x") && text.contains("a\\u{7}\\nb"), "{text}");
    }

    #[test]
    fn colour_is_only_there_when_asked_for() {
        let diagnostic = at(1, 1, 2, "x");
        assert!(!diagnostic.render(false).contains('\x1b'));
        assert!(diagnostic.render(true).contains("\x1b[1;31merror"));
    }

    #[test]
    fn the_machine_form_comes_back_equal() {
        let all = Diagnostics::new(vec![at(1, 1, 2, "x"), Diagnostic::plain("a::b", "c")]);
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Diagnostics>(&text).unwrap(), all);
    }
}
