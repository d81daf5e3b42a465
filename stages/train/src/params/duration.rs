//! The exact length of a run: `300steps`, `2ep` or `1000000T`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The length of a run, as written in `max_duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duration {
    Steps(u64),
    /// Number of times every row is visited (except a last, partial batch).
    Epochs(u64),
    Tokens(u64),
}

/// A text that is not a duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a duration: expected a whole number above 0 and `steps`, `ep` or `T`, like 300steps, 2ep, 1000000T or 2e12T", .0.escape_debug())]
pub struct DurationError(String);

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number = number.parse::<u64>().ok().filter(|n| *n > 0 && !text.starts_with('0'));
        // OLMo's configs have 2e12T.
        if let Some(tokens) = text.strip_suffix('T').filter(|tokens| tokens.contains('e')).and_then(scientific) {
            return Ok(Self::Tokens(tokens));
        }
        match (number, unit) {
            (Some(n), "steps") => Ok(Self::Steps(n)),
            (Some(n), "ep") => Ok(Self::Epochs(n)),
            (Some(n), "T") => Ok(Self::Tokens(n)),
            _ => Err(DurationError(text.to_owned())),
        }
    }
}

/// A whole number like 2e12 or 1.5e9.
fn scientific(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e'));
    let number = text.parse::<f64>().ok().filter(|number| plain && number.fract() == 0.0);
    number.filter(|number| (1.0..=(1u64 << 53) as f64).contains(number)).map(|number| number as u64)
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(n) => write!(f, "{n}steps"),
            Self::Epochs(n) => write!(f, "{n}ep"),
            Self::Tokens(n) => write!(f, "{n}T"),
        }
    }
}

impl Duration {
    /// The number of steps, given the steps per epoch and the tokens per step. Tokens are rounded
    /// up to whole steps. `None` if the result does not fit in 64 bits.
    pub fn steps(self, per_epoch: u64, tokens_per_step: u64) -> Option<u64> {
        match self {
            Self::Steps(n) => Some(n),
            Self::Epochs(n) => n.checked_mul(per_epoch),
            Self::Tokens(n) => Some(n.div_ceil(tokens_per_step.max(1))),
        }
    }
}

/// How often something happens: a duration, or a number of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(Duration);

impl Interval {
    /// Every `steps` steps.
    pub fn steps(steps: u64) -> Self {
        Self(Duration::Steps(steps))
    }

    /// The interval in steps, at least 1, as in [`Duration::steps`]. `None` if it does not fit in
    /// 64 bits.
    pub fn in_steps(self, per_epoch: u64, tokens_per_step: u64) -> Option<u64> {
        self.0.steps(per_epoch, tokens_per_step).map(|steps| steps.max(1))
    }

    /// The interval in steps, if it does not depend on the data.
    pub fn fixed_steps(self) -> Option<u64> {
        match self.0 {
            Duration::Steps(steps) => Some(steps),
            Duration::Epochs(_) | Duration::Tokens(_) => None,
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Duration::Steps(steps) => write!(f, "{steps} steps"),
            other => other.fmt(f),
        }
    }
}

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Duration::Steps(steps) => serializer.serialize_u64(steps),
            other => serializer.collect_str(&other),
        }
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a number of steps, or a duration like 1ep or 500000T")]
        enum Written {
            Steps(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Steps(steps) => format!("{steps}steps"),
            Written::Text(text) => text,
        };
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Interval {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Interval".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["integer", "string"], "minimum": 1, "pattern": r"^([1-9][0-9]*(steps|ep|T)|[0-9]+(\.[0-9]+)?e[0-9]+T)$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_read_and_written() {
        for (text, duration) in [
            ("300steps", Duration::Steps(300)),
            ("2ep", Duration::Epochs(2)),
            ("1000000T", Duration::Tokens(1_000_000)),
        ] {
            assert_eq!(text.parse(), Ok(duration));
            assert_eq!(duration.to_string(), text);
        }
    }

    #[test]
    fn tokens_may_be_written_as_olmo_does() {
        assert_eq!("2e12T".parse(), Ok(Duration::Tokens(2_000_000_000_000)));
        assert_eq!("1.5e3T".parse(), Ok(Duration::Tokens(1_500)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "300",
            "steps",
            "0ep",
            "007steps",
            "1.5ep",
            "2 ep",
            "-1ep",
            "2ept",
            "1.5e0T",
            "1e99T",
            "e6T",
            "99999999999999999999T",
            "２ep",
        ] {
            assert_eq!(text.parse::<Duration>(), Err(DurationError(text.into())), "{text}");
        }
    }

    #[test]
    fn a_run_has_exactly_the_steps_that_were_asked_for() {
        assert_eq!(Duration::Steps(20).steps(12, 1024), Some(20));
        assert_eq!(Duration::Epochs(2).steps(12, 1024), Some(24));
        assert_eq!(Duration::Tokens(10_240).steps(12, 1024), Some(10));
        assert_eq!(Duration::Tokens(10_241).steps(12, 1024), Some(11));
        assert_eq!(Duration::Epochs(u64::MAX).steps(12, 1024), None);
    }

    #[test]
    fn an_interval_is_a_number_of_steps_or_a_duration() {
        let read = |text: &str| serde_json::from_str::<Interval>(text);
        assert_eq!(read("50").unwrap(), Interval::steps(50));
        assert_eq!(read("\"50steps\"").unwrap(), Interval::steps(50));
        assert_eq!(serde_json::to_string(&read("\"50steps\"").unwrap()).unwrap(), "50");
        let epoch = read("\"1ep\"").unwrap();
        assert_eq!(serde_json::to_string(&epoch).unwrap(), "\"1ep\"");
        assert_eq!((epoch.in_steps(12, 1024), epoch.fixed_steps()), (Some(12), None));
        for text in ["0", "-1", "1.5", "\"0ep\"", "\"often\"", "true"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
