//! The rules of stage `train`.
//!
//! [`broken`] has every rule whose violation is an error. [`check`] applies it to what is known
//! before the run and adds warnings and notes; the run itself enforces it on its opened inputs.

use std::path::PathBuf;

use olmo_base::Digest;
use olmo_base::text::quoted;
use olmo_base::units::bytes;
use olmo_data::tokenizer::{Difference, PROBES};
use olmo_data::{Manifest, Probes};
use olmo_model::{Computes, ModelConfig, ModelParams, TrainerState, Vocabulary, VocabularyMismatch};
use olmo_stage::Compute;
use olmo_stage::compute::Device;
use olmo_stage::rules::{Finding, Question};
use olmo_train::data::too_few_rows;
use olmo_train::learner::computes;
use olmo_train::memory::{self, Need};
use olmo_train::{SchedulerName, SchedulerUnits};
use serde_json::Value;

use crate::inherited;
use crate::params::{Duration, Interval, Params, ReduceParam, StrategyParam};

/// Bytes per weight in a checkpoint: the weight and its two moments, each f32.
const KEPT_PER_WEIGHT: u64 = 12;

/// The inputs of a run: all of them when it starts, maybe fewer before.
pub(crate) struct Known {
    pub data: Option<Manifest>,
    pub eval_data: Option<Manifest>,
    /// Whether there are initial weights.
    pub has_init: bool,
    /// The config of the initial weights.
    pub init: Option<ModelConfig>,
    /// Where the run of the initial weights was, if this run goes on there.
    pub trainer_state: Option<TrainerState>,
    /// What the tokenizers of the data and of the initial weights make of some texts.
    pub probes: Option<(Probes, Probes)>,
    pub compute: Compute,
    pub ranks: usize,
}

/// Every rule that `params` and the inputs known before the run break.
pub(crate) fn check(params: &Params, question: &Question) -> Vec<Finding> {
    let mut findings = Vec::new();
    let init = examine(question).unwrap_or_else(|finding| {
        findings.push(*finding);
        None
    });
    let trainer_state = examine_trainer(params, question).unwrap_or_else(|finding| {
        findings.push(*finding);
        None
    });
    let data = manifest(question, "data");
    let known = Known {
        data: data.clone(),
        eval_data: manifest(question, "eval_data"),
        has_init: question.has("init"),
        init,
        trainer_state,
        probes: probes(data.as_ref(), |port, file| question.item(port)?.files.get(file).cloned()),
        compute: question.compute,
        ranks: question.ranks as usize,
    };
    let data = data.as_ref();
    let config = config(params, &known);
    findings.extend(broken(params, &known));
    let steps = steps(params, data).ok().flatten();
    if let Some(steps) = steps {
        let tokens =
            |data: &Manifest| params.batch_rows(data.instances, data.sequence_length) as u64 * data.sequence_length;
        match (params.scheduler.units, data.map(tokens)) {
            (SchedulerUnits::Tokens, None) => {}
            (_, tokens) => findings.extend(warmup(params, steps, tokens.unwrap_or(1))),
        }
        findings.extend(intervals(params, question.has("eval_data"), steps));
    }
    let config = config.filter(|config| config.problems().is_empty());
    if let (Some(config), Some(free)) = (&config, question.free_bytes) {
        findings.extend(space(params, config, steps, free));
    }
    // The model is not fetched, or the data are not made: what describes them is enough for an estimate.
    let described = if known.has_init && known.init.is_none() { describe(question, &mut findings) } else { None };
    let length = question.maker_param("data", "memmap", "sequence_length").and_then(Value::as_u64);
    let config = config.as_ref().or(described.as_ref());
    findings.extend(memory_note(params, config, data, length, &known));
    if described.is_some() && data.is_none() {
        let what = "steps and time: unknown until `olmo-pipe lock` has fetched the sources and the rows exist";
        findings.push(Finding::note("train::steps", what));
    }
    findings
}

