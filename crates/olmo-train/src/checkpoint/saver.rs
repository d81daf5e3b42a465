//! [`Saver`]: writes checkpoints in the background, one at a time.

use std::path::PathBuf;
use std::thread::JoinHandle;

use olmo_base::failpoint;
use olmo_data::TokenizerRecord;
use olmo_model::ModelConfig;
use olmo_stage::{Context, StageError};

use super::state::{self, State, Trainer};

/// Checkpoints being written. Each is a snapshot that training does not change.
#[derive(Default)]
pub(crate) struct Saver {
    pending: Option<(u64, JoinHandle<Result<(), StageError>>)>,
}

impl Saver {
    /// Starts to save the item of `state`, a snapshot, after the previous one is complete.
    ///
    /// # Errors
    /// The error of the previous save.
    pub(crate) fn start(
        &mut self,
        context: &mut Context,
        config: &ModelConfig,
        record: &TokenizerRecord,
        state: State,
        trainer: Trainer,
    ) -> Result<(), StageError> {
        self.finish(context)?;
        let to: PathBuf = state::item_folder(context, state.step)?;
        let (config, record) = (config.clone(), record.clone());
        let step = state.step;
        let work = move || state::save(&to, &config, &record, &state, &trainer);
        let thread = std::thread::Builder::new().name("save".into()).spawn(work);
        let thread = thread.map_err(|e| StageError::fail("train::save", format!("cannot start a thread: {e}")))?;
        self.pending = Some((step, thread));
        Ok(())
    }

    /// Reports the item being saved, if it is complete.
    ///
    /// # Errors
    /// The reason why it could not be saved.
    pub(crate) fn poll(&mut self, context: &mut Context) -> Result<(), StageError> {
        if self.pending.as_ref().is_some_and(|(_, thread)| thread.is_finished()) {
            self.finish(context)
        } else {
            Ok(())
        }
    }

    /// Waits for the item being saved, if any, and reports it.
    ///
    /// # Errors
    /// The reason why it could not be saved.
    pub(crate) fn finish(&mut self, context: &mut Context) -> Result<(), StageError> {
        let Some((step, thread)) = self.pending.take() else { return Ok(()) };
        match thread.join() {
            Ok(saved) => saved?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        context.item_done(state::PORT, &state::label(step))?;
        failpoint("train.saved");
        Ok(())
    }
}
