//! [`Compute`]: the device, backend and precision of a stage that computes with tensors.
//!
//! They follow from the experiment alone, never from the machine, so equal experiments have equal
//! cache keys everywhere.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::contract::Contract;

/// The kind of processor that computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    Cpu,
    Cuda,
}

/// The tensor library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Pure Rust on the CPU. Every worker has it.
    Flex,
    #[serde(rename = "libtorch")]
    LibTorch,
}

/// The data type of activations, by OLMo's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    Fp32,
    /// Weights in f32, activations in bf16.
    AmpBf16,
}

/// Where and how a stage computes. All values are resolved, so none is `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compute {
    pub device: Device,
    pub backend: Backend,
    pub precision: Precision,
}

impl Compute {
    /// Flex on the CPU, in f32. Stages that do not compute with tensors get this, too.
    pub const FLEX: Self = Self { device: Device::Cpu, backend: Backend::Flex, precision: Precision::Fp32 };
    /// libtorch on the CPU, in f32.
    pub const LIBTORCH: Self = Self { backend: Backend::LibTorch, ..Self::FLEX };
    /// libtorch on a GPU, in bf16.
    pub const CUDA: Self = Self { device: Device::Cuda, backend: Backend::LibTorch, precision: Precision::AmpBf16 };

    /// Resolves the params `device`, `backend` and `precision` of a stage that requests `gpus`
    /// GPUs. A missing param means `auto`, except that a stage without `backend` computes on flex,
    /// and one without `precision` in f32.
    ///
    /// `amp_bf16` is kept even if the device cannot compute in it. The stage's rules then reject
    /// it, and no f32 result has that cache key.
    pub fn resolve(contract: &Contract, params: &Value, gpus: u32) -> Self {
        if !contract.backend || contract.command.is_some() {
            return Self::FLEX;
        }
        let word = |name: &str| params.get(name).and_then(Value::as_str);
        let (device, backend) = match (word("device").unwrap_or("auto"), word("backend")) {
            (_, None | Some("flex")) => (Device::Cpu, Backend::Flex),
            ("cpu", Some("libtorch")) => (Device::Cpu, Backend::LibTorch),
            ("cpu", _) => (Device::Cpu, Backend::Flex),
            ("auto", Some("libtorch")) if gpus == 0 => (Device::Cpu, Backend::LibTorch),
            ("auto", _) if gpus == 0 => (Device::Cpu, Backend::Flex),
            _ => (Device::Cuda, Backend::LibTorch),
        };
        let precision = match (device, word("precision")) {
            (_, Some("amp_bf16")) | (Device::Cuda, Some("auto")) => Precision::AmpBf16,
            _ => Precision::Fp32,
        };
        Self { device, backend, precision }
    }

    /// Backend and device in one word, for cache keys and messages: `flex`, `libtorch` or
    /// `libtorch-cuda`.
    pub fn name(self) -> &'static str {
        match (self.backend, self.device) {
            (Backend::Flex, _) => "flex",
            (Backend::LibTorch, Device::Cpu) => "libtorch",
            (Backend::LibTorch, Device::Cuda) => "libtorch-cuda",
        }
    }
}

impl Precision {
    /// OLMo's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::AmpBf16 => "amp_bf16",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn contract(backend: bool) -> Contract {
        let contract = json!({"stage": "train", "version": 1, "summary": "", "outputs": {}, "backend": backend});
        serde_json::from_value(contract).unwrap()
    }

    #[test]
    fn device_and_backend_resolve_to_one_name() {
        for (device, backend, gpus, expected) in [
            ("auto", "auto", 0, "flex"),
            ("auto", "auto", 1, "libtorch-cuda"),
            ("auto", "libtorch", 0, "libtorch"),
            ("auto", "libtorch", 2, "libtorch-cuda"),
            ("auto", "flex", 1, "flex"),
            ("cpu", "auto", 1, "flex"),
            ("cpu", "libtorch", 1, "libtorch"),
            ("cuda", "auto", 0, "libtorch-cuda"),
            ("cuda:1", "libtorch", 2, "libtorch-cuda"),
        ] {
            let params = json!({"device": device, "backend": backend});
            let compute = Compute::resolve(&contract(true), &params, gpus);
            assert_eq!(compute.name(), expected, "{device}, {backend}, {gpus} GPUs");
            assert_eq!(Compute::resolve(&contract(false), &params, gpus), Compute::FLEX);
        }
        assert_eq!(Compute::resolve(&contract(true), &json!({"limit": 3}), 4), Compute::FLEX, "no param `backend`");
    }

    #[test]
    fn a_gpu_computes_in_bf16_unless_the_params_say_otherwise() {
        let precision = |backend: &str, device: &str, precision: Option<&str>| {
            let mut params = json!({"backend": backend, "device": device});
            if let Some(precision) = precision {
                params["precision"] = precision.into();
            }
            Compute::resolve(&contract(true), &params, 1).precision.name()
        };
        assert_eq!(precision("libtorch", "cuda", Some("auto")), "amp_bf16");
        assert_eq!(precision("libtorch", "cuda", Some("amp_bf16")), "amp_bf16");
        assert_eq!(precision("libtorch", "cuda", Some("fp32")), "fp32");
        assert_eq!(precision("libtorch", "cuda", None), "fp32", "no param `precision`");
        assert_eq!(precision("flex", "cpu", Some("auto")), "fp32");
        assert_eq!(precision("flex", "cpu", Some("amp_bf16")), "amp_bf16", "refused by the stage's rules");
        assert_eq!(precision("libtorch", "cpu", Some("auto")), "fp32");
    }

    #[test]
    fn requests_hold_the_names_that_users_write() {
        let value = serde_json::to_value(Compute::CUDA).unwrap();
        assert_eq!(value, json!({"device": "cuda", "backend": "libtorch", "precision": "amp_bf16"}));
    }
}
