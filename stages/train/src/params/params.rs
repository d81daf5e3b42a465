//! Params of stage `train`. They use OLMo's names; [`Params::check`] covers what types cannot
//! express.

use olmo_model::{ActivationCheckpointing, ModelParams, RopeScaling};
use olmo_stage::compute::Device;
use olmo_stage::compute_params::ComputeParams;
use olmo_stage::rules::Finding;
use olmo_train::{LossNorm, Reduce, Schedule, SchedulerName, SchedulerUnits, Strategy};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::duration::{Duration, Interval};

/// Trains a language model with AdamW. A param with OLMo's name has OLMo's meaning and, if it has a
/// default, OLMo's default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Seed for new weights and, together with the epoch, for the order of the data.
    #[serde(default = "default::seed")]
    pub seed: u64,
    /// Architecture of a new model, as in the `model` section of an OLMo config. A field that is
    /// left out has the preset's value; without a preset, it has the default below, which is
    /// OLMo's. `d_model`, `n_heads`, `n_layers`, `mlp_hidden_size` and `embedding_size` have no
    /// default. Leave out `model` if the stage starts from existing weights (`init`).
    #[serde(default)]
    #[schemars(with = "ModelParams", extend("type" = ["object", "null"]))]
    pub model: Option<ModelParams>,
    /// Also takes the optimizer's state from `init` (OLMo-core's name; OLMo's
    /// `reset_optimizer_state: false`), which must be a checkpoint of OLMo with `optim.pt` or a step of
    /// OLMo-core. Otherwise only its weights are used, with a new optimizer.
    #[serde(default)]
    pub load_optim_state: bool,
    /// Also takes the step and the position in the data from `init` (OLMo-core's name; OLMo's
    /// `reset_trainer_state: false`). Data, batch size and seed must be those of that run, and
    /// `max_duration` counts from its first step.
    #[serde(default)]
    pub load_trainer_state: bool,
    /// Changes the config of the weights in `init` for longer sequences; null: it stays as it is.
    #[serde(default)]
    pub context_extension: Option<ContextExtension>,
    /// Exact training length, in steps (`300steps`), epochs (`2ep`) or tokens (`1000000T`).
    #[schemars(regex(pattern = r"^([1-9][0-9]*(steps|ep|T)|[0-9]+(\.[0-9]+)?e[0-9]+T)$"))]
    pub max_duration: String,
    /// Batch size of an optimizer step in rows (OLMo's name). Set either this or
    /// `global_batch_size`.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub global_train_batch_size: Option<usize>,
    /// Batch size of an optimizer step in tokens, padding included (OLMo-core's name). It is
    /// rounded down to whole rows: at least one row, and at most an eighth of the data, so that a
    /// small dataset still gives eight steps per epoch.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub global_batch_size: Option<u64>,
    /// Rows per forward and backward pass. More rows need more memory; null: as many as fit in
    /// memory. The result is the same up to rounding.
    #[serde(default = "default::microbatch")]
    #[schemars(range(min = 1), extend("x-key" = false))]
    pub device_train_microbatch_size: Option<usize>,
    #[serde(flatten)]
    pub compute: ComputeParams,
    /// How several ranks (`resources: {ranks: N}`, or one per GPU) sum their gradients. `exact`: in
    /// the order of a fixed tree over the micro-batches, so the result has the bits of a single rank
    /// (CPU only). `fast`: with less to exchange; the result is the same up to rounding, and its bits
    /// depend on the number of ranks. `auto`: exact on CPUs, fast on GPUs.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["auto", "exact", "fast"], "default" = "auto", "x-key" = false))]
    pub reduce: ReduceParam,
    /// What each of several ranks holds. `ddp`: everything. `zero1`: of the optimizer's two moments, an
    /// equal part (CPU only); it sends as much as `ddp`. The result is the same to the bit. `auto`:
    /// `ddp`.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["auto", "ddp", "zero1"], "default" = "auto", "x-key" = false))]
    pub distributed_strategy: StrategyParam,
    /// Which blocks recompute their activations in the backward pass instead of keeping them
    /// (OLMo's names). Saves memory and costs time (`whole_layer`: about a third); the result is
    /// bit-identical.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["none", "fine_grained", "whole_layer", "one_in_two", "one_in_three", "one_in_four",
        "one_in_eight", "two_in_three", "three_in_four"], "default" = "none", "x-key" = false))]
    pub activation_checkpointing: ActivationCheckpointing,
    /// Restricts attention to each token's own document in rows that hold several documents. If
    /// false, a token attends to every earlier token in its row.
    #[serde(default)]
    pub document_mask: bool,
    /// Settings of AdamW.
    #[serde(default)]
    pub optimizer: OptimizerParams,
    /// Learning-rate schedule.
    #[serde(default)]
    pub scheduler: SchedulerParams,
    /// Gradients with a larger norm are scaled down to this norm; null: no clipping.
    #[serde(default)]
    pub max_grad_norm: Option<f64>,
    /// Divisor of a step's loss: `labels`, the number of labelled tokens in the global batch;
    /// `olmo`, the number of all its tokens (as in OLMo, which weakens steps with few labels).
    #[serde(default)]
    pub loss_norm: LossNorm,
    /// Weight of the z-loss, the squared log of the softmax denominator (OLMo's
    /// `auxiliary_loss_multiplier`); 0 turns it off.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub z_loss: f64,
    /// How often to save a checkpoint: every N steps, or an interval such as `1ep` or `500000T`.
    /// One is always saved after the last step; null: only that one.
    #[serde(default = "default::save_interval")]
    pub save_interval: Option<Interval>,
    /// How often to measure the loss on `eval_data`: every N steps, or an interval such as `1ep` or
    /// `500000T`. It is always measured after the last step; null: only then.
    #[serde(default = "default::eval_interval")]
    pub eval_interval: Option<Interval>,
    /// With `requests`, scores only the first N of each task at each evaluation; null: all.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub eval_limit: Option<usize>,
    /// Ends the training after an evaluation if a score no longer improves; null: never.
    #[serde(default)]
    #[schemars(with = "EarlyStoppingParams", extend("type" = ["object", "null"]))]
    pub early_stopping: Option<EarlyStoppingParams>,
    /// Also measures the loss on `eval_data` before the first step, as step 0.
    #[serde(default)]
    pub eval_on_startup: bool,
    /// Prints metrics every N steps. The metrics files contain every step regardless.
    #[serde(default = "default::console_log_interval")]
    #[schemars(range(min = 1), extend("x-key" = false))]
    pub console_log_interval: u64,
}

