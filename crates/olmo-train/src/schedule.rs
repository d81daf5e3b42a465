//! The learning rate and the clipping of each step, from OLMo's and OLMo-core's schedulers.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shape of the learning rate. The names are OLMo's, and OLMo-core's for the last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerName {
    CosineWithWarmup,
    LinearWithWarmup,
    InverseSqrtWithWarmup,
    /// The larger one of cosine and inverse square root.
    MaxScheduler,
    Constant,
    /// The product of cosine and linear decay.
    CosineLinearEnvelope,
    ConstantWithWarmup,
    /// Constant until a linear decay at the end.
    Wsd,
    /// Cosine until a linear decay at the end.
    CosWithWarmupAndLinearDecay,
}

impl SchedulerName {
    /// Whether the learning rate ends with a linear decay to `decay_min_lr`.
    pub fn has_decay(self) -> bool {
        matches!(self, Self::Wsd | Self::CosWithWarmupAndLinearDecay)
    }
}

/// What a schedule counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerUnits {
    #[default]
    Steps,
    Tokens,
}

/// The learning rate and the clipping over the steps of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub name: SchedulerName,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Units per step: 1 for steps, or the number of tokens of a step. All lengths below are in
    /// units.
    pub per_step: u64,
    /// Length of the warm-up.
    pub warmup: u64,
    /// Where the learning rate reaches its end.
    pub t_max: u64,
    /// Final learning rate as a fraction of the peak.
    pub alpha_f: f64,
    /// Learning rate at the start of the warm-up.
    pub warmup_min_lr: f64,
    /// Length of the linear decay at the end, for schedules that have one.
    pub decay: u64,
    /// Learning rate at the end of the linear decay.
    pub decay_min_lr: f64,
    /// Gradients with a larger norm are scaled down to this norm.
    pub max_grad_norm: Option<f64>,
    /// Factor of `max_grad_norm` until some units.
    pub grad_clip_warmup: Option<(u64, f64)>,
    /// The step after which a new optimizer goes on with a run, and the number of steps in which the
    /// learning rate rises from 0 to that of the schedule.
    pub bolt_on: Option<(u64, u64)>,
}

impl Schedule {
    /// The learning rate of step `step`, counted from 1. The formulas are those of `olmo/optim.py` and
    /// `olmo_core/optim/scheduler.py`.
    pub fn at(&self, step: u64) -> f64 {
        match self.bolt_on {
            Some((start, _)) if step < start => 0.0,
            // In steps, whatever the units, as in OLMo.
            Some((start, steps)) if step < start + steps => {
                self.in_units((start + steps).saturating_mul(self.per_step)) * (step - start) as f64 / steps as f64
            }
            _ => self.in_units(step.saturating_mul(self.per_step)),
        }
    }

    /// The learning rate after `now` units.
    fn in_units(&self, now: u64) -> f64 {
        let top = self.learning_rate;
        if self.name == SchedulerName::Constant {
            return top;
        }
        if now < self.warmup {
            return self.warmup_min_lr + (top - self.warmup_min_lr) * now as f64 / self.warmup as f64;
        }
        let decay_start = self.t_max.saturating_sub(self.decay);
        match self.name {
            SchedulerName::Constant | SchedulerName::ConstantWithWarmup => top,
            SchedulerName::CosineWithWarmup => self.cosine(now),
            SchedulerName::InverseSqrtWithWarmup => self.inverse_sqrt(now),
            SchedulerName::MaxScheduler => self.cosine(now).max(self.inverse_sqrt(now)),
            SchedulerName::LinearWithWarmup => self.between(now, |part| top - (top - self.bottom()) * part),
            SchedulerName::CosineLinearEnvelope => self.between(now, |part| {
                self.bottom() + (1.0 - part) * ((top - self.bottom()) * (1.0 + (PI * part).cos()) / 2.0)
            }),
            SchedulerName::Wsd if now >= decay_start && now > self.warmup => self.decayed(top, now),
            SchedulerName::Wsd => top,
            SchedulerName::CosWithWarmupAndLinearDecay if now >= decay_start => {
                self.decayed(self.cosine(decay_start), now)
            }
            SchedulerName::CosWithWarmupAndLinearDecay => self.cosine(now),
        }
    }

    fn bottom(&self) -> f64 {
        self.alpha_f * self.learning_rate
    }

    /// `curve` at the part of the way from the end of the warm-up to `t_max`, and the final learning
    /// rate after it.
    fn between(&self, now: u64, curve: impl Fn(f64) -> f64) -> f64 {
        if now >= self.t_max {
            return self.bottom();
        }
        // `warmup <= now < t_max` here, so the divisor is not zero.
        curve((now - self.warmup) as f64 / (self.t_max - self.warmup) as f64)
    }

    fn cosine(&self, now: u64) -> f64 {
        let (top, bottom) = (self.learning_rate, self.bottom());
        self.between(now, |part| bottom + (top - bottom) * (1.0 + (PI * part).cos()) / 2.0)
    }

    fn inverse_sqrt(&self, now: u64) -> f64 {
        self.learning_rate * (self.warmup as f64 / now.max(self.warmup).max(1) as f64).sqrt()
    }

    /// The linear decay from `top` to `decay_min_lr`, `now` units after the start of the run.
    fn decayed(&self, top: f64, now: u64) -> f64 {
        let left = self.t_max.saturating_sub(now).min(self.decay);
        self.decay_min_lr + (top - self.decay_min_lr) * left as f64 / self.decay.max(1) as f64
    }

