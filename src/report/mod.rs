//! What a person sees of a run: [`Terminal`], and the small formats that every command shares.

mod format;
mod terminal;

pub use format::{LOG_LINE, cut, escape_control};
pub use terminal::Terminal;
