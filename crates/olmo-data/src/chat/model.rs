//! The chat of a model: recorded in its folder, or read from the files of a Hugging Face model.

use std::path::Path;

use serde_json::Value;

use super::chat::Chat;
use super::error::ChatError;
use super::template_source::Source;
use crate::conversation::Template;
use crate::error::DataError;
use crate::tokenizer::chat_record::{ChatRecord, StopToken};
use crate::tokenizer::{SpecialStrings, TextTokenizer, tokenizer_json};

const TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const MODEL_CONFIG: &str = "config.json";
/// Tokenizers without a known limit claim 10^30 tokens.
const NO_LIMIT: u64 = 1 << 32;

impl Chat {
    /// The chat for prompting the model in folder `dir`: the one it was trained with, otherwise the
    /// tokenizer's, otherwise `template`, otherwise that of a Hugging Face folder, otherwise
    /// `tulu`.
    ///
    /// # Errors
    /// The model was trained with another tokenizer, or with a template other than `template`; the
    /// error names both.
    pub fn of_model(dir: &Path, tokenizer: &TextTokenizer, template: Option<Template>) -> Result<Self, ChatError> {
        let trained = ChatRecord::read(dir).map_err(|e| ChatError::Unreadable(e.to_string()))?;
        if let Some(record) = trained.as_ref().filter(|record| record.tokenizer != tokenizer.digest()) {
            let (trained, given) = (record.tokenizer.short(), tokenizer.digest().short());
            return Err(ChatError::OtherTokenizer { trained, given });
        }
        let recorded = trained.or_else(|| tokenizer.chat().cloned());
        match (recorded, template.map(Source::BuiltIn)) {
            (Some(record), Some(source)) if !source.is_of(&record) => {
                let given = Self::of_tokenizer(&source, tokenizer, None)?;
                Err(ChatError::OtherTemplate { recorded: record.to_string(), given: given.record.to_string() })
            }
            (Some(record), _) => Self::of_record(record),
            (None, Some(source)) => Self::of_tokenizer(&source, tokenizer, None),
            (None, None) => {
                let config = read_json(&dir.join(TOKENIZER_CONFIG))?.unwrap_or(Value::Null);
                let source = match template_of(dir, &config)? {
                    Some(source) => Source::Jinja(source),
                    None => Source::BuiltIn(Template::Tulu),
                };
                Self::of_tokenizer(&source, tokenizer, None)
            }
        }
    }

    /// The tokenizer and the chat of a Hugging Face model in folder `dir`. Its template is in
    /// `chat_template.jinja` or `tokenizer_config.json`; the eos ids in `generation_config.json`
    /// end an answer in addition to the template's stop tokens.
    ///
    /// # Errors
    /// The name of a missing or malformed file.
    pub fn of_huggingface(dir: &Path, date: Option<&str>) -> Result<(TextTokenizer, Self), ChatError> {
        let model = ModelTokenizer::read(dir)?;
        let chat = model.own_chat(date)?.ok_or_else(|| {
            ChatError::Unreadable(format!(
                "{}: no chat template in chat_template.jinja or in tokenizer_config.json",
                dir.display()
            ))
        })?;
        Ok((model.tokenizer, chat))
    }
}

/// The tokenizer of a Hugging Face model, with its configuration.
pub struct ModelTokenizer {
    pub tokenizer: TextTokenizer,
    /// The content of its `tokenizer.json`.
    pub bytes: Vec<u8>,
    /// As configured; a model may have no pad token.
    pub special: SpecialStrings,
    /// The model's own chat template. Base models often have none.
    pub source: Option<Source>,
    /// Eos ids in the model's `generation_config.json`.
    stops: Vec<u32>,
}

