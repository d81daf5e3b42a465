//! Stage `fetch`: files and datasets become one dataset. A record that cannot be read is named by file and
//! line, with the reason; nothing is repaired in silence.

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
