//! [`Executor`]: grants resources to stages and starts their processes.
//!
//! A run knows nothing else about where stages run. The request, events and outputs of an attempt
//! are files in its folder ([`crate::exec::attempt`]), which must be visible to both sides.

use std::time::Duration;

use olmo_stage::contract::Resources;

use crate::exec::error::ExecError;
use crate::exec::grant::{AdmissionRequest, Grant};
use crate::exec::machine::Shortage;
use crate::exec::supervise::{Ended, Launch};

/// Admits stages and starts their processes.
pub trait Executor: Send + Sync {
    /// Checks that every stage fits while nothing else runs. A run calls this once, first.
    ///
    /// # Errors
    /// A stage requests more than the executor has, or the resources cannot be determined.
    fn check(&self, stages: &[(&str, Resources)]) -> Result<(), ExecError>;

    /// Grants all requested resources, or none. Never blocks.
    ///
    /// # Errors
    /// The executor cannot determine what is free.
    fn admit(&self, request: &AdmissionRequest<'_>) -> Result<Admission, ExecError>;

    /// Withdraws a waiting request, because no stage of this run needs it now.
    fn withdraw(&self);

    /// Whether a request waits for other runs, so that `admit` should be called again after a
    /// while.
    fn is_waiting(&self) -> bool;

    /// Starts `launch` without waiting for it to end.
    ///
    /// # Errors
    /// No process could be started.
    fn start(&self, launch: &Launch) -> Result<Box<dyn Process>, ExecError>;
}

/// The answer to an [`AdmissionRequest`].
#[derive(Debug)]
pub enum Admission {
    Granted(Allocation),
    Short(Shortage),
}

/// An active grant. Dropping it releases the resources.
pub struct Allocation {
    pub grant: Grant,
    _held: Box<dyn Send>,
}

impl Allocation {
    /// Creates an allocation. Dropping `held` must release the resources.
    pub fn new(grant: Grant, held: impl Send + 'static) -> Self {
        Self { grant, _held: Box::new(held) }
    }
}

impl std::fmt::Debug for Allocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Allocation").field(&self.grant).finish()
    }
}

/// A running stage. Dropping it kills the stage with all its children.
pub trait Process {
    /// Waits up to `pause` for the stage to end. Returns `None` while it runs.
    fn wait(&mut self, pause: Duration) -> Result<Option<Ended>, ExecError>;
    /// Asks the stage to save its state and stop.
    fn terminate(&mut self);
    /// Asks the stage to save its state and continue. Call this only for a worker that has reported
    /// its start, since the signal would end any other process.
    fn save(&mut self);
    /// Kills the stage and all its children immediately.
    fn kill(&mut self);
}
