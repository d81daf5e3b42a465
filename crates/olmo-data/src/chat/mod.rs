//! [`Chat`]: renders conversations as text, and knows where an answer ends.
//!
//! A chat is a template with its special tokens and stop tokens. It belongs to a tokenizer. Every
//! artifact made with it records it in `chat.json`, and every stage that runs the model reads it
//! from there, so that training, evaluation and export use the same text.

mod built_in;
mod model;
mod place;
mod probe;
mod rendered;

use std::fmt;
use std::path::Path;

use olmo_base::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use built_in::{Template, strip};
pub use model::ModelTokenizer;
pub use rendered::{Labels, Rendered, Turn};

use crate::conversation::{Conversation, Message, Role};
use crate::error::DataError;
use crate::jinja::{self, Bounds, Date, Variables};
use crate::json;
use crate::tokenizer::TextTokenizer;
use probe::Probe;

/// The file in an artifact or a model folder.
pub const CHAT: &str = "chat.json";
/// Maximum size of a template in bytes.
const LONGEST: usize = 1 << 20;
/// Step limit of a template, and the additional steps per message and byte.
const FUEL: u64 = 2_000_000;
const FUEL_PER_MESSAGE: u64 = 20_000;
/// The name of a template that is not built in.
pub const JINJA: &str = "jinja";

/// A token that ends a turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopToken {
    pub token: String,
    pub id: u32,
}

/// `chat.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatRecord {
    pub format: u32,
    /// `tulu`, `olmo2`, `chatml`, or `jinja` for any other template.
    pub template: String,
    /// The template in Jinja.
    pub chat_template: String,
    /// Today's date for `strftime_now`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Special tokens that the template may write. A tokenizer need not have all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    pub eos_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unk_token: Option<String>,
    /// Tokens that end an answer, most important first; eos is the last.
    pub stop_tokens: Vec<StopToken>,
    /// Digest of the tokenizer's `tokenizer.json`.
    pub tokenizer: Digest,
}

impl ChatRecord {
    /// Reads `chat.json` in folder `dir`; `None` if there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>, DataError> {
        let path = dir.join(CHAT);
        if path.exists() { json::read(&path).map(Some) } else { Ok(None) }
    }

    /// Writes `chat.json` in folder `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), DataError> {
        json::write(&dir.join(CHAT), self)
    }

    /// Copies `chat.json` from folder `from` to folder `to`, if there is one.
    pub fn carry(from: &Path, to: &Path) -> Result<(), DataError> {
        match Self::read(from)? {
            Some(record) => record.write(to),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ChatRecord {
    /// For messages: the template's name or digest, and its stop tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.template.as_str() {
            JINJA => write!(f, "a custom template (digest {})", Digest::of(self.chat_template.as_bytes()).short())?,
            name => write!(f, "template `{name}`")?,
        }
        let stops: Vec<&str> = self.stop_tokens.iter().map(|stop| stop.token.as_str()).collect();
        write!(f, ", whose answers end with `{}`", stops.join("` or `").escape_debug())
    }
}

/// Why a template cannot be used, at all or for one conversation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    #[error("the chat template has {0} bytes, more than the limit of {LONGEST}")]
    TooLong(usize),
    #[error("the chat template {0}")]
    Template(jinja::Error),
    #[error("turn {turn} ({role}): {reason}")]
    Turn { turn: usize, role: Role, reason: &'static str },
    #[error(
        "no token ends an answer: the template writes {after:?} after it, and the tokenizer has no added token for any \
         of this, so a model could not learn to stop"
    )]
    NoStop { after: String },
    #[error("{0}")]
    Date(String),
    #[error("{0}")]
    Unreadable(String),
    #[error("the model was trained with tokenizer {trained}, but the given tokenizer is {given}")]
    OtherTokenizer { trained: String, given: String },
    #[error("the model has {recorded}, but the params set {given}")]
    OtherTemplate { recorded: String, given: String },
}

impl ChatError {
    /// How to fix the error.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoStop { .. } => {
                "use a tokenizer that has the template's stop token as an added token (a tokenizer trained with this \
                 template has it), or another template: `tulu` and `olmo2` end an answer with eos"
            }
            Self::Turn { .. } => {
                "change the template, mark the trained text with `{% generation %}` in it, or set `on_error: skip` to \
                 drop such conversations"
            }
            Self::Unreadable(_) => "give a model folder written by stage convert or downloaded from Hugging Face",
            Self::OtherTokenizer { .. } => "give the tokenizer that the model was trained with",
            Self::OtherTemplate { .. } => "remove `template`: the model's own is used",
            Self::Date(_) => "write the date as `date: 2026-01-31`",
            Self::TooLong(_) | Self::Template(_) => "fix the template, or use another one",
        }
    }
}

/// A template with its special tokens.
#[derive(Clone, Debug)]
pub struct Chat {
    record: ChatRecord,
    built_in: Option<Template>,
    template: jinja::Template,
    date: Option<Date>,
    probe: Probe,
}

/// The special tokens of a tokenizer, as templates see them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialStrings {
    pub bos: Option<String>,
    pub eos: String,
    pub pad: Option<String>,
    pub unk: Option<String>,
}

/// The origin of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    BuiltIn(Template),
    Jinja(String),
}

impl Source {
    /// Whether `record` has the same template.
    pub fn is_of(&self, record: &ChatRecord) -> bool {
        match self {
            Self::BuiltIn(template) => template.as_str() == record.template,
            Self::Jinja(source) => *source == record.chat_template,
        }
    }
}

