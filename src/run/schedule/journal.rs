//! [`Journal`]: writes the events of a run into its record, and shows them.

use std::time::{Duration, Instant};

use crate::run::api::Watch;
use crate::run::error::RunError;
use crate::run::event::RunEvent;
use crate::run::record::RunRecord;

/// The record is synced this often at most while stages run.
const SYNC_EVERY: Duration = Duration::from_millis(50);

/// Writes and shows the events of a run.
pub(super) struct Journal<'r, 'w> {
    record: &'r mut RunRecord,
    watch: &'w mut dyn Watch,
    /// When the record was last synced, and whether something was written since.
    synced: Instant,
    is_dirty: bool,
    /// The first error. Nothing new begins without a record.
    error: Option<RunError>,
}

impl<'r, 'w> Journal<'r, 'w> {
    pub(super) fn new(record: &'r mut RunRecord, watch: &'w mut dyn Watch) -> Self {
        Self { record, watch, synced: Instant::now(), is_dirty: false, error: None }
    }

    /// Shows an event and writes it into the record.
    pub(super) fn note(&mut self, event: RunEvent) {
        self.show(&event);
        self.write(&event);
    }

    /// Shows an event.
    pub(super) fn show(&mut self, event: &RunEvent) {
        self.watch.event(event);
    }

    /// Writes an event into the record.
    pub(super) fn write(&mut self, event: &RunEvent) {
        tracing::debug!(?event);
        let written = self.record.append(event);
        self.is_dirty = true;
        self.keep_error(written.err());
    }

    /// Puts what was written on the disk, if that is due. To be called when nothing else is to do.
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

    /// A function from an attempt's number to the place of its log.
    pub(super) fn log_paths(&self, place: crate::run::Place) -> impl Fn(u32) -> std::path::PathBuf + Send + use<> {
        let folder = self.record.folder().to_owned();
        move |attempt| crate::run::record::log_path(&folder, &place, attempt)
    }
}

/// Whether an event of a kind that was last recorded at `last` is due again.
pub(super) fn is_due(last: Option<&Instant>) -> bool {
    /// How often progress and metrics of one stage go into the record.
    const EVERY: Duration = Duration::from_secs(5);
    last.is_none_or(|at| at.elapsed() >= EVERY)
}
