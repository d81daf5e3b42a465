//! Stage `fetch`: reads files and datasets into one dataset. An unreadable record is reported with
//! its file, line and reason; nothing is repaired silently.

mod detect;
mod open;
mod params;
mod record;
mod sink;
mod stage;
mod table;

pub use params::{FetchParams, Filter, OnError};
pub use record::{BadRecord, Format};
pub use stage::Fetch;
