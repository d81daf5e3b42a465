//! [`EveryKind`]: `tokenizers` 0.22, which reads and encodes every kind of tokenizer.

use std::collections::HashMap;

use tokenizers::{Error, PaddingParams, PostProcessorWrapper, Tokenizer, TruncationParams};

use super::encode::{AddedToken, Encode, Places, Tokens};

/// The tokenizer as transformers has it, without post-processor, truncation and padding.
pub(super) struct EveryKind(Tokenizer);

impl EveryKind {
    /// Reads the content of a `tokenizer.json`.
    pub(super) fn read(content: &[u8]) -> Result<Self, Error> {
        let mut inner = Tokenizer::from_bytes(content)?;
        // A post-processor shifts offsets and adds tokens; other stages truncate and pad.
        inner.with_post_processor(None::<PostProcessorWrapper>).with_padding(None::<PaddingParams>);
        inner.with_truncation(None::<TruncationParams>)?;
        Ok(Self(inner))
    }

    pub(super) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    pub(super) fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }

    /// All tokens, the added ones included, with their ids.
    pub(super) fn vocabulary(&self) -> HashMap<String, u32> {
        self.0.get_vocab(true)
    }

    /// The added tokens, by id.
    pub(super) fn added_tokens(&self) -> Vec<(u32, AddedToken)> {
        let tokens = self.0.get_added_tokens_decoder().into_iter();
        AddedToken::by_id(tokens.map(|(id, token)| {
            let of_words_or_spaces = token.single_word || token.lstrip || token.rstrip;
            (id, AddedToken { content: token.content, normalized: token.normalized, of_words_or_spaces })
        }))
    }

    pub(super) fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, Error> {
        self.0.decode(ids, skip_special_tokens)
    }
}

impl Encode for EveryKind {
    fn append(&self, text: &str, ids: &mut Vec<u32>) -> Result<Option<()>, Error> {
        ids.extend_from_slice(self.0.encode_fast(text, false)?.get_ids());
        Ok(Some(()))
    }

    fn tokens<'t>(&'t self, text: &str) -> Result<Option<Tokens<'t>>, Error> {
        let encoding = self.0.encode(text, false)?;
        let ranges = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        Ok(Some(Tokens { ids: encoding.get_ids().to_vec(), places: Places::Ranges(ranges) }))
    }
}
