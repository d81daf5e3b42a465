//! Stage `tokenizer`: a byte-level BPE tokenizer, trained here or taken from a file.

mod rules;
mod stage;
mod training;

pub use stage::{Tokenizer, TokenizerParams};
pub use training::{TrainError, train};
