//! Stage `fetch`: reads files and datasets into one dataset. An unreadable record is reported with
//! its file, line and reason; nothing is repaired silently.

mod detect;
mod failure;
mod format;
mod json_array;
mod open;
mod params;
mod plain_chat;
mod record;
mod sink;
mod stage;
mod table;

pub use format::Format;
pub use params::{FetchParams, Filter, OnError};
pub use record::BadRecord;
pub use stage::Fetch;
