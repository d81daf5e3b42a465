//! Tokenizers: `tokenizer.json` (Hugging Face's format) with `special_tokens.json` next to it, and
//! the encoding of documents and conversations.
//!
//! A conversation is encoded as one text, as with `apply_chat_template`, and a token is labelled if
//! it contains a character of a labelled range, as in transformers' assistant mask. OLMo's script
//! encodes piece by piece; for contents without surrounding whitespace both give the same ids.

use std::ops::Range;
use std::path::{Path, PathBuf};

use olmo_base::{Digest, IoContext as _};
use serde_json::Value;
use tokenizers::{PaddingParams, PostProcessorWrapper, Tokenizer, TruncationParams};

use super::chat_record::ChatRecord;
use super::fast_encoder::FastEncoder;
use super::special_tokens::{SpecialStrings, SpecialTokens};
use super::tokenizer_json;
use crate::conversation::{Message, Rendered, Role, Template, strip};
use crate::error::DataError;
use crate::formats::json_file;
use crate::formats::tokens::Document;

const TOKENIZER: &str = "tokenizer.json";
const SPECIAL_TOKENS: &str = "special_tokens.json";

/// The tokens of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub ids: Vec<u32>,
    /// The byte range of the text for each token, in order.
    pub ranges: Vec<Range<usize>>,
}

/// A tokenizer with known eos and pad tokens.
pub struct TextTokenizer {
    path: PathBuf,
    inner: Tokenizer,
    fast: Option<FastEncoder>,
    special: SpecialTokens,
    digest: Digest,
    /// If set, the post-processor excludes spaces from token ranges; the value is whether the first
    /// token keeps its space.
    trims_spaces: Option<bool>,
    chat: Option<ChatRecord>,
}

