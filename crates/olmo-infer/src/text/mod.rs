//! Texts in and out of a model: prompts from a file or the command line, answers as text, with stop
//! strings, as they are generated.

mod answer_file;
mod complete;
mod decoder;
mod gguf;
mod model_text;
mod prompts;
mod record;
mod stops;

pub use answer_file::AnswerFile;
pub use complete::{Answer, Completion, Listener, TextOptions, complete};
pub use decoder::TextDecoder;
pub use gguf::gguf_keys;
pub use model_text::{ModelText, TokenizerPlaces};
pub use prompts::{Content, Prompt, messages, read_prompts};
pub use record::{AnswerRecord, CompletionRecord, TokenRecord};
pub use stops::StopStrings;
