//! How much memory training a model takes, before it is done.

use olmo_ops::Keep;

use crate::checkpointing::ActivationCheckpointing;
use crate::config::ModelConfig;
use crate::layout::layout;

/// Bytes of one training process on the default device, in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The weights.
    pub weights: u64,
    /// Their gradients.
    pub gradients: u64,
    /// The optimizer's two moments.
    pub moments: u64,
    /// A second copy of weights and moments, while a checkpoint of them is written and the next step changes them.
    pub snapshot: u64,
    /// What the blocks keep for the backward pass.
    pub activations: u64,
    /// Head and loss, and the most that a block's backward pass takes on top of that.
    pub working: u64,
}

const FLOAT: u64 = size_of::<f32>() as u64;

/// Logits of a chunk of the head at most, unless the vocabulary is so large that a chunk's least rows are more.
const LOGITS: u64 = 1 << 22;

impl MemoryEstimate {
    /// For a valid `config` and micro-batches of `rows` rows of `sequence` tokens.
    pub fn of(
        config: &ModelConfig,
        checkpointing: ActivationCheckpointing,
        rows: usize,
        sequence: usize,
    ) -> MemoryEstimate {
        let weights = FLOAT * layout(config).last().map_or(0, |tensor| tensor.range.end as u64);
        let tokens = rows as u64 * sequence as u64;
        let d = config.d_model as u64;
        let qkv = d + 2 * (config.kv_heads() * config.head_width()) as u64;
        let mlp = config.mlp_width() as u64;
        let raw = if config.attention_layer_norm || config.clip_qkv.is_some() { qkv } else { 0 };
        // The block's input stays whatever is kept: it is the output of the block before.
        let kept = |keep: Keep| match keep {
            Keep::Nothing => d,
            Keep::All => 5 * d + raw + qkv + config.n_heads as u64 + 2 * mlp,
            Keep::Products => {
                let normed = if config.norm_after { 2 * d } else { 0 };
                let heads = if raw > 0 { raw } else { qkv };
                3 * d + normed + heads + config.n_heads as u64 + 2 * mlp
            }
        };
        let blocks = || (0..config.n_layers).map(|layer| checkpointing.keep(layer));
        let activations: u64 = blocks().map(kept).sum();
        let again = blocks().map(|keep| kept(Keep::All) - kept(keep)).max().unwrap_or(0);
        let backward = again + 5 * d + qkv + mlp;
        // Hidden states, their gradient, and the norm's input and output.
        let head = 4 * d;
        let logits = LOGITS.max(32 * config.embedding_rows() as u64).min(tokens * config.embedding_rows() as u64);
        MemoryEstimate {
            weights,
            gradients: weights,
            moments: 2 * weights,
            snapshot: 3 * weights,
            activations: FLOAT * tokens * activations,
            // The logits' memory waits for the next step while the blocks work.
            working: FLOAT * ((tokens * backward).max(tokens * head) + logits),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.moments + self.snapshot + self.activations + self.working
    }
}
