//! Runs the steps.
//!
//! After each step, the evaluation and then the checkpoint follow if they are due. Both are skipped
//! if the state that a run resumed from already has them, so a stop at any point neither omits nor
//! repeats one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use olmo_base::failpoint;
use olmo_base::units::bytes;
use olmo_model::{LossOptions, Model, Parameters};
use olmo_ops::adamw::{self, AdamW};
use olmo_ops::{clip_coefficient, global_norm};
use olmo_stage::compute::Device;
use olmo_stage::{Context, Event, StageError};
use serde_json::json;

use super::evaluation;
use crate::backend;
use crate::checkpoint::Saver;
use crate::checkpoint::{self, State, Trainer};
use crate::data::Prefetch;
use crate::data::{Batches, StepBatch};
use crate::failure::model_failure;
use crate::memory;
use crate::metrics::{EvalRecord, StepRecord};
use crate::params::LossNorm;
use crate::setup::Setup;

/// Runs `setup` to its end and writes the outputs `model` and `metrics`, and `checkpoints` along
/// the way.
///
/// # Errors
/// `Interrupted`, after saving the state, if a stop was requested.
pub(crate) fn train(mut setup: Setup, context: &mut Context) -> Result<(), StageError> {
    let initial = setup.initial.take();
    let batches = || {
        let params = &setup.params;
        Batches::new(&setup.data, setup.global_batch, params.seed, params.document_mask)
    };
    let (state, trainer) = start(&setup, &batches()?, initial, context)?;
    if let Some(trainer) = &trainer {
        let before = trainer.device_train_microbatch_size as usize;
        if setup.params.device_train_microbatch_size.is_none() {
            setup.microbatch = before;
        } else if before != setup.microbatch {
            context.warning(format!(
                "not bit-exact: the first {} steps used micro-batches of {before} rows, the rest uses {}",
                state.step, setup.microbatch
            ));
        }
    }
    let setup = &setup;
    let saved_item = trainer.map(|_| state.step).filter(|step| has_item(context, *step));
    let mut model = backend::model(setup.compute, &setup.params.device, &setup.config, &state)?;
    model.set_activation_checkpointing(setup.params.activation_checkpointing);
    let on_gpu = setup.compute.device == Device::Cuda;
    if on_gpu {
        for what in backend::unkeyed() {
            context.warning(format!("{what}; this is not part of the cache key"));
        }
    }
    let optimizer = &setup.params.optimizer;
    let groups = state.parameters.weight_decay_groups(optimizer.decay_norm_and_bias, optimizer.decay_embeddings);
    // On a GPU, the gradients live there.
    let gradients = vec![0.0; if on_gpu { 0 } else { state.parameters.len() }];
    std::thread::scope(|scope| {
        let prefetch = Prefetch::start(scope, batches()?, state.step, setup.max_steps);
        let (saver, pace) = (Saver::default(), Pace::new());
        let positions = batches()?;
        let settled = state.optimizer_steps;
        let mut run =
            Run { setup, positions, prefetch, model, state, settled, gradients, groups, saved_item, saver, pace };
        let ended = memory::catch_out_of_memory(setup.smaller.as_deref(), || run.steps(context));
        // Wait for saves in progress, however the steps ended.
        let saved = run.saver.finish(context);
        match ended.and(saved) {
            Err(StageError::Interrupted) => {
                if run.state.step > 0 {
                    run.settle()?;
                    checkpoint::save_interrupted(
                        context,
                        &setup.config,
                        setup.chat.as_ref(),
                        &run.state,
                        &run.trainer(),
                    )?;
                    context.message(format!("stopped after step {}; the state is saved", run.state.step));
                }
                Err(StageError::Interrupted)
            }
            Err(failure) => Err(failure),
            Ok(()) => {
                run.settle()?;
                run.finish(context)
            }
        }
    })
}

