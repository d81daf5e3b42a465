//! [`OnDevice`]: a model with its weights on a device.

use std::ops::Range;
use std::sync::Arc;

use olmo_model::{ModelConfig, ModelError, ModelWeights, Ropes};
use olmo_ops::inference::{self, Score};
use olmo_ops::{BlockConfig, Decoder, Life, Placed, Rope, TokenTree};
use rayon::prelude::*;

use crate::language_model::{LanguageModel, Loglikelihood, Request, Sequences};

/// Maximum number of tokens in rows that are computed together, padding included.
const MOST_TOKENS: usize = 1 << 14;

/// Maximum number of floats of the activations of a tree of tokens, beyond those of its first
/// sequence: 256 MiB.
const MOST_FLOATS: usize = 1 << 26;

/// Rotary tables grow by this number of positions, so they are rarely rebuilt.
const POSITIONS: usize = 256;

/// A model with its weights on a device.
pub(crate) struct OnDevice<D: Decoder> {
    config: ModelConfig,
    blocks: Vec<BlockConfig>,
    device: D,
    weights: ModelWeights,
    ropes: Ropes,
}

/// Positions of a batch's tokens, once for each kind of rope, and which of them a block reads.
struct BlockPositions<D: Decoder> {
    of_rope: Vec<D::Positions>,
    of_block: Vec<usize>,
}

impl<D: Decoder> BlockPositions<D> {
    fn of(&self, block: usize) -> &D::Positions {
        &self.of_rope[self.of_block[block]]
    }
}

impl<D: Decoder> OnDevice<D> {
    /// The model of a valid config; `device` holds its weights.
    pub(crate) fn new(config: ModelConfig, device: D) -> OnDevice<D> {
        OnDevice {
            blocks: (0..config.n_layers).map(|layer| config.block(layer)).collect(),
            weights: ModelWeights::frozen(&config),
            config,
            device,
            ropes: Ropes::default(),
        }
    }

    fn positions(&self, longest: usize, make: impl Fn(&Arc<Rope>) -> D::Positions) -> BlockPositions<D> {
        let mut ropes: Vec<Arc<Rope>> = Vec::new();
        let mut positions = BlockPositions { of_rope: Vec::new(), of_block: Vec::new() };
        for block in &self.blocks {
            let known = ropes.iter().position(|rope| *rope.config() == block.rope);
            positions.of_block.push(known.unwrap_or_else(|| {
                let rope = self.ropes.of(block, longest.next_multiple_of(POSITIONS));
                positions.of_rope.push(make(&rope));
                ropes.push(rope);
                ropes.len() - 1
            }));
        }
        positions
    }

    /// Positions of `rows` of `sequence` tokens.
    fn row_positions(&self, [rows, sequence]: [usize; 2]) -> BlockPositions<D> {
        self.positions(sequence, |rope| {
            let placed = Placed { rope: rope.clone(), documents: None };
            self.device.positions(&placed, [rows, sequence])
        })
    }

    /// Groups of rows that are computed together.
    fn groups(&self, lengths: &[usize]) -> Vec<Range<usize>> {
        if !D::PADS {
            return (0..lengths.len()).map(|row| row..row + 1).collect();
        }
        let (mut groups, mut start, mut longest) = (Vec::new(), 0, 0);
        for (row, &length) in lengths.iter().enumerate() {
            let with = longest.max(length);
            if row > start && (row + 1 - start) * with > MOST_TOKENS {
                groups.push(start..row);
                (start, longest) = (row, length);
            } else {
                longest = with;
            }
        }
        if start < lengths.len() {
            groups.push(start..lengths.len());
        }
        groups
    }

    /// `work` on each group, in parallel where groups are single rows.
    fn each_group<T: Send>(groups: Vec<Range<usize>>, work: impl Fn(Range<usize>) -> T + Sync + Send) -> Vec<T> {
        if D::PADS { groups.into_iter().map(work).collect() } else { groups.into_par_iter().map(work).collect() }
    }

    /// The residual stream after all blocks, `[tokens, d_model]`.
    fn hidden(&self, ids: &[u32], positions: &BlockPositions<D>) -> D::Array {
        let mut hidden = self.device.embed(&self.weights.embedding, ids);
        for (layer, (config, weights)) in self.blocks.iter().zip(&self.weights.blocks).enumerate() {
            hidden = inference::forward(&self.device, config, weights, positions.of(layer), &hidden);
        }
        hidden
    }

    fn final_norm(&self, device: &D, hidden: &D::Array) -> D::Array {
        let norm = self.config.norm();
        device.norm(norm, hidden, None, self.weights.final_norm.as_ref(), self.config.d_model, Life::Scratch).0
    }

    /// Logits of rows of the residual stream.
    fn logits_of(&self, device: &D, hidden: &D::Array) -> Vec<f32> {
        device.logits(&self.final_norm(device, hidden), &self.weights.head)
    }

    fn check(&self, what: impl Fn() -> String, ids: &[u32]) -> Result<(), ModelError> {
        let named = |error: ModelError| ModelError::Input(format!("{}: {error}", what()));
        self.config.check_ids(ids, 1, ids.len()).map_err(named)
    }

