//! Initialises new weights on the host, with OLMo's `normal` or `mitchell` scheme.
//!
//! Each tensor has its own random stream, derived from the seed and its name, so its values do not
//! depend on which other tensors exist.

use super::random::Random;
use crate::config::{InitFnType, ModelConfig};
use crate::layout::{Projection, Role, TensorSpec};

/// OLMo's default cutoff for `mitchell`.
const MITCHELL_CUTOFF: f64 = 3.0;

pub(crate) fn fill(config: &ModelConfig, seed: u64, tensors: &[TensorSpec], flat: &mut [f32]) {
    let cutoff = match config.init_fn {
        InitFnType::Normal => config.init_cutoff_factor,
        InitFnType::Mitchell => Some(config.init_cutoff_factor.unwrap_or(MITCHELL_CUTOFF)),
    };
    for tensor in tensors {
        let values = &mut flat[tensor.range.clone()];
        let Some(std) = standard_deviation(config, tensor.role) else {
            values.fill(1.0);
            continue;
        };
        let mut random = Random::new(seed, &tensor.name);
        for value in values {
            let draw = match cutoff {
                Some(cutoff) => random.truncated_normal(cutoff),
                None => random.normal(),
            };
            *value = (draw * std) as f32;
        }
    }
}

/// `None` for norms, whose weights start at 1.
fn standard_deviation(config: &ModelConfig, role: Role) -> Option<f64> {
    let (d, inner) = (config.d_model as f64, config.mlp_width() as f64);
    match (config.init_fn, role) {
        (_, Role::Norm) => None,
        (InitFnType::Normal, _) => Some(config.init_std),
        (InitFnType::Mitchell, Role::Projection(Projection::AttentionOutput { layer })) => {
            Some(1.0 / (2.0 * d * (layer + 1) as f64).sqrt())
        }
        (InitFnType::Mitchell, Role::Projection(Projection::MlpOutput { layer })) => {
            Some(1.0 / (2.0 * inner * (layer + 1) as f64).sqrt())
        }
        (InitFnType::Mitchell, _) => Some(1.0 / d.sqrt()),
    }
}
