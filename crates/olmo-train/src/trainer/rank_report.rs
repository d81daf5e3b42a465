//! [`RankReport`]: how much each rank computed, and how long it waited for the others.

use std::time::Duration;

use olmo_stage::StageError;
use serde_json::{Value, json};

use crate::ranks::Ranks;

/// A rank that takes this much longer for a micro-batch than the median rank is named.
const SLOW: f64 = 1.25;

/// The work of every rank in this attempt. It is never part of the metrics.
#[derive(Debug, Default)]
pub(super) struct RankReport {
    /// Work of this rank since the last [`RankReport::collect`].
    own: Work,
    /// Work of every rank up to then.
    all: Vec<Work>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Work {
    micro_batches: f64,
    /// Seconds spent on computing.
    computed: f64,
    /// Seconds spent in exchanges, waiting for slower ranks included.
    exchanged: f64,
}

impl RankReport {
    /// Adds a step of this rank.
    pub(super) fn add(&mut self, micro_batches: usize, computed: Duration, exchanged: Duration) {
        self.own.micro_batches += micro_batches as f64;
        self.own.computed += computed.as_secs_f64();
        self.own.exchanged += exchanged.as_secs_f64();
    }

    /// The work of every rank since the last call, for `perf.jsonl`; null if there is only one. All
    /// ranks call this together.
    ///
    /// # Errors
    /// A rank has failed.
    pub(super) fn collect(&mut self, ranks: &Ranks) -> Result<Value, StageError> {
        if ranks.size() == 1 {
            return Ok(Value::Null);
        }
        let own = std::mem::take(&mut self.own);
        let of_all = ranks.gather_shares(&[own.micro_batches, own.computed, own.exchanged], 3 * ranks.size())?;
        let of_all = of_all.as_chunks().0.iter();
        let new: Vec<Work> =
            of_all.map(|&[micro_batches, computed, exchanged]| Work { micro_batches, computed, exchanged }).collect();
        self.all.resize(new.len(), Work::default());
        for (sum, new) in self.all.iter_mut().zip(&new) {
            sum.micro_batches += new.micro_batches;
            sum.computed += new.computed;
            sum.exchanged += new.exchanged;
        }
        let line = |(rank, work): (usize, &Work)| {
            json!({"rank": rank, "micro_batches": work.micro_batches as u64, "compute_seconds": work.computed,
                "exchange_percent": work.exchange_percent()})
        };
        Ok(new.iter().enumerate().map(line).collect())
    }

    /// What each rank computed and how long it exchanged, for a message; `None` if there is only
    /// one rank.
    pub(super) fn summary(&self) -> Option<String> {
        let line = |(rank, work): (usize, &Work)| {
            format!(
                "rank {rank} computed {} micro-batches and spent {:.0} % of its time in exchanges",
                work.micro_batches,
                work.exchange_percent()
            )
        };
        let lines: Vec<String> = self.all.iter().enumerate().map(line).collect();
        (!lines.is_empty()).then(|| format!("{} ranks: {}", lines.len(), lines.join("; ")))
    }

    /// The rank that makes the others wait, for a message, if there is one.
    pub(super) fn straggler(&self) -> Option<String> {
        let mut paces: Vec<f64> = self.all.iter().map(Work::pace).collect();
        let (slowest, pace) = paces.iter().copied().enumerate().max_by(|left, right| left.1.total_cmp(&right.1))?;
        paces.sort_by(f64::total_cmp);
        let median = paces[(paces.len() - 1) / 2];
        (pace > SLOW * median).then(|| {
            format!(
                "rank {slowest} needs {pace:.2} s for a micro-batch, the median rank {median:.2} s: all others wait for it in every step"
            )
        })
    }
}

impl Work {
    fn exchange_percent(&self) -> f64 {
        100.0 * self.exchanged / (self.computed + self.exchanged).max(1e-9)
    }

    /// Seconds per micro-batch.
    fn pace(&self) -> f64 {
        self.computed / self.micro_batches.max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(computed: &[f64]) -> RankReport {
        let all = computed.iter().map(|&computed| Work { micro_batches: 4.0, computed, exchanged: 1.0 }).collect();
        RankReport { own: Work::default(), all }
    }

    #[test]
    fn only_a_rank_that_is_clearly_slower_than_the_median_is_named() {
        assert_eq!(report(&[]).straggler(), None);
        assert_eq!(report(&[4.0, 4.5, 4.1]).straggler(), None);
        let named = report(&[4.0, 8.0, 4.0]).straggler().unwrap();
        assert!(named.starts_with("rank 1 needs 2.00 s for a micro-batch, the median rank 1.00 s"), "{named}");
        // Of two ranks, the faster one is the median.
        assert!(report(&[8.0, 4.0]).straggler().unwrap().starts_with("rank 0"));
    }

    #[test]
    fn every_rank_is_told_of() {
        assert_eq!(report(&[]).summary(), None);
        let text = "2 ranks: rank 0 computed 4 micro-batches and spent 20 % of its time in exchanges; \
                    rank 1 computed 4 micro-batches and spent 25 % of its time in exchanges";
        assert_eq!(report(&[4.0, 3.0]).summary().unwrap(), text);
    }

    #[test]
    fn the_work_of_all_ranks_is_collected() {
        let lines = crate::ranks::together(3, |ranks| {
            let mut report = RankReport::default();
            report.add(ranks.rank() + 1, Duration::from_secs(3), Duration::from_secs(1));
            let line = report.collect(&ranks).unwrap();
            report.add(1, Duration::from_secs(1), Duration::ZERO);
            report.collect(&ranks).unwrap();
            ranks.leave(Ok(())).unwrap();
            (line, report.summary().unwrap())
        });
        let want = json!({"rank": 2, "micro_batches": 3, "compute_seconds": 3.0, "exchange_percent": 25.0});
        assert!(lines.iter().all(|(line, _)| line[2] == want), "{lines:?}");
        assert!(lines[1].1.contains("rank 2 computed 4 micro-batches and spent 20 %"), "{lines:?}");
    }
}
