//! Creates the model on the backend that the engine resolved.

use olmo_model::{Compute, Computes, Model, ModelConfig};
use olmo_stage::StageError;
use olmo_stage::compute::{Device, Precision};

use crate::checkpoint::State;
use crate::failure::model_failure;

/// Where a run computes and with which data type.
pub(crate) fn computes(compute: olmo_stage::Compute) -> Computes {
    match (compute.device, compute.precision) {
        (Device::Cuda, Precision::AmpBf16) => Computes::OnGpuInBf16,
        (Device::Cuda, Precision::Fp32) => Computes::OnGpu,
        (Device::Cpu, _) => Computes::OnHost,
    }
}

/// A model for training, computed as `compute` says.
///
/// # Errors
/// This worker was built without the backend, or there is no GPU.
pub(crate) fn model(
    compute: olmo_stage::Compute,
    device: &str,
    config: &ModelConfig,
    state: &State,
) -> Result<Model, StageError> {
    let (backend, computes) = (compute.name(), computes(compute));
    if computes != Computes::OnHost {
        return on_gpu(computes, device, config, state);
    }
    let compute = Compute::named(backend).ok_or_else(|| {
        StageError::fail("train::no_backend", format!("this worker was built without the backend `{backend}`"))
            .hint("build the worker that has it with `scripts/libtorch cpu --build`, or set `backend: flex`")
    })?;
    Model::on(compute, config, &state.parameters, true).map_err(model_failure)
}

#[cfg(feature = "libtorch")]
fn on_gpu(computes: Computes, device: &str, config: &ModelConfig, state: &State) -> Result<Model, StageError> {
    use olmo_model::device::Element;
    let element = if computes == Computes::OnGpuInBf16 { Element::Bf16 } else { Element::F32 };
    let moments = [state.exp_avg.as_slice(), state.exp_avg_sq.as_slice()];
    let place = place(device)?;
    Model::on_gpu(place, element, config, &state.parameters, moments).map_err(|error| {
        StageError::fail("train::gpu", error.to_string()).hint("run `olmo-pipe doctor` to see what this machine has")
    })
}

/// The GPU that `device` selects among those assigned to this stage.
///
/// # Errors
/// There is no such GPU.
#[cfg(feature = "libtorch")]
fn place(device: &str) -> Result<olmo_model::device::Place, StageError> {
    let index = device.strip_prefix("cuda:").and_then(|number| number.parse().ok()).unwrap_or(0);
    olmo_model::device::gpu(index).map_err(no_gpu)
}

/// Free GPU memory in bytes, if the driver reports it.
pub(crate) fn free_memory(device: &str) -> Option<u64> {
    #[cfg(feature = "libtorch")]
    return olmo_model::device::free_memory(place(device).ok()?);
    #[cfg(not(feature = "libtorch"))]
    return Some(device).and(None);
}

/// Settings that change a GPU's results but are not part of any cache key.
pub(crate) fn unkeyed() -> Vec<String> {
    #[cfg(feature = "libtorch")]
    return olmo_model::device::instruments();
    #[cfg(not(feature = "libtorch"))]
    return Vec::new();
}

/// The reason why the GPU ran slower than possible, if there is one.
pub(crate) fn slower() -> Option<String> {
    #[cfg(feature = "libtorch")]
    return olmo_model::device::cudnn_refusal()
        .map(|why| format!("attention ran on the slower flash kernels, because cuDNN failed: {why}"));
    #[cfg(not(feature = "libtorch"))]
    return None;
}

#[cfg(not(feature = "libtorch"))]
fn on_gpu(_: Computes, device: &str, _: &ModelConfig, _: &State) -> Result<Model, StageError> {
    Err(no_gpu(format!("device {device}: this worker was built without libtorch, and flex computes on the CPU")))
}

fn no_gpu(why: String) -> StageError {
    StageError::fail("train::no_gpu", why)
        .hint("run `olmo-pipe doctor` to see which GPUs are available, or set `device: cpu`")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use olmo_model::Parameters;

    use super::*;

    #[test]
    fn what_cannot_compute_is_refused_with_the_way_out() {
        let config: ModelConfig = serde_json::from_value(
            json!({"d_model": 8, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 16, "vocab_size": 5}),
        )
        .unwrap();
        let state = State::new(Parameters::init(&config, 1).unwrap());
        let on = |compute| model(compute, "cuda:7", &config, &state);
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
