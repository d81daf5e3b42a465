//! The record of a run: the folder `runs-v1/ID/`, the state read from it, and following a run of
//! another process. It decides nothing about a run; it only stores and reads events.

mod compare;
mod environment;
mod find;
mod folder;
mod follow;
mod predictions;
mod state;
mod variables;

pub use compare::{Row, differing, differing_metrics, rows};
pub use environment::{Environment, Git, Host, WorkerBuild};
pub(crate) use find::Horizon;
pub use find::{dated_in_the_future, find, find_by_id};
pub(super) use folder::RunRecord;
pub use folder::{
    RecordProblem, Recorded, all, log_path, read_events, read_recorded, read_recorded_as_written,
    set_damaged_records_aside, verify,
};
pub use follow::{Attached, LogFile, attach, cancel, log_files, remove};
pub use predictions::{Evaluation, evaluations, predictions};
pub use state::{InstanceState, RunState, RunStatus, StageState, Status, folder, list, logs, show};
pub(super) use variables::hide;
