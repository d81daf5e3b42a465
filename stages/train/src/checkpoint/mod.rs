//! Checkpoints: complete training states on disk, written in the background.

mod saver;
mod state;

pub use saver::Saver;
pub use state::*;
