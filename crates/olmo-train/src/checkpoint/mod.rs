//! Checkpoints: complete training states on disk, written in the background.

mod saver;
mod state;

pub(crate) use saver::Saver;
pub(crate) use state::*;
