//! GGUF, the format of llama.cpp: a file with the weights, the config and the tokenizer of a model.

mod architecture;
mod config;
mod header;
mod reader;
mod rounded;
mod value;
mod writer;

pub use header::Metadata;
pub(crate) use reader::open_gguf;
pub use reader::read_gguf_metadata;
pub use rounded::GgufRounded;
pub use value::GgufValue;
pub use writer::{GgufType, save_gguf};
