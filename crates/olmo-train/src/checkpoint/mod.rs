//! Checkpoints: complete training states on disk, written in the background.

mod moments;
mod saver;
mod state;

pub(crate) use saver::{Saver, save_now};
pub(crate) use state::*;
