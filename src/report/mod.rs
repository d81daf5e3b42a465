//! What a person sees of a run: [`Terminal`], and the small formats that every command shares.

mod format;
mod terminal;

pub use format::{LOG_LINE, bytes, cut, duration, escape_control, utc};
pub use terminal::Terminal;
