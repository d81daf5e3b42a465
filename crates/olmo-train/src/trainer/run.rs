//! Runs the steps.
//!
//! After each step, the evaluation and then the checkpoint follow if they are due. Both are skipped
//! if the state that a run resumed from already has them, so a stop at any point neither omits nor
//! repeats one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use olmo_base::failpoint;
use olmo_base::units::bytes;
use olmo_dist::{Alone, waiting_sums};
use olmo_model::{LossOptions, Parameters};
use olmo_ops::global_norm;
use olmo_stage::{Context, Event, StageError};
use serde_json::json;

use super::evaluation;
use crate::checkpoint::Saver;
use crate::checkpoint::{self, State, Trainer};
use crate::data::Prefetch;
use crate::data::{Batches, StepBatch};
use crate::failure::model_failure;
use crate::learner::{self, Learner, LearnerState, Spec, Step, StepSize};
use crate::memory;
use crate::metrics::{EvalRecord, Metrics, StepRecord};
use crate::setup::Setup;

/// Runs `setup` to its end and writes the outputs `model` and `metrics`, and `checkpoints` along
/// the way.
///
/// # Errors
/// `Interrupted`, after saving the state, if a stop was requested.
pub fn train(mut setup: Setup, context: &mut Context) -> Result<(), StageError> {
    let initial = setup.initial.take();
    let batches = || Batches::new(&setup.data, setup.global_batch, setup.seed, setup.document_mask);
    let (state, trainer) = start(&setup, &batches()?, initial, context)?;
    if let Some(trainer) = &trainer {
        let before = trainer.device_train_microbatch_size as usize;
        if setup.microbatch_is_automatic {
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
    let State { learner, step, metrics } = state;
    let settled = learner.optimizer_steps;
    let spec = Spec {
        config: &setup.config,
        optimizer: setup.optimizer,
        activation_checkpointing: setup.activation_checkpointing,
        compute: setup.compute,
        device: &setup.device,
    };
    let learner = learner::create(&spec, learner, Box::new(setup.objective), Box::new(Alone))?;
    for what in learner.unkeyed_settings() {
        context.warning(format!("{what}; this is not part of the cache key"));
    }
    std::thread::scope(|scope| {
        let prefetch = Prefetch::start(scope, batches()?, step, setup.max_steps);
        let (saver, pace) = (Saver::default(), Pace::new());
        let positions = batches()?;
        let mut run = Run { setup, positions, prefetch, learner, step, metrics, settled, saved_item, saver, pace };
        let ended = memory::catch_out_of_memory(setup.smaller.as_deref(), || run.steps(context));
        // Wait for saves in progress, however the steps ended.
        let saved = run.saver.finish(context);
        match ended.and(saved) {
            Err(StageError::Interrupted) => {
                if run.step > 0 {
                    run.save_interrupted(context)?;
                    context.message(format!("stopped after step {}; the state is saved", run.step));
                }
                Err(StageError::Interrupted)
            }
            Err(failure) => Err(failure),
            Ok(()) => {
                let state = run.settled_state()?;
                run.finish(&state, context)
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
            None => Parameters::init(&setup.config, setup.seed).map_err(model_failure)?,
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
        seed: setup.seed,
        global_train_batch_size: setup.global_batch as u64,
        instances: setup.data.instances() as u64,
        sequence_length: setup.data.manifest().sequence_length,
        backend: setup.compute.name().to_owned(),
        device_train_microbatch_size: setup.microbatch as u64,
        stage_version: setup.version,
    }
}

/// A run in progress.
struct Run<'a> {
    setup: &'a Setup,
    /// Maps a step to its position in the data.
    positions: Batches<'a>,
    prefetch: Prefetch,
    learner: Box<dyn Learner>,
    /// Number of completed steps.
    step: u64,
    metrics: Metrics,
    /// Number of updates after which weights and moments are known to be finite.
    settled: u64,
    /// The step of the last item in the list of checkpoints.
    saved_item: Option<u64>,
    saver: Saver,
    pace: Pace,
}

/// Timings since they were last shown. They are never part of the metrics.
struct Pace {
    since: Instant,
    steps: u64,
    /// Time spent on evaluation, and on waiting for checkpoints.
    evaluation: Duration,
    saving: Duration,
    /// Time that the host waited for the GPU, if there is one.
    gpu: Option<Duration>,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), steps: 0, evaluation: Duration::ZERO, saving: Duration::ZERO, gpu: None }
    }
}

impl Run<'_> {
    fn steps(&mut self, context: &mut Context) -> Result<(), StageError> {
        loop {
            self.after_step(context)?;
            if self.step >= self.setup.max_steps {
                return Ok(());
            }
            context.check_stop()?;
            if self.step > 0 && context.save_requested() {
                // A state is usable only if all checkpoints before it are saved.
                self.saver.finish(context)?;
                self.save_interrupted(context)?;
                context.message(format!("step {}: the state is saved", self.step));
            }
            self.step(context)?;
        }
    }

    /// Whether something with interval `every` is due after the current step; it always is after
    /// the last.
    fn due(&self, every: Option<u64>) -> bool {
        let step = self.step;
        step > 0 && (step == self.setup.max_steps || every.is_some_and(|every| step.is_multiple_of(every)))
    }

    fn after_step(&mut self, context: &mut Context) -> Result<(), StageError> {
        let setup = self.setup;
        if let Some(data) = &setup.eval_data
            && (self.due(setup.eval_interval) || (self.step == 0 && setup.eval_on_startup))
            && !self.metrics.is_evaluated()
        {
            let (step, since) = (self.step, Instant::now());
            let rows = setup.microbatch;
            let eval_loss = evaluation::mean_loss(self.learner.model(), data, rows, setup.document_mask, context)?;
            self.pace.evaluation += since.elapsed();
            if !eval_loss.is_finite() {
                return Err(StageError::fail(
                    "train::not_finite",
                    format!("the loss on eval_data after step {step} is {eval_loss}"),
                )
                .hint(self.after_not_finite()));
            }
            let perplexity = Some(eval_loss.exp()).filter(|perplexity| perplexity.is_finite());
            self.metrics.push_eval(&EvalRecord { step, eval_loss, eval_perplexity: perplexity })?;
            context.metrics(step, BTreeMap::from([("eval_loss".into(), eval_loss)]));
            context.message(format!("step {step}: eval_loss {eval_loss:.4}"));
        }
        if self.due(self.setup.save_interval) && self.saved_item != Some(self.step) {
            let since = Instant::now();
            self.saver.finish(context)?;
            failpoint("train.before_save");
            let state = self.settled_state()?;
            self.saver.start(context, &setup.config, &setup.record, state, self.trainer())?;
            self.saved_item = Some(self.step);
            self.pace.saving += since.elapsed();
        }
        self.saver.poll(context)
    }

    fn trainer(&self) -> Trainer {
        trainer(self.setup, &self.positions, self.step, self.learner.optimizer_steps())
    }

    /// Runs one step. A stop between two of its micro-batches leaves the state unchanged.
    fn step(&mut self, context: &mut Context) -> Result<(), StageError> {
        let number = self.step + 1;
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
            let parts = self.parts(&batch);
            let learned = self.learn(&batch, labels, &parts, lr, context)?;
            if !learned.is_finite() {
                let bad = learned.bad.map(|index| parts[index].clone());
                return Err(self.not_finite(number, &batch, learned, bad));
            }
            record.loss = Some(learned.loss);
            record.z_loss = (self.setup.objective.z_loss > 0.0).then_some(learned.z_loss);
            record.grad_norm = Some(learned.grad_norm);
        } else {
            context.warning(format!(
                "step {number}: no token in its {} rows is a target, so the step changes nothing",
                batch.len()
            ));
        }
        self.step = number;
        self.metrics.push_step(&record)?;
        failpoint("train.step");
        if number == self.setup.max_steps {
            failpoint("train.last_step");
        }
        self.show(&record, context);
        Ok(())
    }

    /// The rows of each micro-batch of a batch.
    fn parts(&self, batch: &StepBatch) -> Vec<Range<usize>> {
        let rows = self.setup.microbatch;
        (0..batch.len()).step_by(rows).map(|from| from..batch.len().min(from + rows)).collect()
    }

    /// Trains on the micro-batches `parts` of `batch`. Changes nothing if a number is not finite.
    fn learn(
        &mut self,
        batch: &StepBatch,
        labels: u64,
        parts: &[Range<usize>],
        lr: f64,
        context: &Context,
    ) -> Result<Step, StageError> {
        self.learner.begin(StepSize { labels, tokens: batch.input_ids.len() as u64 });
        for part in parts {
            if batch.labels(part.start, part.end) == 0 {
                self.learner.skip();
                continue;
            }
            context.check_stop()?;
            self.learner.accumulate(&batch.part(part.start, part.end))?;
        }
        let step = self.learner.finish(lr)?;
        if let Some(waited) = step.waited {
            *self.pace.gpu.get_or_insert_default() += waited;
        }
        Ok(step)
    }

    /// The error for step `step`, whose loss or gradients are not finite. It names the batch and
    /// the first bad number.
    fn not_finite(&self, step: u64, batch: &StepBatch, learned: Step, bad: Option<Range<usize>>) -> StageError {
        let (loss, grad_norm) = (learned.loss + learned.z_loss, learned.grad_norm);
        let rows: Vec<String> = batch.rows.iter().take(8).map(u32::to_string).collect();
        let more = if batch.rows.len() > rows.len() { ", …" } else { "" };
        let what = format!(
            "step {step}: the loss is {loss} and the gradient norm {grad_norm}; the weights are unchanged. First bad: {}. Batch {} with the rows {}{more}",
            self.first_bad(batch, bad).unwrap_or_else(|| "the sum of finite parts".into()),
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

    /// The current state, for saving.
    ///
    /// # Errors
    /// The optimizer left a weight or a moment that is not finite.
    fn settled_state(&mut self) -> Result<State, StageError> {
        let learner = self.learner.snapshot();
        if self.settled < learner.optimizer_steps {
            self.check_finite(&learner)?;
            self.settled = learner.optimizer_steps;
        }
        Ok(State { learner, step: self.step, metrics: self.metrics.clone() })
    }

    /// Saves the state outside the list of checkpoints.
    fn save_interrupted(&mut self, context: &Context) -> Result<(), StageError> {
        let (setup, state) = (self.setup, self.settled_state()?);
        checkpoint::save_interrupted(context, &setup.config, &setup.record, &state, &self.trainer())
    }

    fn check_finite(&self, state: &LearnerState) -> Result<(), StageError> {
        let arrays = [
            (state.parameters.flat(), "the weight"),
            (&state.exp_avg, "the first moment of"),
            (&state.exp_avg_sq, "the second moment of"),
        ];
        // The sum over an array is finite only if every element is, and it uses all threads.
        let Some((array, what)) = arrays.into_iter().find(|(array, _)| !global_norm(array).is_finite()) else {
            return Ok(());
        };
        let name = self.learner.model().first_tensor_not_finite(array).unwrap_or("a tensor");
        let text = format!("after step {}: {what} `{name}` is not finite; this state is not saved", self.step);
        Err(StageError::fail("train::not_finite", text).hint(self.after_not_finite()))
    }

    /// Finds the first number that is not finite, in computation order. Recomputes only the
    /// micro-batch `bad`, on the host, where a whole batch for a GPU could take hours.
    fn first_bad(&self, batch: &StepBatch, bad: Option<Range<usize>>) -> Option<String> {
        let options = LossOptions { denominator: 1.0, z_loss: self.setup.objective.z_loss };
        if let Some(rows) = bad
            && let Ok(Some(found)) = self.learner.model().first_not_finite(&batch.part(rows.start, rows.end), &options)
        {
            return Some(found);
        }
        self.learner
            .model()
            .first_tensor_not_finite(&self.learner.gradients())
            .map(|name| format!("the gradient of `{name}`"))
    }

    /// Shows the metrics of a step, every `console_log_interval` steps.
    fn show(&mut self, record: &StepRecord, context: &mut Context) {
        self.pace.steps += 1;
        let last = record.step == self.setup.max_steps;
        if !last && !record.step.is_multiple_of(self.setup.console_log_interval) {
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

    fn finish(self, state: &State, context: &mut Context) -> Result<(), StageError> {
        let model = context.output("model")?;
        olmo_model::save_native(&model, &self.setup.config, &state.learner.parameters).map_err(model_failure)?;
        self.setup.record.write(&model)?;
        self.metrics.write(&context.output("metrics")?)?;
        if let Some(peak) = memory::peak() {
            let numbers = (state.learner.parameters.len() * size_of::<f32>()) as u64;
            let parts = self.setup.global_batch.div_ceil(self.setup.microbatch);
            let gradients = numbers * (1 + waiting_sums(parts) as u64);
            let rest = peak.saturating_sub(3 * numbers + gradients);
            let [weights, gradients, moments, rest] = [numbers, gradients, 2 * numbers, rest].map(bytes);
            context.message(format!(
                "memory: {} at peak: {weights} for weights, {gradients} for gradients, {moments} for moments, {rest} for activations, checkpoints being saved, data and program",
                bytes(peak)
            ));
        }
        if let Some(what) = self.learner.slowdown() {
            context.warning(what);
        }
        let skipped = state.step - state.learner.optimizer_steps;
        if skipped > 0 {
            context.warning(format!("{skipped} of {} steps had no labels and changed nothing", self.step));
        }
        Ok(())
    }
}
