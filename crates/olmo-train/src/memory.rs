//! Available memory, the memory a run needs, and changes that make it fit.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use olmo_base::units::bytes;
use olmo_dist::{held_sums, nodes_of};
use olmo_model::{ActivationCheckpointing, Computes, MemoryEstimate, ModelConfig};
use olmo_stage::StageError;

use crate::learner::Reduce;
use crate::ranks::share_of;
use crate::shard::Strategy;

/// Number of tokens beyond which a larger micro-batch makes a step no faster.
const ENOUGH_TOKENS: usize = 1 << 14;

/// Available memory in bytes: what the system has left, up to the limit of the control group.
/// `None` if unknown.
pub fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let left = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024;
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let used =
        fs::read_to_string("/sys/fs/cgroup/memory.current").ok().and_then(|text| text.trim().parse::<u64>().ok());
    Some(limit.map_or(left, |limit| left.min(limit.saturating_sub(used.unwrap_or(0)))))
}

/// Peak memory of this process in bytes.
pub fn peak() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// The run to estimate.
#[derive(Clone, Copy)]
pub struct Need<'a> {
    pub config: &'a ModelConfig,
    pub sequence: usize,
    /// Rows per optimizer step.
    pub rows: usize,
    pub computes: Computes,
    /// Number of ranks, at least 1.
    pub ranks: usize,
    pub strategy: Strategy,
    pub reduce: Reduce,
}

/// Maximum number of buffers for gradients on a rank, if a step has `parts` micro-batches: the sums
/// that are held while one is added, or in an exact sum the nodes of the tree and the sum over all
/// ranks.
pub fn gradient_buffers(parts: usize, ranks: usize, reduce: Reduce) -> usize {
    let on = |rank| {
        let share = share_of(parts, rank, ranks);
        let (start, end) = (share.start as u64, share.end as u64);
        let nodes = if ranks > 1 && reduce == Reduce::Exact { nodes_of(start, end).len() } else { 0 };
        1 + held_sums(start..end).max(nodes)
    };
    (0..ranks).map(on).max().unwrap_or(1)
}

impl Need<'_> {
    /// Estimated memory of a rank with `microbatch` rows per micro-batch, including the sums of
    /// gradients that wait for those of other micro-batches.
    pub fn estimate(&self, checkpointing: ActivationCheckpointing, microbatch: usize) -> MemoryEstimate {
        let microbatch = microbatch.min(self.rows);
        let mut estimate = MemoryEstimate::of(self.config, self.computes, checkpointing, microbatch, self.sequence);
        let parts = self.rows.div_ceil(microbatch.max(1));
        estimate.gradients *= gradient_buffers(parts, self.ranks, self.reduce) as u64;
        if self.strategy == Strategy::Zero1 && self.ranks > 1 {
            let all = olmo_model::weights(self.config);
            let moments = (2 * self.strategy.shard(all, 0, self.ranks).len() * size_of::<f32>()) as u64;
            estimate.snapshot = estimate.snapshot.saturating_sub(estimate.moments - moments);
            estimate.moments = moments;
        }
        estimate
    }

    /// The largest micro-batch that fits into `available` bytes, still makes a step faster, and
    /// leaves work for every rank; at least 1.
    pub fn microbatch(&self, checkpointing: ActivationCheckpointing, available: u64) -> usize {
        let most = (self.rows / self.ranks).min(ENOUGH_TOKENS / self.sequence).max(1);
        let fits = |rows: &usize| self.estimate(checkpointing, *rows).total() <= available;
        (1..=most).rev().find(fits).unwrap_or(1)
    }

    /// Bytes that a rank sends to the others in a step, at most: sums of gradients as f32. In an exact
    /// sum, it sends each of its nodes of the tree, and then its part of the sum; otherwise, its
    /// sum and its part of that of all.
    pub fn sent_per_step(&self, microbatch: usize) -> u64 {
        let parts = self.rows.div_ceil(microbatch.clamp(1, self.rows.max(1)));
        let nodes = |rank| {
            let share = share_of(parts, rank, self.ranks);
            nodes_of(share.start as u64, share.end as u64).len() as u64
        };
        let arrays = match self.reduce {
            Reduce::Exact => 1 + (0..self.ranks).map(nodes).max().unwrap_or(0),
            Reduce::Fast => 2,
        };
        let weights = (olmo_model::weights(self.config) * size_of::<f32>()) as u64;
        weights * arrays * (self.ranks as u64 - 1) / self.ranks as u64
    }

    /// Formats the `estimate` for micro-batches of `rows` rows, for a message.
    pub fn describe(&self, estimate: &MemoryEstimate, rows: usize) -> String {
        let total = estimate.total();
        let parts = [total - estimate.activations - estimate.working, estimate.activations, estimate.working, total];
        let [weights, activations, working, total] = parts.map(bytes);
        let text = format!(
            "memory: about {total} ({weights} for weights, gradients, moments and a checkpoint being saved, {activations} for activations, {working} for temporary buffers) with micro-batches of {rows} rows"
        );
        match self.ranks {
            1 => text,
            ranks => format!("each of {ranks} ranks: {text}; it sends {} in a step", bytes(self.sent_per_step(rows))),
        }
    }

    /// The smallest change that makes the run fit into `available` bytes, as text, and the memory
    /// it needs; `None` if no change is enough.
    pub fn way_out(
        &self,
        checkpointing: ActivationCheckpointing,
        microbatch: usize,
        available: u64,
    ) -> Option<(String, MemoryEstimate)> {
        let microbatch = microbatch.min(self.rows);
        // GPUs have no such strategy yet.
        let may_divide = self.ranks > 1 && self.strategy == Strategy::Ddp && self.computes == Computes::OnHost;
        let divided = may_divide.then_some(Strategy::Zero1);
        let strategies = [Some(self.strategy), divided].into_iter().flatten();
        let stronger = ActivationCheckpointing::ALL.into_iter().skip_while(|policy| *policy != checkpointing);
        let rows = |policy| (1..=microbatch).rev().map(move |rows| (policy, rows));
        let with = |strategy| Need { strategy, ..*self };
        // Dividing the moments costs no time; smaller micro-batches cost less than recomputing blocks.
        let mut found = stronger
            .flat_map(rows)
            .flat_map(|(policy, rows)| strategies.clone().map(move |strategy| (strategy, policy, rows)));
        let fits = |found: &(Strategy, ActivationCheckpointing, usize)| {
            with(found.0).estimate(found.1, found.2).total() <= available
        };
        let (strategy, policy, rows) = found.find(fits)?;
        let mut changes = Vec::new();
        if strategy != self.strategy {
            changes.push("distributed_strategy: zero1".to_owned());
        }
        if rows != microbatch {
            changes.push(format!("device_train_microbatch_size: {rows}"));
        }
        if policy != checkpointing {
            let word = serde_json::to_value(policy).ok()?;
            changes.push(format!("activation_checkpointing: {}", word.as_str()?));
        }
        Some((changes.join(", "), with(strategy).estimate(policy, rows)))
    }
}

