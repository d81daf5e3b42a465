//! The data that stages hand to each other, and what they agree on about it.
//!
//! [`conversation`]: the types of a chat. [`dataset`]: documents and conversations as Parquet. [`chat`]: a conversation
//! as text, by a template that [`jinja`] runs.
//! [`tokenizer`]: text as ids, with the labels of a conversation. [`tokens`]: tokenised documents
//! as Parquet. [`pack`] and [`memmap`]: rows of equal length in OLMo's raw layout. [`order`]: the
//! order in which an epoch visits these rows. [`bounded`]: limits for code that foreign data steers.
//!
//! Every artifact is a folder; nothing in it holds a time, a host, a path or a thread count.

pub mod boundaries_csv;
pub mod bounded;
pub mod chat;
pub mod control_tokens;
pub mod conversation;
pub mod dataset;
mod error;
mod fast;
pub mod instance_filter;
pub mod jinja;
mod json;
pub mod memmap;
mod memmap_writer;
pub mod order;
pub mod pack;
mod parquet_file;
pub mod tokenizer;
pub mod tokenizer_json;
pub mod tokens;
pub mod view;
mod words;

pub use chat::{Chat, ChatError, ChatRecord, Labels, Rendered, Template, Turn};
pub use conversation::{Conversation, Message, Role};
pub use error::DataError;
pub use instance_filter::InstanceFilter;
pub use jinja::Date;
pub use memmap::{Dtype, Instance, Manifest, Memmap};
pub use memmap_writer::{Layout, MemmapOptions, MemmapWriter};
pub use pack::{Pack, Packer};
pub use tokenizer::{SpecialTokens, TextTokenizer, Tokens};
pub use tokens::Document;
