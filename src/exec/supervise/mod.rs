//! A stage's process under its supervisor: the supervisor itself (`olmo-pipe __supervise`), its
//! orders, the stage's log, and the engine's handle to it ([`Supervised`]). Invariant: no process
//! of a stage outlives its engine.

mod inquiry;
mod launch;
mod leftovers;
mod order;
pub(super) mod processes;
pub(crate) mod redact;
mod stage_log;
mod supervisor;

pub(super) use inquiry::ask;
pub use launch::{Ended, Launch, Supervised};
pub(super) use leftovers::kill_leftovers;
pub use supervisor::{COMMAND, Exit, GUARD, LOCK, LOG, main};
