//! Greedy generation with a cache of keys and values.

use olmo_ops::decode::{self, KvCache};
use olmo_ops::{Compute, Cpu, Weight};
use rayon::prelude::*;

use super::model::Model;
use crate::error::ModelError;

/// Limits of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Maximum number of new tokens per prompt.
    pub max_new_tokens: usize,
    /// Stop ids: generation ends before one of them, and it is not part of the answer.
    pub eos_token_ids: Vec<u32>,
}

/// The most likely continuation of each prompt: only the new tokens, without eos. Ties go to the
/// lowest id.
///
/// An answer depends only on its own prompt, not on other prompts or the number of threads. Ids at
/// or above `vocab_size` are never generated, even if the embedding has more rows.
///
/// # Errors
/// An empty prompt, an id not below `vocab_size`, or weights that are not finite.
pub fn generate(model: &Model, prompts: &[Vec<u32>], options: &GenerateOptions) -> Result<Vec<Vec<u32>>, ModelError> {
    for (index, prompt) in prompts.iter().enumerate() {
        model
            .check_ids(prompt, 1, prompt.len())
            .map_err(|error| ModelError::Input(format!("prompt {index}: {error}")))?;
    }
    let device = Cpu::new(Compute::default(), model.host_weights());
    prompts.par_iter().map(|prompt| continue_prompt(model, &device, prompt, options)).collect()
}

fn continue_prompt(
    model: &Model,
    device: &Cpu,
    prompt: &[u32],
    options: &GenerateOptions,
) -> Result<Vec<u32>, ModelError> {
    let mut answer = Vec::new();
    if options.max_new_tokens == 0 {
        return Ok(answer);
    }
    let (weights, width) = (model.weights(), model.config().d_model);
    let values = |weight: &Weight| &device.weights()[weight.values.clone()];
    let (embedding, head) = (values(&weights.embedding.weight), values(&weights.head.weight));
    let final_norm = weights.final_norm.as_ref().map(values);
    let ropes =
        |positions: usize| -> Vec<_> { (0..weights.blocks.len()).map(|layer| model.rope(layer, positions)).collect() };
    let mut block_ropes = ropes(prompt.len());
    let blocks: Vec<_> = weights
        .blocks
        .iter()
        .enumerate()
        .map(|(layer, weights)| (model.block_config(layer), weights, weights.slices(device.weights())))
        .collect();
    let mut caches = vec![KvCache::default(); blocks.len()];
    let mut hidden = olmo_ops::embedding::forward(embedding, width, prompt);
    for (((config, weights, _), rope), cache) in blocks.iter().zip(&block_ropes).zip(&mut caches) {
        hidden = decode::prefill(device, config, rope, hidden, weights, cache);
    }
    let mut last = hidden.split_off(hidden.len() - width);
    loop {
        let normed = decode::norm_row(model.norm(), &last, final_norm);
        let logits = decode::linear(&normed, head);
        let next = most_likely(&logits[..model.config().vocab_size])?;
        if options.eos_token_ids.contains(&next) {
            return Ok(answer);
        }
        answer.push(next);
        if answer.len() == options.max_new_tokens {
            return Ok(answer);
        }
        let position = prompt.len() + answer.len() - 1;
        if block_ropes.iter().any(|rope| rope.positions() <= position) {
            block_ropes = ropes((position + 1).next_multiple_of(256));
        }
        last = olmo_ops::embedding::forward(embedding, width, &[next]);
        for (((config, _, weights), rope), cache) in blocks.iter().zip(&block_ropes).zip(&mut caches) {
            last = decode::step(config, rope, &last, weights, cache);
        }
    }
}

fn most_likely(logits: &[f32]) -> Result<u32, ModelError> {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if !logit.is_finite() {
            return Err(ModelError::Input(
                "the model's logits are not finite: its weights are damaged or its training diverged".into(),
            ));
        }
        if *logit > logits[best] {
            best = id;
        }
    }
    Ok(best as u32)
}
