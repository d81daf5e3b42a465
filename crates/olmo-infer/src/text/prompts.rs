//! [`Prompt`]: what a model is asked, from the command line or a file.

use std::path::Path;

use olmo_data::{Message, Role};
use olmo_stage::StageError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A prompt with its place among others, which its random numbers depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// Its index: the number of prompts before it.
    pub index: u64,
    /// What the model is asked.
    pub content: Content,
}

/// What a model is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// A text to continue.
    Text(String),
    /// Messages to answer, by the model's chat template.
    #[serde(serialize_with = "write_messages", deserialize_with = "read_messages")]
    Messages(Vec<Message>),
    /// Token ids to continue.
    Tokens(Vec<u32>),
}

/// Largest file of prompts, in bytes.
const MOST_BYTES: u64 = 4 << 30;
/// Maximum number of errors to report for a file.
const MOST_ERRORS: usize = 20;

impl Content {
    /// A conversation that begins with `text`, after a system message if there is one.
    pub fn question(system: Option<&str>, text: &str) -> Content {
        let system = system.map(|content| Message::new(Role::System, content));
        Content::Messages(system.into_iter().chain([Message::new(Role::User, text)]).collect())
    }

    /// A prompt from JSON: a string, or an object with `prompt`, `messages` or `tokens`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_json(value: &Value) -> Result<Content, String> {
        const KEYS: [&str; 3] = ["prompt", "messages", "tokens"];
        let object = match value {
            Value::String(text) => return Ok(Content::Text(text.clone())),
            Value::Object(object) => object,
            _ => return Err("is neither a string nor an object".into()),
        };
        let given: Vec<&str> = KEYS.into_iter().filter(|key| object.contains_key(*key)).collect();
        match given[..] {
            ["prompt"] => match &object["prompt"] {
                Value::String(text) => Ok(Content::Text(text.clone())),
                _ => Err("`prompt` is not a string".into()),
            },
            ["tokens"] => serde_json::from_value(object["tokens"].clone())
                .map(Content::Tokens)
                .map_err(|_| "`tokens` is not a list of token ids".into()),
            ["messages"] => messages(&object["messages"]).map(Content::Messages),
            [] => Err("has none of the keys `prompt`, `messages` and `tokens`".into()),
            _ => Err(format!("has both `{}` and `{}`", given[0], given[1])),
        }
    }
}

/// The messages of a conversation, from JSON: a list of objects with `role` and `content`.
///
/// # Errors
/// What is wrong with them.
pub fn messages(value: &Value) -> Result<Vec<Message>, String> {
    let list = value.as_array().ok_or("`messages` is not a list")?;
    if list.is_empty() {
        return Err("`messages` is empty".into());
    }
    list.iter().enumerate().map(|(at, value)| message(value).map_err(|why| format!("message {at} {why}"))).collect()
}

fn message(value: &Value) -> Result<Message, String> {
    let object = value.as_object().ok_or("is not an object")?;
    let role = object.get("role").and_then(Value::as_str).ok_or("has no `role`")?;
    let role: Role = role.parse().map_err(|error| format!("has an {error}"))?;
    let content = match object.get("content") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(parts)) => Some(parts.iter().map(text_part).collect::<Result<String, String>>()?),
        Some(_) => return Err("has a `content` that is no text".into()),
    };
    let is_other = |(key, value): &(&String, &Value)| !["role", "content"].contains(&key.as_str()) && !value.is_null();
    let fields: Map<String, Value> =
        object.iter().filter(is_other).map(|(key, value)| (key.clone(), value.clone())).collect();
    Ok(Message { role, content, trained: None, fields })
}

/// A part of a message in OpenAI's form: `{"type": "text", "text": …}`.
fn text_part(part: &Value) -> Result<&str, String> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or("unknown");
    let text = part.get("text").and_then(Value::as_str).filter(|_| kind == "text");
    text.ok_or_else(|| format!("has a part of type `{}`; only text is supported", kind.escape_debug()))
}

fn write_messages<S: serde::Serializer>(messages: &[Message], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(messages)
}

fn read_messages<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Message>, D::Error> {
    messages(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// The prompts in a file: one for each line. The lines of a file whose name ends with `.jsonl` or
/// `.json` are JSON ([`Content::of_json`]); those of any other file are texts. Blank lines are
/// skipped.
///
/// # Errors
/// The file cannot be read, has no prompt, or has lines that are no prompt: all of them, with their
/// numbers.
pub fn read_prompts(path: &Path, stage: &str) -> Result<Vec<Content>, StageError> {
    let text = olmo_base::files::read_regular_text(path, MOST_BYTES).map_err(|error| StageError::io(path, error))?;
    let is_json = path.extension().is_some_and(|ending| ending == "jsonl" || ending == "json");
    let (mut prompts, mut problems) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let read = match is_json {
            false => Ok(Content::Text(line.to_owned())),
            true => serde_json::from_str(line)
                .map_err(|error| format!("is not JSON: {error}"))
                .and_then(|value| Content::of_json(&value)),
        };
        match read {
            Ok(prompt) => prompts.push(prompt),
            Err(why) => problems.push(format!("{}:{}: {why}", path.display(), index + 1)),
        }
    }
    if !problems.is_empty() {
        let rest = problems.len().saturating_sub(MOST_ERRORS);
        problems.truncate(MOST_ERRORS);
        problems.extend((rest > 0).then(|| format!("and {rest} more lines")));
        return Err(StageError::fail(&format!("{stage}::prompts"), problems.join("\n"))
            .hint("write one prompt per line: a JSON string, or an object with `prompt`, `messages` or `tokens`"));
    }
    if prompts.is_empty() {
        let what = format!("{} has no prompts", path.display());
        return Err(StageError::fail(&format!("{stage}::prompts"), what).hint("write one prompt per line"));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<Content>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_prompts(&path, "test").map_err(|error| match error {
            StageError::Failed(failure) => failure.message,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn prompts_are_lines_of_text_or_json() {
        let texts = read("prompts.txt", "One\n\n  Two \n").unwrap();
        assert_eq!(texts, [Content::Text("One".into()), Content::Text("  Two ".into())]);
        let json = concat!(
            "\"One\"\n{\"prompt\": \"Two\\nlines\"}\n{\"tokens\": [1, 2]}\n",
            "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"Hi\"}]}]}\n"
        );
        let prompts = read("prompts.jsonl", json).unwrap();
        let question = Content::question(None, "Hi");
        let texts = ["One", "Two\nlines"].map(|text| Content::Text(text.into()));
        assert_eq!(prompts, [texts.to_vec(), vec![Content::Tokens(vec![1, 2]), question]].concat());
        for prompt in prompts {
            let text = serde_json::to_string(&prompt).unwrap();
            assert_eq!(serde_json::from_str::<Content>(&text).unwrap(), prompt);
        }
    }

    #[test]
    fn every_wrong_line_is_named() {
        let problems =
            read("prompts.jsonl", "{}\n{\"prompt\": 1}\n\"fine\"\n{\"messages\": [{\"role\": \"bot\"}]}\nx\n");
        let problems = problems.unwrap_err();
        for part in
            [":1: has none", ":2: `prompt` is not", ":4: message 0 has an unknown role `bot`", ":5: is not JSON"]
        {
            assert!(problems.contains(part), "{part}: {problems}");
        }
        assert!(!problems.contains(":3:"), "{problems}");
        assert!(read("empty.txt", " \n").unwrap_err().contains("no prompts"));
        assert!(read("both.jsonl", r#"{"prompt": "a", "tokens": [1]}"#).unwrap_err().contains("both"));
    }
}