/// When a training ends before its last step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct EarlyStoppingParams {
    /// The score to maximise: `tasks.NAME`, the primary metric of a task in `requests`, or another
    /// one of its metrics, `tasks.NAME.metrics.METRIC.value`.
    #[serde(default)]
    pub max: Option<String>,
    /// The score to minimise: `eval_loss`, or one of a task.
    #[serde(default)]
    pub min: Option<String>,
    /// Number of evaluations in a row without an improvement after which training ends.
    #[serde(default = "default::patience")]
    #[schemars(range(min = 1))]
    pub patience: u64,
    /// An improvement is larger than this.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub min_delta: f64,
    /// An improvement is larger than this number of the score's standard errors, too.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub errors: f64,
}

/// Longer sequences than those that the initial weights were trained with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextExtension {
    /// Maximum sequence length in tokens.
    #[schemars(range(min = 1))]
    pub max_sequence_length: usize,
    /// Base of the rotary position embeddings; null: that of the weights.
    #[serde(default)]
    pub rope_theta: Option<f64>,
    /// YaRN, in blocks with full attention; null: that of the weights, if they have any.
    #[serde(default)]
    #[schemars(with = "RopeScaling", extend("type" = ["object", "null"]))]
    pub rope_scaling: Option<RopeScaling>,
}

/// Param `distributed_strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrategyParam {
    #[default]
    Auto,
    Ddp,
    Zero1,
}

impl StrategyParam {
    /// What each rank holds.
    pub(crate) fn resolve(self) -> Strategy {
        match self {
            Self::Auto | Self::Ddp => Strategy::Ddp,
            Self::Zero1 => Strategy::Zero1,
        }
    }
}

/// Param `reduce`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReduceParam {
    #[default]
    Auto,
    Exact,
    Fast,
}

impl ReduceParam {
    /// How a run that computes on `device` sums gradients.
    pub(crate) fn resolve(self, device: Device) -> Reduce {
        match (self, device) {
            (Self::Exact, _) | (Self::Auto, Device::Cpu) => Reduce::Exact,
            (Self::Fast, _) | (Self::Auto, Device::Cuda) => Reduce::Fast,
        }
    }
}

