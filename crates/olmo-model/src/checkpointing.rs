//! Activation checkpointing: which blocks keep their activations.

use olmo_ops::Keep;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Activation checkpointing, under OLMo's names. Recomputed activations are bit-identical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationCheckpointing {
    /// Every block keeps all activations.
    #[default]
    None,
    /// Every block recomputes what needs no matrix product: normed inputs and rotated heads.
    FineGrained,
    /// Every block keeps only its input.
    WholeLayer,
    /// One block in two keeps only its input.
    OneInTwo,
    OneInThree,
    OneInFour,
    OneInEight,
    /// Two blocks in three keep only their input.
    TwoInThree,
    ThreeInFour,
}

impl ActivationCheckpointing {
    /// All policies, from the one that keeps most to the one that keeps least.
    pub const ALL: [ActivationCheckpointing; 9] = [
        Self::None,
        Self::FineGrained,
        Self::OneInEight,
        Self::OneInFour,
        Self::OneInThree,
        Self::OneInTwo,
        Self::TwoInThree,
        Self::ThreeInFour,
        Self::WholeLayer,
    ];

    /// What block `layer` keeps.
    pub fn keep(self, layer: usize) -> Keep {
        let nothing = match self {
            Self::None => false,
            Self::FineGrained => return Keep::Products,
            Self::WholeLayer => true,
            Self::OneInTwo => layer.is_multiple_of(2),
            Self::OneInThree => layer.is_multiple_of(3),
            Self::OneInFour => layer.is_multiple_of(4),
            Self::OneInEight => layer.is_multiple_of(8),
            Self::TwoInThree => !layer.is_multiple_of(3),
            Self::ThreeInFour => !layer.is_multiple_of(4),
        };
        if nothing { Keep::Nothing } else { Keep::All }
    }
}
