//! Inference: prompts, answers and log-likelihoods of a model, without any training code.
//!
//! [`open`] maps a model's files and returns a [`LanguageModel`] on the device that a stage
//! requested. A [`Batch`] continues prompts together, with tokens chosen by [`Sampling`]; [`generate`]
//! does so for a list. [`mod@text`] does it for texts and chats; [`ChatModel`] turns conversations into
//! prompts and answers into text.

mod batch;
mod chat;
mod generate;
mod language_model;
mod on_device;
mod open;
mod quantize;
mod sampling;
mod streamed;
pub mod text;

pub use batch::{AnswerId, Batch, Finish, GenerateOptions, Logprobs, Step};
pub use chat::{ChatModel, check_tokenizer};
pub use generate::{IsComplete, generate, generate_until};
pub use language_model::{LanguageModel, Loglikelihood, Request, Sequences};
#[cfg(feature = "libtorch")]
pub use open::of_matrices_on;
pub use open::{Placement, host, of_matrices, of_parameters, open, open_quantized};
pub use quantize::Quantization;
pub use sampling::{Draw, Sampling};
pub use streamed::streamed_logits;
