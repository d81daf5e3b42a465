//! Opens the inputs and decides everything before the first step, with all inputs checked against
//! each other.

use olmo_base::units::bytes;
use olmo_data::{ChatRecord, Manifest, Memmap};
use olmo_model::{Computes, ModelConfig, Parameters};
use olmo_stage::{Context, StageError};
use olmo_train::data::Batches;
use olmo_train::learner::{computes, free_memory};
use olmo_train::memory::{self, Need};
use olmo_train::{CrossEntropy, OptimizerSettings, Setup, model_failure};

use crate::params::{Duration, DurationError, Interval};
use crate::params::{Params, STEPS_PER_EPOCH, Vocabulary};

/// Opens the inputs.
///
/// # Errors
/// Params or inputs that do not fit together, each with a hint.
pub(crate) fn setup(params: Params, context: &mut Context) -> Result<Setup, StageError> {
    let duration: Duration = params
        .max_duration
        .parse()
        .map_err(|e: DurationError| StageError::fail("train::max_duration", format!("max_duration: {e}")))?;
    let data = Memmap::open(&context.input("data")?)?;
    if data.manifest().labels == 0 {
        return Err(StageError::fail(
            "train::no_labels",
            "no token in the data is a target: there is nothing to learn",
        ));
    }
    let eval_data = context.optional_input("eval_data").map(|dir| Memmap::open(&dir)).transpose()?;
    if let Some(eval_data) = &eval_data {
        check_eval_data(data.manifest(), eval_data.manifest())?;
    }
    let chat = chat(context)?;
    let init = context.optional_input("init").map(|dir| olmo_model::load(&dir)).transpose().map_err(model_failure)?;
    let (config, initial) = model(&params, data.manifest(), init)?;
    for manifest in [Some(&data), eval_data.as_ref()].into_iter().flatten().map(Memmap::manifest) {
        check_length(&config, manifest)?;
    }
    let (instances, length) = (data.instances() as u64, data.manifest().sequence_length);
    let global_batch = params.batch_rows(instances, length);
    if let Some(tokens) = params.global_batch_size.filter(|tokens| tokens / length > global_batch as u64) {
        context.message(format!(
                "batches are smaller than {tokens} tokens: the data has only {instances} rows, and an epoch has at least {STEPS_PER_EPOCH} steps"
            ));
    }
    let batches = Batches::new(&data, global_batch, params.seed, params.document_mask)?;
    let (per_epoch, tokens_per_step) = (batches.per_epoch(), batches.tokens_per_step());
    let max_steps = duration.steps(per_epoch, tokens_per_step).ok_or_else(|| {
        StageError::fail("train::max_duration", format!("max_duration: {duration} is too many steps"))
    })?;
    let schedule = params.schedule(max_steps);
    let interval = |interval: Option<Interval>| interval.and_then(|i| i.in_steps(per_epoch, tokens_per_step));
    let (save_interval, eval_interval) = (interval(params.save_interval), interval(params.eval_interval));
    context.message(format!(
            "{max_steps} steps of {global_batch} rows of {length} tokens ({tokens_per_step} a step), {per_epoch} steps an epoch"
        ));
    let left_out = instances % global_batch as u64;
    if left_out > 0 {
        context.message(format!("each epoch skips {left_out} of {instances} rows, which do not fill a batch"));
    }
    if schedule.warmup >= max_steps {
        context.warning(format!(
            "the warm-up has {} steps but the run only {max_steps}: the learning rate never reaches its peak",
            schedule.warmup
        ));
    }
    let compute = context.request.compute;
    let sequence = data.manifest().sequence_length as usize;
    let (microbatch, smaller) = microbatch(&params, &config, sequence, global_batch, computes(compute), context);
    let version = context.request.version;
    let optimizer = &params.optimizer;
    Ok(Setup {
        data,
        eval_data,
        config,
        chat,
        initial,
        seed: params.seed,
        max_steps,
        global_batch,
        microbatch,
        microbatch_is_automatic: params.device_train_microbatch_size.is_none(),
        document_mask: params.document_mask,
        schedule,
        optimizer: OptimizerSettings {
            betas: optimizer.betas,
            eps: optimizer.eps,
            weight_decay: optimizer.weight_decay,
            decay_norm_and_bias: optimizer.decay_norm_and_bias,
            decay_embeddings: optimizer.decay_embeddings,
            max_grad_norm: params.max_grad_norm,
        },
        objective: CrossEntropy { norm: params.loss_norm, z_loss: params.z_loss },
        activation_checkpointing: params.activation_checkpointing,
        save_interval,
        eval_interval,
        eval_on_startup: params.eval_on_startup,
        console_log_interval: params.console_log_interval,
        compute,
        device: params.device,
        version,
        smaller,
    })
}

