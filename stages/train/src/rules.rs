//! Checks before training: of the params alone, and with the data and weights that already exist.

use olmo_base::units::bytes;
use olmo_data::Manifest;
use olmo_model::{Computes, ModelConfig};
use olmo_stage::StageError;
use olmo_stage::rules::{Finding, Question};
use olmo_train::learner::computes;
use olmo_train::memory::{self, Need};

use crate::params::{Duration, Interval};
use crate::params::{Params, Precision, Vocabulary};
use crate::setup::{check_eval_data, check_length, check_vocabulary};

/// Bytes per weight in a checkpoint: the weight and its two moments, each f32.
const KEPT_PER_WEIGHT: u64 = 12;

/// Every rule that `params` and the known inputs break.
pub(crate) fn check(params: &Params, question: &Question) -> Vec<Finding> {
    let mut findings = of_params(params);
    let data = manifest(question, "data");
    let steps = steps(params, data.as_ref());
    if let Some(steps) = steps {
        findings.extend(of_steps(params, question, steps));
    }
    let config = of_model(params, question, data.as_ref(), &mut findings);
    if let (Some(config), Some(free)) = (&config, question.free_bytes) {
        findings.extend(of_space(params, config, steps, free));
    }
    let computes = computes(question.compute);
    if params.precision == Precision::AmpBf16 && computes != Computes::OnGpuInBf16 {
        let what = format!(
            "amp_bf16 needs a GPU, but the backend resolved to `{}`, which computes in f32",
            question.compute.name()
        );
        findings.push(
            Finding::error("train::precision", "precision", what)
                .hint("set `precision: auto`, or give the stage a GPU (`resources: {gpus: 1}`)"),
        );
    }
    findings.extend(of_memory(params, config.as_ref(), data.as_ref(), computes));
    if let Some(data) = &data {
        findings.extend(of_data(params, question, data, config.as_ref()));
    }
    findings
}

/// The problems from [`Params::check`], each at the param its text begins with.
fn of_params(params: &Params) -> Vec<Finding> {
    let Err(StageError::Failed(failure)) = params.check() else { return Vec::new() };
    let finding = |problem: &str| {
        let param = problem.strip_prefix('`').and_then(|rest| rest.split('`').next()).unwrap_or("");
        Finding::error(&failure.code, param, problem)
    };
    failure.message.split("; ").map(finding).collect()
}

/// The number of steps, if it can be computed from what is known of the data.
fn steps(params: &Params, data: Option<&Manifest>) -> Option<u64> {
    let duration: Duration = params.max_duration.parse().ok()?;
    match (duration, data) {
        (Duration::Steps(steps), _) => Some(steps),
        (_, Some(data)) => {
            let rows = params.batch_rows(data.instances, data.sequence_length).max(1) as u64;
            duration.steps(data.instances / rows, rows * data.sequence_length)
        }
        (_, None) => None,
    }
}

fn of_steps(params: &Params, question: &Question, steps: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let warmup = params.schedule(steps).warmup;
    if warmup >= steps {
        let text = format!(
            "the warm-up has {warmup} steps but the run only {steps}: the learning rate never reaches its peak"
        );
        findings.push(
            Finding::warning(
                "train::warmup",
                if params.scheduler.warmup_fraction.is_some() {
                    "scheduler.warmup_fraction"
                } else {
                    "scheduler.t_warmup"
                },
                text,
            )
            .hint("a few per cent of `max_duration` is usual"),
        );
    }
    let eval_interval = params.eval_interval.filter(|_| question.has("eval_data"));
    let intervals = [("save_interval", params.save_interval, "saved"), ("eval_interval", eval_interval, "measured")];
    for (name, interval, what) in intervals {
        let interval = interval.and_then(Interval::fixed_steps);
        if let Some(interval) = interval.filter(|interval| *interval > steps) {
            let text = format!(
                "the interval is {interval} steps, but the run has {steps}: nothing is {what} before the last step"
            );
            findings.push(
                Finding::warning("train::interval", name, text)
                    .hint(format!("lower `{name}`, or set it to null if that is intended")),
            );
        }
    }
    findings
}

