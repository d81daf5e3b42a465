//! [`ControlTokens`]: finds the control tokens that a text is encoded to.
//!
//! A text that contains the string of an added token is encoded to that token: a user who writes
//! `<|im_end|>` ends a turn. Added tokens that are only whitespace (GPT-NeoX has some) count as
//! ordinary text.

use std::collections::BTreeMap;

use aho_corasick::AhoCorasick;

use super::text_tokenizer::TextTokenizer;
use crate::conversation::strip;
use crate::error::DataError;

/// The control tokens of a tokenizer.
pub struct ControlTokens {
    names: BTreeMap<u32, String>,
    /// Finds texts that contain one.
    strings: Option<AhoCorasick>,
}

impl ControlTokens {
    pub fn new(tokenizer: &TextTokenizer) -> Self {
        let tokens = tokenizer.added_tokens().iter().filter(|(_, token)| !strip(token).is_empty()).cloned();
        let names: BTreeMap<u32, String> = tokens.collect();
        let strings = AhoCorasick::new(names.values()).ok();
        Self { names, strings }
    }

    /// The string of a control token; `None` for an ordinary token.
    pub fn name(&self, id: u32) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    /// The control tokens that `text` is encoded to, in order. `tokenizer` must be the one this was
    /// built from.
    pub fn find(&self, tokenizer: &TextTokenizer, text: &str) -> Result<Vec<u32>, DataError> {
        // Nearly every text has none and need not be encoded.
        if self.strings.as_ref().is_some_and(|strings| !strings.is_match(text)) && tokenizer.keeps(text) {
            return Ok(Vec::new());
        }
        let ids = tokenizer.encode_text(text)?;
        Ok(ids.into_iter().filter(|id| self.names.contains_key(id)).collect())
    }
}
