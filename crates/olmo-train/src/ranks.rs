//! [`Ranks`]: the processes that train together, and what they tell each other between the steps.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use olmo_dist::{
    Alone, Collective, DistError, ProcessGroup, TreeNode, Values, ValuesRef, all_gather_bytes, exact, part_of,
};
use olmo_stage::{Context, StageError};

/// The ranks of a run. Each holds all weights and computes some micro-batches of every step.
///
/// Every rank calls the same methods in the same order.
pub(crate) struct Ranks {
    /// `None` if this process trains alone.
    group: Option<ProcessGroup>,
    /// Time spent in exchanges, waiting for slower ranks included.
    waited: Cell<Duration>,
}

impl Ranks {
    /// Joins the other ranks, if the stage has any. `facts` must be equal on all of them.
    ///
    /// # Errors
    /// A rank is missing, or has other facts.
    pub(crate) fn join(context: &Context, facts: BTreeMap<String, String>) -> Result<Self, StageError> {
        Ok(Self { group: context.join_ranks(facts)?, waited: Cell::default() })
    }

    /// This rank, from 0.
    pub(crate) fn rank(&self) -> usize {
        self.collective().rank()
    }

    /// Number of ranks.
    pub(crate) fn size(&self) -> usize {
        self.collective().size()
    }

    /// Whether this rank writes the outputs.
    pub(crate) fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The part of `count` items that this rank computes.
    pub(crate) fn share(&self, count: usize) -> Range<usize> {
        share_of(count, self.rank(), self.size())
    }

    /// Replaces each of `flags` by whether it is set on any rank.
    ///
    /// # Errors
    /// A rank has failed.
    pub(crate) fn any<const N: usize>(&self, flags: [bool; N]) -> Result<[bool; N], StageError> {
        let mut sums = flags.map(|flag| f64::from(u8::from(flag)));
        self.sum(&mut sums)?;
        Ok(sums.map(|sum| sum > 0.0))
    }

    /// Replaces `values` by their sums over all ranks. The sums of whole numbers below 2^53 are
    /// exact.
    ///
    /// # Errors
    /// A rank has failed.
    pub(crate) fn sum(&self, values: &mut [f64]) -> Result<(), StageError> {
        self.exchange(|group| group.all_reduce(Values::F64(values)))
    }

    /// Replaces `values` by their sums over all ranks.
    ///
    /// # Errors
    /// A rank has failed.
    pub(crate) fn sum_gradients(&self, values: &mut [f32]) -> Result<(), StageError> {
        self.exchange(|group| group.all_reduce(Values::F32(values)))
    }

    /// Like [`Ranks::sum_gradients`], but only this rank's part ([`olmo_dist::part_of`]) has the sum
    /// afterwards.
    ///
    /// # Errors
    /// A rank has failed.
    pub(crate) fn sum_part_of_gradients(&self, values: &mut [f32]) -> Result<(), StageError> {
        self.exchange(|group| group.reduce_scatter(Values::F32(values)).map(drop))
    }

