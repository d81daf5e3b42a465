//! Writes `answers.md`, the prompts and answers for people to read.
//!
//! Model output is untrusted, so it is escaped: it cannot control a terminal or act as Markdown.

use std::path::Path;

use olmo_stage::StageError;
use olmo_stage::markdown::section;

/// A prompt and the model's answer.
pub(crate) struct Answer {
    pub prompt: String,
    pub answer: String,
}

/// Writes `answers.md` into folder `dir`.
pub(crate) fn write(dir: &Path, system: Option<&str>, answers: &[Answer]) -> Result<(), StageError> {
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