/// Runs `work` and turns an out-of-memory panic of libtorch into an error with a hint. If the
/// host's allocator runs out of memory, the process dies and the engine gives the same hint.
///
/// # Errors
/// Those of `work`, and `train::oom`.
pub fn catch_out_of_memory(
    smaller: Option<&str>,
    work: impl FnOnce() -> Result<(), StageError>,
) -> Result<(), StageError> {
    let panic = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(ended) => return ended,
        Err(panic) => panic,
    };
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let refused = |line: &&str| line.contains("out of memory") || line.contains("can't allocate memory");
    match text.and_then(|text| text.lines().find(refused)) {
        Some(line) => Err(StageError::out_of_memory("train::oom", format!("memory ran out: {}", line.trim()))
            .hint(smaller.unwrap_or("lower `device_train_microbatch_size`, or use a smaller model"))),
        None => resume_unwind(panic),
    }
}

/// The part of `available` bytes that a run may use; the rest is for other uses of the process and
/// the machine.
pub fn room(available: u64) -> u64 {
    available / 10 * 9
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn memory_that_libtorch_is_refused_is_a_failure_with_the_way_out_and_other_panics_go_on() {
        let words = "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. Tried to allocate 2.00 GiB.\\nException raised";
        let Err(StageError::OutOfMemory(failure)) =
            catch_out_of_memory(Some("`rows: 1` would need 3 GiB"), || panic!("{words}"))
        else {
            panic!("memory has run out")
        };
        assert_eq!(failure.code, "train::oom");
        assert!(failure.message.contains("CUDA out of memory. Tried to allocate 2.00 GiB"), "{failure:?}");
        assert_eq!(failure.hint.as_deref(), Some("`rows: 1` would need 3 GiB"));
        let other = catch_unwind(|| catch_out_of_memory(None, || panic!("a bug")));
        assert!(other.is_err(), "a bug stays one");
        assert!(catch_out_of_memory(None, || Ok(())).is_ok());
    }

    fn config() -> ModelConfig {
        serde_json::from_value(
            json!({"d_model": 256, "n_heads": 8, "n_layers": 8, "mlp_hidden_size": 2048, "layer_norm_type": "rms",
                "attention_layer_norm": true, "norm_after": true, "max_sequence_length": 4096, "vocab_size": 1000,
                "weight_tying": false}),
        )
        .unwrap()
    }

    /// A run of one rank on the host.
    fn need(config: &ModelConfig, sequence: usize, rows: usize) -> Need<'_> {
        let (strategy, reduce) = (Strategy::Ddp, Reduce::Exact);
        Need { config, sequence, rows, computes: Computes::OnHost, ranks: 1, strategy, reduce }
    }

    #[test]
    fn the_automatic_number_of_rows_is_the_largest_that_fits() {
        let config = config();
        let need = need(&config, 512, 24);
        let none = ActivationCheckpointing::None;
        assert_eq!(need.microbatch(none, u64::MAX), 24);
        assert_eq!(need.microbatch(none, 0), 1);
        let room = need.estimate(none, 5).total();
        assert_eq!(need.microbatch(none, room), 5);
        assert_eq!(need.microbatch(none, room - 1), 4);
        assert_eq!(Need { rows: 1000, ..need }.microbatch(none, u64::MAX), 32, "more tokens at once gain nothing");
        assert_eq!(Need { ranks: 5, ..need }.microbatch(none, u64::MAX), 4, "every rank has work");
    }

    #[test]
    fn the_sums_that_wait_for_others_are_counted() {
        let config = config();
        let need = need(&config, 8, 12);
        let gradients = |rows| need.estimate(ActivationCheckpointing::None, rows).gradients;
        let one = gradients(12);
        // 1, 2, 3, 4, 6 and 12 micro-batches.
        assert_eq!([12, 6, 4, 3, 2, 1].map(|rows| gradients(rows) / one), [1, 2, 2, 3, 3, 4]);
    }

    #[test]
    fn ranks_hold_their_own_sums_and_that_of_all() {
        assert_eq!([1, 2, 3, 4, 8].map(|parts| gradient_buffers(parts, 1, Reduce::Exact)), [1, 2, 2, 3, 4]);
        // Two ranks with a complete node each, then with two nodes: 0..3 and 3..6.
        assert_eq!([2, 4, 8, 6].map(|parts| gradient_buffers(parts, 2, Reduce::Exact)), [2, 2, 3, 3]);
        assert_eq!([2, 4, 8, 6].map(|parts| gradient_buffers(parts, 2, Reduce::Fast)), [1, 2, 3, 3]);
    }

    #[test]
    fn sharded_moments_are_those_of_a_shard() {
        let config = config();
        let need = need(&config, 8, 12);
        let estimate = |ranks, strategy| Need { ranks, strategy, ..need }.estimate(ActivationCheckpointing::None, 3);
        let (ddp, zero1) = (estimate(4, Strategy::Ddp), estimate(4, Strategy::Zero1));
        assert!(zero1.moments * 39 / 10 < ddp.moments && zero1.moments * 4 >= ddp.moments);
        assert_eq!(ddp.snapshot - zero1.snapshot, ddp.moments - zero1.moments);
        assert_eq!(estimate(1, Strategy::Ddp), estimate(1, Strategy::Zero1));
    }

    #[test]
    fn what_a_rank_sends_grows_with_its_nodes() {
        let config = config();
        let need = Need { ranks: 2, ..need(&config, 8, 12) };
        let half = (olmo_model::weights(&config) * size_of::<f32>() / 2) as u64;
        assert_eq!(Need { reduce: Reduce::Fast, ..need }.sent_per_step(2), 2 * half);
        // Two micro-batches; six, as 0..3 and 3..6 with two nodes each.
        assert_eq!([6, 2].map(|rows| need.sent_per_step(rows) / half), [2, 3]);
        assert_eq!(Need { ranks: 1, ..need }.sent_per_step(2), 0);
    }

    #[test]
    fn the_way_out_is_fewer_rows_and_then_less_that_is_kept() {
        let config = config();
        let need = need(&config, 512, 8);
        let none = ActivationCheckpointing::None;
        let room = need.estimate(none, 3).total();
        assert_eq!(need.way_out(none, 8, room).unwrap().0, "device_train_microbatch_size: 3");
        // With so few rows, the sums of gradients that wait for others weigh more than activations.
        let least = |policy| (1..=8).map(|rows| need.estimate(policy, rows).total()).min().unwrap();
        let tight = least(none) - 1;
        let (change, estimate) = need.way_out(none, 8, tight).unwrap();
        assert!(change.contains("activation_checkpointing: "), "{change}");
        assert!(estimate.total() <= tight);
        assert!(need.way_out(none, 8, 1000).is_none());
    }

    #[test]
    fn the_way_out_of_several_ranks_is_to_divide_the_moments() {
        let config = config();
        let need = Need { ranks: 2, ..need(&config, 512, 8) };
        let none = ActivationCheckpointing::None;
        let divided = Need { strategy: Strategy::Zero1, ..need };
        let room = divided.estimate(none, 4).total();
        assert_eq!(need.way_out(none, 4, room).unwrap().0, "distributed_strategy: zero1");
        assert!(!divided.way_out(none, 4, room - 1).unwrap().0.contains("distributed_strategy"));
        let on_gpu = Need { computes: Computes::OnGpu, ..need };
        let change = on_gpu.way_out(none, 4, on_gpu.estimate(none, 4).total() - 1).unwrap().0;
        assert!(!change.contains("distributed_strategy"), "{change}");
    }
}
