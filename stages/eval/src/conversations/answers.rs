//! Generates the model's answers and scores them: `answers.jsonl` and `metrics.json`.

use std::collections::BTreeMap;
use std::path::Path;

use olmo_data::conversation::strip;
use olmo_infer::{ChatModel, GenerateOptions, LanguageModel, generate};
use olmo_stage::worker::write_json;
use olmo_stage::{Context, StageError};
use serde::Serialize;

use super::prompts::Prompt;

/// Number of prompts to answer between checks of the stop signal.
const AT_ONCE: usize = 64;

/// One line of `answers.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Answer {
    /// Index in the dataset, from 0.
    pub record: usize,
    pub dataset: String,
    pub id: String,
    /// The last turn before the answer.
    pub question: String,
    pub expected: String,
    /// Without surrounding whitespace. Null if the prompt leaves no room in the model's sequence.
    pub answer: Option<String>,
    pub exact_match: bool,
}

/// `metrics.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Metrics {
    format: u32,
    /// Fraction of exact matches.
    exact_match: f64,
    count: usize,
    /// Prompts too long for the model's sequence; they count as wrong.
    too_long: usize,
    families: BTreeMap<String, Family>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Family {
    exact_match: f64,
    count: usize,
}

/// Generates an answer to every prompt, in order.
pub(super) fn ask(
    model: &dyn LanguageModel,
    chat: &ChatModel,
    prompts: &[Prompt],
    max_new_tokens: usize,
    context: &mut Context,
) -> Result<Vec<Answer>, StageError> {
    let length = model.config().max_sequence_length;
    let total = prompts.len();
    let options =
        GenerateOptions { max_new_tokens, stop_token_ids: chat.stop_token_ids(), ..GenerateOptions::default() };
    let mut answers: Vec<Answer> = Vec::with_capacity(total);
    for some in prompts.chunks(AT_ONCE) {
        context.check_stop()?;
        let ids: Vec<Vec<u32>> = some.iter().map(|prompt| prompt.input_ids.clone()).collect();
        let made = generate(model, &ids, &options).map_err(|e| e.with_code("eval::model"))?;
        let text = |(ids, answer): (&Vec<u32>, Vec<u32>)| {
            let has_room = ids.len() < length;
            has_room.then(|| Ok(strip(&chat.decode(&answer)?).to_owned())).transpose()
        };
        let texts = ids.iter().zip(made).map(text).collect::<Result<Vec<Option<String>>, StageError>>()?;
        for (prompt, answer) in some.iter().zip(texts) {
            let Prompt { dataset, id, record, question, expected, .. } = prompt.clone();
            let exact_match = answer.as_ref() == Some(&expected);
            answers.push(Answer { record, dataset, id, question, expected, answer, exact_match });
        }
        let right = answers.iter().filter(|answer| answer.exact_match).count();
        context.progress(answers.len() as u64, total as u64, "prompt", format!("{right} of {} exact", answers.len()));
    }
    Ok(answers)
}

fn metrics(answers: &[Answer]) -> Metrics {
    let share = |answers: &[&Answer]| {
        let right = answers.iter().filter(|answer| answer.exact_match).count();
        Family { exact_match: right as f64 / answers.len().max(1) as f64, count: answers.len() }
    };
    let mut families: BTreeMap<String, Vec<&Answer>> = BTreeMap::new();
    for answer in answers {
        families.entry(answer.dataset.clone()).or_default().push(answer);
    }
    let all = share(&answers.iter().collect::<Vec<_>>());
    Metrics {
        format: 1,
        exact_match: all.exact_match,
        count: all.count,
        too_long: answers.iter().filter(|answer| answer.answer.is_none()).count(),
        families: families.into_iter().map(|(name, answers)| (name, share(&answers))).collect(),
    }
}

/// Writes both files into folder `dir`.
pub(super) fn write(answers: &[Answer], dir: &Path, context: &mut Context) -> Result<(), StageError> {
    let metrics = metrics(answers);
    if metrics.too_long > 0 {
        context.warning(format!(
            "{} of {} prompts are longer than the model's sequence and count as wrong",
            metrics.too_long, metrics.count
        ));
    }
    let path = dir.join("answers.jsonl");
    let mut lines = String::new();
    for answer in answers {
        lines.push_str(&serde_json::to_string(answer).map_err(|e| StageError::io(&path, e.into()))?);
        lines.push('\n');
    }
    std::fs::write(&path, lines).map_err(|e| StageError::io(&path, e))?;
    write_json(&dir.join("metrics.json"), &metrics)?;
    context.message(format!("exact_match {:.4} of {}", metrics.exact_match, metrics.count));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(dataset: &str, given: Option<&str>) -> Answer {
        let expected = "yes".to_owned();
        let answer = given.map(str::to_owned);
        Answer {
            record: 0,
            dataset: dataset.into(),
            id: "".into(),
            question: "".into(),
            exact_match: answer.as_ref() == Some(&expected),
            expected,
            answer,
        }
    }

    #[test]
    fn each_family_has_its_own_share_and_a_prompt_that_was_too_long_counts_as_wrong() {
        let answers = [answer("b", Some("yes")), answer("a", Some("no")), answer("b", None), answer("b", Some("yes"))];
        let metrics = metrics(&answers);
        assert_eq!((metrics.exact_match, metrics.count, metrics.too_long), (0.5, 4, 1));
        assert_eq!(metrics.families["a"], Family { exact_match: 0.0, count: 1 });
        assert_eq!(metrics.families["b"], Family { exact_match: 2.0 / 3.0, count: 3 });
    }
}
