//! [`HostLearner`]: trains on the CPU.

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use olmo_dist::{NodeSums, TreeNode, TreeSum, Values, ValuesRef};
use olmo_model::{Batch, LossOptions, LossOutput, Model, ModelError};
use olmo_ops::{NORM_CHUNK, Trained, adamw, clip_coefficient, norm_of, square_sums};
use olmo_stage::StageError;
use rayon::prelude::*;

use super::learner::{Learner, LearnerState, Step};
use super::objective::{ModelOutput, Objective, StepSize};
use super::optimizer::OptimizerSettings;
use super::reduce::Reduce;
use crate::failure::model_failure;
use crate::ranks::Ranks;
use crate::shard::Strategy;

/// Weights, gradients and moments on the host.
pub(super) struct HostLearner {
    model: Model,
    state: LearnerState,
    optimizer: OptimizerSettings,
    /// Where weight decay applies, in the shard.
    groups: Vec<(Range<usize>, bool)>,
    objective: Box<dyn Objective>,
    exchange: Exchange,
    /// Gradients of the last finished step, laid out like the parameters; if the state is sharded,
    /// those of this rank's shard, in an array of which each rank has an equal part.
    gradients: Vec<f32>,
    /// Sums over the micro-batches of the current step.
    sums: NodeSums<Part>,
    /// Buffers for gradients to use again.
    spare: Vec<Vec<f32>>,
    denominator: f64,
    /// Number of micro-batches of the current step.
    parts: usize,
    step: Step,
}

/// What the learner exchanges with other ranks.
pub(super) struct Exchange {
    pub ranks: Rc<Ranks>,
    pub reduce: Reduce,
    pub strategy: Strategy,
}

/// The results of one or more micro-batches.
struct Part {
    gradients: Vec<f32>,
    /// Loss and z-loss.
    losses: [f64; 2],
}

/// Adds `right` to `left`, and gives the buffer of `right` back.
fn add(mut left: Part, right: Part, spare: &mut Vec<Vec<f32>>) -> Part {
    const CHUNK: usize = 1 << 14;
    let chunks = left.gradients.par_chunks_mut(CHUNK).zip(right.gradients.par_chunks(CHUNK));
    chunks.for_each(|(left, right)| left.iter_mut().zip(right).for_each(|(left, right)| *left += right));
    for (left, right) in left.losses.iter_mut().zip(right.losses) {
        *left += right;
    }
    spare.push(right.gradients);
    left
}

impl HostLearner {
    /// `model` has the weights of `state`, whose moments are those of this rank's shard.
    pub(super) fn new(
        model: Model,
        state: LearnerState,
        optimizer: OptimizerSettings,
        objective: Box<dyn Objective>,
        exchange: Exchange,
    ) -> Self {
        let groups = Trained::new([state.shard.clone()]).within(&optimizer.groups(&state.parameters));
        let gradients = vec![0.0; state.parameters.len()];
        Self {
            model,
            state,
            optimizer,
            groups,
            objective,
            exchange,
            gradients,
            sums: NodeSums::new(0..0),
            spare: Vec::new(),
            denominator: 1.0,
            parts: 0,
            step: Step::default(),
        }
    }

    /// Number of parameters.
    fn length(&self) -> usize {
        self.state.parameters.len()
    }

    fn is_sharded(&self) -> bool {
        self.exchange.strategy == Strategy::Zero1 && self.exchange.ranks.size() > 1
    }