impl Chat {
    /// A chat for the tokenizer with these special tokens. `added` lists the strings and ids of its
    /// added tokens.
    ///
    /// # Errors
    /// The template is invalid, cannot render a simple conversation, or writes no token after an
    /// answer.
    pub fn new(
        source: &Source,
        special: &SpecialStrings,
        added: &[(u32, String)],
        date: Option<&str>,
        tokenizer: Digest,
    ) -> Result<Self, ChatError> {
        let mut chat = Self::parts(source, special, date, tokenizer)?;
        chat.record.stop_tokens = chat.find_stop_tokens(added)?;
        Ok(chat)
    }

    /// A chat without its stop tokens.
    fn parts(
        source: &Source,
        special: &SpecialStrings,
        date: Option<&str>,
        tokenizer: Digest,
    ) -> Result<Self, ChatError> {
        let (name, chat_template) = match source {
            Source::BuiltIn(template) => (template.as_str(), template.jinja().to_owned()),
            Source::Jinja(source) => (JINJA, source.clone()),
        };
        Self::of_record(ChatRecord {
            format: json::FORMAT,
            template: name.to_owned(),
            chat_template,
            date: date.map(str::to_owned),
            bos_token: special.bos.clone(),
            eos_token: special.eos.clone(),
            pad_token: special.pad.clone(),
            unk_token: special.unk.clone(),
            stop_tokens: Vec::new(),
            tokenizer,
        })
    }

    /// A chat for `tokenizer`; see [`Chat::new`].
    pub fn of_tokenizer(source: &Source, tokenizer: &TextTokenizer, date: Option<&str>) -> Result<Self, ChatError> {
        Self::new(source, &tokenizer.special_strings(), &tokenizer.added_tokens(), date, tokenizer.digest())
    }

    /// The chat described by `record`.
    pub fn of_record(record: ChatRecord) -> Result<Self, ChatError> {
        if record.chat_template.len() > LONGEST {
            return Err(ChatError::TooLong(record.chat_template.len()));
        }
        let template = jinja::Template::parse(&record.chat_template).map_err(ChatError::Template)?;
        let date = record.date.as_deref().map(str::parse::<Date>).transpose();
        let date = date.map_err(|e| ChatError::Date(e.to_string()))?;
        let built_in = Template::ALL
            .into_iter()
            .find(|template| template.as_str() == record.template && template.jinja() == record.chat_template);
        let mut chat = Self { record, built_in, template, date, probe: Probe::default() };
        chat.probe = chat.run_probe()?;
        Ok(chat)
    }

    pub fn record(&self) -> &ChatRecord {
        &self.record
    }

    /// Whether the template reads `bos_token` but the tokenizer has none.
    pub fn misses_bos(&self) -> bool {
        self.record.bos_token.is_none() && self.template.reads("bos_token")
    }

    /// Ids of the tokens that end an answer.
    pub fn stop_token_ids(&self) -> Vec<u32> {
        self.record.stop_tokens.iter().map(|stop| stop.id).collect()
    }

    /// The text before an answer to `conversation`, which ends with the turn to answer.
    pub fn prompt(&self, conversation: &Conversation) -> Result<String, ChatError> {
        Ok(self.write(conversation, true)?.text)
    }

    /// Renders a conversation as text, with the parts selected by `labels` marked as trained.
    ///
    /// # Errors
    /// An error of the template, or a trained turn that does not appear exactly once in the text.
    pub fn render(&self, conversation: &Conversation, labels: &Labels) -> Result<Rendered, ChatError> {
        if let Some(template) = self.built_in {
            let rendered = template.render(&conversation.messages, &self.record.eos_token, false);
            return Ok(rendered.with(labels));
        }
        let rendering = self.write(conversation, false)?;
        let stops = self.record.stop_tokens.iter().map(|stop| stop.token.as_str()).collect::<Vec<_>>();
        place::label(rendering, &conversation.messages, labels, &self.probe, &stops, &self.template)
    }

    /// The text that the template renders for `conversation`.
    fn write(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<jinja::Rendering, ChatError> {
        let messages: Vec<Map<String, Value>> = conversation.messages.iter().map(fields).collect();
        let mut others = vec![
            ("tools".to_owned(), conversation.tools.clone().unwrap_or(Value::Null)),
            ("documents".to_owned(), conversation.documents.clone().unwrap_or(Value::Null)),
            ("add_generation_prompt".to_owned(), add_generation_prompt.into()),
            ("eos_token".to_owned(), self.record.eos_token.as_str().into()),
        ];
        for (name, token) in [
            ("bos_token", &self.record.bos_token),
            ("pad_token", &self.record.pad_token),
            ("unk_token", &self.record.unk_token),
        ] {
            others.extend(token.as_deref().map(|token| (name.to_owned(), token.into())));
        }
        let given: usize = messages.iter().flat_map(Map::values).chain(others.iter().map(|(_, v)| v)).map(bytes).sum();
        let bounds = Bounds {
            fuel: FUEL + FUEL_PER_MESSAGE * messages.len() as u64 + given as u64,
            longest: 4 * given + 4096 * (messages.len() + 4),
        };
        self.template.render(&Variables { messages, others, date: self.date }, bounds).map_err(ChatError::Template)
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

#[cfg(test)]
mod tests;