/// The micro-batch size. Reports how much memory the run needs, and what to change if less is
/// available.
fn microbatch(
    params: &Params,
    config: &ModelConfig,
    sequence: usize,
    global_batch: usize,
    computes: Computes,
    context: &mut Context,
) -> (usize, Option<String>) {
    let on_gpu = computes != Computes::OnHost;
    let need = Need { config, sequence, rows: global_batch, computes };
    let (policy, available) =
        (params.activation_checkpointing, if on_gpu { free_memory(&params.device) } else { memory::available() });
    let room = available.map_or(u64::MAX, memory::room);
    let rows = params.device_train_microbatch_size.unwrap_or_else(|| need.microbatch(policy, room));
    let estimate = need.estimate(policy, rows);
    context.message(memory::describe_estimate(&estimate, rows));
    // Aim for a quarter less than was requested: if the estimate was too low, one slightly smaller
    // would not fit either.
    let smaller = need.way_out(policy, rows, estimate.total() / 4 * 3);
    let smaller = smaller.map(|(change, need)| format!("`{change}` would need about {}", bytes(need.total())));
    if let Some(smaller) = &smaller {
        context.memory_hint(smaller.clone());
    }
    if estimate.total() > room {
        let way_out = match need.way_out(policy, rows, room) {
            Some((change, estimate)) => format!("`{change}` would need {}", bytes(estimate.total())),
            None => "no micro-batch size or `activation_checkpointing` makes it fit: use a smaller model or a larger machine".into(),
        };
        context.warning(format!(
            "{} has {} left, but the run needs about {}; {way_out}",
            if on_gpu { "the GPU" } else { "this machine" },
            bytes(available.unwrap_or(0)),
            bytes(estimate.total())
        ));
    }
    (rows, smaller)
}

/// The config, and the weights if there are any.
fn model(
    params: &Params,
    data: &Manifest,
    init: Option<(ModelConfig, Parameters)>,
) -> Result<(ModelConfig, Option<Parameters>), StageError> {
    let vocabulary =
        Vocabulary { size: data.vocab_size as usize, eos_token_id: data.eos_token_id, pad_token_id: data.pad_token_id };
    match (&params.model, init) {
        (Some(model), None) => {
            let config = model.config(&vocabulary, data.sequence_length as usize);
            config.validate().map_err(model_failure)?;
            Ok((config, None))
        }
        (None, Some((mut config, weights))) => {
            check_vocabulary(&config, &vocabulary)?;
            if config.eos_token_ids.is_empty() {
                config.eos_token_ids.push(vocabulary.eos_token_id);
            }
            config.pad_token_id = Some(vocabulary.pad_token_id);
            Ok((config, Some(weights)))
        }
        (None, None) => Err(StageError::fail("train::no_model", "neither `model` nor the input `init` is given")
            .hint("describe a new model in `model`, or give weights to start from in `init`")),
        (Some(_), Some(_)) => Err(StageError::fail("train::two_models", "both `model` and the input `init` are given")
            .hint("remove `model`: the architecture comes with the weights")),
    }
}

/// The chat format of the model: that of the data, otherwise that of the initial weights.
fn chat(context: &mut Context) -> Result<Option<ChatRecord>, StageError> {
    let of = |port: &str| match context.optional_input(port) {
        Some(dir) => ChatRecord::read(&dir),
        None => Ok(None),
    };
    let (data, eval_data, init) = (of("data")?, of("eval_data")?, of("init")?);
    if let (Some(data), Some(eval_data)) = (&data, &eval_data)
        && data.chat_template != eval_data.chat_template
    {
        let what = format!("`data` uses {data}, but `eval_data` uses {eval_data}");
        return Err(StageError::fail("train::other_template", what)
            .hint("set the template once, in stage tokenizer, so that both use it"));
    }
    if let (Some(data), Some(init)) = (&data, &init)
        && data.chat_template != init.chat_template
    {
        context.message(format!("the initial weights were trained with {init}; this run trains {data}"));
    }
    Ok(data.or(init))
}

/// Rejects data whose ids do not match the initial weights.
pub(crate) fn check_vocabulary(config: &ModelConfig, vocabulary: &Vocabulary) -> Result<(), StageError> {
    const HINT: &str = "tokenize the data with the tokenizer of the initial weights";
    if vocabulary.size > config.vocab_size {
        let what = format!(
            "the data's vocabulary has {} ids, but the initial weights have {}",
            vocabulary.size, config.vocab_size
        );
        return Err(StageError::fail("train::vocabulary", what).hint(HINT));
    }
    match config.eos_token_id() {
        Some(eos) if !config.eos_token_ids.contains(&vocabulary.eos_token_id) => {
            let what = format!(
                "the data ends documents with id {}, but the initial weights use id {eos}",
                vocabulary.eos_token_id
            );
            Err(StageError::fail("train::eos", what).hint(HINT))
        }
        _ => Ok(()),
    }
}

pub(crate) fn check_length(config: &ModelConfig, data: &Manifest) -> Result<(), StageError> {
    if data.sequence_length <= config.max_sequence_length as u64 {
        return Ok(());
    }
    let what = format!(
        "rows have {} tokens, but the model takes at most {}",
        data.sequence_length, config.max_sequence_length
    );
    Err(StageError::fail("train::sequence_length", what)
        .hint("lower `sequence_length` of stage memmap, or raise `model.max_sequence_length`"))
}

pub(crate) fn check_eval_data(data: &Manifest, eval_data: &Manifest) -> Result<(), StageError> {
    if eval_data.tokenizer != data.tokenizer {
        let what = format!(
            "`data` and `eval_data` use different tokenizers ({} and {})",
            data.tokenizer.short(),
            eval_data.tokenizer.short()
        );
        return Err(StageError::fail("train::tokenizers", what).hint("tokenize both with the same tokenizer"));
    }
    if eval_data.labels == 0 {
        return Err(StageError::fail(
            "train::no_labels",
            "no token in `eval_data` is a target: there is no loss to measure",
        ));
    }
    Ok(())
}
