//! [`Architecture`]: the architectures of `transformers` that an OLMo model can have.

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
}

impl Architecture {
    /// The architecture that computes `config`.
    pub(super) fn of(config: &ModelConfig) -> Result<Architecture, ModelError> {
        let (mut olmo1, mut olmo2) = (Vec::new(), Vec::new());
        let mut require = |first: bool, second: bool, field: &str, value: String| {
            if !first {
                olmo1.push(format!("{field} is {value}"));
            }
            if !second {
                olmo2.push(format!("{field} is {value}"));
            }
        };
        let rms = config.layer_norm_type == LayerNormType::Rms;
        require(!rms, rms, "layer_norm_type", if rms { "rms" } else { "default" }.into());
        let affine = config.layer_norm_with_affine;
        require(!affine, affine, "layer_norm_with_affine", affine.to_string());
        require(
            !config.attention_layer_norm,
            config.attention_layer_norm,
            "attention_layer_norm",
            config.attention_layer_norm.to_string(),
        );
        require(!config.norm_after, config.norm_after, "norm_after", config.norm_after.to_string());
        require(
            config.layer_norm_eps == OLMO1_EPS,
            true,
            "layer_norm_eps",
            format!("{} and not {OLMO1_EPS}", config.layer_norm_eps),
        );
        let window = config.sliding_window;
        require(window.is_none(), true, "sliding_window", window.unwrap_or_default().to_string());
        require(true, config.clip_qkv.is_none(), "clip_qkv", format!("{:?}", config.clip_qkv.unwrap_or_default()));
        match (olmo1.is_empty(), olmo2.is_empty()) {
            (true, _) => Ok(Architecture::Olmo1),
            (_, true) => Ok(if window.is_some() { Architecture::Olmo3 } else { Architecture::Olmo2 }),
            _ => Err(ModelError::NotExportable(vec![
                format!("not as olmo: {}", olmo1.join(", ")),
                format!("not as olmo2: {}", olmo2.join(", ")),
            ])),
        }
    }

    pub(super) fn model_type(self) -> &'static str {
        match self {
            Architecture::Olmo1 => "olmo",
            Architecture::Olmo2 => "olmo2",
            Architecture::Olmo3 => "olmo3",
        }
    }

    pub(super) fn class(self) -> &'static str {
        match self {
            Architecture::Olmo1 => "OlmoForCausalLM",
            Architecture::Olmo2 => "Olmo2ForCausalLM",
            Architecture::Olmo3 => "Olmo3ForCausalLM",
        }
    }
}

pub(super) const FULL: &str = "full_attention";
pub(super) const SLIDING: &str = "sliding_attention";

/// The kind of each block, in the terms of `transformers`.
pub(super) fn layer_types(config: &ModelConfig) -> Vec<&'static str> {
    (0..config.n_layers).map(|layer| if config.window(layer).is_some() { SLIDING } else { FULL }).collect()
}