    /// The scores of the continuations of some requests, in padded rows.
    fn score_rows(&self, requests: &[Request]) -> Vec<Loglikelihood> {
        let longest = requests.iter().map(|request| request.input().count()).max().unwrap_or(0);
        let ids = padded(requests.iter().map(Request::input), longest);
        let rows = requests.iter().enumerate().flat_map(|(row, request)| {
            let first = row * longest + request.context.len() - 1;
            first..first + request.continuation.len()
        });
        let rows: Vec<usize> = rows.collect();
        let hidden = self.hidden(&ids, &self.row_positions([requests.len(), longest]));
        self.score(requests, &hidden, &rows)
    }

    /// The scores of the continuations of some requests, which are in the order of their inputs. A
    /// token that several of them begin with is computed once.
    fn score_tree(&self, requests: &[Request], inputs: &[Vec<u32>]) -> Vec<Loglikelihood> {
        let sequences: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
        let tree = Arc::new(TokenTree::new(&sequences));
        let positions = self.positions(tree.longest(), |rope| {
            self.device.tree_positions(rope, &tree).expect("a device that does not pad computes trees")
        });
        let rows =
            requests.iter().enumerate().flat_map(|(index, request)| tree.rows_from(index, request.context.len() - 1));
        let rows: Vec<usize> = rows.collect();
        let hidden = self.hidden(tree.ids(), &positions);
        self.score(requests, &hidden, &rows)
    }

    /// The scores of the continuations of some requests, whose tokens are predicted at `rows` of the
    /// residual stream.
    fn score(&self, requests: &[Request], hidden: &D::Array, rows: &[usize]) -> Vec<Loglikelihood> {
        let targets: Vec<u32> = requests.iter().flat_map(|request| request.continuation.iter().copied()).collect();
        let hidden = self.device.rows(hidden, self.config.d_model, rows);
        let normed = self.final_norm(&self.device, &hidden);
        let mut scores = self.device.score(&normed, &self.weights.head, &targets).into_iter();
        let mut of = |request: &Request| {
            let scores: Vec<Score> = scores.by_ref().take(request.continuation.len()).collect();
            Loglikelihood {
                is_greedy: scores.iter().all(|score| score.is_greedy),
                tokens: scores.into_iter().map(|score| score.log_probability).collect(),
            }
        };
        requests.iter().map(&mut of).collect()
    }

    /// Number of tokens of a tree that may be computed together, beyond those of its first sequence.
    fn tree_tokens(&self) -> usize {
        let block = &self.blocks[0];
        let width = 4 * block.d_model + 2 * block.qkv_width() + 3 * block.mlp_width;
        (MOST_FLOATS / width.max(1)).clamp(1, MOST_TOKENS)
    }

    /// Groups of sorted sequences whose trees have at most as many tokens as are computed together.
    fn tree_groups(&self, inputs: &[Vec<u32>]) -> Vec<Range<usize>> {
        let most = self.tree_tokens();
        let (mut groups, mut start, mut room) = (Vec::new(), 0, 0);
        for (index, input) in inputs.iter().enumerate() {
            let known = if index == start { 0 } else { common(&inputs[index - 1], input) };
            let new = input.len() - known;
            if index > start && new > room {
                groups.push(start..index);
                (start, room) = (index, most);
            } else if index == start {
                room = most;
            } else {
                room -= new;
            }
        }
        if start < inputs.len() {
            groups.push(start..inputs.len());
        }
        groups
    }
}

impl<D: Decoder> LanguageModel for OnDevice<D> {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn sequences(&self) -> Box<dyn Sequences + '_> {
        let caches = self.blocks.iter().map(|config| self.device.kv_cache(config)).collect();
        Box::new(Running { model: self, caches, positions: Vec::new() })
    }

    fn loglikelihood(&self, requests: &[Request]) -> Result<Vec<Loglikelihood>, ModelError> {
        let most = self.config.max_sequence_length;
        for (index, Request { context, continuation }) in requests.iter().enumerate() {
            let what = || format!("request {index}");
            if context.is_empty() || continuation.is_empty() {
                return Err(ModelError::Input(format!(
                    "{}: the context and the continuation each need at least one token",
                    what()
                )));
            }
            if context.len() + continuation.len() - 1 > most {
                let length = context.len() + continuation.len();
                return Err(ModelError::Input(format!(
                    "{}: its {length} tokens exceed the model's maximum sequence length of {most}; shorten the context",
                    what()
                )));
            }
            self.check(what, context)?;
            self.check(what, continuation)?;
        }
        let mut order: Vec<usize> = (0..requests.len()).collect();
        let scores: Vec<Loglikelihood> = if D::PADS {
            // Requests of similar length are computed together, so that little is padded.
            let length = |index: &usize| requests[*index].input().count();
            order.sort_by_key(length);
            let sorted: Vec<Request> = order.iter().map(|&index| requests[index].clone()).collect();
            let groups = self.groups(&order.iter().map(length).collect::<Vec<_>>());
            groups.into_iter().flat_map(|group| self.score_rows(&sorted[group])).collect()
        } else {
            // Requests that begin alike are computed together.
            let inputs: Vec<Vec<u32>> = requests.iter().map(|request| request.input().collect()).collect();
            order.sort_by(|a, b| inputs[*a].cmp(&inputs[*b]));
            let sorted: Vec<Request> = order.iter().map(|&index| requests[index].clone()).collect();
            let inputs: Vec<Vec<u32>> = order.iter().map(|&index| inputs[index].clone()).collect();
            let groups = self.tree_groups(&inputs);
            groups.into_iter().flat_map(|group| self.score_tree(&sorted[group.clone()], &inputs[group])).collect()
        };
        let mut results: Vec<(usize, Loglikelihood)> = order.into_iter().zip(scores).collect();
        results.sort_by_key(|(index, _)| *index);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    fn logits(&self, input_ids: &[u32], batch: usize, sequence: usize) -> Result<Vec<f32>, ModelError> {
        self.config.check_ids(input_ids, batch, sequence)?;
        let hidden = self.hidden(input_ids, &self.row_positions([batch, sequence]));
        Ok(self.logits_of(&self.device, &hidden))
    }
}