    /// Sums the losses and gradients of all micro-batches of the step; gradients only of the shard.
    fn sum(&mut self) -> Result<(), StageError> {
        let nodes = self.sums.take();
        let (several, reduce) = (self.exchange.ranks.size() > 1, self.exchange.reduce);
        let mut losses = if several && reduce == Reduce::Exact {
            self.sum_exactly(nodes)?
        } else {
            let mut sum = TreeSum::new();
            for node in nodes {
                sum.push(node.level, node.value, |left, right| add(left, right, &mut self.spare));
            }
            let sum = sum.take(|left, right| add(left, right, &mut self.spare));
            // Without a sum, no micro-batch of this rank has labels.
            let losses = sum.as_ref().map_or([0.0; 2], |sum| sum.losses);
            self.gradients = match sum {
                Some(sum) => sum.gradients,
                None => {
                    let mut zeros = self.take_buffer();
                    zeros.fill(0.0);
                    zeros
                }
            };
            losses
        };
        if several && reduce == Reduce::Fast {
            let ranks = &self.exchange.ranks;
            match self.exchange.strategy {
                Strategy::Ddp => ranks.sum_gradients(&mut self.gradients)?,
                Strategy::Zero1 => ranks.sum_part_of_gradients(&mut self.gradients)?,
            }
            ranks.sum(&mut losses)?;
        }
        [self.step.loss, self.step.z_loss] = losses;
        Ok(())
    }

    /// Sums `nodes` with those of the other ranks, in an order that does not depend on the number of
    /// ranks. Returns the losses.
    fn sum_exactly(&mut self, nodes: Vec<TreeNode<Part>>) -> Result<[f64; 2], StageError> {
        let mut gradients = self.take_buffer();
        let of_gradients = nodes.iter().map(|node| node.map_ref(|part| ValuesRef::F32(&part.gradients)));
        let ranks = &self.exchange.ranks;
        match self.exchange.strategy {
            Strategy::Ddp => ranks.sum_exactly(of_gradients, Values::F32(&mut gradients))?,
            Strategy::Zero1 => ranks.sum_part_exactly(of_gradients, &mut gradients)?,
        }
        let mut losses = [0.0; 2];
        let of_losses = nodes.iter().map(|node| node.map_ref(|part| ValuesRef::F64(&part.losses)));
        ranks.sum_exactly(of_losses, Values::F64(&mut losses))?;
        self.spare.extend(nodes.into_iter().filter_map(|node| Some(node.value?.gradients)));
        self.gradients = gradients;
        Ok(losses)
    }

    /// A buffer for gradients, with unspecified values.
    fn take_buffer(&mut self) -> Vec<f32> {
        // The last step's gradients are no longer needed.
        let mut buffer = self.spare.pop().unwrap_or_else(|| std::mem::take(&mut self.gradients));
        buffer.resize(self.exchange.strategy.padded(self.length(), self.exchange.ranks.size()), 0.0);
        buffer
    }

    /// The norm of the gradients of all shards.
    fn grad_norm(&self) -> Result<f64, StageError> {
        let (ranks, strategy) = (&self.exchange.ranks, self.exchange.strategy);
        let mut sums = square_sums(&self.gradients[self.state.shard.clone()]);
        if self.is_sharded() {
            let chunks = |rank| strategy.shard(self.length(), rank, ranks.size()).len().div_ceil(NORM_CHUNK);
            sums = ranks.gather_parts(&sums, chunks)?;
        }
        Ok(norm_of(&sums))
    }

    /// Clips the gradients to the norm `max_grad_norm`, applies the optimizer to the shard, and
    /// receives the weights of the other shards.
    fn update(&mut self, lr: f64, max_grad_norm: Option<f64>) -> Result<(), StageError> {
        let settings = self.optimizer.adamw(lr);
        let scale = max_grad_norm.map_or(1.0, |max_norm| clip_coefficient(self.step.grad_norm, max_norm));
        let (is_sharded, ranks) = (self.is_sharded(), &self.exchange.ranks);
        let state = &mut self.state;
        state.optimizer_steps += 1;
        let number = state.optimizer_steps;
        // Copies the arrays only if a checkpoint in progress still holds them.
        let exp_avg = Arc::make_mut(&mut state.exp_avg);
        let exp_avg_sq = Arc::make_mut(&mut state.exp_avg_sq);
        let (gradients, groups, shard) = (&mut self.gradients, &self.groups, state.shard.clone());
        let mut exchanged = Ok(());
        let change = |parameters: &mut [f32]| {
            let arrays = adamw::State { parameters: &mut *parameters, exp_avg, exp_avg_sq };
            adamw::step(&settings, number, arrays, &gradients[shard.clone()], scale, groups);
            if is_sharded {
                // The gradients are no longer needed.
                gradients[shard.clone()].copy_from_slice(&parameters[shard]);
                exchanged = ranks.gather_weights(gradients);
                parameters.copy_from_slice(&gradients[..parameters.len()]);
            }
        };
        self.model.update(&mut state.parameters, change).map_err(model_failure)?;
        exchanged
    }
}

