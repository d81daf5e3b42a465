//! [`Encode`]: what is asked of a library that encodes text. Each library has a file of its own.

use std::ops::Range;

/// The tokens of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens<'t> {
    pub ids: Vec<u32>,
    pub(super) places: Places<'t>,
}

/// Where the tokens of a text lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Places<'t> {
    /// One after the other, without gaps. The number of bytes of each token, by id.
    Lengths(&'t [u16]),
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
                    end += usize::from(lengths[*id as usize]);
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
