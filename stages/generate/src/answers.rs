//! `answers.md`: prompts and answers for a person.
//!
//! What a model says is not to be trusted: nothing in it acts on a terminal or as Markdown.

use std::fmt::Write;
use std::path::Path;

use olmo_stage::StageError;

/// A prompt and what the model said.
pub struct Answer {
    pub prompt: String,
    pub answer: String,
}

/// Writes `answers.md` into folder `dir`.
pub fn write(dir: &Path, system: Option<&str>, answers: &[Answer]) -> Result<(), StageError> {
    let path = dir.join("answers.md");
    std::fs::write(&path, markdown(system, answers)).map_err(|e| StageError::io(&path, e))
}

fn markdown(system: Option<&str>, answers: &[Answer]) -> String {
    let mut text = String::from("# Answers\n");
    if let Some(system) = system {
        section(&mut text, "System", system);
    }
    for (number, Answer { prompt, answer }) in answers.iter().enumerate() {
        section(&mut text, &format!("Prompt {}", number + 1), prompt);
        section(&mut text, &format!("Answer {}", number + 1), answer);
    }
    text
}

/// A heading and `body` as an indented block, in which Markdown has no meaning.
fn section(text: &mut String, title: &str, body: &str) {
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

/// `line` with control characters, and those that turn the direction of writing, as `\u{1b}`.
fn escape(line: &str) -> String {
    let acts = |c: char| {
        c.is_control() && c != '\t'
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    line.chars().fold(String::with_capacity(line.len()), |mut text, c| {
        if acts(c) {
            text.extend(c.escape_default())
        } else {
            text.push(c)
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_says_neither_acts_on_a_terminal_nor_as_markdown() {
        let answer =
            Answer { prompt: "Hi\n# two".into(), answer: "\u{1b}[31mred\u{202e}\r\n## not a heading\té🦀".into() };
        assert_eq!(
            markdown(Some("Be kind."), &[answer]),
            "# Answers\n\n## System\n\n    Be kind.\n\n## Prompt 1\n\n    Hi\n    # two\n\n## Answer 1\n\n    \\u{1b}[31mred\\u{202e}\\r\n    ## not a heading\té🦀\n"
        );
    }

    #[test]
    fn an_empty_answer_is_shown_as_such() {
        let answer = Answer { prompt: "Hi".into(), answer: "  ".into() };
        assert!(markdown(None, &[answer]).ends_with("## Answer 1\n\n(empty)\n"));
    }
}
