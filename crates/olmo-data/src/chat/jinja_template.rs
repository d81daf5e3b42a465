//! [`JinjaTemplate`]: a parsed template with its special tokens, which writes conversations as text.

use serde_json::{Map, Value};

use super::error::{ChatError, LONGEST_TEMPLATE};
use crate::conversation::{Conversation, Message};
use crate::jinja::{self, Bounds, Date, Variables};
use crate::tokenizer::chat_record::ChatRecord;

/// Step limit of a template, and the additional steps per message and byte.
const FUEL: u64 = 2_000_000;
const FUEL_PER_MESSAGE: u64 = 20_000;

/// A parsed template with its special tokens and date.
#[derive(Clone, Debug)]
pub(super) struct JinjaTemplate {
    jinja: jinja::Template,
    /// The special tokens that the tokenizer has, by the name of their variable.
    special_tokens: Vec<(&'static str, String)>,
    date: Option<Date>,
}

impl JinjaTemplate {
    /// Parses the template of `record`.
    pub(super) fn parse(record: &ChatRecord) -> Result<Self, ChatError> {
        if record.chat_template.len() > LONGEST_TEMPLATE {
            return Err(ChatError::TooLong(record.chat_template.len()));
        }
        let jinja = jinja::Template::parse(&record.chat_template).map_err(ChatError::Template)?;
        let date = record.date.as_deref().map(str::parse::<Date>).transpose();
        let date = date.map_err(|e| ChatError::Date(e.to_string()))?;
        let mut special_tokens = vec![("eos_token", record.eos_token.clone())];
        for (name, token) in
            [("bos_token", &record.bos_token), ("pad_token", &record.pad_token), ("unk_token", &record.unk_token)]
        {
            special_tokens.extend(token.clone().map(|token| (name, token)));
        }
        Ok(Self { jinja, special_tokens, date })
    }

    /// Whether the template reads a variable with this name.
    pub(super) fn reads(&self, name: &str) -> bool {
        self.jinja.reads(name)
    }

    /// Whether the template marks the trained text with `{% generation %}`.
    pub(super) fn has_generation_tags(&self) -> bool {
        self.jinja.has_generation_tags()
    }

    /// The text that the template renders for `conversation`.
    pub(super) fn write(
        &self,
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<jinja::Rendering, ChatError> {
        let messages: Vec<Map<String, Value>> = conversation.messages.iter().map(fields).collect();
        let mut others = vec![
            ("tools".to_owned(), conversation.tools.clone().unwrap_or(Value::Null)),
            ("documents".to_owned(), conversation.documents.clone().unwrap_or(Value::Null)),
            ("add_generation_prompt".to_owned(), add_generation_prompt.into()),
        ];
        others.extend(self.special_tokens.iter().map(|(name, token)| ((*name).to_owned(), token.as_str().into())));
        let given: usize = messages.iter().flat_map(Map::values).chain(others.iter().map(|(_, v)| v)).map(bytes).sum();
        let bounds = Bounds {
            fuel: FUEL + FUEL_PER_MESSAGE * messages.len() as u64 + given as u64,
            longest: 4 * given + 4096 * (messages.len() + 4),
        };
        self.jinja.render(&Variables { messages, others, date: self.date }, bounds).map_err(ChatError::Template)
    }
}

/// Total size of the texts in `value`, in bytes.
fn bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes).sum::<usize>() + 8 * items.len(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + 8 + bytes(value)).sum(),
        _ => 8,
    }
}

/// A message as templates see it: without null keys, and with its reasoning under every name that
/// templates read, as in transformers.
fn fields(message: &Message) -> Map<String, Value> {
    const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    let mut map = Map::new();
    let reasoning = REASONING.into_iter().find_map(|key| message.fields.get(key)).cloned();
    if let Some(reasoning) = &reasoning {
        map.insert("thinking".into(), reasoning.clone());
    }
    map.insert("role".into(), message.role.as_str().into());
    map.extend(message.content.as_deref().map(|content| ("content".to_owned(), content.into())));
    map.extend(message.fields.iter().map(|(key, value)| (key.clone(), value.clone())));
    if let Some(reasoning) = reasoning {
        map.insert("reasoning_content".into(), reasoning);
    }
    map
}
