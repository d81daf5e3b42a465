//! Evaluation without a model: requests as data, how they become tokens, scores of what a model
//! returned, metrics with their errors, and paired comparisons.
//!
//! [`read()`] reads requests from JSON Lines in three formats. [`encode`] splits them into context and
//! continuation. [`score`] turns log-likelihoods and answers into values per instance, and
//! [`summary`] turns those into metrics. [`paired`] compares the instances of two models.
//!
//! Nothing here runs a model, opens a tokenizer or knows a device: callers pass what they need as
//! functions. A request that failed has no scores and never counts as 0.

#![cfg_attr(not(test), warn(unreachable_pub))]

pub mod encode;
pub mod in_loop;
pub mod normalize;
pub mod paired;
pub mod prediction;
pub mod read;
pub mod request;
pub mod rule;
pub mod score;
pub mod summary;
pub mod text;

pub use encode::{Encoded, Encoding, TokenRules, encode_choice, encode_text};
pub use normalize::Normalizer;
pub use prediction::Prediction;
pub use read::{Problem, ReadError, Requests, read};
pub use request::{Choice, Formulation, Generation, Instance, Message, Prompt, Work};
pub use score::{Answer, Scored};
pub use summary::{Metric, TaskMetrics, summarize};
