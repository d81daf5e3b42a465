//! The worker for a backend: its path, and how to build it. It never starts a worker.

use std::path::{Path, PathBuf};

use olmo_stage::Compute;
use olmo_stage::compute::{Backend, Device};

use crate::spec::ResolvedStage;

/// Where and how `stage` computes.
pub fn stage_compute(stage: &ResolvedStage) -> Compute {
    Compute::resolve(&stage.description.contract, &stage.params, stage.resources.gpus)
}

/// The path of the worker for `compute`, which is next to the worker for flex at `flex`.
pub fn worker_path(compute: Compute, flex: &Path) -> PathBuf {
    if compute.backend == Backend::Flex {
        return flex.to_owned();
    }
    let mut name = flex.file_name().unwrap_or_default().to_owned();
    name.push("-libtorch");
    flex.with_file_name(name)
}

/// The command that builds the worker for `compute`.
pub fn build_command(compute: Compute) -> &'static str {
    match (compute.backend, compute.device) {
        (Backend::Flex, _) => "cargo build --release",
        (Backend::LibTorch, Device::Cpu) => "scripts/libtorch cpu --build",
        (Backend::LibTorch, Device::Cuda) => "scripts/libtorch cuda --build",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_are_in_one_folder() {
        let flex = Path::new("/opt/bin/olmo-worker");
        assert_eq!(worker_path(Compute::FLEX, flex), flex);
        assert_eq!(worker_path(Compute::LIBTORCH, flex), Path::new("/opt/bin/olmo-worker-libtorch"));
    }
}
