//! Opens a model on the device that a stage requested.

use std::path::Path;
use std::sync::Arc;

use olmo_model::{Compute, ModelConfig, ModelError, Parameters};
use olmo_ops::{Cpu, Matrices};
use olmo_stage::StageError;
use olmo_stage::compute::Device;

use crate::language_model::LanguageModel;
use crate::on_device::OnDevice;
use crate::quantize::Quantization;

/// Where a model computes.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    /// Device, backend and precision, as the engine resolved them.
    pub compute: olmo_stage::Compute,
    /// The requested device, such as `cuda:1`.
    pub device: &'a str,
    /// The stage that asks, for codes of errors.
    pub stage: &'a str,
}

impl Placement<'_> {
    fn error(&self, kind: &str, message: impl Into<String>) -> StageError {
        StageError::fail(&format!("{}::{kind}", self.stage), message)
    }

    /// An I/O error keeps its own code and hint.
    fn model_error(&self, error: ModelError) -> StageError {
        match error {
            ModelError::Io(error) => error.into(),
            other => self.error("model", other.to_string()),
        }
    }
}

/// Maps the files of a model folder, native or Hugging Face, without a copy of its weights on the
/// host.
///
/// # Errors
/// See [`olmo_model::load`]; also if this worker was built without the backend, or there is no such
/// GPU.
pub fn open(folder: &Path, placement: &Placement<'_>) -> Result<Box<dyn LanguageModel>, StageError> {
    let (config, matrices) = olmo_model::map(folder).map_err(|error| placement.model_error(error))?;
    of_matrices(config, matrices, placement)
}

/// Like [`open`], for commands that answer at once: with the weights rounded by `quantization`, if there
/// is one, and otherwise without a look at them. A weight that is not finite shows when a token is
/// chosen.
///
/// # Errors
/// See [`open`]; also a quantization on a GPU.
pub fn open_quantized(
    folder: &Path,
    placement: &Placement<'_>,
    quantization: Option<Quantization>,
) -> Result<Box<dyn LanguageModel>, StageError> {
    let Some(quantization) = quantization else {
        let (config, matrices) = olmo_model::map_unchecked(folder).map_err(|error| placement.model_error(error))?;
        return of_matrices(config, matrices, placement);
    };
    if placement.compute.device == Device::Cuda {
        let what = format!("weights in {} are multiplied on a CPU only", quantization.name());
        return Err(placement.error("quantize", what).hint("set `device: cpu`, or do without quantization"));
    }
    let (config, matrices) = olmo_model::map(folder).map_err(|error| placement.model_error(error))?;
    let rounded = quantization.apply(&config, &matrices);
    of_matrices(config, rounded, placement)
}

/// A model of a valid config with these weights.
///
/// # Errors
/// This worker was built without the backend, or there is no such GPU.
pub fn of_matrices(
    config: ModelConfig,
    matrices: Matrices,
    placement: &Placement<'_>,
) -> Result<Box<dyn LanguageModel>, StageError> {
    match placement.compute.device {
        Device::Cpu => {
            let compute = host(placement)?;
            Ok(Box::new(OnDevice::new(config, Cpu::of_matrices(compute, Arc::new(matrices)))))
        }
        Device::Cuda => on_gpu(config, &matrices, placement),
    }
}

/// A model with these weights on the host's default backend.
///
/// # Errors
/// The config is invalid, or the parameters belong to another one.
pub fn of_parameters(config: &ModelConfig, parameters: &Parameters) -> Result<Box<dyn LanguageModel>, ModelError> {
    parameters.check_fit(config)?;
    let device = Cpu::of_matrices(Compute::default(), Arc::new(parameters.matrices()));
    Ok(Box::new(OnDevice::new(config.clone(), device)))
}

/// The matrix products of the backend that `placement` names, on the CPU.
///
/// # Errors
/// This worker was built without the backend.
pub fn host(placement: &Placement<'_>) -> Result<Compute, StageError> {
    let backend = placement.compute.name();
    let compute = Compute::named(backend).ok_or_else(|| {
        placement
            .error("no_backend", format!("this worker was built without the backend `{backend}`"))
            .hint("build the worker that has it with `scripts/libtorch cpu --build`, or set `backend: flex`")
    })?;
    compute.prepare();
    Ok(compute)
}

#[cfg(feature = "libtorch")]
fn on_gpu(
    config: ModelConfig,
    matrices: &Matrices,
    placement: &Placement<'_>,
) -> Result<Box<dyn LanguageModel>, StageError> {
    use olmo_model::device::{Element, requested};
    use olmo_stage::compute::Precision;
    let element = match placement.compute.precision {
        Precision::AmpBf16 => Element::Bf16,
        Precision::Fp32 => Element::F32,
    };
    let place = requested(placement.device).map_err(|why| no_gpu(placement, why))?;
    of_matrices_on(place, element, config, matrices).map_err(|error| {
        placement.error("gpu", error.to_string()).hint("run `olmo-pipe doctor` to see what this machine has")
    })
}

/// A model of a valid config on a libtorch device, with activations of type `element`.
///
/// # Errors
/// The kernels do not support the config's widths, or are unavailable.
#[cfg(feature = "libtorch")]
pub fn of_matrices_on(
    place: olmo_model::device::Place,
    element: olmo_model::device::Element,
    config: ModelConfig,
    matrices: &Matrices,
) -> Result<Box<dyn LanguageModel>, ModelError> {
    use olmo_model::device::{Cuda, DeviceSettings, unsupported, vector};
    let block = config.block(0);
    if let Some(why) = unsupported(&block) {
        return Err(ModelError::Backend(why));
    }
    let settings = DeviceSettings { place, element, vector: vector(&block) };
    let device = Cuda::of_matrices(settings, matrices, &olmo_model::vectors(&config))
        .map_err(|error| ModelError::Backend(error.to_string()))?;
    Ok(Box::new(OnDevice::new(config, device)))
}

#[cfg(not(feature = "libtorch"))]
fn on_gpu(_: ModelConfig, _: &Matrices, placement: &Placement<'_>) -> Result<Box<dyn LanguageModel>, StageError> {
    let device = placement.device;
    Err(no_gpu(
        placement,
        format!("device {device}: this worker was built without libtorch, and flex computes on the CPU"),
    ))
}

fn no_gpu(placement: &Placement<'_>, why: String) -> StageError {
    placement.error("no_gpu", why).hint("run `olmo-pipe doctor` to see which GPUs are available, or set `device: cpu`")
}
