//! Stage `tokenizer`: trains a byte-level BPE tokenizer, or takes one from a file or a model.

mod rules;
mod stage;
mod training;

pub use stage::{Tokenizer, TokenizerParams};
pub use training::{TrainError, train};