/// Settings of AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerParams {
    /// Peak learning rate, reached at the end of the warm-up.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Decoupled weight decay, always applied to projection matrices.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Decay rates of the running averages of the gradients and of their squares.
    pub betas: [f64; 2],
    /// Added to the denominator for numerical stability.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eps: f64,
    /// Applies weight decay to norms too.
    pub decay_norm_and_bias: bool,
    /// Applies weight decay to the embedding too.
    pub decay_embeddings: bool,
}

/// OLMo's defaults.
impl Default for OptimizerParams {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            weight_decay: 0.01,
            betas: [0.9, 0.95],
            eps: 1e-5,
            decay_norm_and_bias: false,
            decay_embeddings: false,
        }
    }
}

/// Minimum number of steps per epoch if the batch size is given in tokens.
pub(crate) const STEPS_PER_EPOCH: u64 = 8;

/// Default number of warm-up steps.
const DEFAULT_WARMUP: u64 = 100;

/// Learning-rate schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerParams {
    /// Shape after the warm-up: a cosine, a linear decay, or their product (`cosine_linear_envelope`),
    /// each to `alpha_f`; the inverse square root; the larger one of it and the cosine
    /// (`max_scheduler`); constant, with or without a warm-up; and OLMo-core's `wsd` and
    /// `cos_with_warmup_and_linear_decay`, which end with a linear decay to `decay_min_lr`.
    #[schemars(with = "String", extend("enum" = ["cosine_with_warmup", "linear_with_warmup", "inverse_sqrt_with_warmup",
        "max_scheduler", "constant", "cosine_linear_envelope", "constant_with_warmup", "wsd", "cos_with_warmup_and_linear_decay"]))]
    pub name: SchedulerName,
    /// Unit of the lengths below, apart from fractions: steps or tokens.
    #[schemars(with = "String", extend("enum" = ["steps", "tokens"]))]
    pub units: SchedulerUnits,
    /// Length of the warm-up.
    #[serde(deserialize_with = "whole")]
    pub t_warmup: u64,
    /// Where the decay ends; null: at the end of the run.
    #[serde(deserialize_with = "optional_whole")]
    pub t_max: Option<u64>,
    /// Warm-up as a fraction of the length up to `t_max`, in place of `t_warmup`.
    #[schemars(range(min = 0, max = 1))]
    pub warmup_fraction: Option<f64>,
    /// Final learning rate as a fraction of the peak.
    #[schemars(range(min = 0, max = 1))]
    pub alpha_f: f64,
    /// Learning rate at the start of the warm-up; null: a tenth of the peak.
    pub warmup_min_lr: Option<f64>,
    /// Length of the linear decay at the end; null: `decay_fraction`.
    #[serde(deserialize_with = "optional_whole")]
    pub decay: Option<u64>,
    /// Length of the linear decay at the end as a fraction of the length up to `t_max`.
    #[schemars(range(min = 0, max = 1))]
    pub decay_fraction: f64,
    /// Learning rate at the end of the linear decay.
    #[schemars(range(min = 0))]
    pub decay_min_lr: f64,
    /// Until then, gradients are clipped to `grad_clip_warmup_factor` times `max_grad_norm`. As in
    /// OLMo, that begins with the second step.
    #[serde(deserialize_with = "optional_whole")]
    pub grad_clip_warmup_steps: Option<u64>,
    /// See `grad_clip_warmup_steps`.
    pub grad_clip_warmup_factor: Option<f64>,
    /// With `load_trainer_state` and a new optimizer, raises the learning rate from 0 to that of the
    /// schedule in `t_warmup` steps (always steps), as OLMo does with `reset_optimizer_state`.
    pub bolt_on_warmup: bool,
}

/// Reads a whole number, which may be written like 5e9.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    optional_whole(deserializer)?.ok_or_else(|| serde::de::Error::custom("expected a whole number, not null"))
}

/// As [`whole`]; null is allowed.
fn optional_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a whole number, at least 0")]
    enum Written {
        Whole(u64),
        Float(f64),
    }
    // Floats are exact up to 2^53.
    match Option::<Written>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Written::Whole(number)) => Ok(Some(number)),
        Some(Written::Float(number)) if number.fract() == 0.0 && (0.0..=(1u64 << 53) as f64).contains(&number) => {
            Ok(Some(number as u64))
        }
        Some(Written::Float(number)) => {
            Err(serde::de::Error::custom(format!("expected a whole number, at least 0, not {number}")))
        }
    }
}

