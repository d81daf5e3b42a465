//! Tokenizers: `tokenizer.json` (Hugging Face's format) with `special_tokens.json` beside it, and
//! the encoding of documents and conversations.
//!
//! A conversation is encoded as one text with offsets, as `apply_chat_template` does it, and a
//! token is labelled if it starts inside a labelled range. OLMo's script encodes piece by piece;
//! for contents without surrounding white space both give the same ids.

use std::path::{Path, PathBuf};

use olmo_stage::Digest;
use serde::{Deserialize, Serialize};
use tokenizers::{NormalizedString, Normalizer, PaddingParams, PostProcessorWrapper, Tokenizer, TruncationParams};

use crate::error::DataError;
use crate::fast::FastEncoder;
use crate::json;
use crate::template::{Message, Rendered, Role, Template, strip};
use crate::tokenizer_json;
use crate::tokens::Document;

const TOKENIZER: &str = "tokenizer.json";
const SPECIAL_TOKENS: &str = "special_tokens.json";

/// `special_tokens.json`: what a tokenizer means by the end of a text and by padding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecialTokens {
    pub format: u32,
    pub eos_token: String,
    pub eos_token_id: u32,
    pub pad_token: String,
    pub pad_token_id: u32,
    /// One more than the largest id, added tokens included.
    pub vocab_size: u32,
}

/// A tokenizer whose eos and pad tokens are known.
pub struct TextTokenizer {
    path: PathBuf,
    inner: Tokenizer,
    fast: Option<FastEncoder>,
    special: SpecialTokens,
    digest: Digest,
}

impl TextTokenizer {
    /// Opens the tokenizer artifact in folder `dir`. Refuses one whose `special_tokens.json` does
    /// not agree with its `tokenizer.json`.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        let declared: SpecialTokens = json::read(&dir.join(SPECIAL_TOKENS))?;
        let opened = Self::from_file(&dir.join(TOKENIZER), &declared.eos_token, &declared.pad_token)?;
        if opened.special != declared {
            let reason = format!("says {declared:?}, but {TOKENIZER} beside it has {:?}", opened.special);
            return Err(DataError::Manifest { path: dir.join(SPECIAL_TOKENS), reason });
        }
        Ok(opened)
    }

    /// Reads the `tokenizer.json` at `path`, in which the strings `eos_token` and `pad_token` must
    /// be tokens of their own.
    pub fn from_file(path: &Path, eos_token: &str, pad_token: &str) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).map_err(DataError::io(path))?;
        Self::from_bytes(path, &bytes, eos_token, pad_token)
    }

    /// As [`TextTokenizer::from_file`], of the content `bytes`; `path` is for messages.
    pub fn from_bytes(path: &Path, bytes: &[u8], eos_token: &str, pad_token: &str) -> Result<Self, DataError> {
        // Dropout would make other ids of equal texts.
        let cleaned = tokenizer_json::clean(bytes);
        let content = cleaned.as_ref().map_or(bytes, |cleaned| &cleaned.bytes);
        if content.starts_with(b"version https://git-lfs.github.com/spec/") {
            let reason = "is a git-lfs pointer, not the file; run `git lfs pull` in the repository that it is from";
            return Err(DataError::tokenizer(path, reason));
        }
        let mut inner = Tokenizer::from_bytes(content).map_err(|e| DataError::tokenizer(path, e))?;
        // A post-processor shifts offsets and adds tokens; truncation and padding are other stages' work.
        inner.with_post_processor(None::<PostProcessorWrapper>).with_padding(None::<PaddingParams>);
        inner.with_truncation(None::<TruncationParams>).map_err(|e| DataError::tokenizer(path, e))?;
        let eos_token_id = special_id(path, &inner, "eos_token", eos_token)?;
        // Padding is written by its id, never encoded.
        let pad_token_id = match inner.token_to_id(pad_token) {
            Some(id) => id,
            None => special_id(path, &inner, "pad_token", pad_token)?,
        };
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        let special = SpecialTokens {
            format: json::FORMAT,
            eos_token: eos_token.to_owned(),
            eos_token_id,
            pad_token: pad_token.to_owned(),
            pad_token_id,
            vocab_size: largest + 1,
        };
        let fast = FastEncoder::of(&inner);
        Ok(Self { path: path.to_owned(), inner, fast, special, digest: Digest::of(bytes) })
    }

    /// The strings of `ids` in the `tokenizer.json` whose content is `bytes`; `path` is for messages.
    pub fn token_names(path: &Path, bytes: &[u8], ids: &[u32]) -> Result<Vec<Option<String>>, DataError> {
        let tokenizer = Tokenizer::from_bytes(bytes).map_err(|e| DataError::tokenizer(path, e))?;
        Ok(ids.iter().map(|id| tokenizer.id_to_token(*id)).collect())
    }

    /// Writes the artifact in folder `dir`: the content `bytes` of the `tokenizer.json` that `self`
    /// was read from, and `special_tokens.json`.
    pub fn save(&self, dir: &Path, bytes: &[u8]) -> Result<(), DataError> {
        let path = dir.join(TOKENIZER);
        std::fs::write(&path, bytes).map_err(DataError::io(&path))?;
        json::write(&dir.join(SPECIAL_TOKENS), &self.special)
    }

    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Digest of `tokenizer.json`.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The tokenizer itself, without post-processor, truncation and padding.
    pub fn inner(&self) -> &Tokenizer {
        &self.inner
    }

    /// Takes every text the way of the `tokenizers` crate, for comparisons. The ids are the same.
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

    /// The ids of `text`; the strings of added tokens in it become these tokens, nothing is added.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, DataError> {
        if let Some(ids) = self.fast.as_ref().and_then(|fast| fast.encode(&self.inner, text, false)) {
            return Ok(ids.ids);
        }
        let encoding = self.inner.encode_fast(text, false).map_err(|e| DataError::tokenizer(&self.path, e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// A conversation as OLMo's `prepare_tulu_data.py` encodes it: eos, then the header and the content of each turn, each
    /// encoded by itself; an assistant's content with eos and newline, of which the newline is not trained.
    ///
    /// # Errors
    /// As the script's assertion: the last but one token of an assistant's turn is not eos.
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
            let content = strip(&message.content);
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

    /// A document for pre-training: its ids and eos behind them, every token labelled.
    pub fn encode_plain(&self, text: &str) -> Result<Document, DataError> {
        let mut input_ids = self.encode_text(text)?;
        input_ids.push(self.special.eos_token_id);
        Ok(Document { label_mask: vec![true; input_ids.len()], input_ids })
    }

    /// A rendered conversation: its ids, and as labels those that start in a labelled range.
    pub fn encode(&self, rendered: &Rendered) -> Result<Document, DataError> {
        if let Some(ids) = self.fast.as_ref().and_then(|fast| fast.encode(&self.inner, &rendered.text, true)) {
            return Ok(Document { label_mask: label_mask(rendered, ids.starts.into_iter()), input_ids: ids.ids });
        }
        encode(&self.inner, rendered).map_err(|e| DataError::tokenizer(&self.path, e))
    }

    /// The text of `ids`.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, DataError> {
        self.inner.decode(ids, skip_special_tokens).map_err(|e| DataError::tokenizer(&self.path, e))
    }

    /// Checks that what `document` trains is what `rendered` says, as text: the assistant's
    /// bodies, each with its eos. Returns both texts if they differ.
    ///
    /// A tokenizer that normalises (NFC) makes other text of a body; it is compared as normalised.
    pub fn check_labels(
        &self,
        rendered: &Rendered,
        document: &Document,
    ) -> Result<Result<(), LabelMismatch>, DataError> {
        let ids = document.input_ids.iter().zip(&document.label_mask);
        let ids: Vec<u32> = ids.filter(|(_, label)| **label).map(|(id, _)| *id).collect();
        let found = self.decode(&ids, false)?;
        let mut expected = String::new();
        for range in &rendered.labelled {
            expected.push_str(&self.normalized(&rendered.text[range.clone()])?);
        }
        Ok(if found == expected { Ok(()) } else { Err(LabelMismatch { expected, found }) })
    }

    /// `text` after the tokenizer's normaliser.
    pub fn normalized(&self, text: &str) -> Result<String, DataError> {
        let Some(normalizer) = self.inner.get_normalizer() else { return Ok(text.to_owned()) };
        let mut normalized = NormalizedString::from(text);
        normalizer.normalize(&mut normalized).map_err(|e| DataError::tokenizer(&self.path, e))?;
        Ok(normalized.get().to_owned())
    }
}