/// Checks that there is exactly one model and that it can be built. Returns its config, if known.
fn of_model(
    params: &Params,
    question: &Question,
    data: Option<&Manifest>,
    findings: &mut Vec<Finding>,
) -> Option<ModelConfig> {
    match (&params.model, question.has("init")) {
        (None, false) => {
            findings.push(
                Finding::error("train::no_model", "", "neither `model` nor the input `init` is given")
                    .hint("describe a new model in `model`, or give weights to start from in `init`"),
            );
            None
        }
        (Some(_), true) => {
            findings.push(
                Finding::error("train::two_models", "model", "both `model` and the input `init` are given")
                    .hint("remove `model`: the architecture comes with the weights"),
            );
            None
        }
        (Some(model), false) => {
            // Without the data, assume any vocabulary that fits the embedding.
            let vocabulary = data.map_or(Vocabulary { size: 1, eos_token_id: 0, pad_token_id: 0 }, vocabulary_of);
            let config = model.config(&vocabulary, data.map_or(1, |data| data.sequence_length as usize));
            let problems = config.problems();
            let sound = problems.is_empty();
            findings.extend(problems.into_iter().map(|problem| {
                let name = problem.strip_prefix('`').and_then(|rest| rest.split(['`', ' ']).next()).unwrap_or("");
                Finding::error("train::model_config", &format!("model.{name}"), problem)
            }));
            sound.then_some(config)
        }
        (None, true) => {
            let known = question.item("init")?;
            // A model in the store has no folder of its own.
            let shown = known.folder().unwrap_or_else(|| "model".into());
            match olmo_model::examine(&shown, &known.files) {
                Ok(config) => Some(config),
                Err(error) => {
                    findings.push(Finding::error(
                        "train::init",
                        "init",
                        format!("cannot use the weights in `init`: {error}"),
                    ));
                    None
                }
            }
        }
    }
}

fn of_data(params: &Params, question: &Question, data: &Manifest, config: Option<&ModelConfig>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let rows = params.batch_rows(data.instances, data.sequence_length);
    if data.instances < rows as u64 {
        let text = format!("a batch has {rows} rows, but the data has only {}", data.instances);
        findings
            .push(Finding::error("train::batch", "global_train_batch_size", text).hint("lower it, or give more data"));
    }
    if data.labels == 0 {
        findings.push(Finding::error(
            "train::no_labels",
            "",
            "no token in the data is a target: there is nothing to learn",
        ));
    }
    let eval_data = manifest(question, "eval_data");
    let mut broken: Vec<StageError> = Vec::new();
    broken.extend(eval_data.as_ref().and_then(|eval_data| check_eval_data(data, eval_data).err()));
    if let Some(config) = config {
        if params.model.is_none() {
            broken.extend(check_vocabulary(config, &vocabulary_of(data)).err());
        }
        broken
            .extend([Some(data), eval_data.as_ref()].into_iter().flatten().find_map(|m| check_length(config, m).err()));
    }
    findings.extend(broken.into_iter().filter_map(|error| match error {
        StageError::Failed(failure) | StageError::OutOfMemory(failure) => {
            let finding = Finding::error(&failure.code, "", failure.message);
            Some(Finding { hint: failure.hint, ..finding })
        }
        StageError::Interrupted => None,
    }));
    findings
}

/// Checks whether the checkpoints fit into `free` bytes.
fn of_space(params: &Params, config: &ModelConfig, steps: Option<u64>, free: u64) -> Option<Finding> {
    let one = (olmo_model::weights(config) as u64).saturating_mul(KEPT_PER_WEIGHT);
    // An interval in epochs gives few checkpoints.
    let count = match (steps, params.save_interval.and_then(Interval::fixed_steps)) {
        (Some(steps), Some(interval)) => steps.div_ceil(interval.max(1)),
        _ => 1,
    };
    let text = format!("{count} checkpoints take {} each, but the store has only {} free", bytes(one), bytes(free));
    let way_out = "free some space, or move the store with --store";
    match one.saturating_mul(count) > free {
        true if one > free => Some(Finding::error("train::space", "", text).hint(way_out)),
        true => Some(
            Finding::warning("train::space", "save_interval", text)
                .hint(format!("{way_out}, or save fewer checkpoints")),
        ),
        false => None,
    }
}

