//! Pairs the answers to held-out conversations from before and after training.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use olmo_stage::StageError;
use olmo_stage::markdown::section;
use serde::{Deserialize, Serialize};

/// Written by stage `eval`: one line per conversation.
const ANSWERS: &str = "answers.jsonl";
/// Maximum number of conversations in `answers.md`; `answers.jsonl` contains all.
const SHOWN: usize = 20;

/// The fields of an answer that are read here.
#[derive(Deserialize)]
struct Answer {
    record: usize,
    #[serde(default)]
    question: String,
    expected: String,
    answer: Option<String>,
}

/// A line of `answers.jsonl`. An answer is null if the conversation was too long for the model.
#[derive(Serialize)]
struct BeforeAfter {
    record: usize,
    question: String,
    expected: String,
    before: Option<String>,
    after: Option<String>,
}

/// Writes `answers.jsonl` and `answers.md` into folder `to`, from the metrics in the folders
/// `before` and `after`. Writes nothing if either has no answers.
///
/// # Errors
/// A file cannot be read or written.
pub(crate) fn write(before: &Path, after: &Path, to: &Path) -> Result<(), StageError> {
    let (Some(before), Some(after)) = (read(before)?, read(after)?) else { return Ok(()) };
    let mut before: BTreeMap<usize, Answer> = before.into_iter().map(|answer| (answer.record, answer)).collect();
    let pairs: Vec<BeforeAfter> = after
        .into_iter()
        .filter_map(|Answer { record, question, expected, answer }| {
            let before = before.remove(&record)?;
            Some(BeforeAfter { record, question, expected, before: before.answer, after: answer })
        })
        .collect();
    let path = to.join(ANSWERS);
    let mut lines = String::new();
    for pair in &pairs {
        lines.push_str(&serde_json::to_string(pair).map_err(|e| StageError::io(&path, e.into()))?);
        lines.push('\n');
    }
    fs::write(&path, lines).map_err(|e| StageError::io(&path, e))?;
    let path = to.join("answers.md");
    fs::write(&path, markdown(&pairs)).map_err(|e| StageError::io(&path, e))
}

/// The answers in folder `dir`, if there are any.
fn read(dir: &Path) -> Result<Option<Vec<Answer>>, StageError> {
    let path = dir.join(ANSWERS);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StageError::io(&path, e)),
    };
    let answers = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    answers.map(Some).map_err(|e| StageError::fail("checkpoint::metrics", format!("{ANSWERS}: {e}")))
}

fn markdown(pairs: &[BeforeAfter]) -> String {
    let mut text = format!("# Held-out conversations before and after training\n\n{} in all", pairs.len());
    text.push_str(match pairs.len() > SHOWN {
        true => "; the first of them are shown here, answers.jsonl has the others.\n",
        false => ".\n",
    });
    let answer = |answer: &Option<String>| answer.clone().unwrap_or_else(|| "(too long to be asked)".into());
    for (number, pair) in pairs.iter().take(SHOWN).enumerate() {
        let number = number + 1;
        section(&mut text, &format!("Question {number}"), &pair.question);
        section(&mut text, &format!("Expected {number}"), &pair.expected);
        section(&mut text, &format!("Before {number}"), &answer(&pair.before));
        section(&mut text, &format!("After {number}"), &answer(&pair.after));
    }
    text
}
