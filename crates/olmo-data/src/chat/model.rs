//! The chat that belongs to a model: recorded in its folder, or in the files that Hugging Face's
//! models come with.

use std::path::Path;

use serde_json::Value;

use super::{Chat, ChatError, ChatRecord, Source, StopToken, Template};
use crate::tokenizer::TextTokenizer;

const TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const GENERATION_CONFIG: &str = "generation_config.json";

impl Chat {
    /// How the model in folder `dir` is asked: as its conversations were written in training, else as `tokenizer` says, else as
    /// `template` says, else as a Hugging Face folder says, else with `tulu`.
    ///
    /// # Errors
    /// The model was trained with another tokenizer, or with another template than `template`; both are named.
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

    /// The tokenizer and the chat of a Hugging Face model in folder `dir`. Its template stands in `chat_template.jinja` or in
    /// `tokenizer_config.json`; the ids in `generation_config.json` end an answer as well as what the template ends one with.
    ///
    /// # Errors
    /// A file that is missing or broken, by name.
    pub fn of_huggingface(dir: &Path, date: Option<&str>) -> Result<(TextTokenizer, Self), ChatError> {
        let missing = |what: &str| ChatError::Unreadable(format!("{}: {what}", dir.display()));
        let config = read_json(&dir.join(TOKENIZER_CONFIG))?.unwrap_or(Value::Null);
        let map = read_json(&dir.join(SPECIAL_TOKENS_MAP))?.unwrap_or(Value::Null);
        let token = |name: &str| token(&config, name).or_else(|| token(&map, name));
        let eos = token("eos_token")
            .ok_or_else(|| missing("no `eos_token` in tokenizer_config.json or special_tokens_map.json"))?;
        // Nothing is padded here, so a model without a pad token is as good.
        let pad = token("pad_token").unwrap_or_else(|| eos.clone());
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            return Err(missing("holds no tokenizer.json"));
        }
        let tokenizer =
            TextTokenizer::from_file(&path, &eos, &pad).map_err(|e| ChatError::Unreadable(e.to_string()))?;
        let source = template_of(dir, &config)?
            .ok_or_else(|| missing("no chat template in chat_template.jinja or in tokenizer_config.json"))?;
        // The tokenizer's own tokens are those of its configuration, not of its post-processor.
        let mut special = tokenizer.special_strings();
        special.bos = token("bos_token");
        special.pad = token("pad_token");
        special.unk = token("unk_token");
        let added = tokenizer.added_tokens();
        let generation = read_json(&dir.join(GENERATION_CONFIG))?.unwrap_or(Value::Null);
        let ids = match &generation["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
            id => id.as_u64().into_iter().collect::<Vec<_>>(),
        };
        let mut chat = Self::parts(&Source::Jinja(source), &special, date, tokenizer.digest())?;
        let mut stops = match chat.find_stop_tokens(&added) {
            Ok(stops) => stops,
            // Its makers have said where it stops, or it stops at eos.
            Err(ChatError::NoStop { .. }) => added
                .iter()
                .filter(|(_, token)| *token == eos)
                .map(|(id, token)| StopToken { token: token.clone(), id: *id })
                .collect(),
            Err(error) => return Err(error),
        };
        for id in ids.into_iter().filter_map(|id| u32::try_from(id).ok()) {
            if !stops.iter().any(|stop| stop.id == id) {
                stops.push(StopToken { token: tokenizer.inner().id_to_token(id).unwrap_or_default(), id });
            }
        }
        chat.record.stop_tokens = stops;
        Ok((tokenizer, chat))
    }
}

/// A special token: a string, or an object with its `content`.
fn token(config: &Value, name: &str) -> Option<String> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

/// The JSON file at `path`; `None` if there is none.
fn read_json(path: &Path) -> Result<Option<Value>, ChatError> {
    let unreadable = |reason: String| ChatError::Unreadable(format!("{}: {reason}", path.display()));
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| unreadable(format!("is not JSON: {e}"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unreadable(e.to_string())),
    }
}

/// The chat template of the model in folder `dir`, whose `tokenizer_config.json` is `config`. Of several with names it is the one
/// named `default`.
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
