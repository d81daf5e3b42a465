//! Continues a list of prompts until stop tokens.

use std::sync::Arc;

use olmo_model::ModelError;

use crate::batch::{AnswerId, Batch, GenerateOptions};
use crate::language_model::LanguageModel;
use crate::sampling::Draw;

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
/// after a token for which `is_complete` is true. See [`Batch`].
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
    let mut batch = Batch::new(model, Batch::AT_ONCE);
    let options = Arc::new(options.clone());
    let mut ids: Vec<AnswerId> = Vec::with_capacity(prompts.len());
    for (index, prompt) in prompts.iter().enumerate() {
        let draw = Draw { prompt: index as u64, sample: 0 };
        let named = |error: ModelError| ModelError::Input(format!("prompt {index}: {error}"));
        ids.extend(batch.add(prompt.clone(), &[draw], &options).map_err(named)?);
    }
    let mut answers: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    while !batch.is_done() {
        for step in batch.step()? {
            let (Some(token), Ok(index)) = (step.token, ids.binary_search(&step.answer)) else { continue };
            answers[index].push(token);
            if step.finish.is_none() && is_complete(index, &answers[index])? {
                batch.end(step.answer);
            }
        }
    }
    Ok(answers)
}
