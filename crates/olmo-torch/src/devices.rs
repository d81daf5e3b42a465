//! What there is to compute on.

/// CUDA as this build of libtorch and this machine have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cuda {
    /// Whether the libtorch that runs holds CUDA at all (`scripts/libtorch cuda`).
    pub built: bool,
    /// Devices that its driver offers.
    pub devices: usize,
}

/// Whether the CPU stands in for a GPU, for tests: `OLMO_PIPE_EMULATE_GPU=1`.
pub fn emulated() -> bool {
    std::env::var_os("OLMO_PIPE_EMULATE_GPU").is_some_and(|value| value == "1")
}

/// Looks for CUDA; asks no driver where libtorch is the CPU's. `has_cuda` would not do: without a driver it says no.
pub fn cuda() -> Cuda {
    let built = tch::utils::has_cudart();
    let devices = if built { tch::Cuda::device_count().max(0) as usize } else { 0 };
    Cuda { built, devices }
}
