//! The vocabulary of a tokenizer, as far as a model needs to know it.

use crate::config::ModelConfig;

/// Number of ids, and the ids with a meaning of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Number of ids.
    pub size: usize,
    /// The id that ends a document.
    pub eos_token_id: u32,
    /// The id for padding.
    pub pad_token_id: u32,
}

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

impl ModelConfig {
    /// Checks that the model understands the ids of `vocabulary`.
    ///
    /// # Errors
    /// The first mismatch.
    pub fn accepts(&self, vocabulary: &Vocabulary) -> Result<(), VocabularyMismatch> {
        if vocabulary.size > self.vocab_size {
            return Err(VocabularyMismatch::TooLarge { size: vocabulary.size, of_model: self.vocab_size });
        }
        match self.eos_token_id() {
            Some(of_model) if !self.eos_token_ids.contains(&vocabulary.eos_token_id) => {
                Err(VocabularyMismatch::OtherEos { eos: vocabulary.eos_token_id, of_model })
            }
            _ => Ok(()),
        }
    }
}
