//! AdamW on flat arrays, following `torch.optim.AdamW` step by step: decoupled weight decay first,
//! then the bias-corrected update.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::multiversion;

/// Settings of the optimizer for one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay rates of the two moving averages.
    pub betas: (f64, f64),
    /// Added to the root of the second average.
    pub eps: f64,
    /// Weight decay: this fraction of a weight, times the learning rate, is subtracted where decay
    /// applies.
    pub weight_decay: f64,
}

/// The arrays of a step. The moments hold only what is trained (see [`step`]).
#[derive(Debug)]
pub struct State<'a> {
    /// Weights.
    pub parameters: &'a mut [f32],
    /// Moving average of gradients.
    pub exp_avg: &'a mut [f32],
    /// Moving average of squared gradients.
    pub exp_avg_sq: &'a mut [f32],
}

/// The scalars of a step in f32, rounded as in torch.
#[derive(Clone, Copy)]
pub(crate) struct Scalars {
    gradient_scale: f32,
    pub keep: f32,
    pub one_minus_beta1: f32,
    pub beta2: f32,
    pub one_minus_beta2: f32,
    pub root_correction2: f32,
    pub eps: f32,
    pub step_size: f32,
}

impl Scalars {
    /// The scalars of step `number`, with or without weight decay.
    pub(crate) fn new(settings: &AdamW, number: u64, gradient_scale: f64, decays: bool) -> Scalars {
        let (beta1, beta2) = settings.betas;
        let power = |beta: f64| beta.powf(number as f64);
        Scalars {
            gradient_scale: gradient_scale as f32,
            keep: if decays { (1.0 - settings.learning_rate * settings.weight_decay) as f32 } else { 1.0 },
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            root_correction2: (1.0 - power(beta2)).sqrt() as f32,
            eps: settings.eps as f32,
            step_size: (settings.learning_rate / (1.0 - power(beta1))) as f32,
        }
    }
}

/// Elements per task.
const CHUNK: usize = 1 << 14;

/// Applies step `number`, counted from 1. Each gradient is first multiplied by `gradient_scale`
/// (the clip coefficient). `groups` lists ranges of the weights and whether weight decay applies to
/// them; nothing outside them changes. Gradients and moments hold the elements of the groups, one
/// group after the other.
///
/// # Panics
/// Gradients and moments differ in length, or a group extends beyond an array.
pub fn step(
    settings: &AdamW,
    number: u64,
    state: State<'_>,
    gradients: &[f32],
    gradient_scale: f64,
    groups: &[(Range<usize>, bool)],
) {
    let State { parameters, exp_avg, exp_avg_sq } = state;
    let length = gradients.len();
    assert!(exp_avg.len() == length && exp_avg_sq.len() == length, "gradients and moments have one length");
    let mut end = 0;
    for (range, decays) in groups {
        let packed = end..end + range.len();
        end = packed.end;
        let scalars = Scalars::new(settings, number, gradient_scale, *decays);
        let parameters = parameters[range.clone()].par_chunks_mut(CHUNK);
        let averages =
            exp_avg[packed.clone()].par_chunks_mut(CHUNK).zip(exp_avg_sq[packed.clone()].par_chunks_mut(CHUNK));
        parameters.zip(averages).zip(gradients[packed].par_chunks(CHUNK)).for_each(
            |((parameters, (exp_avg, exp_avg_sq)), gradients)| {
                update(scalars, parameters, exp_avg, exp_avg_sq, gradients);
            },
        );
    }
}

multiversion! {
    fn update(scalars: Scalars, parameters: &mut [f32], exp_avg: &mut [f32], exp_avg_sq: &mut [f32], gradients: &[f32]) {
        for (((parameter, average), square), gradient) in parameters.iter_mut().zip(exp_avg).zip(exp_avg_sq).zip(gradients) {
            let gradient = gradient * scalars.gradient_scale;
            *parameter *= scalars.keep;
            *average += (gradient - *average) * scalars.one_minus_beta1;
            *square = *square * scalars.beta2 + scalars.one_minus_beta2 * gradient * gradient;
            let denominator = square.sqrt() / scalars.root_correction2 + scalars.eps;
            *parameter -= scalars.step_size * (*average / denominator);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition in f64, one number at a time.
    fn reference(settings: &AdamW, gradients: &[f64], mut parameter: f64, decays: bool) -> f64 {
        let (mut average, mut square) = (0.0, 0.0);
        for (index, gradient) in gradients.iter().enumerate() {
            let number = index as i32 + 1;
            if decays {
                parameter -= settings.learning_rate * settings.weight_decay * parameter;
            }
            average = settings.betas.0 * average + (1.0 - settings.betas.0) * gradient;
            square = settings.betas.1 * square + (1.0 - settings.betas.1) * gradient * gradient;
            let first = average / (1.0 - settings.betas.0.powi(number));
            let second: f64 = square / (1.0 - settings.betas.1.powi(number));
            parameter -= settings.learning_rate * first / (second.sqrt() + settings.eps);
        }
        parameter
    }

    #[test]
    fn ten_steps_follow_the_definition_in_both_groups_and_leave_the_rest_alone() {
        let settings = AdamW { learning_rate: 1e-2, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 };
        let gradient = |step: usize, index: usize| ((step * 31 + index * 17) % 23) as f64 / 11.0 - 1.0;
        let (mut parameters, mut exp_avg, mut exp_avg_sq) = (vec![0.5f32; 12], vec![0f32; 12], vec![0f32; 12]);
        for step_index in 0..10 {
            let gradients: Vec<f32> = (0..12).map(|index| 2.0 * gradient(step_index, index) as f32).collect();
            let state = State { parameters: &mut parameters, exp_avg: &mut exp_avg, exp_avg_sq: &mut exp_avg_sq };
            step(&settings, step_index as u64 + 1, state, &gradients, 0.5, &[(0..5, true), (5..10, false)]);
        }
        for (index, parameter) in parameters.iter().enumerate() {
            let gradients: Vec<f64> = (0..10).map(|step| gradient(step, index)).collect();
            let want = if index < 10 { reference(&settings, &gradients, 0.5, index < 5) } else { 0.5 };
            assert!((f64::from(*parameter) - want).abs() < 2e-6, "weight {index} is {parameter}, not {want}");
        }
    }
}