    /// Sums the nodes of all ranks in the order of the tree over all positions. `into` receives the
    /// sum on every rank; zeros if all nodes are absent.
    ///
    /// # Errors
    /// A rank has failed.
    pub(crate) fn sum_exactly<'a>(
        &self,
        nodes: impl Iterator<Item = TreeNode<ValuesRef<'a>>>,
        into: Values<'_>,
    ) -> Result<(), StageError> {
        let nodes: Vec<_> = nodes.collect();
        self.exchange(|group| exact::all_reduce_exact(group, &nodes, into).map(drop))
    }

    /// Like [`Ranks::sum_exactly`] for arrays of the length of `into`, of which only this rank's part
    /// ([`olmo_dist::part_of`]) receives the sum.
    ///
    /// # Errors
    /// A rank has failed.
    pub(crate) fn sum_part_exactly<'a>(
        &self,
        nodes: impl Iterator<Item = TreeNode<ValuesRef<'a>>>,
        into: &mut [f32],
    ) -> Result<(), StageError> {
        let nodes: Vec<_> = nodes.collect();
        let (length, part) = (into.len(), part_of(into.len(), self.rank(), self.size()));
        let part = Values::F32(&mut into[part]);
        self.exchange(|group| exact::reduce_scatter_exact(group, &nodes, length, part).map(drop))
    }

    /// The smallest of the `number`s of all ranks.
    ///
    /// # Errors
    /// A rank has failed.
    pub(crate) fn smallest(&self, number: usize) -> Result<usize, StageError> {
        let all = self.gather_shares(&[number as f64], self.size())?;
        Ok(all.into_iter().fold(number, |least, other| least.min(other as usize)))
    }

    /// The texts of all ranks.
    ///
    /// # Errors
    /// A rank has failed.
    pub(crate) fn gather(&self, text: &str) -> Result<Vec<String>, StageError> {
        let texts = self.exchange(|group| all_gather_bytes(group, text.as_bytes()))?;
        Ok(texts.into_iter().map(|text| String::from_utf8_lossy(&text).into_owned()).collect())
    }

    /// The arrays of all ranks, one after the other; each has the length that [`Ranks::share`] of
    /// `count` gives its rank.
    ///
    /// # Errors
    /// A rank has failed.
    pub(crate) fn gather_shares(&self, own: &[f64], count: usize) -> Result<Vec<f64>, StageError> {
        let size = self.size();
        self.gather_parts(own, |rank| share_of(count, rank, size).len())
    }

    /// The arrays of all ranks, one after the other; that of a rank has `length(rank)` numbers.
    ///
    /// # Errors
    /// A rank has failed.
    pub(crate) fn gather_parts(&self, own: &[f64], length: impl Fn(usize) -> usize) -> Result<Vec<f64>, StageError> {
        let size = self.size();
        let lengths: Vec<usize> = (0..size).map(length).collect();
        let (send, mut all) = (own.repeat(size), vec![0.0; lengths.iter().sum()]);
        let sent = vec![own.len(); size];
        self.exchange(|group| group.all_to_all_v(ValuesRef::F64(&send), &sent, Values::F64(&mut all), &lengths))?;
        Ok(all)
    }

    /// Sends this rank's part ([`olmo_dist::part_of`]) of `values` to the others, and receives theirs.
    ///
    /// # Errors
    /// A rank has failed.
    pub(crate) fn gather_weights(&self, values: &mut [f32]) -> Result<(), StageError> {
        self.exchange(|group| group.all_gather(Values::F32(values)))
    }

    /// Time spent in exchanges since the last call.
    pub(crate) fn take_waited(&self) -> Duration {
        self.waited.take()
    }

    /// Leaves the group after this rank has ended as `ended`: in good order, or with the message of
    /// its failure for the other ranks.
    ///
    /// # Errors
    /// That of `ended`. Otherwise, another rank has failed.
    pub(crate) fn leave(self, ended: Result<(), StageError>) -> Result<(), StageError> {
        let Some(group) = self.group else { return ended };
        match &ended {
            Ok(()) => return Ok(group.close()?),
            Err(StageError::Interrupted) => drop(group.close()),
            Err(StageError::Failed(failure) | StageError::OutOfMemory(failure)) => drop(group.fail(&failure.message)),
        }
        ended
    }

    fn collective(&self) -> &dyn Collective {
        match &self.group {
            Some(group) => group,
            None => &Alone,
        }
    }

    fn exchange<T>(&self, work: impl FnOnce(&dyn Collective) -> Result<T, DistError>) -> Result<T, StageError> {
        let since = Instant::now();
        let done = work(self.collective());
        self.waited.set(self.waited.get() + since.elapsed());
        Ok(done?)
    }
}

/// The part of `count` items that belongs to `rank` of `size`: consecutive items, and at most one
/// more than another rank has.
pub(crate) fn share_of(count: usize, rank: usize, size: usize) -> Range<usize> {
    let start = |rank: usize| rank * (count / size) + rank.min(count % size);
    start(rank)..start(rank + 1)
}

#[cfg(test)]
impl Ranks {
    /// A run with a single rank.
    pub(crate) fn alone() -> Self {
        Self { group: None, waited: Cell::default() }
    }
}

/// What `run` returns on each of `size` ranks, which run in threads of this process.
#[cfg(test)]
pub(crate) fn together<T: Send>(size: usize, run: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    use olmo_dist::{Join, Limits, Rendezvous, Secret, World};
    let folder = tempfile::tempdir().unwrap();
    let join = |rank| {
        let group = ProcessGroup::join(&Join {
            world: World { rank, size, local_rank: rank, local_size: size },
            rendezvous: Rendezvous::Folder(folder.path().join("ranks")),
            secret: Secret::new(b"test"),
            facts: BTreeMap::new(),
            interface: None,
            limits: Limits::default(),
        });
        run(Ranks { group: Some(group.unwrap()), waited: Cell::default() })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..size)
            .map(|rank| {
                scope.spawn({
                    let join = &join;
                    move || join(rank)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_all_items_in_order_and_are_equal_but_for_one() {
        for (count, size) in [(0, 1), (7, 3), (2, 4), (8, 2), (10, 4)] {
            let shares: Vec<Range<usize>> = (0..size).map(|rank| share_of(count, rank, size)).collect();
            let items: Vec<usize> = shares.iter().cloned().flatten().collect();
            assert_eq!(items, (0..count).collect::<Vec<_>>());
            let lengths = shares.iter().map(ExactSizeIterator::len);
            assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
        }
        assert_eq!((0..3).map(|rank| share_of(7, rank, 3)).collect::<Vec<_>>(), [0..3, 3..5, 5..7]);
    }

    #[test]
    fn a_single_rank_keeps_its_own_values() {
        let ranks = Ranks::alone();
        assert_eq!(ranks.any([true, false]).unwrap(), [true, false]);
        assert_eq!(ranks.gather("a").unwrap(), ["a"]);
        assert_eq!(ranks.gather_shares(&[1.0, 2.0], 2).unwrap(), [1.0, 2.0]);
        assert_eq!((ranks.rank(), ranks.size(), ranks.share(5)), (0, 1, 0..5));
        ranks.leave(Ok(())).unwrap();
    }
}
