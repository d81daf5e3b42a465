//! [`Backend`]: what computes a stage, and which worker holds it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::spec::ResolvedStage;

/// What computes a stage. Follows from the experiment alone, never from the machine: an equal experiment has equal keys everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Pure Rust, on the CPU; in every worker.
    Flex,
    /// libtorch on the CPU.
    LibTorch,
    /// libtorch on a GPU.
    LibTorchCuda,
}

impl Backend {
    /// What computes `stage`; flex, where nothing does.
    pub fn of_stage(stage: &ResolvedStage) -> Self {
        let contract = &stage.description.contract;
        match contract.backend && contract.command.is_none() {
            true => Self::of(&stage.params, stage.resources.gpus),
            false => Self::Flex,
        }
    }

    /// What the params `device` and `backend` of a stage come to that asks for so many `gpus`; a stage without them takes flex.
    pub fn of(params: &Value, gpus: u32) -> Self {
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

    /// Its name in keys and requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::LibTorch => "libtorch",
            Self::LibTorchCuda => "libtorch-cuda",
        }
    }

    /// What activations are computed in, from the param `precision`: bf16 on a GPU unless it says otherwise, else f32 (OLMo's names).
    /// Where bf16 is asked for and cannot be had, the key is one that no result has, so that the stage's rules are asked.
    pub fn precision(self, params: &Value) -> &'static str {
        match (self, params.get("precision").and_then(Value::as_str)) {
            (_, Some("amp_bf16")) | (Self::LibTorchCuda, Some("auto")) => "amp_bf16",
            _ => "fp32",
        }
    }

    /// The worker that holds it, if the one for flex is at `flex`.
    pub fn worker(self, flex: &Path) -> PathBuf {
        if self == Self::Flex {
            return flex.to_owned();
        }
        let mut name = flex.file_name().unwrap_or_default().to_owned();
        name.push("-libtorch");
        flex.with_file_name(name)
    }

    /// The command that builds its worker.
    pub fn build(self) -> &'static str {
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
    fn device_and_backend_come_to_one_backend() {
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
            assert_eq!(Backend::of(&params, gpus), expected, "{device}, {backend}, {gpus} GPUs");
        }
        assert_eq!(Backend::of(&json!({"limit": 3}), 4), Flex, "a stage that knows no backends");
    }

    #[test]
    fn a_gpu_computes_in_bf16_unless_it_is_told_not_to() {
        let of = |backend: Backend, precision: &str| backend.precision(&json!({"precision": precision}));
        assert_eq!(of(Backend::LibTorchCuda, "auto"), "amp_bf16");
        assert_eq!(of(Backend::LibTorchCuda, "amp_bf16"), "amp_bf16");
        assert_eq!(of(Backend::LibTorchCuda, "fp32"), "fp32");
        assert_eq!(of(Backend::Flex, "auto"), "fp32");
        assert_eq!(of(Backend::Flex, "amp_bf16"), "amp_bf16", "refused by the stage, and no key of what f32 gave");
        assert_eq!(of(Backend::LibTorch, "auto"), "fp32");
        assert_eq!(Backend::LibTorchCuda.precision(&json!({})), "fp32", "a stage that knows no precisions");
    }

    #[test]
    fn the_workers_stand_side_by_side() {
        let flex = Path::new("/opt/bin/olmo-worker");
        assert_eq!(Backend::Flex.worker(flex), flex);
        assert_eq!(Backend::LibTorch.worker(flex), Path::new("/opt/bin/olmo-worker-libtorch"));
    }
}