impl TextTokenizer {
    /// Opens the tokenizer artifact in folder `dir`. Rejects one whose `special_tokens.json`
    /// contradicts its `tokenizer.json`.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        let declared: SpecialTokens = json_file::read(&dir.join(SPECIAL_TOKENS))?;
        let mut opened = Self::from_file(&dir.join(TOKENIZER), &declared.eos_token, &declared.pad_token)?;
        opened.special.bos_token.clone_from(&declared.bos_token);
        opened.special.unk_token.clone_from(&declared.unk_token);
        opened.special.model_max_length = declared.model_max_length;
        opened.chat = ChatRecord::read(dir)?;
        if opened.special != declared {
            let reason = format!("contains {declared:?}, but {TOKENIZER} next to it has {:?}", opened.special);
            return Err(DataError::Manifest { path: dir.join(SPECIAL_TOKENS), reason });
        }
        Ok(opened)
    }

    /// Reads the `tokenizer.json` at `path`, in which the strings `eos_token` and `pad_token` must
    /// each be one token.
    pub fn from_file(path: &Path, eos_token: &str, pad_token: &str) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).context(path)?;
        Self::from_bytes(path, &bytes, eos_token, pad_token)
    }

    /// Like [`TextTokenizer::from_file`], for the content `bytes`; `path` is used in messages.
    pub fn from_bytes(path: &Path, bytes: &[u8], eos_token: &str, pad_token: &str) -> Result<Self, DataError> {
        // With dropout, equal texts could get different ids.
        let cleaned = tokenizer_json::clean(bytes);
        let content = cleaned.as_ref().map_or(bytes, |cleaned| &cleaned.bytes);
        if content.starts_with(b"version https://git-lfs.github.com/spec/") {
            let reason = "is a git-lfs pointer, not the file; run `git lfs pull` in its repository";
            return Err(DataError::tokenizer(path, reason));
        }
        let mut inner = Tokenizer::from_bytes(content).map_err(|e| DataError::tokenizer(path, e))?;
        let file: Value = serde_json::from_slice(content).map_err(|e| DataError::tokenizer(path, e))?;
        // A post-processor shifts offsets and adds tokens; other stages truncate and pad.
        inner.with_post_processor(None::<PostProcessorWrapper>).with_padding(None::<PaddingParams>);
        inner.with_truncation(None::<TruncationParams>).map_err(|e| DataError::tokenizer(path, e))?;
        let eos_token_id = special_id(path, &inner, "eos_token", eos_token)?;
        // Padding is written by id, never encoded.
        let pad_token_id = match inner.token_to_id(pad_token) {
            Some(id) => id,
            None => special_id(path, &inner, "pad_token", pad_token)?,
        };
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        let special = SpecialTokens {
            format: json_file::FORMAT,
            eos_token: eos_token.to_owned(),
            eos_token_id,
            pad_token: pad_token.to_owned(),
            pad_token_id,
            vocab_size: largest + 1,
            bos_token: bos_of(&file["post_processor"]).filter(|token| inner.token_to_id(token).is_some()),
            unk_token: file["model"]["unk_token"].as_str().map(str::to_owned),
            model_max_length: None,
        };
        let fast = FastEncoder::of(&inner);
        let trims_spaces = trims_spaces(&file["post_processor"]);
        let digest = Digest::of(bytes);
        Ok(Self { path: path.to_owned(), inner, fast, special, digest, trims_spaces, chat: None })
    }

    /// The strings of `ids` in the `tokenizer.json` with content `bytes`; `path` is used in
    /// messages.
    pub fn token_names(path: &Path, bytes: &[u8], ids: &[u32]) -> Result<Vec<Option<String>>, DataError> {
        let tokenizer = Tokenizer::from_bytes(bytes).map_err(|e| DataError::tokenizer(path, e))?;
        Ok(ids.iter().map(|id| tokenizer.id_to_token(*id)).collect())
    }

    /// Writes the artifact to folder `dir`: `special_tokens.json`, and `bytes`, the content of the
    /// `tokenizer.json` that `self` was read from.
    pub fn save(&self, dir: &Path, bytes: &[u8]) -> Result<(), DataError> {
        let path = dir.join(TOKENIZER);
        std::fs::write(&path, bytes).context(&path)?;
        json_file::write(&dir.join(SPECIAL_TOKENS), &self.special)
    }

    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Sets the bos token, overriding the tokenizer's file.
    pub fn with_bos(mut self, token: &str) -> Result<Self, DataError> {
        special_id(&self.path, &self.inner, "bos_token", token)?;
        self.special.bos_token = Some(token.to_owned());
        Ok(self)
    }

    /// Sets the bos and unk tokens, overriding the tokenizer's file.
    pub fn with_special_strings(mut self, special: &SpecialStrings) -> Self {
        self.special.bos_token.clone_from(&special.bos);
        self.special.unk_token.clone_from(&special.unk);
        self
    }

    /// Records the maximum sequence length of the model that the tokenizer comes from.
    pub fn with_model_max_length(mut self, length: Option<u64>) -> Self {
        self.special.model_max_length = length;
        self
    }

    /// The special tokens, as chat templates see them.
    pub fn special_strings(&self) -> SpecialStrings {
        SpecialStrings {
            bos: self.special.bos_token.clone(),
            eos: self.special.eos_token.clone(),
            pad: Some(self.special.pad_token.clone()),
            unk: self.special.unk_token.clone(),
        }
    }

    /// The chat format recorded for this tokenizer, if any.
    pub fn chat(&self) -> Option<&ChatRecord> {
        self.chat.as_ref()
    }

    /// Digest of `tokenizer.json`.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The tokenizer itself, without post-processor, truncation and padding.
    pub fn inner(&self) -> &Tokenizer {
        &self.inner
    }

    /// Encodes every text with the `tokenizers` crate, for comparisons. The ids are the same.
    pub fn without_shortcuts(self) -> Self {
        Self { fast: None, ..self }
    }

    /// The strings of the added tokens, by id.
    pub fn added_tokens(&self) -> Vec<(u32, String)> {
        let tokens = self.inner.get_added_tokens_decoder().into_iter();
        let mut tokens: Vec<(u32, String)> = tokens.map(|(id, token)| (id, token.content)).collect();
        tokens.sort_unstable();
        tokens
    }

    /// The ids of `text`. Strings of added tokens become those tokens; nothing is added.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, DataError> {
        if let Some(ids) = self.fast.as_ref().and_then(|fast| fast.encode(&self.inner, text, false)) {
            return Ok(ids.ids);
        }
        let encoding = self.inner.encode_fast(text, false).map_err(|e| DataError::tokenizer(&self.path, e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Encodes a conversation as OLMo's `prepare_tulu_data.py` does: eos, then the header and the
    /// content of each turn, each encoded separately. An assistant's content is followed by eos and
    /// a newline, of which the newline is not trained.
    ///
    /// # Errors
    /// As in the script's assertion, the second-to-last token of an assistant turn is not eos.
    pub fn encode_piecewise(&self, messages: &[Message]) -> Result<Document, DataError> {
        let eos = self.special.eos_token_id;
        let mut document = Document { input_ids: vec![eos], label_mask: vec![false] };
        for (i, message) in messages.iter().enumerate() {
            let mut push = |text: &str, label: bool| -> Result<(), DataError> {
                document.input_ids.append(&mut self.encode_text(text)?);
                document.label_mask.resize(document.input_ids.len(), label);
                Ok(())
            };
            push(&Template::Tulu.header(message.role), false)?;
            let content = strip(message.text());
            if message.role != Role::Assistant {
                push(&format!("{content}\n"), false)?;
                continue;
            }
            push(&format!("{content}{}\n", self.special.eos_token), true)?;
            if document.input_ids.iter().nth_back(1) != Some(&eos) {
                let reason = format!(
                    "the answer of message {} does not end with eos (id {eos}) and one token for the newline",
                    i + 1
                );
                return Err(DataError::tokenizer(&self.path, reason));
            }
            if let Some(last) = document.label_mask.last_mut() {
                *last = false;
            }
        }
        Ok(document)
    }

    /// A pre-training document: its ids followed by eos, with every token labelled.
    pub fn encode_plain(&self, text: &str) -> Result<Document, DataError> {
        let mut input_ids = self.encode_text(text)?;
        input_ids.push(self.special.eos_token_id);
        Ok(Document { label_mask: vec![true; input_ids.len()], input_ids })
    }

    /// The ids of `text`, each with its byte range.
    pub fn encode(&self, text: &str) -> Result<Tokens, DataError> {
        if let Some(found) = self.fast.as_ref().and_then(|fast| fast.encode(&self.inner, text, true)) {
            // These tokens cover the text without gaps.
            let ends = found.starts.iter().skip(1).copied().chain([text.len()]);
            let ranges = found.starts.iter().zip(ends).map(|(start, end)| *start..end).collect();
            return Ok(Tokens { ids: found.ids, ranges });
        }
        let encoding = self.inner.encode(text, false).map_err(|e| DataError::tokenizer(&self.path, e))?;
        let ranges = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        Ok(Tokens { ids: encoding.get_ids().to_vec(), ranges })
    }

    /// A rendered conversation: its ids, with the tokens that contain a labelled byte as labels.
    pub fn encode_conversation(&self, rendered: &Rendered) -> Result<Document, DataError> {
        let Tokens { ids, mut ranges } = self.encode(&rendered.text)?;
        if let Some(keeps_first) = self.trims_spaces {
            trim_spaces(&rendered.text, &mut ranges, keeps_first);
        }
        Ok(Document { label_mask: label_mask(&ranges, &rendered.labelled), input_ids: ids })
    }

    /// The text of `ids`.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, DataError> {
        self.inner.decode(ids, skip_special_tokens).map_err(|e| DataError::tokenizer(&self.path, e))
    }
}

