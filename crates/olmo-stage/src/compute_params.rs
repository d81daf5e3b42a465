//! The params by which a stage chooses where it computes: `device`, `backend` and `precision`.
//!
//! [`Compute::resolve`] reads them. They are not part of a cache key, the resolved values are.

use serde::{Deserialize, Serialize};

use crate::compute::{Compute, Device, Precision};
use crate::rules::Finding;

/// The default of param `device`.
pub fn auto() -> String {
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

/// Every rule that the params of stage `stage` break; they resolve to `compute`.
pub fn broken(
    stage: &str,
    device: &str,
    backend: BackendParam,
    precision: PrecisionParam,
    compute: Compute,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let params = format!("{stage}::params");
    if !is_device(device) {
        let what = "`device` must be auto, cpu, cuda or cuda:N, where N is the index of one of the stage's own GPUs";
        findings.push(Finding::error(&params, "device", what));
    }
    if backend == BackendParam::Flex && device.starts_with("cuda") {
        let what =
            "`backend: flex` cannot be combined with `device: cuda`: flex computes on the CPU; use libtorch or auto";
        findings.push(Finding::error(&params, "backend", what));
    }
    let in_bf16 = compute.device == Device::Cuda && compute.precision == Precision::AmpBf16;
    if precision == PrecisionParam::AmpBf16 && !in_bf16 {
        let name = compute.name();
        let what = format!("amp_bf16 needs a GPU, but the backend resolved to `{name}`, which computes in f32");
        let finding = Finding::error(&format!("{stage}::precision"), "precision", what);
        findings.push(finding.hint("set `precision: auto`, or give the stage a GPU (`resources: {gpus: 1}`)"));
    }
    findings
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
            let findings = broken("train", device, backend, precision, compute);
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
}
