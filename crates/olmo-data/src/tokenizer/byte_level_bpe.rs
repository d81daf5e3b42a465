//! [`ByteLevelBpe`]: `tokenizers` 1.0, which encodes byte-level BPE many times as fast as 0.22.
//!
//! Its release candidates can neither train nor save a tokenizer, and say of a token only its id.
//! Here that is enough: the tokens of a byte-level BPE cover the text without gaps, so where each
//! lies follows from the lengths of the tokens before it.

use std::cell::RefCell;

use serde_json::{Value, json};
use tokenizers_1::pipeline::{EncodeOptions, PipelineToken, PipelineTokenizer};

use super::encode::{AddedToken, Encode, Places, TokenLengths, Tokens};
use super::normalizer::Normalizer;
use super::parts::Parts;

pub(super) struct ByteLevelBpe {
    pipeline: PipelineTokenizer,
    options: EncodeOptions,
    normalizer: Normalizer,
    lengths: TokenLengths,
}

impl ByteLevelBpe {
    /// `None` if `file` is of another kind.
    pub(super) fn read(mut file: Parts<'_>) -> Option<Self> {
        let normalizer = Normalizer::of(file.setting("normalizer"));
        if normalizer == Normalizer::Other {
            return None;
        }
        let lengths = lengths(&file)?;
        for stage in ["normalizer", "post_processor", "truncation", "padding"] {
            file.settings.insert(stage.into(), Value::Null);
        }
        // Never used, but 1.0 must know what it reads.
        file.settings.insert("decoder".into(), json!({"type": "ByteLevel"}));
        let pipeline = tokenizers_1::from_json(&file.canonical()?).ok()?;
        let options = EncodeOptions::no_specials();
        Self { pipeline, options, normalizer, lengths }.with_added_tokens()
    }

    /// With the lengths of added tokens. `None` if one could be of another length.
    fn with_added_tokens(mut self) -> Option<Self> {
        for (id, token) in self.added_tokens() {
            let content = &token.content;
            // The model's token of this string stands for other text.
            let of_model = !content.is_ascii() && self.lengths.get(id) > 0;
            if token.of_words_or_spaces || of_model || (token.normalized && !content.is_ascii()) {
                return None;
            }
            self.lengths.set(id, content.len());
        }
        Some(self)
    }

    /// Whether `probe` gets the ids that `other` gives it, or is left to it.
    pub(super) fn agrees(&self, probe: &str, other: &dyn Encode) -> bool {
        let Some(tokens) = self.encode(probe) else { return true };
        other.ids(probe).is_ok_and(|wanted| wanted.as_ref() == Some(&tokens))
    }

    /// Number of bytes of each token.
    pub(super) fn lengths(&self) -> &TokenLengths {
        &self.lengths
    }

    /// One more than the largest id.
    pub(super) fn vocab_size(&self) -> usize {
        self.lengths.count()
    }

    /// The added tokens, by id.
    pub(super) fn added_tokens(&self) -> Vec<(u32, AddedToken)> {
        let tokens = self.pipeline.get_added_vocabulary().get_added_tokens_decoder().into_iter();
        AddedToken::by_id(tokens.map(|(id, token)| {
            let of_words_or_spaces = token.single_word || token.lstrip || token.rstrip;
            (id, AddedToken { content: token.content, normalized: token.normalized, of_words_or_spaces })
        }))
    }

    /// The ids of `text`; `None` if its normalisation may change it, or it is too long.
    pub(super) fn encode(&self, text: &str) -> Option<Vec<u32>> {
        self.ids(text).ok()?
    }
}

thread_local! {
    /// Tokens of the text that a thread encodes.
    static TOKENS: RefCell<Vec<PipelineToken>> = const { RefCell::new(Vec::new()) };
}

impl Encode for ByteLevelBpe {
    fn append(&self, text: &str, ids: &mut Vec<u32>) -> Result<Option<()>, tokenizers::Error> {
        if !self.normalizer.keeps(text) {
            return Ok(None);
        }
        Ok(TOKENS.with_borrow_mut(|tokens| {
            tokens.clear();
            self.pipeline.encode_into(text, &self.options, tokens).ok()?;
            ids.extend_from_slice(PipelineToken::cast_slice(tokens));
            Some(())
        }))
    }

    fn tokens<'t>(&'t self, text: &str) -> Result<Option<Tokens<'t>>, tokenizers::Error> {
        let Some(ids) = self.ids(text)? else { return Ok(None) };
        // Otherwise the places would be wrong, and with them the labels.
        let whole = ids.iter().map(|id| self.lengths.get(*id)).sum::<usize>() == text.len();
        Ok(whole.then_some(Tokens { ids, places: Places::Lengths(&self.lengths) }))
    }
}

/// The number of bytes of each token of the model by id, 0 where it stands for no text. `None` if it
/// is no byte-level BPE, or a byte of UTF-8 has no token.
fn lengths(file: &Parts<'_>) -> Option<TokenLengths> {
    let model = file.setting("model");
    let none = |name: &str| model[name].as_str().is_none_or(str::is_empty);
    let plain = model["type"].as_str().is_none_or(|kind| kind == "BPE")
        && is_byte_level(file.setting("pre_tokenizer"))
        && model["byte_fallback"] != true
        && model["dropout"].as_f64().is_none_or(|dropout| dropout == 0.0)
        && none("continuing_subword_prefix")
        && none("end_of_word_suffix");
    if !plain {
        return None;
    }
    let mut bytes = [None; 0x200];
    for (byte, letter) in letters().enumerate() {
        bytes[letter as usize] = Some(byte);
    }
    let byte_of = |c: char| bytes.get(c as usize).copied().flatten();
    let mut found = [false; 256];
    let mut lengths = TokenLengths::default();
    file.tokens(|token, id| {
        let (mut length, mut last) = (0, None);
        for c in token.chars() {
            last = byte_of(c);
            if last.is_none() {
                length = 0;
                break;
            }
            length += 1;
        }
        if let (1, Some(byte)) = (length, last) {
            found[byte] = true;
        }
        lengths.set(id, length);
    })?;
    let in_text = |byte: usize| !matches!(byte, 0xc0 | 0xc1 | 0xf5..);
    (0..256).all(|byte| found[byte] || !in_text(byte)).then_some(lengths)
}

/// Whether the last step of a pre-tokenizer writes bytes as letters, without a space before the text.
fn is_byte_level(pre_tokenizer: &Value) -> bool {
    let last = pre_tokenizer["pretokenizers"].as_array().and_then(|steps| steps.last()).unwrap_or(pre_tokenizer);
    last["type"] == "ByteLevel" && last["add_prefix_space"] == false
}

/// The character that byte-level tokenizers write for each byte, in order: the byte itself if it is
/// printable, otherwise one from U+0100 on.
fn letters() -> impl Iterator<Item = char> {
    let mut others = '\u{100}'..;
    (0..=u8::MAX).filter_map(move |byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae.. => Some(char::from(byte)),
        _ => others.next(),
    })
}