impl ModelTokenizer {
    /// Reads the files in folder `dir`.
    ///
    /// # Errors
    /// The name of a missing or malformed file.
    pub fn read(dir: &Path) -> Result<Self, ChatError> {
        // A step of OLMo-core has its tokenizer in a folder of its own.
        let inner = dir.join("tokenizer");
        let dir = if dir.join(TOKENIZER).is_file() || !inner.join(TOKENIZER).is_file() { dir } else { &inner };
        let missing = |what: &str| ChatError::Unreadable(format!("{}: {what}", dir.display()));
        let unreadable = |e: DataError| ChatError::Unreadable(e.to_string());
        let config = read_json(&dir.join(TOKENIZER_CONFIG))?.unwrap_or(Value::Null);
        let map = read_json(&dir.join(SPECIAL_TOKENS_MAP))?.unwrap_or(Value::Null);
        let token = |name: &str| token(&config, name).or_else(|| token(&map, name));
        let eos = token("eos_token")
            .ok_or_else(|| missing("no `eos_token` in tokenizer_config.json or special_tokens_map.json"))?;
        let special = SpecialStrings { bos: token("bos_token"), pad: token("pad_token"), unk: token("unk_token"), eos };
        let path = dir.join(TOKENIZER);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing("has no tokenizer.json")),
            Err(e) => return Err(ChatError::Unreadable(format!("{}: {e}", path.display()))),
        };
        let bytes = tokenizer_json::clean(&bytes).map_or(bytes, |cleaned| cleaned.bytes);
        // Without a pad token, rows are padded with eos.
        let pad = special.pad.as_deref().unwrap_or(&special.eos);
        let tokenizer = TextTokenizer::from_bytes(&path, &bytes, &special.eos, pad).map_err(unreadable)?;
        let length = model_max_length(&config, &read_json(&dir.join(MODEL_CONFIG))?.unwrap_or(Value::Null));
        let tokenizer = tokenizer.with_special_strings(&special).with_model_max_length(length);
        let generation = read_json(&dir.join(GENERATION_CONFIG))?.unwrap_or(Value::Null);
        let ids = match &generation["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
            id => id.as_u64().into_iter().collect::<Vec<_>>(),
        };
        let stops = ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect();
        let source = template_of(dir, &config)?.map(Source::Jinja);
        Ok(Self { tokenizer, bytes, special, source, stops })
    }

    /// A tokenizer with the content `bytes` of a `tokenizer.json`, from the file `path` of another
    /// format. `stops` end an answer in addition to the template's stop tokens.
    ///
    /// # Errors
    /// The content is malformed, or lacks a special token.
    pub fn of_parts(
        path: &Path,
        bytes: Vec<u8>,
        special: SpecialStrings,
        source: Option<Source>,
        stops: Vec<u32>,
    ) -> Result<Self, ChatError> {
        let pad = special.pad.as_deref().unwrap_or(&special.eos);
        let tokenizer = TextTokenizer::from_bytes(path, &bytes, &special.eos, pad);
        let tokenizer = tokenizer.map_err(|e| ChatError::Unreadable(e.to_string()))?.with_special_strings(&special);
        Ok(Self { tokenizer, bytes, special, source, stops })
    }

    /// The chat of this model with its own template; `None` if it has none. Without a token that ends
    /// an answer in the template, the eos ids set by the model's authors end it, or else eos.
    ///
    /// # Errors
    /// See [`Chat::new`].
    pub fn own_chat(&self, date: Option<&str>) -> Result<Option<Chat>, ChatError> {
        let Some(source) = &self.source else { return Ok(None) };
        match self.chat(source, date) {
            Err(ChatError::NoStop { .. }) => {
                let mut chat = Chat::parts(source, &self.special, date, self.tokenizer.digest())?;
                let mut added = self.tokenizer.added_tokens().iter().cloned();
                let eos = added.find(|(_, token)| *token == self.special.eos);
                chat.record.stop_tokens = eos.into_iter().map(|(id, token)| StopToken { token, id }).collect();
                Ok(Some(self.add_stops(chat)))
            }
            other => other.map(Some),
        }
    }

    /// Eos ids in the model's `generation_config.json`.
    pub fn stop_token_ids(&self) -> &[u32] {
        &self.stops
    }

    /// The chat of this model with template `source`; the model's own eos ids end an answer too.
    ///
    /// # Errors
    /// See [`Chat::new`].
    pub fn chat(&self, source: &Source, date: Option<&str>) -> Result<Chat, ChatError> {
        let added = self.tokenizer.added_tokens();
        let chat = Chat::new(source, &self.special, added, date, self.tokenizer.digest())?;
        Ok(self.add_stops(chat))
    }

    fn add_stops(&self, mut chat: Chat) -> Chat {
        for id in &self.stops {
            if !chat.record.stop_tokens.iter().any(|stop| stop.id == *id) {
                let token = self.tokenizer.id_to_token(*id).unwrap_or_default();
                chat.record.stop_tokens.push(StopToken { token, id: *id });
            }
        }
        chat
    }
}

/// Maximum sequence length in tokens, from a model's `config.json` or else its
/// `tokenizer_config.json`.
fn model_max_length(tokenizer: &Value, model: &Value) -> Option<u64> {
    let length = |value: &Value| value.as_u64().filter(|length| (2..NO_LIMIT).contains(length));
    length(&model["max_position_embeddings"]).or_else(|| length(&tokenizer["model_max_length"]))
}

/// A special token: a string, or an object with `content`.
fn token(config: &Value, name: &str) -> Option<String> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

/// The JSON file at `path`; `None` if it does not exist.
fn read_json(path: &Path) -> Result<Option<Value>, ChatError> {
    let unreadable = |reason: String| ChatError::Unreadable(format!("{}: {reason}", path.display()));
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| unreadable(format!("is not JSON: {e}"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unreadable(e.to_string())),
    }
}

/// The chat template of the model in folder `dir`, whose `tokenizer_config.json` is `config`. Of
/// several named templates, this is the one named `default`.
fn template_of(dir: &Path, config: &Value) -> Result<Option<String>, ChatError> {
    let path = dir.join(TEMPLATE);
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(ChatError::Unreadable(format!("{}: {e}", path.display()))),
    }
    Ok(match &config["chat_template"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(named) => {
            let default = named.iter().find(|template| template["name"] == "default");
            default.and_then(|template| template["template"].as_str()).map(str::to_owned)
        }
        _ => None,
    })
}
