//! Stage `fetch`: local files become a dataset. A line that cannot be read is named by file and
//! line, with the reason; nothing is repaired in silence.

mod line;
mod stage;

pub use line::{BadLine, parse_messages, parse_text};
pub use stage::{Fetch, FetchParams, Format, OnError};
