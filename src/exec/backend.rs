//! [`Backend`]: the library and device that compute a stage, and the worker that has them. A
//! backend is resolved from the experiment alone, never from the machine, so that equal experiments
//! have equal keys everywhere.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::spec::ResolvedStage;

/// The library and device that compute a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Pure Rust on the CPU. Every worker has it.
    Flex,
    /// libtorch on the CPU.
    LibTorch,
    /// libtorch on a GPU.
    LibTorchCuda,
}

impl Backend {
    /// The backend of `stage`. A stage that takes no backend gets flex.
    pub fn for_stage(stage: &ResolvedStage) -> Self {
        let contract = &stage.description.contract;
        match contract.backend && contract.command.is_none() {
            true => Self::resolve(&stage.params, stage.resources.gpus),
            false => Self::Flex,
        }
    }

    /// Resolves the params `device` and `backend` of a stage that requests `gpus` GPUs. A stage
    /// without these params gets flex.
    pub fn resolve(params: &Value, gpus: u32) -> Self {
        let word = |name: &str| params.get(name).and_then(Value::as_str).unwrap_or("auto");
        let (device, backend) = (word("device"), word("backend"));
        if params.get("backend").is_none() || backend == "flex" {
            return Self::Flex;
        }
        match (device, backend) {
            ("cpu", "libtorch") => Self::LibTorch,
            ("cpu", _) => Self::Flex,
            ("auto", "libtorch") if gpus == 0 => Self::LibTorch,
            ("auto", _) if gpus == 0 => Self::Flex,
            _ => Self::LibTorchCuda,
        }
    }

    /// The name of the backend in keys and requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::LibTorch => "libtorch",
            Self::LibTorchCuda => "libtorch-cuda",
        }
    }

    /// Resolves the param `precision` to the precision of the activations, by OLMo's names: bf16 on
    /// a GPU by default, f32 otherwise. If bf16 is requested on a backend without it, the key
    /// matches no result, so the stage is not a cache hit and its rules report the problem.
    pub fn precision(self, params: &Value) -> &'static str {
        match (self, params.get("precision").and_then(Value::as_str)) {
            (_, Some("amp_bf16")) | (Self::LibTorchCuda, Some("auto")) => "amp_bf16",
            _ => "fp32",
        }
    }

    /// The path of the worker with this backend, given the path of the worker for flex.
    pub fn worker_path(self, flex: &Path) -> PathBuf {
        if self == Self::Flex {
            return flex.to_owned();
        }
        let mut name = flex.file_name().unwrap_or_default().to_owned();
        name.push("-libtorch");
        flex.with_file_name(name)
    }

    /// The command that builds the worker with this backend.
    pub fn build_command(self) -> &'static str {
        match self {
            Self::Flex => "cargo build --release",
            Self::LibTorch => "scripts/libtorch cpu --build",
            Self::LibTorchCuda => "scripts/libtorch cuda --build",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn device_and_backend_resolve_to_one_backend() {
        use Backend::{Flex, LibTorch, LibTorchCuda};
        for (device, backend, gpus, expected) in [
            ("auto", "auto", 0, Flex),
            ("auto", "auto", 1, LibTorchCuda),
            ("auto", "libtorch", 0, LibTorch),
            ("auto", "libtorch", 2, LibTorchCuda),
            ("auto", "flex", 1, Flex),
            ("cpu", "auto", 1, Flex),
            ("cpu", "libtorch", 1, LibTorch),
            ("cuda", "auto", 0, LibTorchCuda),
            ("cuda:1", "libtorch", 2, LibTorchCuda),
        ] {
            let params = json!({"device": device, "backend": backend});
            assert_eq!(Backend::resolve(&params, gpus), expected, "{device}, {backend}, {gpus} GPUs");
        }
        assert_eq!(Backend::resolve(&json!({"limit": 3}), 4), Flex, "a stage without backends");
    }

    #[test]
    fn a_gpu_computes_in_bf16_by_default() {
        let precision = |backend: Backend, precision: &str| backend.precision(&json!({"precision": precision}));
        assert_eq!(precision(Backend::LibTorchCuda, "auto"), "amp_bf16");
        assert_eq!(precision(Backend::LibTorchCuda, "amp_bf16"), "amp_bf16");
        assert_eq!(precision(Backend::LibTorchCuda, "fp32"), "fp32");
        assert_eq!(precision(Backend::Flex, "auto"), "fp32");
        assert_eq!(
            precision(Backend::Flex, "amp_bf16"),
            "amp_bf16",
            "the stage rejects it, and the key differs from that of f32"
        );
        assert_eq!(precision(Backend::LibTorch, "auto"), "fp32");
        assert_eq!(Backend::LibTorchCuda.precision(&json!({})), "fp32", "a stage without precisions");
    }

    #[test]
    fn the_workers_are_in_the_same_folder() {
        let flex = Path::new("/opt/bin/olmo-worker");
        assert_eq!(Backend::Flex.worker_path(flex), flex);
        assert_eq!(Backend::LibTorch.worker_path(flex), Path::new("/opt/bin/olmo-worker-libtorch"));
    }
}