/// The config of initial weights that are not fetched yet, if the experiment has a copy of it.
fn describe(question: &Question, findings: &mut Vec<Finding>) -> Option<ModelConfig> {
    let path = question.described("init", olmo_model::CONFIG_FILE)?;
    match olmo_model::read_config(path) {
        Ok(config) => Some(config),
        Err(error) => {
            let what = format!("the memory cannot be estimated: {error}");
            findings.push(Finding::warning("train::described", "", what).hint("correct the file, or remove it"));
            None
        }
    }
}

/// Every rule whose violation is an error, as far as the inputs are known.
pub(crate) fn broken(params: &Params, known: &Known) -> Vec<Finding> {
    let mut findings = params.check();
    findings.extend(one_model(params, known));
    findings.extend(inherited::needs_init(params, known.has_init));
    let config = config(params, known);
    if let (Some(model), Some(config), false) = (&params.model, &config, known.has_init) {
        findings.extend(new_model(model, config));
    }
    findings.extend(params.compute.broken("train", known.compute));
    findings.extend(ranks(params, known));
    if let Some(data) = &known.data {
        findings.extend(too_few_rows(data.instances, params.batch_rows(data.instances, data.sequence_length)));
        if data.labels == 0 {
            let what = "no token in the data is a target: there is nothing to learn";
            findings.push(Finding::error("train::no_labels", "", what));
        }
        findings.extend(steps(params, Some(data)).err());
        if let Some(state) = &known.trainer_state {
            let rows = params.batch_rows(data.instances, data.sequence_length) as u64;
            let steps = steps(params, Some(data)).ok().flatten();
            findings.extend(inherited::position(params, state, data.instances, rows, steps));
        }
        findings.extend(known.eval_data.as_ref().and_then(|eval_data| same_tokenizer(data, eval_data)));
        let init = known.init.as_ref().filter(|_| params.model.is_none());
        findings.extend(init.and_then(|config| vocabulary_matches(config, data)));
        let probes = known.probes.as_ref().filter(|_| params.model.is_none());
        findings.extend(probes.and_then(|(data, init)| same_ids(data, init)));
    }
    if known.eval_data.as_ref().is_some_and(|eval_data| eval_data.labels == 0) {
        let what = "no token in `eval_data` is a target: there is no loss to measure";
        findings.push(Finding::error("train::no_labels", "", what));
    }
    // Sizes of an invalid model mean nothing.
    if let Some(config) = config.filter(|config| config.problems().is_empty()) {
        let mut manifests = [&known.data, &known.eval_data].into_iter().flatten();
        findings.extend(manifests.find_map(|manifest| fits_length(&config, manifest)));
    }
    findings
}

/// The config of the model to train, if it is known. It may be invalid.
pub(crate) fn config(params: &Params, known: &Known) -> Option<ModelConfig> {
    match (&params.model, known.has_init) {
        (Some(model), false) => {
            // Without the data, assume any vocabulary that fits the embedding.
            let smallest = Vocabulary { size: 1, eos_token_id: 0, pad_token_id: 0 };
            let vocabulary = known.data.as_ref().map_or(smallest, vocabulary_of);
            Some(model.config(&vocabulary, known.data.as_ref().map_or(1, |data| data.sequence_length as usize)))
        }
        (None, true) => {
            let mut config = inherited::extended(known.init.clone()?, params);
            if let Some(data) = &known.data {
                if config.eos_token_ids.is_empty() {
                    config.eos_token_ids.push(data.eos_token_id);
                }
                config.pad_token_id = Some(data.pad_token_id);
            }
            Some(config)
        }
        _ => None,
    }
}

