//! The tokenizer in the metadata of a GGUF file, and back.

use std::path::Path;

use olmo_data::chat::{ModelTokenizer, Source};
use olmo_data::tokenizer::SpecialStrings;
use olmo_data::{Chat, GgufVocabulary};
use olmo_model::{GgufMetadata, GgufValue};
use olmo_stage::StageError;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const PADDING: &str = "tokenizer.ggml.padding_token_id";
const TEMPLATE: &str = "tokenizer.chat_template";
/// The only kind of tokenizer: byte-level BPE.
const BYTE_LEVEL_BPE: &str = "gpt2";

/// The tokenizer of the GGUF file at `path` with this metadata.
///
/// # Errors
/// `tokenizer`, after the name of the stage: it has none, or one that is not supported.
pub(super) fn read(path: &Path, metadata: &GgufMetadata, stage: &str) -> Result<ModelTokenizer, StageError> {
    let refuse = |why: String| StageError::fail(&format!("{stage}::tokenizer"), format!("{} {why}", path.display()));
    let model = metadata.get(MODEL).and_then(GgufValue::as_str);
    if model != Some(BYTE_LEVEL_BPE) {
        let what = model.map_or("has no tokenizer".into(), |model| {
            format!("has a tokenizer \"{}\"; only \"{BYTE_LEVEL_BPE}\" is supported", model.escape_debug())
        });
        return Err(refuse(what).hint("name the model's tokenizer with --tokenizer FOLDER"));
    }
    let strings = |key: &str| match metadata.get(key) {
        Some(GgufValue::Strings(strings)) => Ok(strings.clone()),
        _ => Err(refuse(format!("has no list `{key}`"))),
    };
    let tokens = strings(TOKENS)?;
    let kinds = match metadata.get(KINDS) {
        Some(GgufValue::Int32s(kinds)) => kinds.clone(),
        _ => return Err(refuse(format!("has no list `{KINDS}`"))),
    };
    let pre = metadata.get(PRE).and_then(GgufValue::as_str).unwrap_or("default").to_owned();
    let vocabulary = GgufVocabulary { pre, tokens, kinds, merges: strings(MERGES)? };
    let bytes = vocabulary.tokenizer_json().map_err(|why| refuse(format!("has a tokenizer that {why}")))?;
    let id = |key: &str| metadata.get(key).and_then(GgufValue::as_u64);
    let token = |key: &str| id(key).and_then(|id| vocabulary.tokens.get(usize::try_from(id).ok()?).cloned());
    let eos = token(EOS).ok_or_else(|| refuse(format!("has no `{EOS}` in its vocabulary")))?;
    let special = SpecialStrings { bos: token(BOS), pad: token(PADDING), unk: token(UNKNOWN), eos };
    let template = metadata.get(TEMPLATE).and_then(GgufValue::as_str).map(|text| Source::Jinja(text.to_owned()));
    let stops = [EOS, EOT].into_iter().filter_map(id).filter_map(|id| u32::try_from(id).ok()).collect();
    ModelTokenizer::of_parts(path, bytes, special, template, stops).map_err(|error| refuse(format!("{error}")))
}

/// The keys that describe the tokenizer with the content `tokenizer_json` and its chat format, for a
/// model with `rows` rows of the embedding.
///
/// # Errors
/// `gguf`, after the name of the stage: llama.cpp has no such tokenizer.
pub fn gguf_keys(tokenizer_json: &[u8], chat: &Chat, rows: usize, stage: &str) -> Result<GgufMetadata, StageError> {
    let vocabulary = GgufVocabulary::of_tokenizer_json(tokenizer_json, rows).map_err(|why| {
        StageError::fail(&format!("{stage}::gguf"), format!("the tokenizer {why}"))
            .hint("llama.cpp cannot run this tokenizer; export to another format")
    })?;
    let record = chat.record();
    let id = |token: &String| vocabulary.tokens.iter().position(|other| other == token);
    let mut keys = GgufMetadata::default();
    let text = |text: &str| GgufValue::String(text.to_owned());
    keys.push(MODEL, text(BYTE_LEVEL_BPE));
    keys.push(PRE, text(&vocabulary.pre));
    let eot = record.stop_tokens.first().map(|stop| &stop.token).filter(|token| **token != record.eos_token);
    let ids = [
        (BOS, record.bos_token.as_ref().and_then(id)),
        (EOS, id(&record.eos_token)),
        (EOT, eot.and_then(id)),
        (UNKNOWN, record.unk_token.as_ref().and_then(id)),
        (PADDING, record.pad_token.as_ref().and_then(id)),
    ];
    keys.push(TOKENS, GgufValue::Strings(vocabulary.tokens));
    keys.push(KINDS, GgufValue::Int32s(vocabulary.kinds));
    keys.push(MERGES, GgufValue::Strings(vocabulary.merges));
    for (key, id) in ids {
        if let Some(id) = id.and_then(|id| u32::try_from(id).ok()) {
            keys.push(key, GgufValue::Uint32(id));
        }
    }
    keys.push(TEMPLATE, text(&record.chat_template));
    Ok(keys)
}
