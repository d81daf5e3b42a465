//! [`Retry`]: when a failed stage is retried.

use std::time::Duration;

use olmo_stage::FailureClass;
use serde::{Deserialize, Serialize};

/// How a failed stage is retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Maximum number of retries in a run.
    pub max: u32,
    /// The classes of failures to retry.
    pub on: Vec<FailureClass>,
    /// The pause before the first retry in seconds. It doubles with each retry.
    pub backoff_s: u64,
}

impl Retry {
    /// The default pause before the first retry.
    pub const BACKOFF_S: u64 = 10;
    /// Maximum pause.
    const LONGEST_S: u64 = 600;

    /// The pause before retry `number` (from 1), if a failure of `class` is retried that often.
    pub fn pause(&self, number: u32, class: FailureClass) -> Option<Duration> {
        if number > self.max || !self.on.contains(&class) {
            return None;
        }
        let doubled = self.backoff_s.saturating_mul(1u64.checked_shl(number.saturating_sub(1)).unwrap_or(u64::MAX));
        Some(Duration::from_secs(doubled.min(Self::LONGEST_S.max(self.backoff_s))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_minutes_and_end() {
        let retry = Retry { max: 100, on: vec![FailureClass::Oom], backoff_s: 10 };
        let pause = |n| retry.pause(n, FailureClass::Oom).map(|p| p.as_secs());
        assert_eq!(
            [1, 2, 3, 6, 7, 64, 65, 100, 101].map(pause),
            [10, 20, 40, 320, 600, 600, 600, 600].map(Some).into_iter().chain([None]).collect::<Vec<_>>()[..]
        );
        assert_eq!(retry.pause(1, FailureClass::Error), None);
        let long = Retry { backoff_s: 3600, ..retry };
        assert_eq!(long.pause(3, FailureClass::Oom).map(|p| p.as_secs()), Some(3600), "what a file asks for is kept");
    }
}