/// OLMo's defaults.
impl Default for SchedulerParams {
    fn default() -> Self {
        Self {
            name: SchedulerName::CosineWithWarmup,
            units: SchedulerUnits::Steps,
            t_warmup: DEFAULT_WARMUP,
            t_max: None,
            warmup_fraction: None,
            alpha_f: 0.1,
            warmup_min_lr: None,
            decay: None,
            decay_fraction: 0.1,
            decay_min_lr: 0.0,
            grad_clip_warmup_steps: None,
            grad_clip_warmup_factor: None,
            bolt_on_warmup: false,
        }
    }
}

/// OLMo's defaults, and ours for what OLMo does not have.
mod default {
    use crate::params::Interval;

    pub(super) fn seed() -> u64 {
        6198
    }
    pub(super) fn microbatch() -> Option<usize> {
        Some(16)
    }
    pub(super) fn save_interval() -> Option<Interval> {
        Some(Interval::steps(1000))
    }
    pub(super) fn eval_interval() -> Option<Interval> {
        Some(Interval::steps(1000))
    }
    pub(super) fn patience() -> u64 {
        3
    }
    pub(super) fn console_log_interval() -> u64 {
        1
    }
}

impl Params {
    /// Checks what types cannot express. Returns every problem, at its param.
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Err(error) = self.max_duration.parse::<Duration>() {
            let problem = format!("`max_duration`: {error}");
            findings.push(Finding::error("train::max_duration", "max_duration", problem));
        }
        let OptimizerParams { learning_rate: lr, weight_decay, betas, eps, .. } = self.optimizer;
        let SchedulerParams { t_warmup, warmup_fraction, alpha_f, warmup_min_lr, .. } = self.scheduler;
        let SchedulerParams { name, decay, decay_fraction, decay_min_lr, bolt_on_warmup, .. } = self.scheduler;
        let clip_warmup = (self.scheduler.grad_clip_warmup_steps, self.scheduler.grad_clip_warmup_factor);
        let inverse_sqrt = matches!(name, SchedulerName::InverseSqrtWithWarmup | SchedulerName::MaxScheduler);
        let (rows, tokens) = (self.global_train_batch_size, self.global_batch_size);
        let microbatch = self.device_train_microbatch_size;
        let is_fraction = |number: f64| (0.0..=1.0).contains(&number);
        let is_rate = |number: &f64| (0.0..1.0).contains(number);
        let is_positive = |number: f64| number.is_finite() && number > 0.0;
        let is_not_negative = |number: f64| number.is_finite() && number >= 0.0;
        // Whether each rule holds, its param, and the rest of the message after the param's name.
        let rules = [
            (rows != Some(0), "global_train_batch_size", "must be at least 1"),
            (tokens != Some(0), "global_batch_size", "must be at least 1"),
            (
                rows.is_some() || tokens.is_some(),
                "",
                "set the batch size: `global_batch_size` (tokens) or `global_train_batch_size` (rows)",
            ),
            (
                rows.is_none() || tokens.is_none(),
                "global_batch_size",
                "and `global_train_batch_size` are both set: remove one of them",
            ),
            (microbatch != Some(0), "device_train_microbatch_size", "must be at least 1, or null"),
            (
                lr > 0.0 && (lr as f32).is_finite(),
                "optimizer.learning_rate",
                "must be greater than 0 and finite as an f32",
            ),
            (is_not_negative(weight_decay), "optimizer.weight_decay", "must be at least 0"),
            (betas.iter().all(is_rate), "optimizer.betas", "must both be at least 0 and below 1"),
            (is_positive(eps), "optimizer.eps", "must be greater than 0"),
            (is_fraction(alpha_f), "scheduler.alpha_f", "must be between 0 and 1"),
            (
                warmup_min_lr.is_none_or(|least| (0.0..lr).contains(&least)),
                "scheduler.warmup_min_lr",
                "must be at least 0 and below `optimizer.learning_rate`",
            ),
            (self.max_grad_norm.is_none_or(is_positive), "max_grad_norm", "must be greater than 0, or null"),
            (is_not_negative(self.z_loss), "z_loss", "must be at least 0"),
            (warmup_fraction.is_none_or(is_fraction), "scheduler.warmup_fraction", "must be between 0 and 1"),
            (
                warmup_fraction.is_none() || t_warmup == DEFAULT_WARMUP,
                "scheduler.warmup_fraction",
                "and `scheduler.t_warmup` are both set: remove one of them",
            ),
            (
                !inverse_sqrt || t_warmup > 0 || warmup_fraction.is_some(),
                "scheduler.t_warmup",
                "must be at least 1: the inverse square root begins at the end of the warm-up",
            ),
            (
                decay.is_none() && decay_fraction == 0.1 && decay_min_lr == 0.0 || name.has_decay(),
                "scheduler.name",
                "has no linear decay at the end (`decay`, `decay_fraction`, `decay_min_lr`): use `wsd` or \
                 `cos_with_warmup_and_linear_decay`",
            ),
            (
                decay.is_none() || decay_fraction == 0.1,
                "scheduler.decay",
                "and `scheduler.decay_fraction` are both set: remove one of them",
            ),
            (is_fraction(decay_fraction), "scheduler.decay_fraction", "must be between 0 and 1"),
            (
                (0.0..lr).contains(&decay_min_lr),
                "scheduler.decay_min_lr",
                "must be at least 0 and below `optimizer.learning_rate`",
            ),
            (
                clip_warmup.0.is_some() == clip_warmup.1.is_some(),
                "scheduler.grad_clip_warmup_steps",
                "and `scheduler.grad_clip_warmup_factor` belong together: set both or neither",
            ),
            (clip_warmup.1.is_none_or(is_positive), "scheduler.grad_clip_warmup_factor", "must be greater than 0"),
            (
                clip_warmup.0.is_none() || self.max_grad_norm.is_some(),
                "scheduler.grad_clip_warmup_steps",
                "needs `max_grad_norm`",
            ),
            (
                !bolt_on_warmup || (self.load_trainer_state && !self.load_optim_state && t_warmup > 0),
                "scheduler.bolt_on_warmup",
                "needs `load_trainer_state: true`, a new optimizer (`load_optim_state: false`) and `t_warmup`",
            ),
            (self.console_log_interval > 0, "console_log_interval", "must be at least 1"),
        ];
        let broken = rules.into_iter().filter(|(holds, ..)| !holds);
        findings.extend(broken.map(|(_, param, what)| {
            let problem = if param.is_empty() { what.to_owned() } else { format!("`{param}` {what}") };
            Finding::error("train::params", param, problem)
        }));
        findings
    }

    /// Rows of one optimizer step, for data of `instances` rows of `sequence_length` tokens.
    pub fn batch_rows(&self, instances: u64, sequence_length: u64) -> usize {
        match (self.global_train_batch_size, self.global_batch_size) {
            (Some(rows), _) => rows,
            (None, Some(tokens)) => (tokens / sequence_length.max(1)).min(instances / STEPS_PER_EPOCH).max(1) as usize,
            (None, None) => 1,
        }
    }

    /// The learning rate over `max_steps` steps of `tokens_per_step` tokens. Fractions are rounded to
    /// the nearest unit, and halves to even, as in OLMo-core (`optim/scheduler.py`). In tokens, the run
    /// ends where `max_duration` says if that is in tokens, as in OLMo, and otherwise with its last
    /// step.
    pub fn schedule(&self, max_steps: u64, tokens_per_step: u64) -> Schedule {
        let (lr, scheduler) = (self.optimizer.learning_rate, &self.scheduler);
        let per_step = match scheduler.units {
            SchedulerUnits::Steps => 1,
            SchedulerUnits::Tokens => tokens_per_step,
        };
        let end = match (scheduler.units, self.max_duration.parse()) {
            (SchedulerUnits::Tokens, Ok(Duration::Tokens(tokens))) => tokens,
            _ => max_steps.saturating_mul(per_step),
        };
        let t_max = scheduler.t_max.unwrap_or(end);
        let part = |fraction: f64| (fraction * t_max as f64).round_ties_even() as u64;
        Schedule {
            name: scheduler.name,
            learning_rate: lr,
            per_step,
            warmup: scheduler.warmup_fraction.map_or(scheduler.t_warmup, part),
            t_max,
            alpha_f: scheduler.alpha_f,
            warmup_min_lr: scheduler.warmup_min_lr.unwrap_or(0.1 * lr),
            decay: scheduler.decay.unwrap_or_else(|| part(scheduler.decay_fraction)),
            decay_min_lr: scheduler.decay_min_lr,
            max_grad_norm: self.max_grad_norm,
            grad_clip_warmup: scheduler.grad_clip_warmup_steps.zip(scheduler.grad_clip_warmup_factor),
            bolt_on: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn least() -> Value {
        json!({"max_duration": "2ep", "global_train_batch_size": 4})
    }

    #[test]
    fn the_least_that_must_be_said_is_enough_and_passes_the_check() {
        let params: Params = serde_json::from_value(least()).unwrap();
        assert_eq!((params.seed, params.max_grad_norm, params.device_train_microbatch_size), (6198, None, Some(16)));
        assert_eq!(params.scheduler, SchedulerParams::default());
        assert_eq!(params.optimizer, OptimizerParams::default());
        assert_eq!(params.loss_norm, LossNorm::Labels);
        assert_eq!(params.check(), []);
    }

    #[test]
    fn unknown_names_are_refused_at_every_level() {
        for (at, key) in [("", "learning_rate"), ("/optimizer", "lr"), ("/scheduler", "unit"), ("/model", "vocab_size")]
        {
            let mut value = least();
            value["scheduler"] = json!({});
            value["optimizer"] = json!({});
            value["model"] = json!({"preset": "olmo2-14M"});
            assert!(serde_json::from_value::<Params>(value.clone()).is_ok());
            value.pointer_mut(at).unwrap()[key] = json!(1);
            let message = serde_json::from_value::<Params>(value).unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let mut params: Params = serde_json::from_value(least()).unwrap();
        params.optimizer.betas = [0.9, 1.0];
        params.scheduler.warmup_min_lr = Some(1.0);
        params.max_grad_norm = Some(0.0);
        let findings = params.check();
        let names = ["optimizer.betas", "scheduler.warmup_min_lr", "max_grad_norm"];
        assert_eq!(findings.iter().map(|finding| finding.param.as_str()).collect::<Vec<_>>(), names);
        for (finding, name) in findings.iter().zip(names) {
            assert!(finding.code == "train::params" && finding.message.contains(name), "{finding:?}");
        }
    }

    #[test]
    fn a_step_has_one_size_in_rows_or_in_tokens() {
        let with = |rows: Value, tokens: Value| {
            let mut value = least();
            value["global_train_batch_size"] = rows;
            value["global_batch_size"] = tokens;
            serde_json::from_value::<Params>(value).unwrap()
        };
        assert!(with(json!(4), json!(4096)).check().len() == 1);
        assert!(with(Value::Null, Value::Null).check().len() == 1);
        assert_eq!(with(json!(4), Value::Null).batch_rows(2, 128), 4, "too few rows are an error elsewhere");
        let tokens = with(Value::Null, json!(4096));
        assert_eq!(tokens.check(), []);
        assert_eq!(tokens.batch_rows(100, 1000), 4);
        assert_eq!(tokens.batch_rows(100, 5000), 1);
        assert_eq!(tokens.batch_rows(24, 1000), 3);
        assert_eq!(tokens.batch_rows(3, 1000), 1);
    }

    #[test]
    fn a_fraction_of_warm_up_is_that_of_olmo_core() {
        let warmup = |fraction: f64, steps: u64| {
            let mut params: Params = serde_json::from_value(least()).unwrap();
            params.scheduler.warmup_fraction = Some(fraction);
            assert_eq!(params.check(), []);
            params.schedule(steps, 1).warmup
        };
        // round(steps * fraction) in Python.
        assert_eq!([warmup(0.03, 10), warmup(0.03, 20), warmup(0.03, 1000), warmup(0.5, 5)], [0, 1, 30, 2]);
        let mut both: Params = serde_json::from_value(least()).unwrap();
        both.scheduler = SchedulerParams { warmup_fraction: Some(0.1), t_warmup: 5, ..SchedulerParams::default() };
        assert!(both.check().len() == 1);
    }

    #[test]
    fn the_words_of_the_schema_are_those_that_are_read() {
        let params = schemars::schema_for!(Params).to_value();
        let policies = params["properties"]["activation_checkpointing"]["enum"].as_array().unwrap().clone();
        assert_eq!(policies.len(), ActivationCheckpointing::ALL.len());
        for word in policies {
            assert!(serde_json::from_value::<ActivationCheckpointing>(word).is_ok());
        }
    }
}