impl Learner for HostLearner {
    fn model(&self) -> &Model {
        &self.model
    }

    fn optimizer_steps(&self) -> u64 {
        self.state.optimizer_steps
    }

    fn begin(&mut self, size: StepSize, positions: Range<u64>) {
        self.sums = NodeSums::new(positions);
        self.denominator = self.objective.denominator(size);
        self.parts = 0;
        self.step = Step::default();
    }

    fn accumulate(&mut self, part: &Batch) -> Result<(), StageError> {
        let mut part_sum = Part { gradients: self.take_buffer(), losses: [0.0; 2] };
        let padded = part_sum.gradients.len();
        part_sum.gradients.truncate(self.length());
        part_sum.gradients.fill(0.0);
        let mut output = Output { model: &self.model, part, gradients: &mut part_sum.gradients, losses: Vec::new() };
        self.objective.add_loss(self.denominator, &mut output).map_err(model_failure)?;
        let losses = output.losses;
        part_sum.gradients.resize(padded, 0.0);
        for losses in losses {
            if self.step.bad.is_none() && !(losses.loss_sum + losses.z_sum).is_finite() {
                self.step.bad = Some(self.parts);
            }
            part_sum.losses[0] += losses.loss_sum / self.denominator;
            part_sum.losses[1] += losses.z_sum / self.denominator;
        }
        self.sums.push(Some(part_sum), |left, right| add(left, right, &mut self.spare));
        self.parts += 1;
        Ok(())
    }

    fn skip(&mut self) {
        self.sums.push(None, |left, right| add(left, right, &mut self.spare));
        self.parts += 1;
    }

    fn finish(&mut self, lr: f64, max_grad_norm: Option<f64>) -> Result<Step, StageError> {
        self.sum()?;
        self.step.grad_norm = self.grad_norm()?;
        if self.step.is_finite() {
            self.update(lr, max_grad_norm)?;
        } else if self.is_sharded() {
            // The other ranks have looked at their shards.
            let shard = self.state.shard.clone();
            self.gradients[..shard.start].fill(0.0);
            self.gradients[shard.end..].fill(0.0);
        }
        Ok(self.step)
    }

    fn snapshot(&mut self) -> LearnerState {
        self.state.clone()
    }

    fn gradients(&self) -> Cow<'_, [f32]> {
        (&self.gradients).into()
    }
}

/// The output for `part`, computed when the objective asks for a loss.
struct Output<'a> {
    model: &'a Model,
    part: &'a Batch,
    gradients: &'a mut Vec<f32>,
    losses: Vec<LossOutput>,
}

