//! [`TextDecoder`]: the text of tokens, as they come.

use olmo_data::{DataError, TextTokenizer};

/// The text of an answer's tokens, as they come. A character whose bytes are in several tokens
/// appears with the last of them.
#[derive(Clone, Debug)]
pub struct TextDecoder {
    ids: Vec<u32>,
    /// The first id that is decoded again: a tokenizer may write a token differently at the start.
    context: usize,
    /// The first id whose text has not appeared.
    pending: usize,
    skips_special: bool,
}

impl TextDecoder {
    /// Decodes an answer from its first token on. With `skips_special`, special tokens have no text.
    pub fn new(skips_special: bool) -> TextDecoder {
        TextDecoder { ids: Vec::new(), context: 0, pending: 0, skips_special }
    }

    /// The text that `id` completes; often that of `id` alone, sometimes nothing.
    ///
    /// # Errors
    /// The tokenizer cannot decode it.
    pub fn push(&mut self, tokenizer: &TextTokenizer, id: u32) -> Result<String, DataError> {
        self.ids.push(id);
        let text = self.rest(tokenizer)?;
        if text.ends_with('\u{fffd}') && self.ids.len() - self.pending < MOST_PENDING {
            return Ok(String::new());
        }
        self.context = self.pending;
        self.pending = self.ids.len();
        Ok(text)
    }

    /// The text of the tokens whose characters are incomplete.
    ///
    /// # Errors
    /// The tokenizer cannot decode them.
    pub fn finish(&mut self, tokenizer: &TextTokenizer) -> Result<String, DataError> {
        let text = if self.pending < self.ids.len() { self.rest(tokenizer)? } else { String::new() };
        self.pending = self.ids.len();
        Ok(text)
    }

    /// The text of the tokens that have not appeared.
    fn rest(&self, tokenizer: &TextTokenizer) -> Result<String, DataError> {
        let before = tokenizer.decode(&self.ids[self.context..self.pending], self.skips_special)?;
        let text = tokenizer.decode(&self.ids[self.context..], self.skips_special)?;
        Ok(match text.strip_prefix(&before) {
            Some(new) => new.to_owned(),
            None => tokenizer.decode(&self.ids[self.pending..], self.skips_special)?,
        })
    }
}

/// A character has at most four bytes; tokens beyond this are no part of one.
const MOST_PENDING: usize = 4;
