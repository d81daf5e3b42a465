//! [`Threads`]: the threads that a stage may use.

use std::sync::mpsc::sync_channel;
use std::thread::Scope;

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::error::StageError;

/// Number of items that wait between two threads.
const WAITING: usize = 4;

/// Threads of a stage. If it may use only one, everything is done in turn by the calling thread.
pub struct Threads {
    /// Absent for one thread.
    pool: Option<ThreadPool>,
}

impl Threads {
    /// # Errors
    /// The system gives no threads.
    pub fn new(count: usize) -> Result<Self, StageError> {
        let pool = (count > 1).then(|| rayon::ThreadPoolBuilder::new().num_threads(count).build()).transpose();
        Ok(Self { pool: pool.map_err(|e| StageError::fail("worker::threads", e.to_string()))? })
    }

    /// Whether there is more than one.
    pub fn are_many(&self) -> bool {
        self.pool.is_some()
    }

    /// `one` of each item, in order. A thread takes at least `least` items at a time.
    pub fn map<I: Sync, O: Send>(&self, items: &[I], least: usize, one: impl Fn(&I) -> O + Sync + Send) -> Vec<O> {
        match &self.pool {
            Some(pool) => pool.install(|| items.par_iter().with_min_len(least).map(one).collect()),
            None => items.iter().map(one).collect(),
        }
    }

    /// The items of `source`. With several threads, one of them makes the next few items while the
    /// caller uses earlier ones. It ends when `source` does, or after the iterator is dropped.
    ///
    /// # Panics
    /// The scope panics if `source` does.
    pub fn ahead<'scope, T: Send + 'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        mut source: impl Iterator<Item = T> + Send + 'scope,
    ) -> Box<dyn Iterator<Item = T> + Send + 'scope> {
        if !self.are_many() {
            return Box::new(source);
        }
        let (made, items) = sync_channel(WAITING);
        scope.spawn(move || source.all(|item| made.send(item).is_ok()));
        Box::new(items.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn items_come_in_order_and_a_source_ends_with_its_reader() {
        for count in [1, 2] {
            let threads = Threads::new(count).unwrap();
            assert_eq!(threads.are_many(), count > 1);
            let numbers: Vec<u32> = (0..1000).collect();
            let doubled: Vec<u32> = numbers.iter().map(|n| 2 * n).collect();
            assert_eq!(threads.map(&numbers, 16, |n| 2 * n), doubled);
            let made = AtomicUsize::new(0);
            let taken: Vec<u32> = std::thread::scope(|scope| {
                let source = (0..).inspect(|_| {
                    made.fetch_add(1, Ordering::Relaxed);
                });
                let doubled = threads.ahead(scope, source).map(|n| 2 * n);
                threads.ahead(scope, doubled).take(100).collect()
            });
            assert_eq!(taken, doubled[..100]);
            // Both channels may be full, and each thread may hold one more.
            assert!((100..=100 + 2 * (WAITING + 2)).contains(&made.into_inner()));
        }
    }
}