/// Sequences of a model.
struct Running<'m, D: Decoder> {
    model: &'m OnDevice<D>,
    /// One for each block.
    caches: Vec<D::KvCache>,
    /// Number of tokens of each sequence.
    positions: Vec<usize>,
}

impl<D: Decoder> Running<'_, D> {
    /// The caches of some prompts, and the logits after each.
    fn prompts(model: &OnDevice<D>, prompts: &[&[u32]]) -> (Vec<D::KvCache>, Vec<f32>) {
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let ids = padded(prompts.iter().map(|prompt| prompt.iter().copied()), longest);
        let positions = model.row_positions([prompts.len(), longest]);
        let mut hidden = model.device.embed(&model.weights.embedding, &ids);
        let mut caches = Vec::with_capacity(model.blocks.len());
        for (layer, (config, weights)) in model.blocks.iter().zip(&model.weights.blocks).enumerate() {
            let mut cache = model.device.kv_cache(config);
            hidden =
                inference::prefill(&model.device, config, weights, positions.of(layer), &hidden, &lengths, &mut cache);
            caches.push(cache);
        }
        let last: Vec<usize> = lengths.iter().enumerate().map(|(row, length)| row * longest + length - 1).collect();
        let device = model.device.stepwise();
        let last = device.rows(&hidden, model.config.d_model, &last);
        (caches, model.logits_of(&device, &last))
    }
}

impl<D: Decoder> Sequences for Running<'_, D> {
    fn count(&self) -> usize {
        self.positions.len()
    }

    fn prefill(&mut self, prompts: &[&[u32]]) -> Result<Vec<f32>, ModelError> {
        let model = self.model;
        for (index, prompt) in prompts.iter().enumerate() {
            model.check(|| format!("prompt {index}"), prompt)?;
        }
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len()).collect();
        let groups = model.groups(&lengths);
        let mut logits = Vec::new();
        for (caches, of_group) in OnDevice::<D>::each_group(groups, |group| Running::prompts(model, &prompts[group])) {
            for ((own, new), config) in self.caches.iter_mut().zip(caches).zip(&model.blocks) {
                model.device.kv_join(config, own, new);
            }
            logits.extend(of_group);
        }
        self.positions.extend(lengths);
        Ok(logits)
    }

    fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let model = self.model;
        if tokens.len() != self.positions.len() {
            let what = format!("there are {} tokens for {} sequences", tokens.len(), self.positions.len());
            return Err(ModelError::Input(what));
        }
        model.config.check_ids(tokens, 1, tokens.len())?;
        let device = model.device.stepwise();
        let longest = self.positions.iter().max().map_or(0, |last| last + 1);
        let positions = model.positions(longest, |rope| device.next_positions(rope, &self.positions));
        let mut hidden = device.embed(&model.weights.embedding, tokens);
        let blocks = model.blocks.iter().zip(&model.weights.blocks).zip(&mut self.caches);
        for (layer, ((config, weights), cache)) in blocks.enumerate() {
            hidden = inference::step(&device, config, weights, positions.of(layer), &hidden, cache);
        }
        self.positions.iter_mut().for_each(|position| *position += 1);
        Ok(model.logits_of(&device, &hidden))
    }

    fn keep(&mut self, sequences: &[usize]) {
        for cache in &mut self.caches {
            self.model.device.kv_keep(cache, sequences);
        }
        self.positions = sequences.iter().map(|&sequence| self.positions[sequence]).collect();
    }
}

/// Number of tokens with which both texts begin.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Rows of `length` ids: each text, padded with id 0.
fn padded<T: IntoIterator<Item = u32>>(texts: impl IntoIterator<Item = T>, length: usize) -> Vec<u32> {
    let mut ids = Vec::new();
    for (row, text) in texts.into_iter().enumerate() {
        ids.extend(text);
        ids.resize((row + 1) * length, 0);
    }
    ids
}