    /// The norm to which the gradients of step `step`, counted from 1, are clipped. During the warm-up
    /// of the clipping it is larger; as in OLMo, that begins with the second step.
    pub fn max_grad_norm_at(&self, step: u64) -> Option<f64> {
        let before = step.saturating_sub(1).saturating_mul(self.per_step);
        let factor = match self.grad_clip_warmup {
            Some((until, factor)) if step > 1 && before <= until => factor,
            _ => 1.0,
        };
        self.max_grad_norm.map(|norm| norm * factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(name: SchedulerName) -> Schedule {
        Schedule {
            name,
            learning_rate: 1.0,
            per_step: 1,
            warmup: 100,
            t_max: 1000,
            alpha_f: 0.1,
            warmup_min_lr: 0.1,
            decay: 100,
            decay_min_lr: 0.0,
            max_grad_norm: Some(1.0),
            grad_clip_warmup: None,
            bolt_on: None,
        }
    }

    fn check(name: SchedulerName, goldens: &[(u64, f64)]) {
        for &(step, expected) in goldens {
            let lr = schedule(name).at(step);
            assert!((lr - expected).abs() <= 1e-9, "{name:?} at {step}: {lr}, not {expected}");
        }
    }

    #[test]
    fn cosine_is_that_of_olmo() {
        let goldens =
            [(0, 0.1), (50, 0.55), (100, 1.0), (101, 0.999_997_258), (550, 0.55), (999, 0.100_002_742), (1000, 0.1)];
        check(SchedulerName::CosineWithWarmup, &goldens);
    }

    #[test]
    fn linear_is_that_of_olmo() {
        let goldens = [(0, 0.1), (50, 0.55), (100, 1.0), (550, 0.55), (999, 0.101), (1000, 0.1)];
        check(SchedulerName::LinearWithWarmup, &goldens);
    }

    #[test]
    fn constant_stays_at_the_top_after_the_warm_up() {
        check(SchedulerName::ConstantWithWarmup, &[(0, 0.1), (50, 0.55), (100, 1.0), (1000, 1.0)]);
    }

    #[test]
    fn the_others_are_those_of_olmo_and_olmo_core() {
        let inverse = [(99, 0.991), (100, 1.0), (400, 0.5), (1000, 0.316_227_766)];
        check(SchedulerName::InverseSqrtWithWarmup, &inverse);
        check(SchedulerName::MaxScheduler, &[(50, 0.55), (550, 0.55), (1000, 0.316_227_766)]);
        check(SchedulerName::CosineLinearEnvelope, &[(550, 0.325), (999, 0.100_000_003), (1000, 0.1)]);
        check(SchedulerName::Constant, &[(1, 1.0), (1000, 1.0)]);
        check(SchedulerName::Wsd, &[(50, 0.55), (899, 1.0), (900, 1.0), (950, 0.5), (1000, 0.0), (1010, 0.0)]);
        let cut = schedule(SchedulerName::CosineWithWarmup).at(900);
        check(SchedulerName::CosWithWarmupAndLinearDecay, &[(550, 0.55), (900, cut), (950, cut / 2.0), (1000, 0.0)]);
    }

    #[test]
    fn tokens_are_steps_times_the_tokens_of_a_step() {
        for name in [SchedulerName::CosineWithWarmup, SchedulerName::MaxScheduler, SchedulerName::Wsd] {
            let (steps, scale) = (schedule(name), 2048);
            let lengths = (steps.warmup * scale, steps.t_max * scale, steps.decay * scale);
            let tokens = Schedule { per_step: scale, warmup: lengths.0, t_max: lengths.1, decay: lengths.2, ..steps };
            for step in [1, 50, 100, 101, 500, 999, 1000, 2000] {
                assert!((steps.at(step) - tokens.at(step)).abs() < 1e-12, "{name:?} at {step}");
            }
        }
    }

    #[test]
    fn a_new_optimizer_warms_up_in_steps_and_clipping_in_units_one_step_late() {
        let bolted = Schedule { bolt_on: Some((400, 100)), ..schedule(SchedulerName::LinearWithWarmup) };
        assert_eq!((bolted.at(399), bolted.at(400)), (0.0, 0.0));
        assert_eq!(bolted.at(450), schedule(SchedulerName::LinearWithWarmup).at(500) / 2.0);
        assert_eq!(bolted.at(500), schedule(SchedulerName::LinearWithWarmup).at(500));
        let clipped = Schedule { per_step: 10, grad_clip_warmup: Some((30, 5.0)), ..bolted };
        let norms: Vec<f64> = (1..7).filter_map(|step| clipped.max_grad_norm_at(step)).collect();
        assert_eq!(norms, [1.0, 5.0, 5.0, 5.0, 1.0, 1.0]);
    }

    #[test]
    fn the_first_steps_of_the_golden_run_have_its_learning_rates() {
        let golden = Schedule {
            learning_rate: 1e-3,
            warmup: 2,
            t_max: 100,
            warmup_min_lr: 1e-4,
            ..schedule(SchedulerName::CosineWithWarmup)
        };
        for (step, lr) in [(1, 0.00055), (2, 0.001), (3, 0.000_999_768_797_290_309_6)] {
            assert!((golden.at(step) - lr).abs() < 1e-15, "step {step}");
        }
    }

    #[test]
    fn the_last_step_has_the_final_learning_rate_exactly() {
        for name in [SchedulerName::CosineWithWarmup, SchedulerName::LinearWithWarmup] {
            for (warmup, t_max) in [(0, 1), (1, 2), (5, 5), (0, 300), (100, 1000)] {
                let schedule = Schedule { learning_rate: 3e-4, warmup, t_max, ..schedule(name) };
                assert_eq!(schedule.at(t_max), 0.1 * 3e-4);
            }
        }
    }
}
