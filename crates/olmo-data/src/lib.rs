//! The data formats that stages exchange, and the conventions they share.
//!
//! [`conversation`] has the types of a chat; [`dataset`] stores documents and conversations as
//! Parquet; [`chat`] renders a conversation as text, with a template run by [`jinja`].
//! [`tokenizer`] encodes text as ids, with the labels of a conversation; [`tokens`] stores
//! tokenized documents as Parquet; [`memmap`] packs them into rows of equal length in OLMo's raw
//! layout; [`order`] is the order in which an epoch visits these rows. [`bounded`] limits code
//! driven by untrusted data.
//!
//! Every artifact is a folder that contains no time, host, path or thread count.

pub mod bounded;
pub mod chat;
pub mod conversation;
mod error;
mod formats;
pub mod jinja;
pub mod memmap;
pub mod order;
pub mod tokenizer;
pub mod view;

pub use chat::{Chat, ChatError};
pub use conversation::{Conversation, Labels, Message, MessageRef, Rendered, Role, Template, Turn};
pub use error::DataError;
pub use formats::documents::{Document, DocumentBuffer, Documents};
pub use formats::gguf_vocabulary::GgufVocabulary;
pub use formats::label_runs::LabelRuns;
pub use formats::parquet_file::write_table;
pub use formats::{dataset, tokens};
pub use jinja::Date;
pub use memmap::pack::{Pack, Packer};
pub use memmap::{Dtype, Instance, InstanceFilter, Layout, Manifest, Memmap, MemmapOptions, MemmapWriter};
pub use tokenizer::chat_record::ChatRecord;
pub use tokenizer::{Probes, SpecialTokens, TextTokenizer, TokenizerRecord, Tokens};
