//! Writes the tokenizer files of an export.

use std::fs;
use std::path::Path;

use olmo_data::Chat;
use olmo_stage::StageError;
use olmo_stage::worker::write_json;
use serde_json::{Map, Value};

/// Writes `tokenizer.json` (unchanged), `tokenizer_config.json`, `special_tokens_map.json` and
/// `chat_template.jinja` into folder `to`.
///
/// Two of them contain the same chat template, since some readers look only in one.
pub(crate) fn write(to: &Path, from: &Path, chat: &Chat, length: usize) -> Result<(), StageError> {
    let tokenizer = from.join("tokenizer.json");
    fs::copy(&tokenizer, to.join("tokenizer.json")).map_err(|e| StageError::io(&tokenizer, e))?;
    let record = chat.record();
    let stops = record.stop_tokens.iter().map(|stop| stop.token.as_str());
    let additional: Vec<&str> = stops.filter(|token| *token != record.eos_token).collect();
    let mut map = Map::new();
    for (name, token) in
        [("bos_token", &record.bos_token), ("pad_token", &record.pad_token), ("unk_token", &record.unk_token)]
    {
        map.extend(token.as_deref().map(|token| (name.to_owned(), Value::from(token))));
    }
    map.insert("eos_token".into(), record.eos_token.as_str().into());
    if !additional.is_empty() {
        map.insert("additional_special_tokens".into(), additional.into());
    }
    write_json(&to.join("special_tokens_map.json"), &map)?;
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    for name in ["bos_token", "unk_token"] {
        config.insert(name.into(), Value::Null);
    }
    config.extend(map);
    config.insert("model_max_length".into(), length.into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert("chat_template".into(), record.chat_template.as_str().into());
    write_json(&to.join("tokenizer_config.json"), &config)?;
    let chat_template = to.join("chat_template.jinja");
    fs::write(&chat_template, &record.chat_template).map_err(|e| StageError::io(&chat_template, e))
}
