//! [`Journal`]: writes the events of a run to its record and reports them to the watcher.

use std::time::{Duration, Instant};

use crate::run::api::Watch;
use crate::run::error::RunError;
use crate::run::event::RunEvent;
use crate::run::record::RunRecord;

/// Shortest time between two syncs of the record while stages run.
const SYNC_EVERY: Duration = Duration::from_millis(50);

/// Writes and reports the events of a run.
pub(super) struct Journal<'r, 'w> {
    record: &'r mut RunRecord,
    watch: &'w mut dyn Watch,
    /// When the record was last synced, and whether something was written since.
    synced: Instant,
    is_dirty: bool,
    /// The first error. Without a record, no further stage may start.
    error: Option<RunError>,
}

impl<'r, 'w> Journal<'r, 'w> {
    pub(super) fn new(record: &'r mut RunRecord, watch: &'w mut dyn Watch) -> Self {
        Self { record, watch, synced: Instant::now(), is_dirty: false, error: None }
    }

    /// Reports an event and writes it to the record.
    pub(super) fn emit(&mut self, event: RunEvent) {
        self.show(&event);
        self.write(&event);
    }

    /// Reports an event to the watcher.
    pub(super) fn show(&mut self, event: &RunEvent) {
        self.watch.event(event);
    }

    /// Writes an event to the record.
    pub(super) fn write(&mut self, event: &RunEvent) {
        tracing::debug!(?event);
        let written = self.record.append(event);
        self.is_dirty = true;
        self.keep_error(written.err());
    }

    /// Syncs the record to disk if that is due. Call it when the scheduler is idle.
    pub(super) fn sync(&mut self) {
        if self.is_dirty && self.synced.elapsed() >= SYNC_EVERY {
            let synced = self.record.sync();
            self.keep_error(synced.err());
            (self.synced, self.is_dirty) = (Instant::now(), false);
        }
    }

    /// When [`Journal::sync`] is due.
    pub(super) fn next_sync(&self) -> Option<Instant> {
        self.is_dirty.then(|| self.synced + SYNC_EVERY)
    }

    pub(super) fn keep_error(&mut self, error: Option<RunError>) {
        if self.error.is_none() {
            self.error = error;
        }
    }

    pub(super) fn has_error(&self) -> bool {
        self.error.is_some()
    }

    pub(super) fn take_error(&mut self) -> Option<RunError> {
        self.error.take()
    }

    /// Returns a function from the number of an attempt to the path of its log.
    pub(super) fn log_paths(&self, place: crate::run::Place) -> impl Fn(u32) -> std::path::PathBuf + Send + use<> {
        let folder = self.record.folder().to_owned();
        move |attempt| crate::run::record::log_path(&folder, &place, attempt)
    }
}

/// Whether to record another event of a kind that was last recorded at `last`.
pub(super) fn is_due(last: Option<&Instant>) -> bool {
    /// How often the progress and the metrics of one stage are recorded.
    const EVERY: Duration = Duration::from_secs(5);
    last.is_none_or(|at| at.elapsed() >= EVERY)
}