/// Estimated memory of the run, as far as model and data are known. Only a note: the run may happen
/// on another machine.
fn of_memory(
    params: &Params,
    config: Option<&ModelConfig>,
    data: Option<&Manifest>,
    computes: Computes,
) -> Option<Finding> {
    let vocabulary_is_known =
        data.is_some() || params.model.as_ref().is_none_or(|model| model.embedding_size.is_some());
    let config = config.filter(|_| vocabulary_is_known)?;
    let chosen = params.model.as_ref().map_or(Some(config.max_sequence_length), |model| model.max_sequence_length);
    let sequence = data.map(|data| data.sequence_length as usize).or(chosen)?;
    let need = Need { config, sequence, rows: rows_of(params, data, sequence), computes };
    let policy = params.activation_checkpointing;
    // Which GPU it is, and its memory, is known only when the run starts.
    let available = if computes == Computes::OnHost { memory::available() } else { None };
    let room = available.map_or(u64::MAX, memory::room);
    let rows = params.device_train_microbatch_size.unwrap_or_else(|| need.microbatch(policy, room));
    let estimate = need.estimate(policy, rows);
    let mut text = memory::describe_estimate(&estimate, rows.min(need.rows));
    if estimate.total() > room {
        text = format!("{text}; this machine has {} left", bytes(available.unwrap_or(0)));
        if let Some((change, estimate)) = need.way_out(policy, rows, room) {
            text = format!("{text}, and `{change}` would need {}", bytes(estimate.total()));
        }
    }
    Some(Finding::note("train::memory", text))
}

/// Rows per step, at least 1; without the data, the requested number.
fn rows_of(params: &Params, data: Option<&Manifest>, sequence: usize) -> usize {
    params.batch_rows(data.map_or(u64::MAX, |data| data.instances), sequence as u64).max(1)
}

/// The manifest of the memmap in `port`, if it exists and is valid; the run itself reports an
/// invalid one.
fn manifest(question: &Question, port: &str) -> Option<Manifest> {
    let text = std::fs::read(question.file(port, "manifest.json")?).ok()?;
    serde_json::from_slice(&text).ok()
}

fn vocabulary_of(data: &Manifest) -> Vocabulary {
    Vocabulary { size: data.vocab_size as usize, eos_token_id: data.eos_token_id, pad_token_id: data.pad_token_id }
}

#[cfg(test)]
mod tests {
    use olmo_stage::Compute;
    use olmo_stage::rules::{KnownInput, Level};
    use serde_json::{Value, json};

    use super::*;

    /// A question about `params`, as the engine asks it.
    fn question(params: &Value, ports: &[&str], free_bytes: Option<u64>, compute: Compute) -> Question {
        let inputs = ports.iter().map(|port| ((*port).to_owned(), KnownInput::default())).collect();
        Question { stage: "train".into(), params: params.clone(), inputs, free_bytes, compute }
    }

    fn found(change: impl FnOnce(&mut Value), ports: &[&str], free: Option<u64>) -> Vec<(Level, String, String)> {
        let mut value = json!({
            "max_duration": "50steps", "global_train_batch_size": 4, "optimizer": {"learning_rate": 1e-3},
            "scheduler": {"t_warmup": 5}, "save_interval": 10, "eval_interval": null,
            "model": {"d_model": 64, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 128}
        });
        change(&mut value);
        let question = question(&value, ports, free, Compute::FLEX);
        let params: Params = serde_json::from_value(value).unwrap();
        let wrong = |f: &Finding| f.level != Level::Note;
        check(&params, &question).into_iter().filter(wrong).map(|f| (f.level, f.code, f.param)).collect()
    }

