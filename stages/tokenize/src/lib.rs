//! Stage `tokenize`: conversations or documents become token ids with labels.

mod stage;

pub use stage::{Layout, Tokenize, TokenizeParams};
