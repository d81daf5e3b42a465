//! [`Sequences`]: iterates over the documents of tokens or the rows of a memmap.

use std::path::Path;

use crate::error::DataError;
use crate::formats::tokens::TokensReader;
use crate::memmap::Memmap;
use crate::view::kind::{ArtifactKind, kind};

/// One document or row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub input_ids: Vec<u32>,
    pub label_mask: Vec<bool>,
    /// Where documents start in it; a row may start inside a document.
    pub starts: Vec<usize>,
    /// Number of padding tokens at its end.
    pub padding: usize,
}

/// Tokens or a memmap, opened for viewing.
pub enum Sequences {
    Tokens(Box<TokensReader>),
    Memmap(Box<Memmap>),
}

impl Sequences {
    /// Opens the tokens or memmap in folder `dir`.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        match kind(dir)? {
            ArtifactKind::Tokens => Ok(Self::Tokens(Box::new(TokensReader::open(dir)?))),
            ArtifactKind::Memmap => Ok(Self::Memmap(Box::new(Memmap::open(dir)?))),
            ArtifactKind::Dataset => {
                Err(DataError::broken(dir, "is a dataset of text; give the tokens or the memmap made from it"))
            }
        }
    }

    /// Number of documents or rows.
    pub fn len(&self) -> u64 {
        match self {
            Self::Tokens(reader) => reader.manifest().documents,
            Self::Memmap(memmap) => memmap.manifest().instances,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of one sequence.
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Tokens(_) => "document",
            Self::Memmap(_) => "row",
        }
    }

    /// Digest of the tokenizer, vocabulary size, ids of eos and pad.
    pub fn tokenizer(&self) -> (olmo_base::Digest, u32, u32, u32) {
        match self {
            Self::Tokens(reader) => {
                let m = reader.manifest();
                (m.tokenizer, m.vocab_size, m.eos_token_id, m.pad_token_id)
            }
            Self::Memmap(memmap) => {
                let m = memmap.manifest();
                (m.tokenizer, m.vocab_size, m.eos_token_id, m.pad_token_id)
            }
        }
    }

    /// Calls `each` with every sequence and its index, until `each` returns false.
    pub fn each(self, mut each: impl FnMut(u64, Sequence) -> bool) -> Result<(), DataError> {
        match self {
            Self::Tokens(reader) => {
                for (number, document) in reader.enumerate() {
                    let document = document?;
                    let (input_ids, label_mask) = (document.input_ids, document.label_mask);
                    if !each(number as u64, Sequence { input_ids, label_mask, starts: vec![0], padding: 0 }) {
                        break;
                    }
                }
            }
            Self::Memmap(memmap) => {
                for index in 0..memmap.instances() {
                    if !each(index as u64, Self::row(&memmap, index)?) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Row `index` of `memmap`.
    ///
    /// # Errors
    /// It is on a server, and cannot be read.
    pub fn row(memmap: &Memmap, index: usize) -> Result<Sequence, DataError> {
        let instance = memmap.instance(index)?;
        let length = instance.input_ids.len();
        let label_mask = instance.label_mask.unwrap_or_else(|| vec![true; length]);
        let pad = memmap.manifest().pad_token_id;
        let filled = |(id, label): (&u32, &bool)| *id == pad && !label;
        let padding = if memmap.manifest().padding == 0 {
            0
        } else {
            instance.input_ids.iter().zip(&label_mask).rev().take_while(|pair| filled(*pair)).count()
        };
        Ok(Sequence { input_ids: instance.input_ids, label_mask, starts: memmap.document_starts(index), padding })
    }
}
