//! The data formats that stages exchange, and the conventions they share.
//!
//! [`conversation`] has the types of a chat; [`dataset`] stores documents and conversations as
//! Parquet; [`chat`] renders a conversation as text, with a template run by [`jinja`].
//! [`tokenizer`] encodes text as ids, with the labels of a conversation; [`tokens`] stores
//! tokenized documents as Parquet; [`pack`] and [`memmap`] make rows of equal length in OLMo's raw
//! layout; [`order`] is the order in which an epoch visits these rows. [`bounded`] limits code
//! driven by untrusted data.
//!
//! Every artifact is a folder that contains no time, host, path or thread count.

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
