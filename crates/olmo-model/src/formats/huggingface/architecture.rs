//! [`Architecture`]: the architectures of `transformers` that a model can have.

use crate::config::{LayerNormType, ModelConfig};
use crate::error::ModelError;

/// The field of a config that names its architecture.
pub(crate) const MODEL_TYPE: &str = "model_type";

/// Our own field: the vocabulary size, if the embedding has more rows (Hugging Face records only
/// the rows).
pub(super) const VOCABULARY: &str = "olmo_vocab_size";

/// `transformers` hard-codes the eps of OLMo 1's norm.
pub(super) const OLMO1_EPS: f64 = 1e-5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    Olmo1,
    Olmo2,
    /// Like OLMo 2, with sliding windows.
    Olmo3,
    /// Without biases: RMSNorms before attention and MLP.
    Llama,
}

impl Architecture {
    /// The architecture that computes `config`.
    ///
    /// # Errors
    /// No architecture does: what is different in each.
    pub(super) fn of(config: &ModelConfig) -> Result<Architecture, ModelError> {
        let mut reasons = Vec::new();
        for architecture in [Architecture::Olmo1, Architecture::Olmo2, Architecture::Llama] {
            let differences = architecture.differences(config);
            match (architecture, config.sliding_window) {
                (Architecture::Olmo2, Some(_)) if differences.is_empty() => return Ok(Architecture::Olmo3),
                _ if differences.is_empty() => return Ok(architecture),
                _ => reasons.push(format!("not as {}: {}", architecture.model_type(), differences.join(", "))),
            }
        }
        Err(ModelError::NotExportable(reasons))
    }

    /// What `config` has and this architecture does not.
    fn differences(self, config: &ModelConfig) -> Vec<String> {
        let mut differences = Vec::new();
        let mut require = |holds: bool, field: &str, value: String| {
            if !holds {
                differences.push(format!("{field} is {value}"));
            }
        };
        let rms = config.layer_norm_type == LayerNormType::Rms;
        require(rms == self.has_rms_norm(), "layer_norm_type", if rms { "rms" } else { "default" }.into());
        let affine = config.layer_norm_with_affine;
        require(affine == self.has_rms_norm(), "layer_norm_with_affine", affine.to_string());
        let qk_norm = config.attention_layer_norm;
        require(qk_norm == self.has_norms_after(), "attention_layer_norm", qk_norm.to_string());
        require(config.norm_after == self.has_norms_after(), "norm_after", config.norm_after.to_string());
        // With windows, OLMo 2 is OLMo 3.
        let window = config.sliding_window.filter(|_| !self.has_norms_after());
        require(window.is_none(), "sliding_window", window.unwrap_or_default().to_string());
        let eps = config.layer_norm_eps;
        require(self.has_rms_norm() || eps == OLMO1_EPS, "layer_norm_eps", format!("{eps} and not {OLMO1_EPS}"));
        let clip = config.clip_qkv.filter(|_| self.has_rms_norm());
        require(clip.is_none(), "clip_qkv", format!("{:?}", clip.unwrap_or_default()));
        differences
    }

    /// RMSNorm with weights, whose eps is in the config.
    pub(super) fn has_rms_norm(self) -> bool {
        self != Architecture::Olmo1
    }

    /// Norms after attention and MLP, and QK-norms.
    pub(super) fn has_norms_after(self) -> bool {
        matches!(self, Architecture::Olmo2 | Architecture::Olmo3)
    }

    pub(super) fn model_type(self) -> &'static str {
        match self {
            Architecture::Olmo1 => "olmo",
            Architecture::Olmo2 => "olmo2",
            Architecture::Olmo3 => "olmo3",
            Architecture::Llama => "llama",
        }
    }

    pub(super) fn class(self) -> &'static str {
        match self {
            Architecture::Olmo1 => "OlmoForCausalLM",
            Architecture::Olmo2 => "Olmo2ForCausalLM",
            Architecture::Olmo3 => "Olmo3ForCausalLM",
            Architecture::Llama => "LlamaForCausalLM",
        }
    }
}

pub(super) const FULL: &str = "full_attention";
pub(super) const SLIDING: &str = "sliding_attention";

/// The kind of each block, in the terms of `transformers`.
pub(super) fn layer_types(config: &ModelConfig) -> Vec<&'static str> {
    (0..config.n_layers).map(|layer| if config.window(layer).is_some() { SLIDING } else { FULL }).collect()
}
