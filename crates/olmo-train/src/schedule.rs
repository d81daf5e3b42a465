//! The learning rate of each step, from OLMo's schedulers.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerName {
    CosineWithWarmup,
    LinearWithWarmup,
    ConstantWithWarmup,
}

/// The learning rate over the steps of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub name: SchedulerName,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Number of warm-up steps.
    pub warmup: u64,
    /// The last step of the run.
    pub max_steps: u64,
    /// Final learning rate as a fraction of the peak.
    pub alpha_f: f64,
    /// Learning rate at the start of the warm-up.
    pub warmup_min_lr: f64,
}

impl Schedule {
    /// The learning rate of step `step`, counted from 1.
    pub fn at(&self, step: u64) -> f64 {
        let (top, bottom) = (self.learning_rate, self.alpha_f * self.learning_rate);
        if step < self.warmup {
            return self.warmup_min_lr + (top - self.warmup_min_lr) * step as f64 / self.warmup as f64;
        }
        let constant = self.name == SchedulerName::ConstantWithWarmup;
        if constant {
            return top;
        }
        if step >= self.max_steps {
            return bottom;
        }
        // `warmup <= step < max_steps` here, so the divisor is not zero.
        let part = (step - self.warmup) as f64 / (self.max_steps - self.warmup) as f64;
        match self.name {
            SchedulerName::CosineWithWarmup => bottom + (top - bottom) * (1.0 + (PI * part).cos()) / 2.0,
            SchedulerName::LinearWithWarmup => top - (top - bottom) * part,
            SchedulerName::ConstantWithWarmup => top,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(name: SchedulerName) -> Schedule {
        Schedule { name, learning_rate: 1.0, warmup: 100, max_steps: 1000, alpha_f: 0.1, warmup_min_lr: 0.1 }
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
    fn the_first_steps_of_the_golden_run_have_its_learning_rates() {
        let golden = Schedule {
            learning_rate: 1e-3,
            warmup: 2,
            max_steps: 100,
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
            for (warmup, max_steps) in [(0, 1), (1, 2), (5, 5), (0, 300), (100, 1000)] {
                let schedule = Schedule { learning_rate: 3e-4, warmup, max_steps, ..schedule(name) };
                assert_eq!(schedule.at(max_steps), 0.1 * 3e-4);
            }
        }
    }
}
