//! The files of an export that belong to its tokenizer.

use std::fs;
use std::path::Path;

use olmo_data::{SpecialTokens, Template};
use olmo_model::ModelConfig;
use olmo_stage::StageError;
use olmo_stage::worker::write_json;
use serde_json::json;

/// Refuses a tokenizer whose ids mean something else to the model.
pub fn check(config: &ModelConfig, special: &SpecialTokens) -> Result<(), StageError> {
    const HINT: &str = "give the tokenizer that the model was trained with";
    if special.vocab_size as usize > config.vocab_size {
        let what = format!("the tokenizer has {} ids, the model knows {}", special.vocab_size, config.vocab_size);
        return Err(StageError::fail("convert::vocabulary", what).hint(HINT));
    }
    match config.eos_token_id() {
        Some(eos) if !config.eos_token_ids.contains(&special.eos_token_id) => {
            let what = format!(
                "the tokenizer's eos `{}` is id {}, the model's is id {eos}",
                special.eos_token.escape_debug(),
                special.eos_token_id
            );
            Err(StageError::fail("convert::eos", what).hint(HINT))
        }
        _ => Ok(()),
    }
}

/// Writes `tokenizer.json` (as it is), `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` into folder `to`.
///
/// The template stands in two files, since a reader takes one or the other; both hold the same text.
pub fn write(
    to: &Path,
    from: &Path,
    special: &SpecialTokens,
    template: Template,
    length: usize,
) -> Result<(), StageError> {
    let tokenizer = from.join("tokenizer.json");
    fs::copy(&tokenizer, to.join("tokenizer.json")).map_err(|e| StageError::io(&tokenizer, e))?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": null,
        "eos_token": special.eos_token,
        "pad_token": special.pad_token,
        "unk_token": null,
        "model_max_length": length,
        "clean_up_tokenization_spaces": false,
        "chat_template": template.jinja(),
    });
    write_json(&to.join("tokenizer_config.json"), &config)?;
    let map = json!({"eos_token": special.eos_token, "pad_token": special.pad_token});
    write_json(&to.join("special_tokens_map.json"), &map)?;
    let chat_template = to.join("chat_template.jinja");
    fs::write(&chat_template, template.jinja()).map_err(|e| StageError::io(&chat_template, e))
}
