//! [`Encode`]: what is asked of a library that encodes text. Each library has a file of its own.

use std::collections::BTreeMap;
use std::ops::Range;

/// The tokens of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens<'t> {
    pub ids: Vec<u32>,
    pub(super) places: Places<'t>,
}

/// The number of bytes of each token, by id; 0 for an id without a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TokenLengths {
    /// A byte each, so that they stay in the processor's cache.
    short: Vec<u8>,
    /// Of tokens that are too long for that.
    long: BTreeMap<u32, usize>,
}

impl TokenLengths {
    const LONG: u8 = u8::MAX;

    /// One more than the largest id.
    pub(super) fn count(&self) -> usize {
        self.short.len()
    }

    pub(super) fn set(&mut self, id: u32, length: usize) {
        if self.short.len() <= id as usize {
            self.short.resize(id as usize + 1, 0);
        }
        let short = u8::try_from(length).unwrap_or(Self::LONG);
        self.short[id as usize] = short;
        if short == Self::LONG {
            self.long.insert(id, length);
        }
    }

    #[inline]
    pub(super) fn get(&self, id: u32) -> usize {
        match self.short.get(id as usize) {
            Some(&Self::LONG) => self.long.get(&id).copied().unwrap_or(0),
            Some(short) => usize::from(*short),
            None => 0,
        }
    }
}

/// Where the tokens of a text lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Places<'t> {
    /// One after the other, without gaps.
    Lengths(&'t TokenLengths),
    /// In these bytes.
    Ranges(Vec<Range<usize>>),
}

impl Tokens<'_> {
    /// The byte range of the text for each token, in order.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        match &self.places {
            Places::Lengths(lengths) => {
                let mut end = 0;
                let range = |id: &u32| {
                    let start = end;
                    end += lengths.get(*id);
                    start..end
                };
                self.ids.iter().map(range).collect()
            }
            Places::Ranges(ranges) => ranges.clone(),
        }
    }
}

/// A token beside those of the model.
pub(super) struct AddedToken {
    pub(super) content: String,
    /// Whether it is looked for in the normalised text.
    pub(super) normalized: bool,
    /// Whether it is only a whole word, or takes the spaces around it.
    pub(super) of_words_or_spaces: bool,
}

impl AddedToken {
    /// Sorted by id.
    pub(super) fn by_id(tokens: impl Iterator<Item = (u32, AddedToken)>) -> Vec<(u32, AddedToken)> {
        let mut tokens: Vec<_> = tokens.collect();
        tokens.sort_unstable_by_key(|(id, _)| *id);
        tokens
    }
}

/// A library that encodes text with one tokenizer. Strings of added tokens in the text become those
/// tokens; nothing is added before or after the text.
///
/// `None` leaves a text to the next library.
pub(super) trait Encode: Send + Sync {
    /// Appends the ids of `text` to `ids`.
    fn append(&self, text: &str, ids: &mut Vec<u32>) -> Result<Option<()>, tokenizers::Error>;

    /// The ids of `text`.
    fn ids(&self, text: &str) -> Result<Option<Vec<u32>>, tokenizers::Error> {
        let mut ids = Vec::new();
        Ok(self.append(text, &mut ids)?.map(|()| ids))
    }

    /// The ids of `text`, each with its byte range.
    fn tokens<'t>(&'t self, text: &str) -> Result<Option<Tokens<'t>>, tokenizers::Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_any_size_come_back() {
        let mut lengths = TokenLengths::default();
        for (id, length) in [(3, 1), (1, 254), (7, 255), (2, 256), (9, 70_000)] {
            lengths.set(id, length);
        }
        let found: Vec<usize> = (0..11).map(|id| lengths.get(id)).collect();
        assert_eq!(found, [0, 254, 256, 1, 0, 0, 0, 255, 0, 70_000, 0]);
        assert_eq!(lengths.count(), 10);
        lengths.set(9, 2);
        assert_eq!(lengths.get(9), 2);
    }
}
