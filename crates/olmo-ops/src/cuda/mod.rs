//! A training step on a libtorch device, in bf16 or f32: products and attention by libtorch, the
//! rest by our own kernels.
//!
//! Weights, moments and gradients are flat f32 arrays on the device; with bf16, products read a
//! copy written by the optimizer. Nothing here waits for the device, except functions that return
//! numbers to the host ([`Training::wait`], [`Training::download`]).
//!
//! On [`Place::Cpu`], the same code runs the kernels in an emulator, for tests only.

// As in `autodiff`.
#![allow(deprecated)]

/// The arguments of a kernel.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => { [$(olmo_torch::Argument::from($argument)),*] };
}

mod decoder;
mod device;
mod embedding;
mod head;
mod training;
mod weights;

pub use olmo_torch::{Element, Place, cudnn_refusal};
use olmo_torch::{KernelFolders, emulated};
pub use training::{Finished, GradientNorm, Losses, Training};
pub use weights::{Cuda, DeviceSettings, unsupported, vector};

/// The GPU with this index among those available to the process. With `OLMO_PIPE_EMULATE_GPU=1`,
/// the CPU stands in for it (for tests: thousands of times slower).
///
/// # Errors
/// The reason why there is no such GPU.
pub fn gpu(index: usize) -> Result<Place, String> {
    if emulated() {
        olmo_torch::keep_to_one_thread();
        return Ok(Place::Cpu);
    }
    let found = olmo_torch::cuda();
    if !found.built {
        return Err("this worker was built with the libtorch for CPUs; scripts/libtorch cuda --build".into());
    }
    match found.devices {
        0 => Err("libtorch finds no GPU: there is none, or its driver is too old for CUDA 13".into()),
        count if index >= count => Err(format!("cuda:{index}: the stage has {count} GPUs, counted from 0")),
        _ => Ok(Place::Cuda(index)),
    }
}

/// The GPU that `device` (`cuda`, `cuda:N` or `auto`) selects among those available to the process.
///
/// # Errors
/// The reason why there is no such GPU.
pub fn requested(device: &str) -> Result<Place, String> {
    gpu(device.strip_prefix("cuda:").and_then(|number| number.parse().ok()).unwrap_or(0))
}

/// Environment settings of this process that change results but are not part of any cache key: for
/// tests and trials.
pub fn instruments() -> Vec<String> {
    let mut found = Vec::new();
    if emulated() {
        found.push("OLMO_PIPE_EMULATE_GPU=1: no GPU computes this, an emulator of its kernels does".to_owned());
    }
    if let Some(folder) = KernelFolders::from_environment().trial {
        found.push(format!("OLMO_PIPE_KERNELS: the kernels are those of {}", folder.display()));
    }
    found
}

/// Free memory of a GPU in bytes, if its driver reports it.
pub fn free_memory(place: Place) -> Option<u64> {
    olmo_torch::memory(place).map(|(free, _)| free as u64)
}