/// The state to start from: the latest one of earlier attempts with its `trainer.json`, otherwise a
/// new one.
fn start(
    setup: &Setup,
    batches: &Batches,
    initial: Option<Parameters>,
    context: &mut Context,
) -> Result<(State, Option<Trainer>), StageError> {
    let expected = trainer(setup, batches, 0, 0);
    let found = checkpoint::latest(context, &setup.config, &expected, first_missing_item(setup, context))?;
    let earlier = context.request.items.get(checkpoint::PORT).cloned().unwrap_or_default();
    let labels = earlier.into_iter().filter_map(|item| item.label);
    let Some((state, trainer)) = found else {
        if labels.count() > 0 {
            // The run starts over, and so does the list.
            context.event(&Event::Resumed { step: 0, port: checkpoint::PORT.into(), keep: Vec::new() });
        }
        let parameters = match initial {
            Some(parameters) => parameters,
            None => Parameters::init(&setup.config, setup.params.seed).map_err(model_failure)?,
        };
        return Ok((State::new(parameters), None));
    };
    let keep = labels.filter(|label| checkpoint::step_of(label).is_some_and(|step| step <= state.step)).collect();
    context.event(&Event::Resumed { step: state.step, port: checkpoint::PORT.into(), keep });
    context.message(format!("continues after step {} of {}", state.step, setup.max_steps));
    if trainer.backend != setup.compute.name() {
        context.warning(format!(
            "not bit-exact: the first {} steps ran on {}, the rest runs on {}",
            state.step,
            trainer.backend,
            setup.compute.name()
        ));
    }
    Ok((state, Some(trainer)))
}

/// The first step whose checkpoint is due but missing from the list; the last step if none is
/// missing.
fn first_missing_item(setup: &Setup, context: &Context) -> u64 {
    let every = setup.save_interval.unwrap_or(setup.max_steps).max(1);
    let mut due = (1..).map(|n: u64| n.saturating_mul(every).min(setup.max_steps));
    due.find(|step| *step == setup.max_steps || !has_item(context, *step)).unwrap_or(setup.max_steps)
}

fn has_item(context: &Context, step: u64) -> bool {
    let items = context.request.items.get(checkpoint::PORT);
    items.is_some_and(|items| items.iter().any(|item| item.label.as_ref() == Some(&checkpoint::label(step))))
}

/// `trainer.json` after `step` steps.
fn trainer(setup: &Setup, batches: &Batches, step: u64, optimizer_steps: u64) -> Trainer {
    let (epoch, epoch_position) = batches.position(step);
    Trainer {
        format: checkpoint::FORMAT,
        step,
        tokens: step * batches.tokens_per_step(),
        epoch,
        epoch_position,
        optimizer_steps,
        seed: setup.params.seed,
        global_train_batch_size: setup.global_batch as u64,
        instances: setup.data.instances() as u64,
        sequence_length: setup.data.manifest().sequence_length,
        backend: setup.compute.name().to_owned(),
        device_train_microbatch_size: setup.microbatch as u64,
        stage_version: setup.version,
    }
}

/// A run in progress.
pub(super) struct Run<'a> {
    pub(super) setup: &'a Setup,
    /// Maps a step to its position in the data.
    pub(super) positions: Batches<'a>,
    pub(super) prefetch: Prefetch,
    pub(super) model: Model,
    pub(super) state: State,
    /// Optimizer steps of the last weights and moments known to be finite on the host; a GPU may be
    /// ahead.
    pub(super) settled: u64,
    /// Gradients of the current step, laid out like the parameters.
    pub(super) gradients: Vec<f32>,
    /// Where weight decay applies.
    pub(super) groups: Vec<(Range<usize>, bool)>,
    /// The step of the last item in the list of checkpoints.
    pub(super) saved_item: Option<u64>,
    pub(super) saver: Saver,
    pub(super) pace: Pace,
}

/// Timings since they were last shown. They are never part of the metrics.
pub(super) struct Pace {
    pub(super) since: Instant,
    pub(super) steps: u64,
    /// Time spent on evaluation, and on waiting for checkpoints.
    pub(super) evaluation: Duration,
    pub(super) saving: Duration,
    /// Time that the host waited for the GPU, if there is one.
    pub(super) gpu: Option<Duration>,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), steps: 0, evaluation: Duration::ZERO, saving: Duration::ZERO, gpu: None }
    }
}

/// The results of a step's batch: sums over its micro-batches, divided by the step's denominator,
/// and the gradient norm.
pub(super) struct Learned {
    pub(super) loss: f64,
    pub(super) z_loss: f64,
    pub(super) grad_norm: f64,
    /// The first micro-batch with a loss that is not finite, if any.
    pub(super) bad: Option<Range<usize>>,
}

impl Learned {
    pub(super) fn is_finite(&self) -> bool {
        (self.loss + self.z_loss).is_finite() && self.grad_norm.is_finite()
    }
}

