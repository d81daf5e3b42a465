//! Runs the steps.
//!
//! After each step, the evaluation and then the checkpoint follow if they are due. Both are skipped
//! if the state that a run resumed from already has them, so a stop at any point neither omits nor
//! repeats one.
//!
//! Several ranks run this code at the same time. They divide the micro-batches of each step and the
//! rows of each evaluation, agree after each step on whether to stop or to save, and hold the same
//! state; the first one writes it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use olmo_base::units::bytes;
use olmo_base::{Digest, failpoint};
use olmo_model::{LossOptions, Parameters};
use olmo_ops::global_norm;
use olmo_stage::{Context, Event, StageError};
use serde_json::json;

use super::evaluation;
use super::parts::Parts;
use super::rank_report::RankReport;
use crate::checkpoint::{self, Saver, State, Trainer, Writing};
use crate::data::Prefetch;
use crate::data::{Batches, StepBatch};
use crate::early_stopping::SharedScorer;
use crate::failure::model_failure;
use crate::learner::{self, Learner, LearnerState, Spec, Step, StepSize};
use crate::memory;
use crate::metrics::{EvalRecord, Metrics, StepRecord};
use crate::ranks::Ranks;
use crate::setup::{Initial, Origin, Setup};
use crate::shard::Strategy;

/// Runs `setup` to its end and writes the outputs `model` and `metrics`, and `checkpoints` along
/// the way.
///
/// # Errors
/// `Interrupted`, after saving the state, if a stop was requested.
pub fn train(setup: Setup, context: &mut Context) -> Result<(), StageError> {
    let ranks = Rc::new(Ranks::join(context, facts(&setup, context))?);
    let ended = train_together(setup, &ranks, context);
    // Nothing else holds the ranks anymore.
    Rc::into_inner(ranks).expect("the run has ended").leave(ended)
}

fn train_together(mut setup: Setup, ranks: &Rc<Ranks>, context: &mut Context) -> Result<(), StageError> {
    let initial = setup.initial.take();
    // Memory may differ between ranks, but the micro-batches must not.
    setup.microbatch = ranks.smallest(setup.microbatch)?;
    let batches = || Batches::new(&setup.data, setup.global_batch, setup.seed, setup.document_mask);
    let (state, trainer) = start(&setup, &batches()?, initial, ranks, context)?;
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
        reduce: setup.reduce,
        strategy: setup.strategy,
    };
    let learner = learner::create(&spec, learner, Box::new(setup.objective), ranks.clone())?;
    for what in learner.unkeyed_settings() {
        context.warning(format!("{what}; this is not part of the cache key"));
    }
    std::thread::scope(|scope| {
        let parts = Parts::new(setup, ranks);
        let own_batches = batches()?.of_rank(parts.own_rows(), ranks.is_first());
        let prefetch = Prefetch::start(scope, own_batches, step, setup.max_steps);
        let is_shared = ranks.size() > 1 && setup.strategy == Strategy::Zero1;
        let (saver, pace, report) = (Saver::new(is_shared), Pace::new(), RankReport::default());
        let (ranks, positions) = (ranks.clone(), batches()?);
        let mut run = Run {
            setup,
            ranks,
            parts,
            positions,
            prefetch,
            learner,
            step,
            last_step: setup.max_steps,
            metrics,
            settled,
            saved_item,
            is_shared,
            saver,
            pace,
            report,
        };
        let ended = memory::catch_out_of_memory(setup.smaller.as_deref(), || run.steps(context));
        // Wait for saves in progress, however the steps ended.
        let saved = match &ended {
            Ok(()) | Err(StageError::Interrupted) => run.saver.finish(context, &run.ranks),
            Err(_) => run.saver.abandon(context),
        };
        match ended.and(saved) {
            Err(StageError::Interrupted) => {
                if run.has_begun() {
                    run.save_interrupted(context)?;
                    context.message(format!("stopped after step {}; the state is saved", run.step));
                }
                Err(StageError::Interrupted)
            }
            Err(failure) => Err(failure),
            Ok(()) => {
                let state = run.settled_state()?;
                if run.ranks.is_first() { run.finish(&state, context) } else { Ok(()) }
            }
        }
    })
}

