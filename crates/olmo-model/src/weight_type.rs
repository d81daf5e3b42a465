//! [`WeightType`]: the type in which a file holds weights.

use half::{bf16, f16};
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
    /// Rounded to the nearest f16, ties to even, like PyTorch's `to(torch.float16)`. Values beyond
    /// 65504 become infinite.
    Float16,
}

impl WeightType {
    /// PyTorch's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
        }
    }

    /// Size of a weight in bytes.
    pub fn size(self) -> usize {
        if self == Self::Float32 { 4 } else { 2 }
    }

    /// `value` after rounding to this type.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::Float32 => value,
            Self::Bfloat16 => bf16::from_f32(value).to_f32(),
            Self::Float16 => f16::from_f32(value).to_f32(),
        }
    }

    /// Appends `values` to `bytes`, little endian.
    pub(crate) fn encode(self, values: &[f32], bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.resize(start + values.len() * self.size(), 0);
        let target = bytes[start..].chunks_exact_mut(self.size()).zip(values);
        match self {
            Self::Float32 => target.for_each(|(bytes, value)| bytes.copy_from_slice(&value.to_le_bytes())),
            Self::Bfloat16 => {
                target.for_each(|(bytes, value)| bytes.copy_from_slice(&bf16::from_f32(*value).to_le_bytes()));
            }
            Self::Float16 => {
                target.for_each(|(bytes, value)| bytes.copy_from_slice(&f16::from_f32(*value).to_le_bytes()));
            }
        }
    }
}