impl Run<'_> {
    fn steps(&mut self, context: &mut Context) -> Result<(), StageError> {
        loop {
            self.after_step(context)?;
            if self.state.step >= self.setup.max_steps {
                return Ok(());
            }
            context.check_stop()?;
            if self.state.step > 0 && context.save_requested() {
                // A state is usable only if all checkpoints before it are saved.
                self.saver.finish(context)?;
                self.settle()?;
                let setup = self.setup;
                checkpoint::save_interrupted(
                    context,
                    &setup.config,
                    setup.chat.as_ref(),
                    &self.state,
                    &self.trainer(),
                )?;
                context.message(format!("step {}: the state is saved", self.state.step));
            }
            self.step(context)?;
        }
    }

    /// Whether something with interval `every` is due after the current step; it always is after
    /// the last.
    fn due(&self, every: Option<u64>) -> bool {
        let step = self.state.step;
        step > 0 && (step == self.setup.max_steps || every.is_some_and(|every| step.is_multiple_of(every)))
    }

    fn after_step(&mut self, context: &mut Context) -> Result<(), StageError> {
        let params = &self.setup.params;
        if let Some(data) = &self.setup.eval_data
            && (self.due(self.setup.eval_interval) || (self.state.step == 0 && params.eval_on_startup))
            && !self.state.metrics.is_evaluated()
        {
            let (step, since) = (self.state.step, Instant::now());
            let rows = self.setup.microbatch;
            let eval_loss = evaluation::mean_loss(&self.model, data, rows, params.document_mask, context)?;
            self.pace.evaluation += since.elapsed();
            if !eval_loss.is_finite() {
                return Err(StageError::fail(
                    "train::not_finite",
                    format!("the loss on eval_data after step {step} is {eval_loss}"),
                )
                .hint(self.after_not_finite()));
            }
            let perplexity = Some(eval_loss.exp()).filter(|perplexity| perplexity.is_finite());
            self.state.metrics.push_eval(&EvalRecord { step, eval_loss, eval_perplexity: perplexity })?;
            context.metrics(step, BTreeMap::from([("eval_loss".into(), eval_loss)]));
            context.message(format!("step {step}: eval_loss {eval_loss:.4}"));
        }
        if self.due(self.setup.save_interval) && self.saved_item != Some(self.state.step) {
            let since = Instant::now();
            self.saver.finish(context)?;
            failpoint("train.before_save");
            self.settle()?;
            let (config, chat) = (&self.setup.config, self.setup.chat.as_ref());
            self.saver.start(context, config, chat, &self.state, self.trainer())?;
            self.saved_item = Some(self.state.step);
            self.pace.saving += since.elapsed();
        }
        self.saver.poll(context)
    }

    fn trainer(&self) -> Trainer {
        trainer(self.setup, &self.positions, self.state.step, self.state.optimizer_steps)
    }

    /// Runs one step. A stop between two of its micro-batches leaves the state unchanged.
    fn step(&mut self, context: &mut Context) -> Result<(), StageError> {
        let number = self.state.step + 1;
        let batch = self.prefetch.next().ok_or_else(|| {
            StageError::fail("train::data", format!("the thread that reads the data ended before step {number}"))
        })?;
        let labels = batch.labels(0, batch.len());
        let lr = self.setup.schedule.at(number);
        let mut record = StepRecord {
            step: number,
            epoch: batch.epoch,
            tokens: number * self.positions.tokens_per_step(),
            labels,
            loss: None,
            z_loss: None,
            grad_norm: None,
            lr,
            batch: batch.digest.clone(),
        };
        if labels > 0 {
            let learned = match self.on_gpu(&batch, labels, lr, context)? {
                Some(learned) => learned,
                None => self.on_host(&batch, labels, lr, context)?,
            };
            if !learned.is_finite() {
                return Err(self.not_finite(number, &batch, learned));
            }
            record.loss = Some(learned.loss);
            record.z_loss = (self.setup.params.z_loss > 0.0).then_some(learned.z_loss);
            record.grad_norm = Some(learned.grad_norm);
        } else {
            context.warning(format!(
                "step {number}: no token in its {} rows is a target, so the step changes nothing",
                batch.len()
            ));
        }
        self.state.step = number;
        self.state.metrics.push_step(&record)?;
        failpoint("train.step");
        if number == self.setup.max_steps {
            failpoint("train.last_step");
        }
        self.show(&record, context);
        Ok(())
    }

    /// How the losses of a step with `labels` labels are combined.
    pub(super) fn loss_options(&self, batch: &StepBatch, labels: u64) -> LossOptions {
        let params = &self.setup.params;
        let denominator = match params.loss_norm {
            LossNorm::Labels => labels as f64,
            LossNorm::Olmo => batch.input_ids.len() as f64,
        };
        LossOptions { denominator, z_loss: params.z_loss }
    }

    /// The micro-batches of a batch, without those that have no labels.
    pub(super) fn parts(&self, batch: &StepBatch) -> Vec<Range<usize>> {
        let rows = self.setup.microbatch;
        let parts = (0..batch.len()).step_by(rows).map(|from| from..batch.len().min(from + rows));
        parts.filter(|part| batch.labels(part.start, part.end) > 0).collect()
    }

    /// A step on the host; changes nothing if a number is not finite.
    fn on_host(&mut self, batch: &StepBatch, labels: u64, lr: f64, context: &Context) -> Result<Learned, StageError> {
        let options = self.loss_options(batch, labels);
        self.gradients.fill(0.0);
        let mut learned = Learned { loss: 0.0, z_loss: 0.0, grad_norm: 0.0, bad: None };
        for part in self.parts(batch) {
            context.check_stop()?;
            let output = self
                .model
                .loss_and_gradients(&batch.part(part.start, part.end), &options, &mut self.gradients)
                .map_err(model_failure)?;
            if learned.bad.is_none() && !(output.loss_sum + output.z_sum).is_finite() {
                learned.bad = Some(part);
            }
            learned.loss += output.loss_sum / options.denominator;
            learned.z_loss += output.z_sum / options.denominator;
        }
        learned.grad_norm = global_norm(&self.gradients);
        if learned.is_finite() {
            self.update(lr, learned.grad_norm)?;
        }
        Ok(learned)
    }

    pub(super) fn adamw(&self, lr: f64) -> AdamW {
        let optimizer = &self.setup.params.optimizer;
        let [beta1, beta2] = optimizer.betas;
        AdamW { learning_rate: lr, betas: (beta1, beta2), eps: optimizer.eps, weight_decay: optimizer.weight_decay }
    }

    /// Clips the gradients, whose norm is `grad_norm`, and applies the optimizer.
    fn update(&mut self, lr: f64, grad_norm: f64) -> Result<(), StageError> {
        let settings = self.adamw(lr);
        let scale = self.setup.params.max_grad_norm.map_or(1.0, |max_norm| clip_coefficient(grad_norm, max_norm));
        let state = &mut self.state;
        state.optimizer_steps += 1;
        let number = state.optimizer_steps;
        // Copies the arrays only if a checkpoint in progress still holds them.
        let (exp_avg, exp_avg_sq) = (Arc::make_mut(&mut state.exp_avg), Arc::make_mut(&mut state.exp_avg_sq));
        let (gradients, groups) = (&self.gradients, &self.groups);
        let change = |parameters: &mut [f32]| {
            let arrays = adamw::State { parameters, exp_avg, exp_avg_sq };
            adamw::step(&settings, number, arrays, gradients, scale, groups);
        };
        self.model.update(&mut state.parameters, change).map_err(model_failure)
    }

    /// The error for step `step`, whose loss or gradients are not finite. It names the batch and
    /// the first bad number.
    fn not_finite(&self, step: u64, batch: &StepBatch, learned: Learned) -> StageError {
        let (loss, grad_norm) = (learned.loss + learned.z_loss, learned.grad_norm);
        let rows: Vec<String> = batch.rows.iter().take(8).map(u32::to_string).collect();
        let more = if batch.rows.len() > rows.len() { ", …" } else { "" };
        let what = format!(
            "step {step}: the loss is {loss} and the gradient norm {grad_norm}; the weights are unchanged. First bad: {}. Batch {} with the rows {}{more}",
            self.first_bad(batch, learned.bad).unwrap_or_else(|| "the sum of finite parts".into()),
            &batch.digest[..12],
            rows.join(", ")
        );
        StageError::fail("train::not_finite", what).hint(self.after_not_finite())
    }

    /// The hint for numbers that are not finite, with the last usable checkpoint.
    fn after_not_finite(&self) -> String {
        let kept = match self.saved_item {
            Some(step) => format!("the last checkpoint is that of step {step}"),
            None => "no checkpoint has been saved".into(),
        };
        format!(
            "lower `optimizer.learning_rate`, lengthen the warm-up (`scheduler`), or inspect these rows; the same params would fail here again; {kept}"
        )
    }

    /// Prepares weights and moments for saving: copies them to the host and checks that the
    /// optimizer left them finite.
    fn settle(&mut self) -> Result<(), StageError> {
        if self.settled < self.state.optimizer_steps {
            self.fetch_state();
            self.check_state()?;
            self.settled = self.state.optimizer_steps;
        }
        Ok(())
    }

    fn check_state(&self) -> Result<(), StageError> {
        let state = &self.state;
        let arrays = [
            (state.parameters.flat(), "the weight"),
            (&state.exp_avg, "the first moment of"),
            (&state.exp_avg_sq, "the second moment of"),
        ];
        // The sum over an array is finite only if every element is, and it uses all threads.
        let Some((array, what)) = arrays.into_iter().find(|(array, _)| !global_norm(array).is_finite()) else {
            return Ok(());
        };
        let name = self.model.first_tensor_not_finite(array).unwrap_or("a tensor");
        let text = format!("after step {}: {what} `{name}` is not finite; this state is not saved", state.step);
        Err(StageError::fail("train::not_finite", text).hint(self.after_not_finite()))
    }

    /// Finds the first number that is not finite, in computation order. Recomputes only the
    /// micro-batch `bad`, on the host, where a whole batch for a GPU could take hours.
    fn first_bad(&self, batch: &StepBatch, bad: Option<Range<usize>>) -> Option<String> {
        let options = LossOptions { denominator: 1.0, z_loss: self.setup.params.z_loss };
        if let Some(rows) = bad
            && let Ok(Some(found)) = self.model.first_not_finite(&batch.part(rows.start, rows.end), &options)
        {
            return Some(found);
        }
        self.model.first_tensor_not_finite(&self.host_gradients()).map(|name| format!("the gradient of `{name}`"))
    }

    /// Shows the metrics of a step, every `console_log_interval` steps.
    fn show(&mut self, record: &StepRecord, context: &mut Context) {
        self.pace.steps += 1;
        let last = record.step == self.setup.max_steps;
        if !last && !record.step.is_multiple_of(self.setup.params.console_log_interval) {
            return;
        }
        let seconds = self.pace.since.elapsed().as_secs_f64().max(1e-9);
        let waited = self.prefetch.take_waited().as_secs_f64();
        let speed = (self.pace.steps * self.positions.tokens_per_step()) as f64 / seconds;
        context.perf(&json!({
            "step": record.step,
            "steps": self.pace.steps,
            "seconds": seconds,
            "tokens_per_second": speed,
            "data_wait_percent": 100.0 * waited / seconds,
            "gpu_wait_percent": self.pace.gpu.map(|waited| 100.0 * waited.as_secs_f64() / seconds),
            "save_stall_seconds": self.pace.saving.as_secs_f64(),
            "eval_seconds": self.pace.evaluation.as_secs_f64(),
            "peak_memory_bytes": memory::peak(),
        }));
        self.pace = Pace::new();
        let mut values = BTreeMap::from([("lr".to_owned(), record.lr), ("tokens_per_second".to_owned(), speed)]);
        values.extend(record.loss.map(|loss| ("loss".to_owned(), loss)));
        values.extend(record.grad_norm.map(|norm| ("grad_norm".to_owned(), norm)));
        context.metrics(record.step, values);
        // The metrics are shown next to the progress bar.
        context.progress(record.step, self.setup.max_steps, "step", String::new());
    }

    fn finish(self, context: &mut Context) -> Result<(), StageError> {
        let model = context.output("model")?;
        olmo_model::save_native(&model, &self.setup.config, &self.state.parameters).map_err(model_failure)?;
        if let Some(chat) = &self.setup.chat {
            chat.write(&model)?;
        }
        self.state.metrics.write(&context.output("metrics")?)?;
        if let Some(peak) = memory::peak() {
            let numbers = (self.state.parameters.len() * size_of::<f32>()) as u64;
            let [weights, moments, rest] = [numbers, 2 * numbers, peak.saturating_sub(4 * numbers)].map(bytes);
            context.message(format!(
                "memory: {} at peak: {weights} for weights, {weights} for gradients, {moments} for moments, {rest} for activations, checkpoints being saved, data and program",
                bytes(peak)
            ));
        }
        if let Some(what) = backend::slower() {
            context.warning(what);
        }
        let skipped = self.state.step - self.state.optimizer_steps;
        if skipped > 0 {
            context.warning(format!("{skipped} of {} steps had no labels and changed nothing", self.state.step));
        }
        Ok(())
    }
}
