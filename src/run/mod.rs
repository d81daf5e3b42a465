//! Runs an experiment: plans the work ([`plan()`]), executes it ([`run`], [`resume`]), and records
//! what happened ([`RunState`], stored in `runs-v1/ID/`).
//!
//! From the bottom up: `api`, `event` and `error` are plain types; `sources` reads data from
//! outside the store; `record` stores the events of a run; `plan` finds the tasks that already have
//! a cached result; `job` runs one task; `schedule` decides what runs when; `results` copies
//! results into `out/` for people; `engine` ties them together. A module imports only modules
//! listed before it.

mod api;
mod cache;
mod engine;
mod error;
mod event;
mod job;
mod plan;
mod record;
mod results;
mod schedule;
mod sources;

pub use api::{Options, Report, RunId, Selection, SourceChange, Sourcing, StageFailure, StageFinding, Watch};
pub use engine::{lock, resume, run};
pub use error::RunError;
pub use event::{Place, Record, RunEvent, RunOutcome, Used};
pub use plan::{Changed, ItemPlan, Missing, PlanState, Planned, Selected, StagePlan, findings, findings_of, plan};
pub use record::{
    Attached, Environment, Evaluation, Git, Host, InstanceState, LogFile, RecordProblem, Recorded, Row, RunState,
    RunStatus, StageState, Status, WorkerBuild, all, attach, cancel, dated_in_the_future, differing, differing_metrics,
    evaluations, find, find_by_id, folder, list, log_files, log_path, logs, predictions, read_events, read_recorded,
    read_recorded_as_written, remove, rows, set_damaged_records_aside, show, verify,
};
pub use sources::Sources;

pub(crate) use crate::exec::machine::gpus;
pub use crate::exec::memory_limit;
pub(crate) use record::Horizon;
