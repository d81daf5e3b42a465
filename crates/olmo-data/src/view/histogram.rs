//! [`Lengths`]: summary and terminal histogram of lengths.

use std::fmt::Write as _;

/// Numbers to summarise; stored as values and counts, so that millions take little memory.
#[derive(Clone, Debug, Default)]
pub struct Lengths {
    counts: std::collections::BTreeMap<u64, u64>,
    total: u64,
    sum: u64,
}

impl Lengths {
    pub fn add(&mut self, length: u64) {
        *self.counts.entry(length).or_default() += 1;
        self.total += 1;
        self.sum += length;
    }

    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.total.max(1) as f64
    }

    /// The smallest number that `percent` per cent of all numbers do not exceed.
    pub fn percentile(&self, percent: u64) -> u64 {
        let rank = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (length, count) in &self.counts {
            seen += count;
            if seen >= rank {
                return *length;
            }
        }
        0
    }

    /// One line: mean, minimum, percentiles and maximum.
    pub fn summary(&self) -> String {
        let [least, half, most, largest] = [0, 50, 95, 100].map(|percent| self.percentile(percent));
        format!("mean {:.1}, least {least}, median {half}, 95 % {most}, most {largest}", self.mean())
    }

    /// Power-of-two buckets as `(from, to, count)`, `to` exclusive.
    pub fn buckets(&self) -> Vec<(u64, u64, u64)> {
        let mut buckets: Vec<(u64, u64, u64)> = Vec::new();
        for (length, count) in &self.counts {
            let from = if *length == 0 { 0 } else { 1 << length.ilog2() };
            match buckets.last_mut().filter(|bucket| bucket.0 == from) {
                Some(bucket) => bucket.2 += count,
                None => buckets.push((from, (from * 2).max(1), *count)),
            }
        }
        buckets
    }

    /// Bars; the longest has `width` characters.
    pub fn bars(&self, width: usize) -> String {
        const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        let buckets = self.buckets();
        let most = buckets.iter().map(|bucket| bucket.2).max().unwrap_or(1);
        let mut text = String::new();
        for (from, to, count) in buckets {
            let eighths = (count as usize * width * 8).div_ceil(most as usize);
            let bar = format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8]);
            let range = if to - from == 1 { format!("{from}") } else { format!("{from}–{}", to - 1) };
            let _ = writeln!(text, "  {range:>13}  {bar} {count}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_bars_are_those_of_the_numbers() {
        let mut lengths = Lengths::default();
        (1..=100).for_each(|n| lengths.add(n));
        assert_eq!([0, 1, 50, 95, 100].map(|p| lengths.percentile(p)), [1, 1, 50, 95, 100]);
        assert_eq!(lengths.buckets().iter().map(|b| b.2).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 37]);
        assert_eq!(lengths.summary(), "mean 50.5, least 1, median 50, 95 % 95, most 100");
        assert!(
            lengths.bars(37).ends_with(&format!("         64–127  {} 37\n", "█".repeat(37))),
            "{}",
            lengths.bars(37)
        );
        assert_eq!(Lengths::default().percentile(50), 0);
    }
}
