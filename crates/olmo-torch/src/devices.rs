//! The available compute devices.

/// CUDA support of this build of libtorch and this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cuda {
    /// Whether the running libtorch has CUDA at all (`scripts/libtorch cuda`).
    pub built: bool,
    /// Number of devices that its driver offers.
    pub devices: usize,
}

/// Whether the CPU stands in for a GPU, for tests: `OLMO_PIPE_EMULATE_GPU=1`.
pub fn emulated() -> bool {
    std::env::var_os("OLMO_PIPE_EMULATE_GPU").is_some_and(|value| value == "1")
}

/// Looks for CUDA; does not call a driver if libtorch is a CPU build. `has_cuda` does not help: it
/// is false without a driver.
pub fn cuda() -> Cuda {
    let built = tch::utils::has_cudart();
    let devices = if built { tch::Cuda::device_count().max(0) as usize } else { 0 };
    Cuda { built, devices }
}