    fn one(level: Level, code: &str, param: &str) -> Vec<(Level, String, String)> {
        vec![(level, code.to_owned(), param.to_owned())]
    }

    #[test]
    fn sound_params_are_not_complained_of() {
        assert_eq!(found(|_| {}, &["data"], Some(1 << 40)), []);
    }

    #[test]
    fn each_rule_names_its_param() {
        use Level::{Error, Warning};
        let of = |pointer: &'static str, value: Value| {
            found(move |params| *params.pointer_mut(pointer).unwrap() = value, &["data", "eval_data"], None)
        };
        assert_eq!(of("/scheduler/t_warmup", json!(50)), one(Warning, "train::warmup", "scheduler.t_warmup"));
        assert_eq!(of("/save_interval", json!(51)), one(Warning, "train::interval", "save_interval"));
        assert_eq!(of("/eval_interval", json!(51)), one(Warning, "train::interval", "eval_interval"));
        assert_eq!(of("/model/n_heads", json!(5)), one(Error, "train::model_config", "model.d_model"));
        assert_eq!(of("/model/mlp_hidden_size", json!(3)), one(Error, "train::model_config", "model.mlp_hidden_size"));
        assert_eq!(of("/model", Value::Null), one(Error, "train::no_model", ""));
        assert_eq!(found(|p| p["eval_interval"] = json!(51), &["data"], None), [], "nothing is to be measured");
        let betas = found(|p| p["optimizer"]["betas"] = json!([0.9, 1.0]), &["data"], None);
        assert_eq!(betas, one(Error, "train::params", "optimizer.betas"));
        assert_eq!(found(|_| {}, &["data", "init"], None), one(Error, "train::two_models", "model"));
        let bf16 = found(|p| p["precision"] = json!("amp_bf16"), &["data"], None);
        assert_eq!(bf16, one(Error, "train::precision", "precision"), "flex computes in f32");
    }

    #[test]
    fn a_plan_is_told_the_memory_where_model_and_length_are_known() {
        let note_on = |compute: Compute, d_model: u64, embedding: Value, length: Value| {
            let params = json!({
                "max_duration": "50steps", "global_train_batch_size": 4, "optimizer": {"learning_rate": 1e-3},
                "model": {"d_model": d_model, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 128,
                    "embedding_size": embedding, "max_sequence_length": length}
            });
            let question = question(&params, &[], None, compute);
            let found = check(&serde_json::from_value(params).unwrap(), &question);
            found.into_iter().find(|finding| finding.level == Level::Note).map(|note| note.message)
        };
        let note = |d_model, embedding, length| note_on(Compute::FLEX, d_model, embedding, length);
        let told = note(64, json!(1000), json!(256)).unwrap();
        assert!(told.starts_with("memory: about ") && told.contains("with micro-batches of 4 rows"), "{told}");
        assert_eq!(note(64, Value::Null, json!(256)), None, "the vocabulary comes with the data");
        assert_eq!(note(64, json!(1000), Value::Null), None, "the length comes with the data");
        let huge = note(1 << 16, json!(1 << 24), json!(65_536)).unwrap();
        assert!(huge.contains("this machine has"), "{huge}");
        let on_gpu = note_on(Compute::CUDA, 1 << 16, json!(1 << 24), json!(65_536)).unwrap();
        assert!(!on_gpu.contains("this machine has") && on_gpu != huge, "a GPU's need, by other rules: {on_gpu}");
    }

    #[test]
    fn checkpoints_that_do_not_fit_are_told_before_a_day_is_lost() {
        let weights = found(|_| {}, &["data"], Some(1 << 40));
        assert_eq!(weights, []);
        assert_eq!(found(|_| {}, &["data"], Some(1000)), one(Level::Error, "train::space", ""));
        // About 50 thousand weights: one checkpoint fits, five do not.
        assert_eq!(found(|_| {}, &["data"], Some(1 << 20)), one(Level::Warning, "train::space", "save_interval"));
    }
}
