//! [`Job`]: everything that one attempt needs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use olmo_base::ActionKey;
use olmo_stage::contract::Contract;

use crate::exec::{Executor, Grant};
use crate::key::{CommandKey, KeyRecord};
use crate::run::job::message::{Control, JobHandle};
use crate::run::plan::board::Input;
use crate::spec::ResolvedStage;
use crate::store::{KeyLock, Store};

/// Everything that one attempt needs.
pub(crate) struct Job {
    pub store: Store,
    pub key: ActionKey,
    pub record: KeyRecord,
    /// Held until the job ends.
    pub lock: KeyLock,
    /// The stage's name in the pipeline.
    pub name: String,
    pub spec: ResolvedStage,
    pub root: PathBuf,
    pub inputs: BTreeMap<String, Vec<Input>>,
    pub grant: Grant,
    pub executor: Arc<dyn Executor>,
    /// Path of the worker for the flex backend, for a built-in stage.
    pub worker: PathBuf,
    /// The command's key when the run started.
    pub command: Option<CommandKey>,
    /// Discard the work of earlier attempts.
    pub fresh: bool,
    pub grace: Duration,
    /// Returns the path for the log of attempt N.
    pub log: Box<dyn Fn(u32) -> PathBuf + Send>,
    pub control: Receiver<Control>,
    pub scheduler: JobHandle,
}

impl Job {
    pub(super) fn contract(&self) -> &Contract {
        &self.spec.description.contract
    }

    pub(super) fn is_command(&self) -> bool {
        self.contract().command.is_some()
    }
}
