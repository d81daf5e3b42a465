//! Estimates the memory needed to train a model.

use olmo_ops::Keep;

use crate::checkpointing::ActivationCheckpointing;
use crate::config::ModelConfig;
use crate::layout::layout;

/// Device and data type of training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Computes {
    /// On the host, in f32.
    #[default]
    OnHost,
    /// On a GPU, in f32.
    OnGpu,
    /// On a GPU in bf16, with weights, gradients and moments in f32.
    OnGpuInBf16,
}

/// Memory of one training process on its device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The weights, and their bf16 copy for matrix products.
    pub weights: u64,
    /// The gradients.
    pub gradients: u64,
    /// The optimizer's two moments.
    pub moments: u64,
    /// A second copy of weights and moments, while a checkpoint is being written and the next step
    /// changes them. 0 for a GPU, where this copy is on the host.
    pub snapshot: u64,
    /// Activations that the blocks keep for the backward pass.
    pub activations: u64,
    /// Temporary buffers: the logits, plus the larger of what the head and a block's backward pass
    /// need.
    pub working: u64,
}

const FLOAT: u64 = size_of::<f32>() as u64;

/// Maximum number of logits in a chunk of the head, unless a very large vocabulary exceeds it with
/// the minimum number of rows.
const LOGITS: u64 = 1 << 24;

/// The same on a GPU.
const LOGITS_ON_GPU: u64 = 1 << 29;

impl MemoryEstimate {
    /// The estimate for a valid `config` and micro-batches of `rows` rows of `sequence` tokens.
    pub fn of(
        config: &ModelConfig,
        computes: Computes,
        checkpointing: ActivationCheckpointing,
        rows: usize,
        sequence: usize,
    ) -> MemoryEstimate {
        let count = layout(config).last().map_or(0, |tensor| tensor.range.end as u64);
        let (weights, on_gpu) = (FLOAT * count, computes != Computes::OnHost);
        let (float, copy) = if computes == Computes::OnGpuInBf16 { (FLOAT / 2, FLOAT / 2 * count) } else { (FLOAT, 0) };
        let tokens = rows as u64 * sequence as u64;
        let (d, q) = (config.d_model as u64, config.query_width() as u64);
        let qkv = q + 2 * config.kv_width() as u64;
        let mlp = config.mlp_width() as u64;
        let raw = if config.block(0).needs_raw() { qkv } else { 0 };
        // The block's input is kept in any case: it is the output of the previous block.
        let kept = |keep: Keep| match keep {
            Keep::Nothing => d,
            Keep::All => 4 * d + q + raw + qkv + config.n_heads as u64 + 2 * mlp,
            Keep::Products => {
                let normed = if config.norm_after { 2 * d } else { 0 };
                let heads = if raw > 0 { raw } else { qkv };
                2 * d + q + normed + heads + config.n_heads as u64 + 2 * mlp
            }
        };
        let blocks = || (0..config.n_layers).map(|layer| checkpointing.keep(layer));
        let activations: u64 = blocks().map(kept).sum();
        let again = blocks().map(|keep| kept(Keep::All) - kept(keep)).max().unwrap_or(0);
        // On a GPU, the gradients of attention are separate arrays that are then joined.
        let backward = again + 4 * d + q + if on_gpu { 2 } else { 1 } * qkv + mlp;
        // In f32, attention on a GPU is made of products, with the scores of several queries of one
        // row at a time.
        let scores =
            if computes == Computes::OnGpu { 6 * (config.n_heads * sequence * sequence.min(512)) as u64 } else { 0 };
        // Hidden states, their gradient, and the norm's input and output.
        let head = 4 * d;
        let chunk = if on_gpu { LOGITS_ON_GPU } else { LOGITS };
        let logits = chunk.max(32 * config.embedding_rows() as u64).min(tokens * config.embedding_rows() as u64);
        MemoryEstimate {
            weights: weights + copy,
            gradients: weights,
            moments: 2 * weights,
            snapshot: if on_gpu { 0 } else { 3 * weights },
            activations: float * tokens * activations,
            // The logits' memory stays allocated for the next step while the blocks run.
            working: float * ((tokens * backward + scores).max(tokens * head) + logits),
        }
    }

    /// The total.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.moments + self.snapshot + self.activations + self.working
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn olmo_2_1b_with_blocks_computed_again_fits_a_gpu_of_80_gb_with_16_rows_of_4096() {
        let config: ModelConfig =
            serde_json::from_value(json!({"d_model": 2048, "n_heads": 16, "n_layers": 16, "mlp_hidden_size": 16384,
            "layer_norm_type": "rms", "attention_layer_norm": true, "norm_after": true, "weight_tying": false,
            "vocab_size": 100352, "max_sequence_length": 4096}))
            .expect("a config");
        let of =
            |policy, rows| MemoryEstimate::of(&config, Computes::OnGpuInBf16, policy, rows, 4096).total() as f64 / 1e9;
        let (whole, none) = (of(ActivationCheckpointing::WholeLayer, 16), of(ActivationCheckpointing::None, 16));
        assert!((35.0..70.0).contains(&whole), "{whole} GB");
        assert!(none > 80.0, "{none} GB without");
        // The prototype, with bf16 gradients, took 42 GiB.
        assert!(
            (38.0..55.0).contains(&of(ActivationCheckpointing::None, 4)),
            "{}",
            of(ActivationCheckpointing::None, 4)
        );
    }
}
