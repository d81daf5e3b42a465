//! Stage `memmap`: token ids become rows of equal length, in OLMo's raw layout with a manifest.

mod stage;

pub use stage::{Memmap, MemmapParams};
