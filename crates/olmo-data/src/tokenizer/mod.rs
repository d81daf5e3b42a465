//! Tokenizers: their files, and the encoding of documents and conversations.

mod byte_level_bpe;
pub mod chat_record;
pub mod control_tokens;
mod encode;
mod every_kind;
mod normalizer;
mod parts;
mod probes;
mod record;
mod special_tokens;
mod text_tokenizer;
pub mod tokenizer_json;

pub use encode::Tokens;
pub use probes::{Difference, PROBES, Probes};
pub use record::TokenizerRecord;
pub use special_tokens::{SpecialStrings, SpecialTokens};
pub use text_tokenizer::TextTokenizer;
