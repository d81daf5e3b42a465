//! lm-evaluation-harness's samples (`--log_samples`): `doc_id`, `target` and `arguments`, whose
//! entries are `[context, continuation]`, `[context, {until, max_gen_toks, …}]` or `[text]`, as
//! lists or as objects with `arg_0` and `arg_1`. The results in the samples are not read.

use serde_json::{Map, Value};

use super::fields::Fields;
use super::form::{Limits, Parsed, choices, generation, gold, greedy, new_tokens};
use crate::request::{Choice, Instance, Prompt, Work};

pub(super) fn parse(fields: &Fields<'_>, line: usize, task: &str) -> Result<Parsed, String> {
    let arguments = arguments(fields)?;
    let Some(first) = arguments.first() else { return Err("has no `arguments`".into()) };
    let work = match (first.second, arguments.len()) {
        (None, 1) if !first.context.is_empty() => Work::Roll { text: first.context.to_owned() },
        (None, _) => return Err("has no text in `arguments` to score".into()),
        (Some(Value::String(_)), _) => {
            let mut all: Vec<Choice> = Vec::new();
            for argument in &arguments {
                let continuation = argument.second.and_then(Value::as_str).unwrap_or_default().to_owned();
                let prompt = Prompt::Text(argument.context.to_owned());
                all.append(&mut choices(&prompt, vec![continuation])?);
            }
            // The harness writes an index as text, and reads digits as an index.
            let target = fields.get("target");
            let index = target.and_then(Value::as_str).and_then(|text| text.parse::<u64>().ok()).map(Value::from);
            let gold = gold(index.as_ref().or(target), &all, "target")?;
            Work::Choose { choices: all, gold }
        }
        (Some(Value::Object(settings)), 1) => generate(first.context, settings, fields)?,
        (Some(_), _) => {
            return Err("has `arguments` that are neither continuations nor the settings of one answer".into());
        }
    };
    let task = fields.text("task_name")?.unwrap_or(task).to_owned();
    Ok(Parsed::Whole(Instance { task, id: fields.id("doc_id")?, native_id: None, line, work, in_loop: None }))
}

fn generate(context: &str, settings: &Map<String, Value>, fields: &Fields<'_>) -> Result<Work, String> {
    let settings = Fields::new(settings);
    greedy(&settings)?;
    let limits = Limits { stop_sequences: settings.texts("until")?, max_new_tokens: new_tokens(&settings)? };
    generation(Prompt::Text(context.to_owned()), limits, fields.texts("target")?)
}

/// What the harness passed to the model.
struct Argument<'a> {
    context: &'a str,
    second: Option<&'a Value>,
}

/// The entries of `arguments`, in order.
fn arguments<'a>(fields: &Fields<'a>) -> Result<Vec<Argument<'a>>, String> {
    let entries: Vec<&'a Value> = match fields.get("arguments") {
        Some(Value::Array(entries)) => entries.iter().collect(),
        Some(Value::Object(entries)) => {
            let entry = |index: usize| {
                let name = format!("gen_args_{index}");
                entries.get(&name).ok_or_else(|| format!("has no `arguments.{name}`"))
            };
            (0..entries.len()).map(entry).collect::<Result<_, _>>()?
        }
        _ => return Err("has `arguments` that are neither a list nor an object".into()),
    };
    let argument = |(index, entry): (usize, &'a Value)| {
        let (context, second) = match entry {
            Value::Array(parts) => (parts.first(), parts.get(1)),
            _ => (entry.get("arg_0"), entry.get("arg_1")),
        };
        let context = context.and_then(Value::as_str);
        let context = context.ok_or_else(|| format!("has no text as the first of its arguments {}", index + 1))?;
        Ok(Argument { context, second })
    };
    entries.into_iter().enumerate().map(argument).collect()
}
