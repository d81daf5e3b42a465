//! What a run takes from its initial weights: their config, perhaps with a longer context, and on
//! request the state of their optimizer and the position in the data.

use olmo_model::{Done, ModelConfig, TrainerState};
use olmo_stage::rules::Finding;
use olmo_train::Origin;

use crate::params::Params;

/// The config of the initial weights with the changes of `context_extension`.
pub(crate) fn extended(mut config: ModelConfig, params: &Params) -> ModelConfig {
    if let Some(extension) = &params.context_extension {
        config.max_sequence_length = extension.max_sequence_length;
        config.rope_theta = extension.rope_theta.unwrap_or(config.rope_theta);
        config.rope_scaling = extension.rope_scaling.or(config.rope_scaling);
    }
    config
}

/// The rules of params that need initial weights.
pub(crate) fn needs_init(params: &Params, has_init: bool) -> Vec<Finding> {
    let asked = [
        ("load_optim_state", params.load_optim_state),
        ("load_trainer_state", params.load_trainer_state),
        ("context_extension", params.context_extension.is_some()),
    ];
    let finding = |(name, _)| {
        let what = format!("`{name}` is set, but there are no initial weights");
        Finding::error("train::init", name, what).hint(format!("give weights in the input `init`, or remove `{name}`"))
    };
    asked.into_iter().filter(|(_, is_set)| *is_set && !has_init).map(finding).collect()
}

/// The rules of a run of `steps` steps, of `rows` out of `instances` rows each, that goes on where the
/// run with `state` was.
pub(crate) fn position(
    params: &Params,
    state: &TrainerState,
    instances: u64,
    rows: u64,
    steps: Option<u64>,
) -> Vec<Finding> {
    let step = state.global_step;
    let too_short = steps.filter(|steps| *steps <= step).map(|steps| {
        let what =
            format!("the run of the initial weights had done {step} steps, but this run ends after step {steps}");
        Finding::error("train::max_duration", "max_duration", what).hint(
            "raise `max_duration`, which counts from the first step of that run, or set `load_trainer_state: false`",
        )
    });
    let other_seed = state.seed.filter(|seed| *seed != params.seed).map(|seed| {
        let what =
            format!("the run of the initial weights had its rows in the order of `seed: {seed}`, not {}", params.seed);
        Finding::error("train::position", "seed", what)
            .hint(format!("set `seed: {seed}`, or `load_trainer_state: false`"))
    });
    let per_epoch = (instances / rows.max(1)).max(1);
    let of_epoch = match state.of_epoch {
        Done::Batches(batches) => batches.saturating_mul(rows),
        Done::Instances(instances) => instances,
    };
    let all = state.epoch.saturating_mul(per_epoch).saturating_mul(rows).saturating_add(of_epoch);
    let other_rows = (all != step.saturating_mul(rows)).then(|| {
        let what = format!(
            "after step {step}, the run of the initial weights was {of_epoch} rows into epoch {}, but this run would be {} \
             rows into epoch {}",
            state.epoch,
            step % per_epoch * rows,
            step / per_epoch
        );
        Finding::error("train::position", "load_trainer_state", what)
            .hint("use the data and the batch size of that run, or set `load_trainer_state: false`")
    });
    [too_short, other_seed, other_rows].into_iter().flatten().collect()
}

/// What a run takes from the weights of `init`, for its log.
pub(crate) fn describe(params: &Params, origin: Origin, before: &ModelConfig, after: &ModelConfig) -> Vec<String> {
    let optimizer = match params.load_optim_state {
        true => format!("the optimizer's state after {} updates", origin.updates),
        false => "a new optimizer".to_owned(),
    };
    let position = match params.load_trainer_state {
        true => format!("continues after step {}, at its place in the data", origin.step),
        false => "begins at step 0 and the start of the data".to_owned(),
    };
    let mut lines = vec![format!("from `init`: the weights, with {optimizer}; the run {position}")];
    if params.context_extension.is_some() {
        let scaling = |config: &ModelConfig| match &config.rope_scaling {
            Some(scaling) => format!("YaRN of factor {}", scaling.factor),
            None => "no scaling".to_owned(),
        };
        lines.push(format!(
            "from `init`, changed: max_sequence_length {} to {}, rope_theta {} to {}, {} to {}",
            before.max_sequence_length,
            after.max_sequence_length,
            before.rope_theta,
            after.rope_theta,
            scaling(before),
            scaling(after)
        ));
    }
    lines
}
