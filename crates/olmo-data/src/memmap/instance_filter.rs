//! [`InstanceFilter`]: OLMo's `data.instance_filter`, which removes the labels of repetitive rows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a row counts as repetitive. The defaults are those of OLMo's configs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InstanceFilter {
    /// Longest repeated pattern to look for, in tokens.
    pub repetition_max_period: usize,
    /// Shortest repeated pattern to look for, in tokens.
    pub repetition_min_period: usize,
    /// Number of consecutive repetitions from which a row counts as repetitive.
    pub repetition_max_count: usize,
}

impl Default for InstanceFilter {
    fn default() -> Self {
        Self { repetition_max_period: 13, repetition_min_period: 1, repetition_max_count: 32 }
    }
}

impl InstanceFilter {
    /// Whether `row` repeats one pattern too often (`olmo.data.util.find_periodic_sequences`: a
    /// period is at most a third of the row, and a run counts from its third repetition on).
    pub fn repeats(&self, row: &[u32]) -> bool {
        let count = self.repetition_max_count.max(3);
        (self.repetition_min_period.max(1)..=self.repetition_max_period.min(row.len() / 3)).any(|period| {
            // A run of n tokens, each equal to the token one period earlier, spans n + period
            // tokens.
            let enough = count * period - period;
            let mut run = 0;
            row.iter().zip(&row[period..]).any(|(before, token)| {
                run = if before == token { run + 1 } else { 0 };
                run >= enough
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeats(period: u32, times: u32, offset: u32) -> bool {
        let row: Vec<u32> = (0..offset)
            .map(|i| 1000 + i)
            .chain((0..period * times).map(|i| i % period))
            .chain((0..700).map(|i| 5000 + i))
            .collect();
        InstanceFilter::default().repeats(&row)
    }

    #[test]
    fn thirty_two_repetitions_are_too_many_at_any_offset() {
        for offset in 0..15 {
            for period in 1..=13 {
                assert!(!repeats(period, 31, offset), "{period} {offset}");
                assert!(repeats(period, 32, offset), "{period} {offset}");
            }
            assert!(!repeats(14, 40, offset));
        }
    }

    #[test]
    fn a_period_is_at_most_a_third_of_the_row() {
        let filter = InstanceFilter { repetition_max_count: 3, ..InstanceFilter::default() };
        assert!(filter.repeats(&[1, 2, 1, 2, 1, 2]));
        assert!(!filter.repeats(&[1, 2, 1, 2, 1]));
        assert!(!filter.repeats(&[]));
    }
}