/// Ranks without work, and sums that the device cannot make.
fn ranks(params: &Params, known: &Known) -> Vec<Finding> {
    let mut findings = Vec::new();
    if known.compute.device == Device::Cuda && params.reduce == ReduceParam::Exact {
        let what = "`reduce: exact` sums gradients on CPUs only, but this stage computes on a GPU";
        findings.push(Finding::error("train::reduce", "reduce", what).hint("set `reduce: fast`, or leave it out"));
    }
    if known.compute.device == Device::Cuda && params.distributed_strategy == StrategyParam::Zero1 {
        let what = "`distributed_strategy: zero1` works on CPUs only, but this stage computes on a GPU";
        findings.push(
            Finding::error("train::strategy", "distributed_strategy", what).hint("set `distributed_strategy: ddp`"),
        );
    }
    let rows = match &known.data {
        Some(data) => Some(params.batch_rows(data.instances, data.sequence_length)),
        None => params.global_train_batch_size,
    };
    let Some(rows) = rows.filter(|rows| *rows > 0) else { return findings };
    let count = known.ranks;
    if rows < count {
        let s = if rows == 1 { "" } else { "s" };
        let what = format!("a step has {rows} row{s}, fewer than the {count} ranks that would divide them");
        findings.push(
            Finding::error("train::ranks", "", what)
                .hint(format!("set `resources: {{ranks: {rows}}}`, or a larger batch")),
        );
    } else if let Some(microbatch) = params.device_train_microbatch_size
        && microbatch > 0
        && rows.div_ceil(microbatch) < count
    {
        let parts = rows.div_ceil(microbatch);
        let number = if parts == 1 { "one micro-batch".into() } else { format!("{parts} micro-batches") };
        let what = format!(
            "a step of {rows} rows has {number} (`device_train_microbatch_size: {microbatch}`), fewer than the {count} ranks"
        );
        let finding = Finding::error("train::ranks", "device_train_microbatch_size", what);
        let even = rows / count;
        findings.push(finding.hint(format!("set `device_train_microbatch_size` to at most {even}, or to null")));
    }
    findings
}

/// Fields of a new model that are missing, and those that no model can have.
fn new_model(model: &ModelParams, config: &ModelConfig) -> Vec<Finding> {
    let missing = model.check().err();
    let names: &[&str] = missing.as_ref().map_or(&[], |missing| &missing.names);
    let lacking = missing
        .iter()
        .map(|missing| Finding::error("train::model_config", "model", missing.to_string()).hint(missing.hint()));
    let wrong = config.problems().into_iter().filter_map(|problem| {
        let name = problem.strip_prefix('`').and_then(|rest| rest.split(['`', ' ']).next()).unwrap_or("");
        let finding = Finding::error("train::model_config", &format!("model.{name}"), problem.as_str());
        (!names.contains(&name)).then_some(finding)
    });
    lacking.chain(wrong).collect()
}

fn one_model(params: &Params, known: &Known) -> Option<Finding> {
    match (&params.model, known.has_init) {
        (None, false) => Some(
            Finding::error("train::no_model", "", "neither `model` nor the input `init` is given")
                .hint("describe a new model in `model`, or give weights to start from in `init`"),
        ),
        (Some(_), true) => Some(
            Finding::error("train::two_models", "model", "both `model` and the input `init` are given")
                .hint("remove `model`: the architecture comes with the weights"),
        ),
        _ => None,
    }
}

fn same_tokenizer(data: &Manifest, eval_data: &Manifest) -> Option<Finding> {
    let (of_data, of_eval) = (data.tokenizer, eval_data.tokenizer);
    (of_data != of_eval).then(|| {
        let what =
            format!("`data` and `eval_data` use different tokenizers ({} and {})", of_data.short(), of_eval.short());
        Finding::error("train::tokenizers", "", what).hint("tokenize both with the same tokenizer")
    })
}

/// What the tokenizers of the data and of the initial weights make of some texts, if both are known.
/// `find` gives the file with a name in the artifact of a port.
///
/// A model of this program has them recorded; one from elsewhere has its tokenizer.
pub(crate) fn probes(
    data: Option<&Manifest>,
    find: impl Fn(&str, &str) -> Option<PathBuf>,
) -> Option<(Probes, Probes)> {
    let existing = |port: &str, file: &str| find(port, file).filter(|path| path.is_file());
    let probes = existing("data", PROBES)?;
    let init = match (existing("init", PROBES), existing("init", "tokenizer.json")) {
        (Some(recorded), _) => Probes::from_file(&recorded),
        // The very file that made the data need not be read, which takes a tenth of a second.
        (None, Some(tokenizer)) if Digest::of(&std::fs::read(&tokenizer).ok()?) == data?.tokenizer => return None,
        (None, tokenizer) => Probes::of_tokenizer(&tokenizer?),
    };
    Some((Probes::from_file(&probes).ok()?, init.ok()?))
}

