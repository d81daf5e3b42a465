//! The params by which a stage chooses where it computes: `device`, `backend` and `precision`.
//!
//! [`Compute::resolve`] reads them. They are not part of a cache key, the resolved values are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::{Compute, Device, Precision};
use crate::rules::Finding;

/// The params themselves, for `#[serde(flatten)]` in those of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComputeParams {
    /// Device to compute on: `cpu`, `cuda`, `cuda:N` (the N-th of the stage's own GPUs), or `auto` (a
    /// GPU if `resources` requests one).
    #[serde(default = "auto")]
    #[schemars(regex(pattern = r"^(auto|cpu|cuda(:[0-9]+)?)$"), extend("x-key" = false))]
    pub device: String,
    /// Compute backend: `flex` (pure Rust, CPU), `libtorch` (CPU or CUDA; needs
    /// `scripts/libtorch cpu --build`), or `auto` (flex on a CPU, libtorch on a GPU). The cache key
    /// records the resolved value.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["auto", "flex", "libtorch"], "default" = "auto", "x-key" = false))]
    pub backend: BackendParam,
    /// Data type of activations (OLMo's names): `fp32`, `amp_bf16` (GPU only; a training keeps
    /// weights, gradients and moments in f32), or `auto` (`amp_bf16` on a GPU, otherwise `fp32`). The
    /// cache key records the resolved value.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["auto", "fp32", "amp_bf16"], "default" = "auto", "x-key" = false))]
    pub precision: PrecisionParam,
}

fn auto() -> String {
    "auto".into()
}

/// Param `backend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendParam {
    #[default]
    Auto,
    Flex,
    #[serde(rename = "libtorch")]
    LibTorch,
}

/// Param `precision`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionParam {
    #[default]
    Auto,
    Fp32,
    AmpBf16,
}

impl ComputeParams {
    /// Every rule that the params of stage `stage` break; they resolve to `compute`.
    pub fn broken(&self, stage: &str, compute: Compute) -> Vec<Finding> {
        let mut findings = Vec::new();
        let params = format!("{stage}::params");
        if !is_device(&self.device) {
            let what =
                "`device` must be auto, cpu, cuda or cuda:N, where N is the index of one of the stage's own GPUs";
            findings.push(Finding::error(&params, "device", what));
        }
        if self.backend == BackendParam::Flex && self.device.starts_with("cuda") {
            let what = "`backend: flex` cannot be combined with `device: cuda`: flex computes on the CPU; use libtorch or auto";
            findings.push(Finding::error(&params, "backend", what));
        }
        let in_bf16 = compute.device == Device::Cuda && compute.precision == Precision::AmpBf16;
        if self.precision == PrecisionParam::AmpBf16 && !in_bf16 {
            let name = compute.name();
            let what = format!("amp_bf16 needs a GPU, but the backend resolved to `{name}`, which computes in f32");
            let finding = Finding::error(&format!("{stage}::precision"), "precision", what);
            findings.push(finding.hint("set `precision: auto`, or give the stage a GPU (`resources: {gpus: 1}`)"));
        }
        findings
    }
}

fn is_device(text: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    matches!(text, "auto" | "cpu" | "cuda") || text.strip_prefix("cuda:").is_some_and(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_combined_is_an_error_at_its_param() {
        let codes = |device: &str, backend, precision, compute| -> Vec<String> {
            let findings = ComputeParams { device: device.into(), backend, precision }.broken("train", compute);
            findings.into_iter().map(|finding| format!("{} {}", finding.code, finding.param)).collect()
        };
        use BackendParam::{Auto, Flex};
        use PrecisionParam::{AmpBf16, Fp32};
        for device in ["auto", "cpu", "cuda", "cuda:12"] {
            assert!(codes(device, Auto, Fp32, Compute::FLEX).is_empty(), "{device}");
        }
        for device in ["gpu", "cuda:", "cuda:x", "cuda:1:2", ""] {
            assert_eq!(codes(device, Auto, Fp32, Compute::FLEX), ["train::params device"], "{device}");
        }
        assert_eq!(codes("cuda", Flex, Fp32, Compute::FLEX), ["train::params backend"]);
        assert_eq!(codes("cpu", Auto, AmpBf16, Compute::FLEX), ["train::precision precision"]);
        assert!(codes("cuda", Auto, AmpBf16, Compute::CUDA).is_empty());
    }

    #[test]
    fn among_the_params_of_a_stage_they_have_defaults_and_no_other_name_passes() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Params {
            limit: Option<usize>,
            #[serde(flatten)]
            compute: ComputeParams,
        }
        let read = |text: &str| serde_json::from_str::<Params>(text).map_err(|error| error.to_string());
        let params = read(r#"{"limit": 3, "device": "cuda:1"}"#).unwrap();
        assert_eq!((params.limit, params.compute.device.as_str()), (Some(3), "cuda:1"));
        assert_eq!(params.compute.backend, BackendParam::Auto);
        assert_eq!(read("{}").unwrap().compute.device, "auto");
        assert!(read(r#"{"devise": "cpu"}"#).unwrap_err().contains("devise"));
        assert!(read(r#"{"backend": "cuda"}"#).is_err());
    }
}
