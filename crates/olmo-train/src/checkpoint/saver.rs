//! [`Saver`]: writes checkpoints in the background, one at a time.

use std::sync::Arc;
use std::thread::JoinHandle;

use olmo_base::failpoint;
use olmo_stage::{Context, StageError};

use super::state::{self, PHASES, Writing};
use crate::ranks::Ranks;

/// Checkpoints being written. Each is a snapshot that training does not change.
pub(crate) struct Saver {
    /// Whether every rank writes a part of each checkpoint. If so, all ranks call the same methods in
    /// the same order. Otherwise, only the first rank does.
    is_shared: bool,
    pending: Option<Pending>,
}

struct Pending {
    writing: Arc<Writing>,
    /// Index of the phase that `work` does; all of them at once if nothing is shared.
    phase: usize,
    work: Option<JoinHandle<Result<(), StageError>>>,
}

impl Saver {
    pub(crate) fn new(is_shared: bool) -> Self {
        Self { is_shared, pending: None }
    }

    /// Starts to save an item, after the previous one is complete.
    ///
    /// # Errors
    /// The error of the previous save.
    pub(crate) fn start(&mut self, context: &mut Context, ranks: &Ranks, writing: Writing) -> Result<(), StageError> {
        self.finish(context, ranks)?;
        let writing = Arc::new(writing);
        let work = self.work(&writing, 0)?;
        self.pending = Some(Pending { writing, phase: 0, work: Some(work) });
        Ok(())
    }

    fn work(&self, writing: &Arc<Writing>, phase: usize) -> Result<JoinHandle<Result<(), StageError>>, StageError> {
        let (writing, is_shared) = (writing.clone(), self.is_shared);
        let work = move || if is_shared { PHASES[phase](&writing) } else { writing.write() };
        let thread = std::thread::Builder::new().name("save".into()).spawn(work);
        thread.map_err(|e| StageError::fail("train::save", format!("cannot start a thread: {e}")))
    }

    /// Reports the item being saved, if it is complete.
    ///
    /// # Errors
    /// The reason why it could not be saved.
    pub(crate) fn poll(&mut self, context: &mut Context, ranks: &Ranks) -> Result<(), StageError> {
        let Some(pending) = &self.pending else { return Ok(()) };
        let mut busy = [pending.work.as_ref().is_some_and(|work| !work.is_finished())];
        if self.is_shared {
            busy = ranks.any(busy)?;
        }
        if busy[0] { Ok(()) } else { self.advance(context) }
    }

    /// Waits for the item being saved, if any, and reports it.
    ///
    /// # Errors
    /// The reason why it could not be saved.
    pub(crate) fn finish(&mut self, context: &mut Context, ranks: &Ranks) -> Result<(), StageError> {
        while let Some(pending) = &mut self.pending {
            pending.join()?;
            if self.is_shared {
                // All ranks have done this phase.
                ranks.any([false])?;
            }
            self.advance(context)?;
        }
        Ok(())
    }

    /// Waits for the work of this rank, without a word to the others: the run has failed. A shared
    /// item stays incomplete.
    ///
    /// # Errors
    /// The reason why it could not be saved.
    pub(crate) fn abandon(&mut self, context: &mut Context) -> Result<(), StageError> {
        match &mut self.pending {
            Some(pending) if self.is_shared => pending.join(),
            Some(_) => self.advance(context),
            None => Ok(()),
        }
    }

    /// Begins the next phase, or reports the item.
    fn advance(&mut self, context: &mut Context) -> Result<(), StageError> {
        let Some(mut pending) = self.pending.take() else { return Ok(()) };
        pending.join()?;
        pending.phase += 1;
        if self.is_shared && pending.phase < PHASES.len() {
            pending.work = Some(self.work(&pending.writing, pending.phase)?);
            self.pending = Some(pending);
        } else if pending.writing.is_first {
            context.item_done(state::PORT, &state::label(pending.writing.state.step))?;
            failpoint("train.saved");
        }
        Ok(())
    }
}

impl Pending {
    fn join(&mut self) -> Result<(), StageError> {
        match self.work.take().map(JoinHandle::join) {
            Some(Ok(done)) => done,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

/// Writes `writing` at once, together with the other ranks if `is_shared`.
///
/// # Errors
/// The state cannot be written, or a rank has failed.
pub(crate) fn save_now(writing: &Writing, is_shared: bool, ranks: &Ranks) -> Result<(), StageError> {
    if !is_shared {
        return writing.write();
    }
    for phase in PHASES {
        phase(writing)?;
        // All ranks have done this phase.
        ranks.any([false])?;
    }
    Ok(())
}
