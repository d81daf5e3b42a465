//! How runs are shown to people: [`Terminal`], and the text formats that all commands share.

mod format;
mod terminal;

pub use format::{LOG_LINE, bytes, cut, duration, escape_control, utc};
pub use terminal::Terminal;