/// Which tokens contain a byte of a labelled range. `ranges` are the tokens' bytes; both lists are
/// in order.
fn label_mask(ranges: &[Range<usize>], labelled: &[Range<usize>]) -> Vec<bool> {
    let mut spans = labelled.iter().peekable();
    let is_labelled = |token: &Range<usize>| {
        while spans.next_if(|span| token.start >= span.end).is_some() {}
        spans.peek().is_some_and(|span| token.end > span.start)
    };
    ranges.iter().map(is_labelled).collect()
}

/// Excludes the spaces at both ends of each token from its range, as the byte-level post-processor
/// of `tokenizers` does.
fn trim_spaces(text: &str, ranges: &mut [Range<usize>], keeps_first: bool) {
    for (i, range) in ranges.iter_mut().enumerate() {
        let token = &text.as_bytes()[range.clone()];
        let leading = token.iter().take_while(|byte| **byte == b' ').count();
        let trailing = token.iter().rev().take_while(|byte| **byte == b' ').count();
        if !(keeps_first && i == 0) {
            range.start = (range.start + leading).min(range.end);
        }
        range.end = (range.end - trailing).max(range.start);
    }
}

/// Whether a byte-level post-processor trims spaces, and if so, whether it keeps those of the first
/// token.
fn trims_spaces(post_processor: &Value) -> Option<bool> {
    match post_processor["type"].as_str()? {
        "ByteLevel" if post_processor["trim_offsets"].as_bool() == Some(true) => {
            Some(post_processor["add_prefix_space"].as_bool().unwrap_or(true))
        }
        "Sequence" => post_processor["processors"].as_array()?.iter().find_map(trims_spaces),
        _ => None,
    }
}

