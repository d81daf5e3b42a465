//! Stage `tokenizer`: trains a byte-level BPE tokenizer, or takes one from a file or a model.

mod params;
mod rules;
mod stage;
mod training;

pub use params::TokenizerParams;
pub use stage::Tokenizer;
pub use training::{TrainError, train};
