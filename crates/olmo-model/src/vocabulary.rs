//! Whether a model understands the ids of a tokenizer.

use crate::config::ModelConfig;
use crate::error::ModelError;

/// Why a model does not accept a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VocabularyMismatch {
    /// The vocabulary has ids beyond those of the model.
    TooLarge {
        /// Number of ids of the vocabulary.
        size: usize,
        /// Number of ids of the model.
        of_model: usize,
    },
    /// The model ends a document with another id.
    OtherEos {
        /// The id of the vocabulary.
        eos: u32,
        /// The id of the model.
        of_model: u32,
    },
}

impl VocabularyMismatch {
    /// The message about a tokenizer whose token `eos_token` ends a document.
    pub fn of_tokenizer(&self, eos_token: &str) -> String {
        match self {
            Self::TooLarge { size, of_model } => format!("the tokenizer has {size} ids, the model has {of_model}"),
            Self::OtherEos { eos, of_model } => {
                let token = eos_token.escape_debug();
                format!("the tokenizer's eos `{token}` is id {eos}, but the model's is id {of_model}")
            }
        }
    }
}

impl ModelConfig {
    /// Checks that the model understands the ids of a vocabulary of `size` ids, in which
    /// `eos_token_id` ends a document.
    ///
    /// # Errors
    /// The first mismatch.
    pub fn accepts(&self, size: usize, eos_token_id: u32) -> Result<(), VocabularyMismatch> {
        if size > self.vocab_size {
            return Err(VocabularyMismatch::TooLarge { size, of_model: self.vocab_size });
        }
        match self.eos_token_id() {
            Some(of_model) if !self.eos_token_ids.contains(&eos_token_id) => {
                Err(VocabularyMismatch::OtherEos { eos: eos_token_id, of_model })
            }
            _ => Ok(()),
        }
    }

    /// Checks that `ids` are `batch` rows of `sequence` tokens of the vocabulary.
    ///
    /// # Errors
    /// They are not, or there are none.
    pub fn check_ids(&self, ids: &[u32], batch: usize, sequence: usize) -> Result<(), ModelError> {
        if batch.checked_mul(sequence) != Some(ids.len()) {
            return Err(ModelError::Input(format!("{} token ids do not make {batch} rows of {sequence}", ids.len())));
        }
        if ids.is_empty() {
            return Err(ModelError::Input("there are no tokens".into()));
        }
        let vocab_size = self.vocab_size;
        match ids.iter().position(|&id| id as usize >= vocab_size) {
            None => Ok(()),
            Some(place) => Err(ModelError::Input(format!(
                "token id {} (row {}, place {}) is beyond the model's vocabulary of {vocab_size}: the data was made with another tokenizer",
                ids[place],
                place / sequence,
                place % sequence
            ))),
        }
    }
}