/// Rejects data that another tokenizer than that of the initial weights has made.
fn same_ids(data: &Probes, init: &Probes) -> Option<Finding> {
    let Difference { text, ids: [of_data, of_init] } = data.difference(init)?;
    let equal = of_data.split(' ').zip(of_init.split(' ')).take_while(|(a, b)| a == b).count();
    let next = |ids: &str| ids.split(' ').skip(equal).take(4).collect::<Vec<_>>().join(" ");
    let what = format!(
        "the data is not tokenized as the initial weights expect: token {} and those after it of {} are {} for their \
         tokenizer, but {} for that of the data",
        equal + 1,
        quoted(&text.replace(char::is_control, " ")),
        next(&of_init),
        next(&of_data),
    );
    Some(Finding::error("train::tokenizers", "", what).hint(
        "tokenize the data with the tokenizer of the initial weights: in stage tokenizer, give the model in `model`",
    ))
}

fn fits_length(config: &ModelConfig, data: &Manifest) -> Option<Finding> {
    let (length, most) = (data.sequence_length, config.max_sequence_length);
    (length > most as u64).then(|| {
        let what = format!("rows have {length} tokens, but the model takes at most {most}");
        Finding::error("train::sequence_length", "", what)
            .hint("lower `sequence_length` of stage memmap, or raise `model.max_sequence_length` (of a model in `init`: `context_extension.max_sequence_length`)")
    })
}

/// Rejects data whose ids do not match the initial weights.
fn vocabulary_matches(config: &ModelConfig, data: &Manifest) -> Option<Finding> {
    let (code, what) = match config.accepts(data.vocab_size as usize, data.eos_token_id).err()? {
        VocabularyMismatch::TooLarge { size, of_model } => {
            let what = format!("the data's vocabulary has {size} ids, but the initial weights have {of_model}");
            ("train::vocabulary", what)
        }
        VocabularyMismatch::OtherEos { eos, of_model } => {
            let what = format!("the data ends documents with id {eos}, but the initial weights use id {of_model}");
            ("train::eos", what)
        }
    };
    Some(Finding::error(code, "", what).hint("tokenize the data with the tokenizer of the initial weights"))
}

/// The config of the weights in `init`, if they exist.
fn examine(question: &Question) -> Result<Option<ModelConfig>, Box<Finding>> {
    let Some(known) = question.item("init") else { return Ok(None) };
    // A model in the store has no folder of its own.
    let shown = known.folder().unwrap_or_else(|| "model".into());
    olmo_model::examine(&shown, &known.files).map(Some).map_err(|error| {
        let what = format!("cannot use the weights in `init`: {error}");
        Box::new(Finding::error("train::init", "init", what))
    })
}

/// Where the run of the weights in `init` was, if they exist and this run goes on there.
fn examine_trainer(params: &Params, question: &Question) -> Result<Option<TrainerState>, Box<Finding>> {
    let Some(known) = question.item("init").filter(|_| params.load_trainer_state) else { return Ok(None) };
    let shown = known.folder().unwrap_or_else(|| "model".into());
    olmo_model::examine_trainer_state(&shown, &known.files).map(Some).map_err(|error| {
        let what = format!("cannot go on where the run of `init` was: {error}");
        let finding = Finding::error("train::init", "load_trainer_state", what);
        Box::new(finding.hint("set `load_trainer_state: false` to use the weights alone"))
    })
}

