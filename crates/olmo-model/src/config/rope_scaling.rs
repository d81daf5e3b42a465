//! [`RopeScaling`]: rotary position embeddings for longer sequences than those of pretraining.

use olmo_ops::{RopeConfig, Yarn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// YaRN (<https://arxiv.org/abs/2309.00071>), with the names and defaults of OLMo-core's
/// `YaRNRoPEScalingConfig`, which are the values of OLMo 3.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RopeScaling {
    /// How much longer the sequences become; at least 1.
    #[schemars(range(min = 1))]
    pub factor: f64,
    /// A pair that turns at least this often in the old context keeps its frequency.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta_fast: f64,
    /// A pair that turns at most this often in the old context has its frequency divided by
    /// `factor`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta_slow: f64,
    /// Sequence length of pretraining in tokens.
    #[schemars(range(min = 1))]
    pub old_context_len: usize,
    /// Factor of cosines and sines, so scores have its square (the name of `transformers`); null:
    /// 0.1 ln(`factor`) + 1.
    pub attention_factor: Option<f64>,
}

impl Default for RopeScaling {
    fn default() -> Self {
        Self { factor: 8.0, beta_fast: 32.0, beta_slow: 1.0, old_context_len: 8192, attention_factor: None }
    }
}

impl RopeScaling {
    /// The factor of cosines and sines.
    pub fn attention_factor(&self) -> f64 {
        self.attention_factor.unwrap_or(0.1 * self.factor.ln() + 1.0)
    }

    /// The scaled form of `plain`.
    pub(super) fn apply(&self, plain: RopeConfig) -> RopeConfig {
        let yarn = Yarn {
            factor: self.factor,
            beta_fast: self.beta_fast,
            beta_slow: self.beta_slow,
            old_context_len: self.old_context_len,
        };
        RopeConfig {
            scaling: olmo_ops::RopeScaling::Yarn(yarn),
            attention_factor: self.attention_factor() as f32,
            ..plain
        }
    }

    /// Every reason why these values are invalid.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, name: &str, value: String, must: &str| {
            if !holds {
                problems.push(format!("`rope_scaling.{name}` is {value} and must be {must}"));
            }
        };
        let positive = |number: f64| number > 0.0 && number.is_finite();
        let factor = self.factor;
        require(factor >= 1.0 && factor.is_finite(), "factor", factor.to_string(), "at least 1");
        require(positive(self.beta_slow), "beta_slow", self.beta_slow.to_string(), "greater than 0");
        require(
            positive(self.beta_fast) && self.beta_fast > self.beta_slow,
            "beta_fast",
            self.beta_fast.to_string(),
            "greater than `beta_slow`",
        );
        let length = self.old_context_len;
        require((1..=1 << 24).contains(&length), "old_context_len", length.to_string(), "between 1 and 16777216");
        if let Some(attention) = self.attention_factor {
            require(positive(attention), "attention_factor", attention.to_string(), "greater than 0");
        }
        problems
    }
}
