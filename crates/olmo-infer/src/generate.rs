//! Continues prompts until a stop token.

use std::collections::VecDeque;

use olmo_model::ModelError;

use crate::language_model::LanguageModel;
use crate::sampling::Sampling;

/// Limits of a generation, and how tokens are chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerateOptions {
    /// Maximum number of new tokens for each prompt. An answer also ends where the model's sequence
    /// is full.
    pub max_new_tokens: usize,
    /// Generation ends before one of these, and it is not part of the answer.
    pub stop_token_ids: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// Maximum number of sequences that are continued together.
const AT_ONCE: usize = 32;

/// A sequence that is being continued.
struct Active {
    prompt: usize,
    /// The token chosen last.
    last: u32,
}

/// The continuation of each prompt: only the new tokens, without the stop token. See
/// [`generate_until`].
///
/// # Errors
/// See [`generate_until`].
pub fn generate(
    model: &dyn LanguageModel,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
) -> Result<Vec<Vec<u32>>, ModelError> {
    generate_until(model, prompts, options, &mut |_, _| Ok(false))
}

/// Whether an answer is complete: called with the index of its prompt and its tokens so far.
pub type IsComplete<'a> = dyn FnMut(usize, &[u32]) -> Result<bool, ModelError> + 'a;

/// The continuation of each prompt: only the new tokens, without the stop token. An answer also ends
/// after a token for which `is_complete` is true.
///
/// On a CPU, an answer depends only on its own prompt (and, if sampled, on its index), not on other
/// prompts or the number of threads. Ids at or above `vocab_size` are never generated, even if the
/// embedding has more rows.
///
/// # Errors
/// An empty prompt, an id not below `vocab_size`, logits that are not finite, or an error of
/// `is_complete`.
pub fn generate_until(
    model: &dyn LanguageModel,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    is_complete: &mut IsComplete<'_>,
) -> Result<Vec<Vec<u32>>, ModelError> {
    let config = model.config();
    for (index, prompt) in prompts.iter().enumerate() {
        let named = |error: ModelError| ModelError::Input(format!("prompt {index}: {error}"));
        config.check_ids(prompt, 1, prompt.len()).map_err(named)?;
    }
    let room =
        |prompt: usize| options.max_new_tokens.min(config.max_sequence_length.saturating_sub(prompts[prompt].len()));
    let mut answers: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    let mut waiting: VecDeque<usize> = (0..prompts.len()).filter(|&prompt| room(prompt) > 0).collect();
    let mut sequences = model.sequences();
    let mut active: Vec<Active> = Vec::new();
    let rows = config.embedding_rows();
    // The next token of a prompt, or `None` at the end of its answer.
    let mut take = |prompt: usize, logits: &[f32]| -> Result<Option<u32>, ModelError> {
        let answer = &mut answers[prompt];
        let next = options.sampling.choose(&logits[..config.vocab_size], prompt, answer.len())?;
        if options.stop_token_ids.contains(&next) {
            return Ok(None);
        }
        answer.push(next);
        let ends = answer.len() >= room(prompt) || is_complete(prompt, answer)?;
        Ok((!ends).then_some(next))
    };
    loop {
        let new: Vec<usize> = waiting.drain(..waiting.len().min(AT_ONCE - active.len())).collect();
        let mut logits = Vec::new();
        if !active.is_empty() {
            let last: Vec<u32> = active.iter().map(|sequence| sequence.last).collect();
            logits = sequences.step(&last)?;
        }
        if !new.is_empty() {
            let texts: Vec<&[u32]> = new.iter().map(|&prompt| prompts[prompt].as_slice()).collect();
            logits.extend(sequences.prefill(&texts)?);
            active.extend(new.into_iter().map(|prompt| Active { prompt, last: 0 }));
        }
        if active.is_empty() {
            return Ok(answers);
        }
        let (mut kept, mut going) = (Vec::new(), Vec::new());
        for (index, (sequence, logits)) in active.iter().zip(logits.chunks_exact(rows)).enumerate() {
            if let Some(last) = take(sequence.prompt, logits)? {
                kept.push(index);
                going.push(Active { last, ..*sequence });
            }
        }
        if kept.len() < active.len() {
            sequences.keep(&kept);
        }
        active = going;
    }
}
