//! Opens the inputs and decides everything before the first step, with all inputs checked against
//! each other.

use olmo_base::units::bytes;
use olmo_data::{Memmap, TokenizerRecord};
use olmo_model::{Computes, ModelConfig};
use olmo_stage::worker::enforce;
use olmo_stage::{Compute, Context, StageError};
use olmo_train::data::Batches;
use olmo_train::learner::{computes, free_memory};
use olmo_train::memory::{self, Need};
use olmo_train::{CrossEntropy, Initial, OptimizerSettings, Origin, Schedule, Setup, model_failure};

use crate::inherited;
use crate::params::{Interval, Params, STEPS_PER_EPOCH};
use crate::rules::{self, Known};
use crate::stopping;

/// Opens the inputs.
///
/// # Errors
/// Params or inputs that do not fit together, each with a hint.
pub(crate) fn setup(params: Params, context: &mut Context) -> Result<Setup, StageError> {
    let data = Memmap::open(&context.input("data")?)?;
    let eval_data = context.optional_input("eval_data").map(|dir| Memmap::open(&dir)).transpose()?;
    let record = record(context)?;
    let given = context.optional_input("init");
    let init = given.as_deref().map(olmo_model::load).transpose().map_err(model_failure)?;
    let (init, weights) = init.unzip();
    let goes_on = given.as_deref().filter(|_| params.load_trainer_state);
    let trainer_state = goes_on.map(olmo_model::load_trainer_state).transpose().map_err(model_failure)?;
    let compute = context.request.compute;
    let known = Known {
        data: Some(data.manifest().clone()),
        eval_data: eval_data.as_ref().map(|eval_data| eval_data.manifest().clone()),
        has_init: init.is_some(),
        init,
        trainer_state,
        probes: rules::probes(Some(data.manifest()), |port, file| Some(context.optional_input(port)?.join(file))),
        compute,
        ranks: context.ranks(),
    };
    enforce(rules::broken(&params, &known))?;
    enforce(stopping::broken(&params, |port| !context.inputs(port).is_empty()))?;
    let config = rules::config(&params, &known).expect("the rules require one model");
    let keeps_optimizer = given.as_deref().filter(|_| params.load_optim_state);
    let optimizer = keeps_optimizer.map(olmo_model::load_optimizer_state).transpose().map_err(model_failure)?;
    let origin = Origin {
        step: trainer_state.map_or(0, |state| state.global_step),
        updates: optimizer.as_ref().map_or(0, |optimizer| optimizer.steps),
    };
    if let Some(init) = &known.init {
        for line in inherited::describe(&params, origin, init, &config) {
            context.message(line);
        }
    }
    let initial = weights.map(|parameters| Initial { parameters, optimizer });
    let max_steps = rules::steps(&params, known.data.as_ref()).ok().flatten().expect("the rules require it");
    let (instances, length) = (data.instances() as u64, data.manifest().sequence_length);
    let global_batch = params.batch_rows(instances, length);
    if let Some(tokens) = params.global_batch_size.filter(|tokens| tokens / length > global_batch as u64) {
        context.message(format!(
                "batches are smaller than {tokens} tokens: the data has only {instances} rows, and an epoch has at least {STEPS_PER_EPOCH} steps"
            ));
    }
    let batches = Batches::new(&data, global_batch, params.seed, params.document_mask)?;
    let (per_epoch, tokens_per_step) = (batches.per_epoch(), batches.tokens_per_step());
    let bolt_on = params.scheduler.bolt_on_warmup.then_some((origin.step, params.scheduler.t_warmup));
    let schedule = Schedule { bolt_on, ..params.schedule(max_steps, tokens_per_step) };
    let interval = |interval: Option<Interval>| interval.and_then(|i| i.in_steps(per_epoch, tokens_per_step));
    let (save_interval, eval_interval) = (interval(params.save_interval), interval(params.eval_interval));
    context.message(format!(
            "{max_steps} steps of {global_batch} rows of {length} tokens ({tokens_per_step} a step), {per_epoch} steps an epoch"
        ));
    let left_out = instances % global_batch as u64;
    if left_out > 0 {
        context.message(format!("each epoch skips {left_out} of {instances} rows, which do not fill a batch"));
    }
    if let Some(warning) = rules::warmup(&params, max_steps, tokens_per_step) {
        context.warning(warning.message);
    }
    let sequence = data.manifest().sequence_length as usize;
    let (microbatch, smaller) = microbatch(&params, &config, sequence, global_batch, compute, context);
    let version = context.request.version;
    let optimizer = &params.optimizer;
    Ok(Setup {
        data,
        eval_data,
        config,
        record,
        initial,
        origin,
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
        },
        objective: CrossEntropy { norm: params.loss_norm, z_loss: params.z_loss },
        reduce: params.reduce.resolve(compute.device),
        strategy: params.distributed_strategy.resolve(),
        activation_checkpointing: params.activation_checkpointing,
        save_interval,
        eval_interval,
        eval_on_startup: params.eval_on_startup,
        scorer: stopping::scorer(&params, context)?,
        early_stopping: params.early_stopping.as_ref().and_then(stopping::rule),
        console_log_interval: params.console_log_interval,
        compute,
        device: params.compute.device,
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
    compute: Compute,
    context: &mut Context,
) -> (usize, Option<String>) {
    let (computes, reduce) = (computes(compute), params.reduce.resolve(compute.device));
    let on_gpu = computes != Computes::OnHost;
    let (ranks, strategy) = (context.ranks(), params.distributed_strategy.resolve());
    let need = Need { config, sequence, rows: global_batch, computes, ranks, strategy, reduce };
    let policy = params.activation_checkpointing;
    let available = match on_gpu {
        true => free_memory(&params.compute.device),
        false => memory::available().map(|available| available / context.local_ranks() as u64),
    };
    let room = available.map_or(u64::MAX, memory::room);
    let rows = params.device_train_microbatch_size.unwrap_or_else(|| need.microbatch(policy, room));
    let estimate = need.estimate(policy, rows);
    context.message(need.describe(&estimate, rows));
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

/// What is recorded of the tokenizer of the data. Its chat format is otherwise that of the initial
/// weights.
fn record(context: &mut Context) -> Result<TokenizerRecord, StageError> {
    let of = |port: &str| match context.optional_input(port) {
        Some(dir) => TokenizerRecord::read(&dir),
        None => Ok(TokenizerRecord::default()),
    };
    let (data, eval_data, init) = (of("data")?, of("eval_data")?, of("init")?);
    if let (Some(data), Some(eval_data)) = (&data.chat, &eval_data.chat)
        && data.chat_template != eval_data.chat_template
    {
        let what = format!("`data` uses {data}, but `eval_data` uses {eval_data}");
        return Err(StageError::fail("train::other_template", what)
            .hint("set the template once, in stage tokenizer, so that both use it"));
    }
    if let (Some(data), Some(init)) = (&data.chat, &init.chat)
        && data.chat_template != init.chat_template
    {
        context.message(format!("the initial weights were trained with {init}; this run trains {data}"));
    }
    Ok(TokenizerRecord { chat: data.chat.or(init.chat), probes: data.probes })
}
