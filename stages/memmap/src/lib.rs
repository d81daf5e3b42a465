//! Stage `memmap`: packs token ids into rows of equal length, in OLMo's raw layout with a manifest.

mod header;
mod import;
mod params;
mod rules;
mod stage;

pub use params::{IdType, MemmapParams};
pub use stage::Memmap;
