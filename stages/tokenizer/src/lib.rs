//! Stage `tokenizer`: a byte-level BPE tokenizer, trained here or taken from a file.

mod stage;
mod training;

pub use stage::{Tokenizer, TokenizerParams};
pub use training::{TrainError, train};
