//! Writes `answers.md`, the prompts and answers for people to read.
//!
//! Model output is untrusted, so it is escaped: it cannot control a terminal or act as Markdown.

use std::path::Path;

use olmo_data::Role;
use olmo_infer::text::{AnswerRecord, Content, Prompt};
use olmo_stage::StageError;
use olmo_stage::markdown::section;

/// Writes `answers.md` into folder `dir`. `records` has the answers to each of `prompts`.
pub(crate) fn write<'r>(
    dir: &Path,
    prompts: &[Prompt],
    records: impl Iterator<Item = &'r AnswerRecord>,
) -> Result<(), StageError> {
    let path = dir.join("answers.md");
    let answers: Vec<Vec<&str>> =
        records.map(|record| record.answers.iter().map(|answer| answer.text.as_str()).collect()).collect();
    std::fs::write(&path, markdown(prompts, &answers)).map_err(|e| StageError::io(&path, e))
}

fn markdown(prompts: &[Prompt], answers: &[Vec<&str>]) -> String {
    let mut text = String::from("# Answers\n");
    let system = common_system(prompts);
    if let Some(system) = system {
        section(&mut text, "System", system);
    }
    for (index, (prompt, answers)) in prompts.iter().zip(answers).enumerate() {
        let number = index + 1;
        section(&mut text, &format!("Prompt {number}"), &prompt_text(prompt, system.is_some()));
        for (sample, answer) in answers.iter().enumerate() {
            let title = match answers.len() {
                1 => format!("Answer {number}"),
                count => format!("Answer {number} ({} of {count})", sample + 1),
            };
            section(&mut text, &title, answer);
        }
    }
    text
}

/// The system message that all conversations begin with, if each is that and one question.
fn common_system(prompts: &[Prompt]) -> Option<&str> {
    let system = |prompt: &'_ Prompt| match &prompt.content {
        Content::Messages(messages) => match &messages[..] {
            [system, user] if system.role == Role::System && user.role == Role::User => system.content.clone(),
            _ => None,
        },
        _ => None,
    };
    let first = system(prompts.first()?)?;
    if !prompts.iter().all(|prompt| system(prompt).as_ref() == Some(&first)) {
        return None;
    }
    match &prompts.first()?.content {
        Content::Messages(messages) => messages.first()?.content.as_deref(),
        _ => None,
    }
}

/// The text of a prompt; without its system message if that was written before.
fn prompt_text(prompt: &Prompt, without_system: bool) -> String {
    match &prompt.content {
        Content::Text(text) => text.clone(),
        Content::Messages(messages) => match &messages[usize::from(without_system)..] {
            [only] => only.text().to_owned(),
            all => {
                all.iter().map(|message| format!("{}: {}", message.role, message.text())).collect::<Vec<_>>().join("\n")
            }
        },
        Content::Tokens(ids) => format!("tokens {ids:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(system: Option<&str>, text: &str) -> Prompt {
        Prompt { index: 0, content: Content::question(system, text) }
    }

    #[test]
    fn what_a_model_says_neither_acts_on_a_terminal_nor_as_markdown() {
        let answer = "\u{1b}[31mred\u{202e}\r\n## not a heading\té🦀";
        assert_eq!(
            markdown(&[question(Some("Be kind."), "Hi\n# two")], &[vec![answer]]),
            "# Answers\n\n## System\n\n    Be kind.\n\n## Prompt 1\n\n    Hi\n    # two\n\n## Answer 1\n\n    \\u{1b}[31mred\\u{202e}\\r\n    ## not a heading\té🦀\n"
        );
    }

    #[test]
    fn an_empty_answer_is_shown_as_such_and_several_answers_are_counted() {
        assert!(markdown(&[question(None, "Hi")], &[vec!["  "]]).ends_with("## Answer 1\n\n(empty)\n"));
        let text = markdown(&[question(None, "Hi")], &[vec!["a", "b"]]);
        assert!(text.contains("## Answer 1 (1 of 2)\n\n    a\n\n## Answer 1 (2 of 2)\n\n    b\n"), "{text}");
    }

    #[test]
    fn other_systems_are_part_of_their_prompts() {
        let prompts = [question(Some("A"), "x"), question(Some("B"), "y")];
        let text = markdown(&prompts, &[vec!["1"], vec!["2"]]);
        assert!(!text.contains("## System") && text.contains("    system: A\n    user: x\n"), "{text}");
    }
}