/// What must be equal on all ranks.
fn facts(setup: &Setup, context: &Context) -> BTreeMap<String, String> {
    let of = |value: serde_json::Result<String>| Digest::of(value.unwrap_or_default().as_bytes()).to_string();
    BTreeMap::from([
        ("config".into(), of(serde_json::to_string(&context.request.params))),
        ("data".into(), of(serde_json::to_string(setup.data.manifest()))),
    ])
}

/// The state to start from: the latest one of earlier attempts with its `trainer.json`, otherwise a
/// new one.
fn start(
    setup: &Setup,
    batches: &Batches,
    initial: Option<Initial>,
    ranks: &Ranks,
    context: &mut Context,
) -> Result<(State, Option<Trainer>), StageError> {
    let origin = setup.origin.step;
    let expected = trainer(setup, batches, origin, 0);
    let shard = setup.strategy.shard(olmo_model::weights(&setup.config), ranks.rank(), ranks.size());
    let first_missing = first_missing_item(setup, context);
    let found = checkpoint::latest(context, &setup.config, &shard, &expected, first_missing)?;
    // From here on, the engine may remove states that are not used.
    same_start(found.as_ref().map_or(origin, |(state, _)| state.step), ranks)?;
    let earlier = context.request.items.get(checkpoint::PORT).cloned().unwrap_or_default();
    let labels = earlier.into_iter().filter_map(|item| item.label);
    let Some((state, trainer)) = found else {
        if labels.count() > 0 {
            // The run starts over, and so does the list.
            context.event(&Event::Resumed { step: origin, port: checkpoint::PORT.into(), keep: Vec::new() });
        }
        let learner = match initial {
            Some(Initial { parameters, optimizer: Some(optimizer) }) => {
                LearnerState::continued(parameters, shard, &optimizer)
            }
            Some(Initial { parameters, optimizer: None }) => LearnerState::new(parameters, shard),
            None => LearnerState::new(Parameters::init(&setup.config, setup.seed).map_err(model_failure)?, shard),
        };
        return Ok((State::after(origin, learner), None));
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

/// Checks that all ranks start from the same step.
fn same_start(step: u64, ranks: &Ranks) -> Result<(), StageError> {
    let steps = ranks.gather_shares(&[step as f64], ranks.size())?;
    let other = steps.iter().zip(0..).find(|(other, _)| **other != step as f64);
    let Some((other, rank)) = other else { return Ok(()) };
    let what =
        format!("rank {} found the state after step {step}, but rank {rank} that after step {other}", ranks.rank());
    Err(StageError::fail("train::ranks", what)
        .hint("the ranks must see the same files: check the file system of the store, then run the same command again"))
}

/// The first step whose checkpoint is due but missing from the list; the last step if none is
/// missing.
fn first_missing_item(setup: &Setup, context: &Context) -> u64 {
    let every = setup.save_interval.unwrap_or(setup.max_steps).max(1);
    let mut due = (setup.origin.step / every + 1..).map(|n: u64| n.saturating_mul(every).min(setup.max_steps));
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
    ranks: Rc<Ranks>,
    parts: Parts,
    /// Maps a step to its position in the data.
    positions: Batches<'a>,
    prefetch: Prefetch,
    learner: Box<dyn Learner>,
    /// Number of completed steps.
    step: u64,
    /// The step after which training ends: `max_steps`, or an earlier one.
    last_step: u64,
    metrics: Metrics,
    /// Number of updates after which weights and moments are known to be finite.
    settled: u64,
    /// The step of the last item in the list of checkpoints.
    saved_item: Option<u64>,
    /// Whether each rank holds, and writes, a part of the state.
    is_shared: bool,
    saver: Saver,
    pace: Pace,
    report: RankReport,
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
            if self.step >= self.last_step {
                return Ok(());
            }
            let [stop, save] = self.ranks.any([context.stop_requested(), context.save_requested()])?;
            if stop {
                return Err(StageError::Interrupted);
            }
            if save && self.has_begun() {
                // A state is usable only if all checkpoints before it are saved.
                self.saver.finish(context, &self.ranks)?;
                self.save_interrupted(context)?;
                context.message(format!("step {}: the state is saved", self.step));
            }
            self.step(context)?;
        }
    }

    fn has_begun(&self) -> bool {
        self.step > self.setup.origin.step
    }

    /// Whether something with interval `every` is due after the current step; it always is after
    /// the last.
    fn due(&self, every: Option<u64>) -> bool {
        let step = self.step;
        self.has_begun() && (step == self.last_step || every.is_some_and(|every| step.is_multiple_of(every)))
    }

    fn after_step(&mut self, context: &mut Context) -> Result<(), StageError> {
        let setup = self.setup;
        if (setup.eval_data.is_some() || setup.scorer.is_some())
            && (self.due(setup.eval_interval) || (!self.has_begun() && setup.eval_on_startup))
            && !self.metrics.is_evaluated()
        {
            self.evaluate(context)?;
        }
        if let Some(rule) = setup.early_stopping.as_ref().filter(|_| self.metrics.is_evaluated()) {
            let is_over = self.has_begun() && rule.is_over(&self.metrics.scores(&rule.metric)?);
            // Only the first rank has the scores of tasks.
            let [is_over] = self.ranks.any([is_over])?;
            if is_over && self.step < self.last_step {
                let (step, all, patience) = (self.step, setup.max_steps, rule.patience);
                context.message(format!(
                    "step {step} of {all} is the last: {} has not improved in {patience} evaluations",
                    rule.metric
                ));
                self.last_step = step;
            }
        }
        if self.due(self.setup.save_interval) && self.saved_item != Some(self.step) {
            let since = Instant::now();
            self.saver.finish(context, &self.ranks)?;
            failpoint("train.before_save");
            if self.is_writer() {
                let to = checkpoint::item_folder(context, self.step)?;
                let writing = self.writing(to)?;
                self.saver.start(context, &self.ranks, writing)?;
            }
            self.saved_item = Some(self.step);
            self.pace.saving += since.elapsed();
        }
        self.saver.poll(context, &self.ranks)
    }

    /// Measures the loss on `eval_data` and the scores after the current step.
    fn evaluate(&mut self, context: &mut Context) -> Result<(), StageError> {
        let (setup, step, since) = (self.setup, self.step, Instant::now());
        let mut record = EvalRecord { step, eval_loss: None, eval_perplexity: None, scores: BTreeMap::new() };
        let mut shown = BTreeMap::new();
        if let Some(data) = &setup.eval_data {
            let (model, mask) = (self.learner.model(), setup.document_mask);
            let eval_loss = evaluation::mean_loss(model, data, setup.microbatch, mask, context, &self.ranks)?;
            if !eval_loss.is_finite() {
                return Err(StageError::fail(
                    "train::not_finite",
                    format!("the loss on eval_data after step {step} is {eval_loss}"),
                )
                .hint(self.after_not_finite()));
            }
            record.eval_loss = Some(eval_loss);
            record.eval_perplexity = Some(eval_loss.exp()).filter(|perplexity| perplexity.is_finite());
            shown.insert("eval_loss".to_owned(), eval_loss);
        }
        if let Some(SharedScorer(scorer)) = setup.scorer.as_ref().filter(|_| self.ranks.is_first()) {
            let place = tempfile::tempdir().map_err(|e| StageError::io(&std::env::temp_dir(), e))?;
            let parameters = self.settled_state()?.learner.parameters;
            olmo_model::save_native(place.path(), &setup.config, &parameters).map_err(model_failure)?;
            setup.record.write(place.path())?;
            record.scores = scorer.score(place.path(), context)?;
            shown.extend(record.scores.iter().map(|(name, score)| (name.clone(), score.value)));
        }
        self.pace.evaluation += since.elapsed();
        self.metrics.push_eval(&record)?;
        let text: Vec<String> = shown.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        context.message(format!("step {step}: {}", text.join(", ")));
        context.metrics(step, shown);
        Ok(())
    }

    /// Whether this rank writes checkpoints, or parts of them.
    fn is_writer(&self) -> bool {
        self.is_shared || self.ranks.is_first()
    }

    /// The current state, to be written to the folder `to`.
    fn writing(&mut self, to: PathBuf) -> Result<Writing, StageError> {
        let (setup, state) = (self.setup, self.settled_state()?);
        let (config, record, trainer) = (setup.config.clone(), setup.record.clone(), self.trainer());
        Ok(Writing { to, config, record, state, trainer, is_first: self.ranks.is_first() })
    }

    fn trainer(&self) -> Trainer {
        trainer(self.setup, &self.positions, self.step, self.learner.optimizer_steps())
    }

    /// Runs one step. A stop between two of its micro-batches leaves the state unchanged.
    fn step(&mut self, context: &mut Context) -> Result<(), StageError> {
        let number = self.step + 1;
        let batch = self.prefetch.next()?.ok_or_else(|| {
            StageError::fail("train::data", format!("the thread that reads the data ended before step {number}"))
        })?;
        let mut labels = [batch.own_labels() as f64];
        self.ranks.sum(&mut labels)?;
        let labels = labels[0] as u64;
        let lr = self.setup.schedule.at(number);
        let max_grad_norm = self.setup.schedule.max_grad_norm_at(number);
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
            let learned = self.learn(&batch, labels, (lr, max_grad_norm), context)?;
            if !learned.is_finite() {
                return Err(self.not_finite(number, &batch, learned)?);
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
        self.show(&record, context)
    }

    /// Trains on this rank's micro-batches of `batch`, which has `labels` labels on all ranks, with a
    /// learning rate and perhaps a maximum norm of the gradients. Changes nothing if a number is not
    /// finite.
    fn learn(
        &mut self,
        batch: &StepBatch,
        labels: u64,
        (lr, max_grad_norm): (f64, Option<f64>),
        context: &Context,
    ) -> Result<Step, StageError> {
        self.ranks.take_waited();
        let since = Instant::now();
        let mut computed = 0;
        self.learner.begin(StepSize { labels, tokens: batch.tokens() }, self.parts.positions());
        for part in self.parts.own() {
            if batch.labels(part) == 0 {
                self.learner.skip();
                continue;
            }
            // Several ranks stop together, between two steps.
            if self.ranks.size() == 1 {
                context.check_stop()?;
            }
            self.learner.accumulate(&batch.part(part))?;
            computed += 1;
        }
        let step = self.learner.finish(lr, max_grad_norm)?;
        let exchanged = self.ranks.take_waited();
        self.report.add(computed, since.elapsed().saturating_sub(exchanged), exchanged);
        if let Some(waited) = step.waited {
            *self.pace.gpu.get_or_insert_default() += waited;
        }
        Ok(step)
    }

    /// The error for step `step`, whose loss or gradients are not finite. It names the batch and
    /// the first bad number. All ranks call this together.
    fn not_finite(&self, step: u64, batch: &StepBatch, learned: Step) -> Result<StageError, StageError> {
        let bad = learned.bad.map(|index| self.parts.own()[index].clone());
        let of_ranks = self.ranks.gather(&self.first_bad(batch, bad).unwrap_or_default())?;
        // The batch has no digest on some ranks, whose message is not shown.
        let (digest, first_bad) = (batch.digest.get(..12).unwrap_or_default(), first_of(&of_ranks));
        let (loss, grad_norm) = (learned.loss + learned.z_loss, learned.grad_norm);
        let rows: Vec<String> = batch.rows.iter().take(8).map(u32::to_string).collect();
        let more = if batch.rows.len() > rows.len() { ", …" } else { "" };
        let what = format!(
            "step {step}: the loss is {loss} and the gradient norm {grad_norm}; the weights are unchanged. First bad: {first_bad}. Batch {digest} with the rows {}{more}",
            rows.join(", ")
        );
        Ok(StageError::fail("train::not_finite", what).hint(self.after_not_finite()))
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
        if !self.is_writer() {
            return Ok(());
        }
        let to = checkpoint::interrupted_folder(context, self.step)?;
        if self.ranks.is_first() {
            checkpoint::make_room(&to)?;
        }
        checkpoint::save_now(&self.writing(to)?, self.is_shared, &self.ranks)?;
        if self.ranks.is_first() { checkpoint::remove_older(context, self.step) } else { Ok(()) }
    }

    fn check_finite(&self, state: &LearnerState) -> Result<(), StageError> {
        let (weights, shard) = (state.parameters.flat(), &state.shard);
        let arrays = [
            (weights, 0, "the weight"),
            (&state.exp_avg, shard.start, "the first moment of"),
            (&state.exp_avg_sq, shard.start, "the second moment of"),
        ];
        // The sum over an array is finite only if every element is, and it uses all threads.
        let Some((array, start, what)) = arrays.into_iter().find(|(array, ..)| !global_norm(array).is_finite()) else {
            return Ok(());
        };
        let mut whole = vec![0.0; weights.len()];
        whole[start..start + array.len()].copy_from_slice(array);
        let name = self.learner.model().first_tensor_not_finite(&whole).unwrap_or("a tensor");
        let text = format!("after step {}: {what} `{name}` is not finite; this state is not saved", self.step);
        Err(StageError::fail("train::not_finite", text).hint(self.after_not_finite()))
    }

    /// Finds the first number that is not finite, in computation order. Recomputes only the
    /// micro-batch `bad`, on the host, where a whole batch for a GPU could take hours.
    fn first_bad(&self, batch: &StepBatch, bad: Option<Range<usize>>) -> Option<String> {
        let options = LossOptions { denominator: 1.0, z_loss: self.setup.objective.z_loss };
        if let Some(rows) = bad
            && let Ok(Some(found)) = self.learner.model().first_not_finite(&batch.part(&rows), &options)
        {
            return Some(found);
        }
        self.learner
            .model()
            .first_tensor_not_finite(&self.learner.gradients())
            .map(|name| format!("the gradient of `{name}`"))
    }

    /// Shows the metrics of a step, every `console_log_interval` steps.
    fn show(&mut self, record: &StepRecord, context: &mut Context) -> Result<(), StageError> {
        self.pace.steps += 1;
        let last = record.step == self.setup.max_steps;
        if !last && !record.step.is_multiple_of(self.setup.console_log_interval) {
            return Ok(());
        }
        let seconds = self.pace.since.elapsed().as_secs_f64().max(1e-9);
        let waited = self.prefetch.take_waited().as_secs_f64();
        let speed = (self.pace.steps * self.positions.tokens_per_step()) as f64 / seconds;
        let of_ranks = self.report.collect(&self.ranks)?;
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
            "ranks": of_ranks,
        }));
        self.pace = Pace::new();
        let mut values = BTreeMap::from([("lr".to_owned(), record.lr), ("tokens_per_second".to_owned(), speed)]);
        values.extend(record.loss.map(|loss| ("loss".to_owned(), loss)));
        values.extend(record.grad_norm.map(|norm| ("grad_norm".to_owned(), norm)));
        context.metrics(record.step, values);
        // The metrics are shown next to the progress bar.
        context.progress(record.step, self.setup.max_steps, "step", String::new());
        Ok(())
    }

    /// Maximum number of buffers for gradients on this rank.
    fn gradient_buffers(&self) -> usize {
        memory::gradient_buffers(self.parts.count(), self.ranks.size(), self.setup.reduce)
    }

    /// Writes the outputs.
    fn finish(self, state: &State, context: &mut Context) -> Result<(), StageError> {
        let model = context.output("model")?;
        olmo_model::save_native(&model, &self.setup.config, &state.learner.parameters).map_err(model_failure)?;
        self.setup.record.write(&model)?;
        self.metrics.write(&context.output("metrics")?)?;
        if let Some(peak) = memory::peak() {
            let numbers = (state.learner.parameters.len() * size_of::<f32>()) as u64;
            let gradients = numbers * self.gradient_buffers() as u64;
            let moments = (2 * state.learner.shard.len() * size_of::<f32>()) as u64;
            let rest = peak.saturating_sub(numbers + moments + gradients);
            let [weights, gradients, moments, rest] = [numbers, gradients, moments, rest].map(bytes);
            let whose = if self.ranks.size() > 1 { "memory of rank 0" } else { "memory" };
            context.message(format!(
                "{whose}: {} at peak: {weights} for weights, {gradients} for gradients, {moments} for moments, {rest} for activations, checkpoints being saved, data and program",
                bytes(peak)
            ));
        }
        if let Some(what) = self.report.summary() {
            context.message(what);
        }
        for what in self.learner.slowdown().into_iter().chain(self.report.straggler()) {
            context.warning(what);
        }
        let Origin { step, updates } = self.setup.origin;
        let steps = state.step - step;
        let skipped = steps - (state.learner.optimizer_steps - updates);
        if skipped > 0 {
            context.warning(format!("{skipped} of {steps} steps had no labels and changed nothing"));
        }
        Ok(())
    }
}

/// The first of the `texts` of all ranks that says what is not finite.
fn first_of(texts: &[String]) -> &str {
    // A rank with a bad micro-batch says more than those that only see the sum.
    let is_of_sum = |text: &&String| text.starts_with("the gradient of");
    let texts = || texts.iter().filter(|text| !text.is_empty());
    let found = texts().find(|text| !is_of_sum(text)).or_else(|| texts().next());
    found.map_or("the sum of finite parts", String::as_str)
}
