//! Tokenizers: their files, and the encoding of documents and conversations.

pub mod chat_record;
pub mod control_tokens;
mod fast_encoder;
mod special_tokens;
mod text_tokenizer;
pub mod tokenizer_json;
mod words;

pub use special_tokens::{SpecialStrings, SpecialTokens};
pub use text_tokenizer::{TextTokenizer, Tokens};