/// The number of steps, if it can be computed from what is known of the data.
///
/// # Errors
/// It does not fit in 64 bits.
pub(crate) fn steps(params: &Params, data: Option<&Manifest>) -> Result<Option<u64>, Finding> {
    let Ok(duration) = params.max_duration.parse::<Duration>() else { return Ok(None) };
    let steps = match (duration, data) {
        (Duration::Steps(steps), _) => Some(steps),
        (_, Some(data)) => {
            let rows = params.batch_rows(data.instances, data.sequence_length).max(1) as u64;
            duration.steps(data.instances / rows, rows * data.sequence_length)
        }
        (_, None) => return Ok(None),
    };
    let too_many = || {
        let what = format!("`max_duration`: {duration} is too many steps");
        Finding::error("train::max_duration", "max_duration", what)
    };
    steps.map(Some).ok_or_else(too_many)
}

/// The warning for a warm-up that is as long as a run of `steps` steps of `tokens_per_step` tokens.
pub(crate) fn warmup(params: &Params, steps: u64, tokens_per_step: u64) -> Option<Finding> {
    let schedule = params.schedule(steps, tokens_per_step);
    let warmup = schedule.warmup.div_ceil(schedule.per_step.max(1));
    (warmup >= steps && schedule.name != SchedulerName::Constant).then(|| {
        let is_fraction = params.scheduler.warmup_fraction.is_some();
        let param = if is_fraction { "scheduler.warmup_fraction" } else { "scheduler.t_warmup" };
        let text = format!(
            "the warm-up has {warmup} steps but the run only {steps}: the learning rate never reaches its peak"
        );
        Finding::warning("train::warmup", param, text).hint("a few per cent of `max_duration` is usual")
    })
}

