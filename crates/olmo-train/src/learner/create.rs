//! Creates the learner for the device and backend that the engine resolved.

use std::rc::Rc;

use olmo_model::{ActivationCheckpointing, Compute, Computes, Model, ModelConfig};
use olmo_stage::StageError;
use olmo_stage::compute::{Device, Precision};

use super::host::{Exchange, HostLearner};
use super::learner::{Learner, LearnerState};
use super::objective::Objective;
use super::optimizer::OptimizerSettings;
use super::reduce::Reduce;
use crate::failure::model_failure;
use crate::ranks::Ranks;
use crate::shard::Strategy;

/// What to train, and where.
pub(crate) struct Spec<'a> {
    pub config: &'a ModelConfig,
    pub optimizer: OptimizerSettings,
    pub activation_checkpointing: ActivationCheckpointing,
    pub compute: olmo_stage::Compute,
    /// The requested device, such as `cuda:1`.
    pub device: &'a str,
    pub reduce: Reduce,
    pub strategy: Strategy,
}

/// Where a run computes and with which data type.
pub fn computes(compute: olmo_stage::Compute) -> Computes {
    match (compute.device, compute.precision) {
        (Device::Cuda, Precision::AmpBf16) => Computes::OnGpuInBf16,
        (Device::Cuda, Precision::Fp32) => Computes::OnGpu,
        (Device::Cpu, _) => Computes::OnHost,
    }
}

/// A learner that continues from `state`.
///
/// # Errors
/// This worker was built without the backend, or there is no GPU.
pub(crate) fn create(
    spec: &Spec,
    state: LearnerState,
    objective: Box<dyn Objective>,
    ranks: Rc<Ranks>,
) -> Result<Box<dyn Learner>, StageError> {
    let computes = computes(spec.compute);
    if computes == Computes::OnHost {
        return on_host(spec, state, objective, ranks);
    }
    #[cfg(feature = "libtorch")]
    {
        on_gpu(spec, computes, state, objective, ranks)
    }
    #[cfg(not(feature = "libtorch"))]
    {
        let device = spec.device;
        Err(no_gpu(format!("device {device}: this worker was built without libtorch, and flex computes on the CPU")))
    }
}

fn on_host(
    spec: &Spec,
    state: LearnerState,
    objective: Box<dyn Objective>,
    ranks: Rc<Ranks>,
) -> Result<Box<dyn Learner>, StageError> {
    let backend = spec.compute.name();
    let compute = Compute::named(backend).ok_or_else(|| {
        StageError::fail("train::no_backend", format!("this worker was built without the backend `{backend}`"))
            .hint("build the worker that has it with `scripts/libtorch cpu --build`, or set `backend: flex`")
    })?;
    let mut model = Model::on(compute, spec.config, &state.parameters).map_err(model_failure)?;
    model.set_activation_checkpointing(spec.activation_checkpointing);
    Ok(Box::new(HostLearner::new(
        model,
        state,
        spec.optimizer,
        objective,
        Exchange { ranks, reduce: spec.reduce, strategy: spec.strategy },
    )))
}

#[cfg(feature = "libtorch")]
fn on_gpu(
    spec: &Spec,
    computes: Computes,
    state: LearnerState,
    objective: Box<dyn Objective>,
    ranks: Rc<Ranks>,
) -> Result<Box<dyn Learner>, StageError> {
    use olmo_model::device::Element;
    let element = if computes == Computes::OnGpuInBf16 { Element::Bf16 } else { Element::F32 };
    let moments = [state.exp_avg.as_slice(), state.exp_avg_sq.as_slice()];
    let place = place(spec.device)?;
    let mut model = Model::on_gpu(place, element, spec.config, &state.parameters, moments).map_err(|error| {
        StageError::fail("train::gpu", error.to_string()).hint("run `olmo-pipe doctor` to see what this machine has")
    })?;
    model.set_activation_checkpointing(spec.activation_checkpointing);
    Ok(Box::new(super::gpu::GpuLearner::new(model, state, spec.optimizer, objective, ranks)))
}

/// The GPU that `device` selects among those assigned to this stage.
///
/// # Errors
/// There is no such GPU.
#[cfg(feature = "libtorch")]
fn place(device: &str) -> Result<olmo_model::device::Place, StageError> {
    olmo_model::device::requested(device).map_err(no_gpu)
}

fn no_gpu(why: String) -> StageError {
    StageError::fail("train::no_gpu", why)
        .hint("run `olmo-pipe doctor` to see which GPUs are available, or set `device: cpu`")
}

/// Free GPU memory in bytes, if the driver reports it.
#[cfg(feature = "libtorch")]
pub fn free_memory(device: &str) -> Option<u64> {
    olmo_model::device::free_memory(place(device).ok()?)
}

/// Free GPU memory in bytes: unknown without libtorch.
#[cfg(not(feature = "libtorch"))]
pub fn free_memory(_: &str) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use olmo_model::Parameters;

    use super::super::objective::{CrossEntropy, LossNorm};
    use super::*;

    #[test]
    fn what_cannot_compute_is_refused_with_the_way_out() {
        let config: ModelConfig = serde_json::from_value(
            json!({"d_model": 8, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 16, "max_sequence_length": 16, "vocab_size": 5}),
        )
        .unwrap();
        let state = {
            let parameters = Parameters::init(&config, 1).unwrap();
            let all = 0..parameters.len();
            LearnerState::new(parameters, all)
        };
        let optimizer = OptimizerSettings::plain();
        let on = |compute| {
            let activation_checkpointing = ActivationCheckpointing::None;
            let spec = Spec {
                config: &config,
                optimizer,
                activation_checkpointing,
                compute,
                device: "cuda:7",
                reduce: Reduce::Fast,
                strategy: Strategy::Ddp,
            };
            let objective = CrossEntropy { norm: LossNorm::Labels, z_loss: 0.0 };
            create(&spec, state.clone(), Box::new(objective), Rc::new(Ranks::alone()))
        };
        assert!(on(olmo_stage::Compute::FLEX).is_ok());
        let mut missing = vec![(olmo_stage::Compute::CUDA, "train::no_gpu")];
        if cfg!(not(feature = "libtorch")) {
            missing.push((olmo_stage::Compute::LIBTORCH, "train::no_backend"));
        }
        for (compute, code) in missing {
            let Err(StageError::Failed(failure)) = on(compute) else { panic!("{compute:?} is not here") };
            assert_eq!(failure.code, code);
            assert!(failure.hint.is_some(), "{failure:?}");
        }
    }
}