/// The labelled tokens of a conversation say something else than its assistant turns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the labelled tokens say {found:?}, the assistant turns say {expected:?}")]
pub struct LabelMismatch {
    pub expected: String,
    pub found: String,
}

/// The ids of a rendered conversation by a tokenizer without post-processor (whose offsets are
/// exact), and as labels those tokens that start in a labelled range.
pub fn encode(tokenizer: &Tokenizer, rendered: &Rendered) -> tokenizers::Result<Document> {
    let encoding = tokenizer.encode(rendered.text.as_str(), false)?;
    let label_mask = label_mask(rendered, encoding.get_offsets().iter().map(|(start, _)| *start));
    Ok(Document { input_ids: encoding.get_ids().to_vec(), label_mask })
}

/// Which of the tokens that start at `starts`, ascending, start in a labelled range.
fn label_mask(rendered: &Rendered, starts: impl Iterator<Item = usize>) -> Vec<bool> {
    let mut ranges = rendered.labelled.iter().peekable();
    let labelled = |start: usize| {
        while ranges.next_if(|range| range.end <= start).is_some() {}
        ranges.peek().is_some_and(|range| range.contains(&start))
    };
    starts.map(labelled).collect()
}

fn special_id(path: &Path, tokenizer: &Tokenizer, what: &str, token: &str) -> Result<u32, DataError> {
    if let Some(id) = tokenizer.token_to_id(token) {
        // A string of the vocabulary that is no added token is split when text is encoded.
        let whole = tokenizer.encode_fast(token, false).is_ok_and(|encoding| encoding.get_ids() == [id]);
        if whole {
            return Ok(id);
        }
        let reason = format!("{what} `{token}` is id {id}, but text that holds it is not encoded as that one token");
        return Err(DataError::tokenizer(path, reason));
    }
    // A token that says what it is for comes before one that is only spelled alike.
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