/// The token that a post-processor puts before a text.
fn bos_of(post_processor: &Value) -> Option<String> {
    match post_processor["type"].as_str()? {
        "TemplateProcessing" => Some(post_processor["single"].get(0)?["SpecialToken"]["id"].as_str()?.to_owned()),
        "Sequence" => post_processor["processors"].as_array()?.iter().find_map(bos_of),
        _ => None,
    }
}

fn special_id(path: &Path, tokenizer: &Tokenizer, what: &str, token: &str) -> Result<u32, DataError> {
    if let Some(id) = tokenizer.token_to_id(token) {
        // A string in the vocabulary that is not an added token is split during encoding.
        let whole = tokenizer.encode_fast(token, false).is_ok_and(|encoding| encoding.get_ids() == [id]);
        if whole {
            return Ok(id);
        }
        let reason = format!("{what} `{token}` is id {id}, but it is not encoded as that one token in text");
        return Err(DataError::tokenizer(path, reason));
    }
    // Prefer a token whose name states its role to one that is only spelled alike.
    let roles: &[&str] = if what == "pad_token" { &["pad"] } else { &["eos", "endoftext", "end_of_text", "</s>"] };
    let near = |candidate: &str| {
        let named = roles.iter().any(|role| candidate.to_lowercase().contains(role));
        strsim::jaro_winkler(token, candidate) + if named { 1.0 } else { 0.0 }
    };
    let mut added: Vec<(u32, String)> =
        tokenizer.get_added_tokens_decoder().into_iter().map(|(id, token)| (id, token.content)).collect();
    added.sort_by(|(a, x), (b, y)| near(y).total_cmp(&near(x)).then(a.cmp(b)));
    let nearest: Vec<String> = added.iter().take(4).map(|(id, token)| format!("`{token}` (id {id})")).collect();
    let help = match added.first() {
        None => "it has no added tokens".into(),
        Some((_, first)) => {
            let first = serde_json::to_string(first).unwrap_or_default();
            format!("nearest: {}; to take the first, set `{what}: {first}`", nearest.join(", "))
        }
    };
    Err(DataError::SpecialToken { path: path.to_owned(), reason: format!("has no token `{token}` for {what}; {help}") })
}
