//! [`Prefetch`]: reads the batches of coming steps while a step computes.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use olmo_stage::StageError;

use super::batches::{Batches, StepBatch};

/// Maximum number of batches to read ahead.
const AHEAD: usize = 2;

/// The batches of the steps, in order.
pub(crate) struct Prefetch {
    batches: Receiver<Result<StepBatch, StageError>>,
    /// How long steps have waited for data since the last [`Prefetch::take_waited`].
    waited: Duration,
}

impl Prefetch {
    /// Reads the batches of the steps after `done` up to step `last`, in a thread of `scope`. The
    /// thread ends after the last batch or when this is dropped.
    pub(crate) fn start<'scope, 'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        mut batches: Batches<'env>,
        done: u64,
        last: u64,
    ) -> Prefetch {
        let (sender, receiver) = sync_channel(AHEAD);
        scope.spawn(move || {
            for done in done..last {
                let batch = batches.after(done);
                let is_last = batch.is_err();
                if sender.send(batch).is_err() || is_last {
                    break;
                }
            }
        });
        Prefetch { batches: receiver, waited: Duration::ZERO }
    }

    /// The next step's batch. Nothing after the last one.
    ///
    /// # Errors
    /// Its rows cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<StepBatch>, StageError> {
        let since = Instant::now();
        let batch = self.batches.recv().ok().transpose();
        self.waited += since.elapsed();
        batch
    }

    /// Returns the time waited since the last call.
    pub(crate) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}
