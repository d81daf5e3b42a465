//! [`Architecture`]: the architectures of llama.cpp that a model can have, their names of tensors, and
//! the order of rows for their rotary embedding.

use crate::config::{LayerNormType, ModelConfig};
use crate::error::ModelError;
use crate::formats::parts::{Names, Part};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    /// OLMo 1.
    Olmo,
    /// OLMo 2, and OLMo 3 with sliding windows.
    Olmo2,
    /// Read only.
    Llama,
}

/// The embedding, and the head, which may be missing if the embedding is the head.
pub(super) const EMBEDDING: &str = "token_embd.weight";
pub(super) const HEAD: &str = "output.weight";

const NAMES: Names = Names {
    embedding: "token_embd",
    head: "output",
    final_norm: "output_norm",
    blocks: "blk",
    queries: "attn_q",
    keys: "attn_k",
    values: "attn_v",
    attention_output: "attn_output",
    q_norm: "attn_q_norm",
    k_norm: "attn_k_norm",
    up: "ffn_up",
    gate: "ffn_gate",
    down: "ffn_down",
    attention_norm: "post_attention_norm",
    mlp_norm: "post_ffw_norm",
};

const NAMES_OF_LLAMA: Names = Names { attention_norm: "attn_norm", mlp_norm: "ffn_norm", ..NAMES };

impl Architecture {
    pub(super) const ALL: [Architecture; 3] = [Architecture::Olmo, Architecture::Olmo2, Architecture::Llama];

    pub(super) fn name(self) -> &'static str {
        match self {
            Architecture::Olmo => "olmo",
            Architecture::Olmo2 => "olmo2",
            Architecture::Llama => "llama",
        }
    }

    /// The architecture in which llama.cpp computes `config`.
    ///
    /// # Errors
    /// There is none: what is different in each.
    pub(super) fn of(config: &ModelConfig) -> Result<Architecture, ModelError> {
        let is_rms = config.layer_norm_type == LayerNormType::Rms;
        let mut reasons = Vec::new();
        for architecture in [Architecture::Olmo, Architecture::Olmo2] {
            let is_olmo2 = architecture == Architecture::Olmo2;
            let mut differences = Vec::new();
            let mut require = |holds: bool, what: &str| {
                if !holds {
                    differences.push(what.to_owned());
                }
            };
            require(is_rms == is_olmo2, "layer_norm_type");
            require(config.layer_norm_with_affine == is_olmo2, "layer_norm_with_affine");
            require(config.attention_layer_norm == is_olmo2, "attention_layer_norm");
            require(config.norm_after == is_olmo2, "norm_after");
            require(!is_olmo2 || config.clip_qkv.is_none(), "clip_qkv");
            require(is_olmo2 || config.sliding_window.is_none(), "sliding_window");
            require(is_olmo2 || config.rope_scaling.is_none(), "rope_scaling");
            if differences.is_empty() {
                return Ok(architecture);
            }
            reasons.push(format!("not as {}: {}", architecture.name(), differences.join(", ")));
        }
        Err(ModelError::NotExportable(reasons))
    }

    /// Every tensor and the part of ours that it is.
    pub(super) fn parts(self, config: &ModelConfig) -> Vec<Part> {
        if self == Architecture::Olmo2 { NAMES.parts(config) } else { NAMES_OF_LLAMA.parts(config) }
    }

    /// The tensors to write: [`Architecture::parts`], and a head where llama.cpp does not take the
    /// embedding for one.
    pub(super) fn written_parts(self, config: &ModelConfig) -> Vec<Part> {
        let mut parts = self.parts(config);
        if self == Architecture::Olmo2 && config.weight_tying {
            let embedding = parts.iter().find(|part| part.name == EMBEDDING).cloned();
            parts.extend(embedding.map(|embedding| Part { name: HEAD.to_owned(), ..embedding }));
        }
        parts
    }

    /// The number of heads of a tensor whose rows llama.cpp has in another order: pairs that are
    /// rotated together are neighbours, not in two halves of a head.
    pub(super) fn permuted_heads(self, config: &ModelConfig, tensor: &str) -> Option<usize> {
        if self == Architecture::Olmo2 {
            return None;
        }
        match tensor.rsplit('.').nth(1) {
            Some("attn_q") => Some(config.n_heads),
            Some("attn_k") => Some(config.kv_heads()),
            _ => None,
        }
    }
}

/// The row in a GGUF file that is row `row` of ours, in heads of `width` rows.
pub(super) fn permuted_row(row: usize, width: usize) -> usize {
    let (head, place) = (row / width, row % width);
    let (half, pair) = (place / (width / 2), place % (width / 2));
    head * width + 2 * pair + half
}

/// Names of tensors in the order of llama.cpp's converter: that of the names in Hugging Face's files.
pub(super) fn order_key(name: &str) -> (u8, String) {
    // As in `model.layers.10.self_attn.q_proj`.
    let Some(rest) = name.strip_prefix("blk.") else {
        return match name {
            HEAD => (0, String::new()),
            EMBEDDING => (1, String::new()),
            _ => (3, String::new()),
        };
    };
    let (layer, tensor) = rest.split_once('.').unwrap_or((rest, ""));
    let huggingface = match tensor.trim_end_matches(".weight") {
        "ffn_down" => "mlp.down_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "post_attention_norm" => "post_attention_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        "attn_k_norm" => "self_attn.k_norm",
        "attn_k" => "self_attn.k_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_q" => "self_attn.q_proj",
        "attn_v" => "self_attn.v_proj",
        other => other,
    };
    (2, format!("{layer}.{huggingface}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_a_file_are_the_halves_of_a_head() {
        // Two heads of four rows.
        let rows: Vec<usize> = (0..8).map(|row| permuted_row(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
