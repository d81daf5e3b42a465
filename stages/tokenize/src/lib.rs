//! Stage `tokenize`: encodes conversations or documents as token ids with labels.

mod encoder;
mod params;
mod part;
mod rules;
mod stage;

pub use params::{Layout, TokenizeParams, TooLong, TrainOn, Turns};
pub use stage::Tokenize;
