//! [`WeightType`]: the type in which a file holds weights.

use half::bf16;
use serde::{Deserialize, Serialize};

/// Type of the weights in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// The exact weights.
    #[default]
    Float32,
    /// Rounded to the nearest bf16, ties to even, like PyTorch's `to(torch.bfloat16)`.
    Bfloat16,
}

impl WeightType {
    /// PyTorch's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
        }
    }

    /// `value` after rounding to this type.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::Float32 => value,
            Self::Bfloat16 => bf16::from_f32(value).to_f32(),
        }
    }
}
