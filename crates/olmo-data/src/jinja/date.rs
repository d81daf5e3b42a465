//! [`Date`]: today's date for `strftime_now`.

use std::fmt;
use std::str::FromStr;

use crate::jinja::error::{Error, Result};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A day of the Gregorian calendar, at midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: i64,
    month: u32,
    day: u32,
}

/// A text that is not a date.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a date such as 2026-01-31")]
pub struct BadDate(String);

impl FromStr for Date {
    type Err = BadDate;

    fn from_str(text: &str) -> std::result::Result<Self, BadDate> {
        let bad = || BadDate(text.escape_debug().to_string());
        let digits = |part: &str, length: usize| -> Option<u32> {
            let sound = part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
            if sound { part.parse().ok() } else { None }
        };
        let parts: Vec<&str> = text.split('-').collect();
        let [year, month, day] = parts.as_slice() else { return Err(bad()) };
        let (year, month, day) =
            (digits(year, 4).ok_or_else(bad)?, digits(month, 2).ok_or_else(bad)?, digits(day, 2).ok_or_else(bad)?);
        let date = Self { year: year.into(), month, day };
        let sound = year > 0 && (1..=12).contains(&month) && (1..=date.days_in_month()).contains(&day);
        if sound { Ok(date) } else { Err(bad()) }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl Date {
    fn is_leap(&self) -> bool {
        self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0)
    }

    fn days_in_month(&self) -> u32 {
        match self.month {
            4 | 6 | 9 | 11 => 30,
            2 if self.is_leap() => 29,
            2 => 28,
            _ => 31,
        }
    }

    fn day_of_year(&self) -> u32 {
        (1..self.month).map(|month| Self { month, ..*self }.days_in_month()).sum::<u32>() + self.day
    }

    /// Days since Monday.
    fn weekday(&self) -> usize {
        let years = self.year - 1;
        let days = years * 365 + years / 4 - years / 100 + years / 400 + i64::from(self.day_of_year()) - 1;
        days.rem_euclid(7) as usize
    }

    /// Python's `strftime` with the C locale.
    pub fn format(&self, format: &str) -> Result<String> {
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let mut directive = chars.next();
            let unpadded = directive == Some('-');
            if unpadded {
                directive = chars.next();
            }
            let number = |value: i64, width: usize| {
                if unpadded { value.to_string() } else { format!("{value:0width$}") }
            };
            let (month, weekday) = (MONTHS[self.month as usize - 1], DAYS[self.weekday()]);
            text.push_str(&match directive {
                Some('d') => number(self.day.into(), 2),
                Some('e') if !unpadded => format!("{:2}", self.day),
                Some('e') => self.day.to_string(),
                Some('m') => number(self.month.into(), 2),
                Some('Y') => self.year.to_string(),
                Some('y') => number(self.year % 100, 2),
                Some('j') => number(self.day_of_year().into(), 3),
                Some('H' | 'M' | 'S') => number(0, 2),
                Some('I') => "12".into(),
                Some('p') => "AM".into(),
                Some('f') => "000000".into(),
                Some('B') => month.into(),
                Some('b' | 'h') => month[..3].into(),
                Some('A') => weekday.into(),
                Some('a') => weekday[..3].into(),
                Some('u') => (self.weekday() + 1).to_string(),
                Some('w') => ((self.weekday() + 1) % 7).to_string(),
                Some('F') => self.to_string(),
                Some('D' | 'x') => format!("{:02}/{:02}/{:02}", self.month, self.day, self.year % 100),
                Some('T' | 'X') => "00:00:00".into(),
                Some('R') => "00:00".into(),
                Some('n') => "\n".into(),
                Some('t') => "\t".into(),
                Some('%') => "%".into(),
                other => {
                    let directive: String = other.into_iter().collect();
                    return Err(Error::unsupported(format!("`%{directive}` in a date's format")));
                }
            });
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_formatted_as_python_does() {
        let date: Date = "2026-11-29".parse().unwrap();
        assert_eq!(date.format("%d %B %Y, %A %b %-d %j").unwrap(), "29 November 2026, Sunday Nov 29 333");
        let date: Date = "2024-02-29".parse().unwrap();
        assert_eq!(date.format("%a %e %y-%m").unwrap(), "Thu 29 24-02");
        for bad in ["2026-2-3", "2025-02-29", "2026-13-01", "today", "20260101"] {
            assert!(bad.parse::<Date>().is_err(), "{bad}");
        }
    }
}
