//! [`GpuLearner`]: trains on a GPU with libtorch.

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use olmo_dist::TreeSum;
use olmo_model::device::{self, Losses, Training};
use olmo_model::{Batch, LossOptions, Model, ModelError};
use olmo_stage::StageError;

use super::learner::{Learner, LearnerState, Step};
use super::objective::{ModelOutput, Objective, StepSize};
use super::optimizer::OptimizerSettings;
use crate::failure::model_failure;
use crate::ranks::Ranks;

/// Weights, gradients and moments on a GPU. The host waits for it once per step, in `finish`.
pub(super) struct GpuLearner {
    model: Model,
    /// The state on the host after its own number of updates; the GPU may be ahead.
    fetched: LearnerState,
    optimizer_steps: u64,
    optimizer: OptimizerSettings,
    /// Where weight decay applies.
    groups: Vec<(Range<usize>, bool)>,
    objective: Box<dyn Objective>,
    ranks: Rc<Ranks>,
    denominator: f64,
    /// Losses of the micro-batches of the current step, with the position of each.
    losses: Vec<(usize, Losses)>,
    /// Sums of the losses. The gradients of the last present node are the device's current sum, and
    /// those of the other nodes are set aside, in order.
    sums: TreeSum<Losses>,
    /// Number of micro-batches of the current step.
    parts: usize,
}

impl GpuLearner {
    /// `model` is on a GPU and has the weights and moments of `state`.
    pub(super) fn new(
        model: Model,
        state: LearnerState,
        optimizer: OptimizerSettings,
        objective: Box<dyn Objective>,
        ranks: Rc<Ranks>,
    ) -> Self {
        let groups = optimizer.groups(&state.parameters);
        let optimizer_steps = state.optimizer_steps;
        let losses = Vec::new();
        Self {
            model,
            fetched: state,
            optimizer_steps,
            optimizer,
            groups,
            objective,
            ranks,
            denominator: 1.0,
            losses,
            sums: TreeSum::new(),
            parts: 0,
        }
    }

    /// Adds the results of the next micro-batch.
    fn push(&mut self, losses: Option<Losses>) {
        let training = self.model.on_gpu_mut().expect("the model is on a GPU");
        self.sums.push(0, losses, |left, right| add(training, &left, &right));
        self.parts += 1;
    }

    fn training(&mut self) -> &mut Training {
        self.model.on_gpu_mut().expect("the model is on a GPU")
    }

    /// Sums the gradients over the ranks, through the host. `has_labels` tells whether this rank has
    /// any.
    fn reduce_gradients(&mut self, has_labels: bool) -> Result<(), StageError> {
        if self.ranks.size() == 1 {
            return Ok(());
        }
        let mut gradients = self.training().gradients();
        if !has_labels {
            gradients.fill(0.0);
        }
        self.ranks.sum_gradients(&mut gradients)?;
        self.training().set_gradients(&gradients);
        Ok(())
    }
}

impl Learner for GpuLearner {
    fn model(&self) -> &Model {
        &self.model
    }

    fn optimizer_steps(&self) -> u64 {
        self.optimizer_steps
    }

    fn begin(&mut self, size: StepSize, _: Range<u64>) {
        self.training().begin();
        self.denominator = self.objective.denominator(size);
        self.losses.clear();
        self.sums = TreeSum::new();
        self.parts = 0;
    }

    fn accumulate(&mut self, part: &Batch) -> Result<(), StageError> {
        if !self.losses.is_empty() {
            self.training().set_aside();
        }
        let mut output = Output { model: &self.model, part, losses: Vec::new() };
        self.objective.add_loss(self.denominator, &mut output).map_err(model_failure)?;
        let losses = Losses::all(output.losses.iter()).expect("an objective has a loss");
        let copy = Losses::all([&losses].into_iter());
        self.losses.push((self.parts, losses));
        self.push(copy);
        Ok(())
    }

    fn skip(&mut self) {
        self.push(None);
    }

    fn finish(&mut self, lr: f64, max_grad_norm: Option<f64>) -> Result<Step, StageError> {
        let training = self.model.on_gpu_mut().expect("the model is on a GPU");
        let losses = self.sums.take(|left, right| add(training, &left, &right));
        self.reduce_gradients(losses.is_some())?;
        let settings = self.optimizer.adamw(lr);
        let number = self.optimizer_steps + 1;
        let training = self.model.on_gpu_mut().expect("the model is on a GPU");
        let norm = training.gradient_norm();
        training.update(&settings, number, &self.groups, max_grad_norm, &norm);
        let finished = training.wait(losses.as_ref(), &norm);
        let mut sums = [finished.sums.nll / self.denominator, finished.sums.z / self.denominator];
        self.ranks.sum(&mut sums)?;
        let [loss, z_loss] = sums;
        let waited = Some(finished.waited);
        let mut step = Step { loss, z_loss, grad_norm: finished.grad_norm, bad: None, waited };
        if step.is_finite() {
            self.optimizer_steps = number;
        } else {
            let is_bad = |losses: &Losses| {
                let sums = losses.sums();
                !(sums.nll + sums.z).is_finite()
            };
            step.bad = self.losses.iter().find(|(_, losses)| is_bad(losses)).map(|(index, _)| *index);
        }
        Ok(step)
    }

    fn snapshot(&mut self) -> LearnerState {
        if self.fetched.optimizer_steps < self.optimizer_steps {
            let [weights, exp_avg, exp_avg_sq] = self.training().download();
            self.fetched.parameters.replace(weights);
            self.fetched.exp_avg = Arc::new(exp_avg);
            self.fetched.exp_avg_sq = Arc::new(exp_avg_sq);
            self.fetched.optimizer_steps = self.optimizer_steps;
        }
        self.fetched.clone()
    }

    fn gradients(&self) -> Cow<'_, [f32]> {
        self.model.gradients_on_gpu().unwrap_or_default().into()
    }

    fn unkeyed_settings(&self) -> Vec<String> {
        device::instruments()
    }

    fn slowdown(&self) -> Option<String> {
        device::cudnn_refusal()
            .map(|why| format!("attention ran on the slower flash kernels, because cuDNN failed: {why}"))
    }
}

/// Adds the gradients that were set aside last to the current ones, and `right` to `left`.
fn add(training: &mut Training, left: &Losses, right: &Losses) -> Losses {
    training.add_aside();
    Losses::all([left, right].into_iter()).expect("there are two")
}

/// The output for `part`, computed when the objective asks for a loss.
struct Output<'a> {
    model: &'a Model,
    part: &'a Batch,
    losses: Vec<Losses>,
}

impl ModelOutput for Output<'_> {
    fn cross_entropy(&mut self, options: &LossOptions) -> Result<(), ModelError> {
        self.losses.push(self.model.accumulate(self.part, options)?);
        Ok(())
    }
}