impl ModelOutput for Output<'_> {
    fn cross_entropy(&mut self, options: &LossOptions) -> Result<(), ModelError> {
        self.losses.push(self.model.loss_and_gradients(self.part, options, self.gradients)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use olmo_dist::held_sums;
    use olmo_model::{ModelConfig, Parameters};
    use serde_json::json;

    use super::super::objective::{CrossEntropy, LossNorm};
    use super::*;

    fn config() -> ModelConfig {
        serde_json::from_value(
            json!({"d_model": 8, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 16, "layer_norm_type": "rms",
                "layer_norm_eps": 1e-6, "attention_layer_norm": true, "norm_after": true, "rope_theta": 500_000.0,
                "max_sequence_length": 4096, "vocab_size": 7, "embedding_size": 1024, "weight_tying": false}),
        )
        .unwrap()
    }

    fn learner_of(ranks: Ranks, reduce: Reduce, strategy: Strategy) -> HostLearner {
        let parameters = Parameters::init(&config(), 5).unwrap();
        let model = Model::new(&config(), &parameters).unwrap();
        let optimizer = OptimizerSettings::plain();
        let objective = Box::new(CrossEntropy { norm: LossNorm::Labels, z_loss: 1e-4 });
        let shard = strategy.shard(parameters.len(), ranks.rank(), ranks.size());
        let exchange = Exchange { ranks: Rc::new(ranks), reduce, strategy };
        HostLearner::new(model, LearnerState::new(parameters, shard), optimizer, objective, exchange)
    }

    fn learner() -> HostLearner {
        learner_of(Ranks::alone(), Reduce::Exact, Strategy::Ddp)
    }

    fn part(row: u32) -> Batch {
        let input_ids = (0..6).map(|t| (row + t * (row + 1)) % 7).collect();
        Batch { input_ids, label_mask: None, documents: None, batch: 1, sequence: 6 }
    }

    fn step(learner: &mut HostLearner) -> Step {
        learner.begin(StepSize { labels: 10, tokens: 12 }, 0..2);
        for row in 0..2 {
            learner.accumulate(&part(row)).unwrap();
        }
        learner.finish(1e-2, None).unwrap()
    }

    /// Two steps over the micro-batches `rows`, of which this rank computes its share. `None` is a
    /// micro-batch without labels.
    fn two_steps(ranks: Ranks, reduce: Reduce, strategy: Strategy, rows: &[Option<u32>]) -> (Vec<Step>, LearnerState) {
        let share = ranks.share(rows.len());
        let mut learner = learner_of(ranks, reduce, strategy);
        let labels = 5 * rows.iter().flatten().count() as u64;
        let mut steps = Vec::new();
        for _ in 0..2 {
            learner.begin(StepSize { labels, tokens: labels }, share.start as u64..share.end as u64);
            for row in &rows[share.clone()] {
                match row {
                    Some(row) => learner.accumulate(&part(*row)).unwrap(),
                    None => learner.skip(),
                }
            }
            steps.push(learner.finish(1e-2, None).unwrap());
        }
        let state = learner.snapshot();
        let HostLearner { exchange, .. } = learner;
        Rc::into_inner(exchange.ranks).unwrap().leave(Ok(())).unwrap();
        (steps, state)
    }

    #[test]
    fn any_number_of_ranks_gives_the_bits_of_one() {
        let rows = [Some(0), Some(1), None, Some(3), Some(4), Some(2), Some(5)];
        for (count, strategy) in [(7, Strategy::Ddp), (4, Strategy::Ddp), (7, Strategy::Zero1), (2, Strategy::Zero1)] {
            let rows = &rows[..count];
            let (steps, state) = two_steps(Ranks::alone(), Reduce::Exact, strategy, rows);
            for size in [2, 3] {
                let run = |reduce| crate::ranks::together(size, |ranks| two_steps(ranks, reduce, strategy, rows));
                for (own_steps, own) in run(Reduce::Exact) {
                    let what = format!("{count} micro-batches on {size} ranks, {strategy:?}");
                    assert_eq!(own_steps, steps, "{what}");
                    assert!(own.parameters == state.parameters, "{what}");
                    assert_eq!(*own.exp_avg, state.exp_avg[own.shard.clone()], "{what}");
                    assert_eq!(*own.exp_avg_sq, state.exp_avg_sq[own.shard], "{what}");
                }
                for (own_steps, own) in run(Reduce::Fast) {
                    for (fast, exact) in own_steps.iter().zip(&steps) {
                        assert!((fast.loss / exact.loss - 1.0).abs() < 1e-6, "{fast:?} {exact:?}");
                        assert!((fast.grad_norm / exact.grad_norm - 1.0).abs() < 1e-6, "{fast:?} {exact:?}");
                    }
                    let mut pairs = own.parameters.flat().iter().zip(state.parameters.flat());
                    assert!(pairs.all(|(fast, exact)| (fast - exact).abs() < 1e-4));
                }
            }
        }
    }

    #[test]
    fn a_sharded_step_that_is_not_finite_changes_nothing_on_any_rank() {
        let broken = crate::ranks::together(2, |ranks| {
            let rank = ranks.rank();
            let mut learner = learner_of(ranks, Reduce::Exact, Strategy::Zero1);
            if rank == 1 {
                let mut parameters = learner.state.parameters.clone();
                parameters.flat_mut().fill(f32::NAN);
                learner.model.set_parameters(&parameters).unwrap();
            }
            let before = learner.snapshot();
            learner.begin(StepSize { labels: 10, tokens: 12 }, rank as u64..rank as u64 + 1);
            learner.accumulate(&part(3)).unwrap();
            let step = learner.finish(1e-2, None).unwrap();
            assert_eq!((step.bad, step.is_finite()), ((rank == 1).then_some(0), false));
            assert_eq!(learner.snapshot(), before);
            let found = learner.gradients().iter().any(|value| value.is_nan());
            Rc::into_inner(learner.exchange.ranks).unwrap().leave(Ok(())).unwrap();
            found
        });
        assert!(broken[0], "the first shard of the sum is not finite");
    }

    #[test]
    fn a_step_that_is_not_finite_changes_nothing_and_reports_its_first_bad_micro_batch() {
        let mut learner = learner();
        step(&mut learner);
        let sound = learner.snapshot();
        learner.state.parameters.flat_mut().fill(f32::NAN);
        learner.model.set_parameters(&learner.state.parameters.clone()).unwrap();
        let broken = step(&mut learner);
        assert!(!broken.is_finite());
        assert_eq!((broken.bad, learner.optimizer_steps()), (Some(0), 1));
        assert_eq!(learner.state.exp_avg, sound.exp_avg);
        assert!(learner.gradients().iter().any(|value| value.is_nan()));
    }

    #[test]
    fn the_buffers_for_gradients_are_as_many_as_the_estimate_counts() {
        for parts in 1..=9 {
            let mut learner = learner();
            for _ in 0..2 {
                learner.begin(StepSize { labels: 5 * parts, tokens: 6 * parts }, 0..parts);
                for row in 0..parts {
                    learner.accumulate(&part(row as u32)).unwrap();
                }
                learner.finish(1e-3, None).unwrap();
            }
            let buffers = learner.spare.len() + 1;
            assert_eq!(buffers, 1 + held_sums(0..parts), "{parts} micro-batches");
        }
    }

    #[test]
    fn the_gradients_of_micro_batches_are_added_as_a_tree() {
        let gradients = |rows: &[Option<u32>]| {
            let mut learner = learner();
            learner.begin(StepSize { labels: 20, tokens: 24 }, 0..rows.len() as u64);
            for row in rows {
                match row {
                    Some(row) => learner.accumulate(&part(*row)).unwrap(),
                    None => learner.skip(),
                }
            }
            learner.finish(0.0, None).unwrap();
            learner.gradients
        };
        let rows = [Some(0), Some(1), None, Some(3), Some(4)];
        let parts: Vec<Vec<f32>> = rows.iter().flatten().map(|row| gradients(&[Some(*row)])).collect();
        let want: Vec<f32> =
            (0..parts[0].len()).map(|i| ((parts[0][i] + parts[1][i]) + parts[2][i]) + parts[3][i]).collect();
        assert_eq!(gradients(&rows), want);
        let rows = [Some(0), Some(1), Some(3), Some(4)];
        let want: Vec<f32> =
            (0..parts[0].len()).map(|i| (parts[0][i] + parts[1][i]) + (parts[2][i] + parts[3][i])).collect();
        assert_eq!(gradients(&rows), want);
    }

    #[test]
    fn a_snapshot_keeps_its_values_when_training_goes_on() {
        let mut learner = learner();
        let before = learner.snapshot();
        let copy = before.parameters.flat().to_vec();
        step(&mut learner);
        assert_eq!(before.parameters.flat(), copy);
        let after = learner.snapshot();
        assert_eq!(after.optimizer_steps, 1);
        assert_ne!(after.parameters.flat(), copy);
    }
}
