//! [`LanguageModel`]: what a model can be asked, on any device.

use olmo_model::{ModelConfig, ModelError};

/// A model for inference.
pub trait LanguageModel: Send + Sync {
    /// The config.
    fn config(&self) -> &ModelConfig;

    /// No sequences yet; they are continued together.
    fn sequences(&self) -> Box<dyn Sequences + '_>;

    /// The log-likelihood of each request's continuation, in order. On a CPU, tokens that several
    /// requests begin with are computed once, and a result depends only on its own request: with the
    /// backend `flex`, to the bit, whichever requests it is computed with.
    ///
    /// # Errors
    /// A request has no context or no continuation, or is longer than the model's sequence, or a
    /// token is not in the vocabulary.
    fn loglikelihood(&self, requests: &[Request]) -> Result<Vec<Loglikelihood>, ModelError>;

    /// Logits of `batch` x `sequence` tokens: `[batch, sequence, embedding rows]`, row-major.
    ///
    /// # Errors
    /// A token is not in the vocabulary, or the number of tokens is not `batch * sequence`.
    fn logits(&self, input_ids: &[u32], batch: usize, sequence: usize) -> Result<Vec<f32>, ModelError>;
}

/// Sequences that a model continues token by token, with a cache of their keys and values.
pub trait Sequences {
    /// Number of sequences.
    fn count(&self) -> usize;

    /// Adds a sequence for each prompt, after those that exist, and returns the logits of what
    /// follows each prompt: `[prompts, embedding rows]`.
    ///
    /// # Errors
    /// A prompt is empty, or a token is not in the vocabulary.
    fn prefill(&mut self, prompts: &[&[u32]]) -> Result<Vec<f32>, ModelError>;

    /// Appends one token to each sequence, and returns the logits of what follows:
    /// `[sequences, embedding rows]`.
    ///
    /// # Errors
    /// There is not one token for each sequence, or one is not in the vocabulary.
    fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError>;

    /// Keeps only the sequences with these indices, in this order. One whose index appears several
    /// times is copied.
    fn keep(&mut self, sequences: &[usize]);
}

/// A continuation and what precedes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The tokens before the continuation: at least one.
    pub context: Vec<u32>,
    /// The tokens whose probability is asked: at least one.
    pub continuation: Vec<u32>,
}

impl Request {
    /// The tokens that the model reads: all but the last one, which is only predicted.
    pub(crate) fn input(&self) -> impl Iterator<Item = u32> + '_ {
        let length = self.context.len() + self.continuation.len() - 1;
        self.context.iter().chain(&self.continuation).take(length).copied()
    }
}

/// The log-likelihood of a continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Loglikelihood {
    /// The natural logarithm of each token's probability after all tokens before it.
    pub tokens: Vec<f32>,
    /// Whether every token is the most likely one at its place (the lowest id if several are equally
    /// likely).
    pub is_greedy: bool,
}

impl Loglikelihood {
    /// The log-probability of the whole continuation.
    pub fn sum(&self) -> f64 {
        self.tokens.iter().map(|&token| f64::from(token)).sum()
    }
}
