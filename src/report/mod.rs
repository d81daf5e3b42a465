//! How runs are shown to people: [`Terminal`], and the text formats that all commands share.

mod format;
mod terminal;

pub use format::{LOG_LINE, cut, escape_control};
pub use terminal::Terminal;