/// Warnings for intervals that are longer than a run of `steps` steps.
fn intervals(params: &Params, has_eval_data: bool, steps: u64) -> Vec<Finding> {
    let eval_interval = params.eval_interval.filter(|_| has_eval_data);
    let intervals = [("save_interval", params.save_interval, "saved"), ("eval_interval", eval_interval, "measured")];
    let mut findings = Vec::new();
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

/// Checks whether the checkpoints fit into `free` bytes.
fn space(params: &Params, config: &ModelConfig, steps: Option<u64>, free: u64) -> Option<Finding> {
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

/// Estimated memory of the run, as far as model and data are known. `length` is the number of tokens
/// of a row that the data will have. Only a note: the run may happen
/// on another machine.
fn memory_note(
    params: &Params,
    config: Option<&ModelConfig>,
    data: Option<&Manifest>,
    length: Option<u64>,
    known: &Known,
) -> Option<Finding> {
    let computes = computes(known.compute);
    let vocabulary_is_known =
        data.is_some() || params.model.as_ref().is_none_or(|model| model.embedding_size().is_some());
    let config = config.filter(|_| vocabulary_is_known)?;
    let chosen = params.model.as_ref().map_or(Some(config.max_sequence_length), ModelParams::max_sequence_length);
    let length = data.map(|data| data.sequence_length).or(length).map(|length| length as usize);
    let sequence = length.or(chosen)?;
    let (ranks, strategy) = (known.ranks.max(1), params.distributed_strategy.resolve());
    let reduce = params.reduce.resolve(known.compute.device);
    let need = Need { config, sequence, rows: rows_of(params, data, sequence), computes, ranks, strategy, reduce };
    let policy = params.activation_checkpointing;
    // Which GPU it is, and its memory, is known only when the run starts.
    let available = if computes == Computes::OnHost { memory::available() } else { None };
    // Ranks on CPUs share the memory of this machine.
    let available = available.map(|available| available / ranks as u64);
    let room = available.map_or(u64::MAX, memory::room);
    let rows = params.device_train_microbatch_size.unwrap_or_else(|| need.microbatch(policy, room));
    let estimate = need.estimate(policy, rows);
    let mut text = need.describe(&estimate, rows.min(need.rows));
    if estimate.total() > room {
        let whose = if ranks > 1 { "its part of this machine has" } else { "this machine has" };
        text = format!("{text}; {whose} {} left", bytes(available.unwrap_or(0)));
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
    use olmo_data::{Layout, Memmap, MemmapWriter, TextTokenizer};
    use olmo_stage::rules::{KnownInput, Level, Maker};
    use serde_json::json;

    use super::*;

    /// A question about `params`, as the engine asks it.
    fn question(params: &Value, ports: &[&str], free_bytes: Option<u64>, compute: Compute) -> Question {
        let inputs = ports.iter().map(|port| ((*port).to_owned(), KnownInput::default())).collect();
        Question { stage: "train".into(), params: params.clone(), inputs, free_bytes, compute, ranks: 1 }
    }

    fn found(change: impl FnOnce(&mut Value), ports: &[&str], free: Option<u64>) -> Vec<(Level, String, String)> {
        let mut value = json!({
            "max_duration": "50steps", "global_train_batch_size": 4, "optimizer": {"learning_rate": 1e-3},
            "scheduler": {"t_warmup": 5}, "save_interval": 10, "eval_interval": null,
            "model": {"preset": "olmo2", "d_model": 64, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 128}
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
        let incomplete =
            found(|p| p["model"] = json!({"preset": "olmo2", "n_heads": 2, "clip_qkv": -1}), &["data"], None);
        let at_both =
            ["model", "model.clip_qkv"].map(|param| (Error, "train::model_config".to_owned(), param.to_owned()));
        assert_eq!(incomplete, at_both, "what is missing, and what is wrong");
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
                "model": {"preset": "olmo2", "d_model": d_model, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 128,
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
    fn a_model_that_is_not_fetched_is_estimated_from_the_copy_of_its_config() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let config = json!({"model_type": "olmo2", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
            "intermediate_size": 128, "vocab_size": 1000, "rope_theta": 500_000.0, "max_position_embeddings": 4096});
        std::fs::write(&path, config.to_string()).unwrap();
        let params = json!({"max_duration": "2ep", "global_batch_size": 65_536});
        let notes = |length: Value, path: &std::path::Path| {
            let mut question = question(&params, &["init", "data"], None, Compute::FLEX);
            let init = question.inputs.get_mut("init").unwrap();
            init.described.insert("config.json".into(), path.to_owned());
            let maker = Maker { stage: "memmap".into(), params: json!({"sequence_length": length}) };
            question.inputs.get_mut("data").unwrap().maker = Some(maker);
            let found = check(&serde_json::from_value(params.clone()).unwrap(), &question);
            found.into_iter().map(|finding| (finding.level, finding.message)).collect::<Vec<_>>()
        };
        let [(_, short), (_, steps)] = &notes(json!(512), &path)[..] else { panic!("two notes") };
        assert!(short.starts_with("memory: about ") && short.contains("micro-batches of 16 rows"), "{short}");
        assert!(steps.contains("unknown until `olmo-pipe lock`"), "{steps}");
        let long = &notes(Value::Null, &path)[0].1;
        assert!(long != short && long.starts_with("memory: about "), "the model's longest rows: {long}");
        std::fs::write(&path, "{}").unwrap();
        let [(level, warning)] = &notes(json!(512), &path)[..] else { panic!("one warning") };
        assert!(*level == Level::Warning && warning.contains("config.json"), "{warning}");
    }

    #[test]
    fn checkpoints_that_do_not_fit_are_told_before_a_day_is_lost() {
        let weights = found(|_| {}, &["data"], Some(1 << 40));
        assert_eq!(weights, []);
        assert_eq!(found(|_| {}, &["data"], Some(1000)), one(Level::Error, "train::space", ""));
        // About 50 thousand weights: one checkpoint fits, five do not.
        assert_eq!(found(|_| {}, &["data"], Some(1 << 20)), one(Level::Warning, "train::space", "save_interval"));
    }

    #[test]
    fn data_that_another_tokenizer_made_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let [data, init] = ["data", "init"].map(|port| dir.path().join(port));
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/olmo-data/tests/fixtures/tokenizer.json");
        let text = std::fs::read_to_string(fixture).unwrap();
        for port in [&data, &init] {
            std::fs::create_dir(port).unwrap();
        }
        // A tokenizer of another digest, so that its ids are compared.
        let manifest = self::data(1, true);
        let finding = || {
            let (data, init) = probes(Some(&manifest), |port, file| Some(dir.path().join(port).join(file)))?;
            same_ids(&data, &init).map(|finding| (finding.code, finding.message))
        };
        assert_eq!(finding(), None, "nothing is known");
        let tokenizer = TextTokenizer::from_file(fixture.as_ref(), "<|endoftext|>", "<|padding|>").unwrap();
        tokenizer.record().write(&data).unwrap();
        assert_eq!(finding(), None, "the weights come without a tokenizer");
        std::fs::write(init.join("tokenizer.json"), &text).unwrap();
        assert_eq!(finding(), None, "the same tokenizer");
        let mut other: Value = serde_json::from_str(&text).unwrap();
        other["normalizer"] = json!({"type": "Lowercase"});
        std::fs::write(init.join("tokenizer.json"), other.to_string()).unwrap();
        let (code, message) = finding().unwrap();
        assert_eq!(code, "train::tokenizers");
        assert!(message.contains("not tokenized as the initial weights expect: token 1 "), "{message}");
        // What a run has recorded counts.
        tokenizer.record().write(&init).unwrap();
        assert_eq!(finding(), None);
    }

    /// A manifest of `rows` rows of four tokens, all of them targets or none.
    fn data(rows: u32, is_target: bool) -> Manifest {
        let dir = tempfile::tempdir().unwrap();
        let layout =
            Layout { sequence_length: 4, vocab_size: 16, tokenizer: Digest::of(b""), eos_token_id: 0, pad_token_id: 1 };
        let mut writer = MemmapWriter::create(dir.path(), layout).unwrap();
        for _ in 0..rows {
            writer.begin_document();
            writer.append(&[5; 4], &[is_target; 4]).unwrap();
        }
        writer.finish(0, 0).unwrap();
        Memmap::open(dir.path()).unwrap().manifest().clone()
    }

    #[test]
    fn each_fact_about_the_inputs_has_one_code() {
        let codes = |data: Manifest, eval_data: Option<Manifest>, changes: Value| {
            let mut value = json!({
                "max_duration": "5steps", "global_train_batch_size": 4, "optimizer": {"learning_rate": 1e-3},
                "model": {"preset": "olmo2", "d_model": 8, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 16}
            });
            value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let params: Params = serde_json::from_value(value).unwrap();
            let known = Known {
                data: Some(data),
                eval_data,
                has_init: false,
                init: None,
                trainer_state: None,
                probes: None,
                compute: Compute::FLEX,
                ranks: 1,
            };
            let findings = broken(&params, &known);
            findings.into_iter().map(|finding| (finding.code, finding.param)).collect::<Vec<_>>()
        };
        let one = |code: &str, param: &str| vec![(code.to_owned(), param.to_owned())];
        assert_eq!(codes(data(8, true), Some(data(1, true)), json!({})), []);
        let few = one("train::too_little_data", "global_train_batch_size");
        assert_eq!(codes(data(3, true), None, json!({})), few);
        assert_eq!(codes(data(8, false), None, json!({})), one("train::no_labels", ""));
        assert_eq!(codes(data(8, true), Some(data(8, false)), json!({})), one("train::no_labels", ""));
        let duration = one("train::max_duration", "max_duration");
        for text in ["3weeks", "99999999999999999999steps", "18446744073709551615ep"] {
            assert_eq!(codes(data(8, true), None, json!({"max_duration": text})), duration, "{text}");
        }
        let model = json!({"preset": "olmo2", "d_model": 8, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 16,
            "max_sequence_length": 3});
        assert_eq!(codes(data(8, true), None, json!({"model": model})), one("train::sequence_length", ""));
    }
}
