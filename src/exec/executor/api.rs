//! [`Executor`]: where the processes of stages run, and how much of it one stage gets.
//!
//! A run knows nothing else about that place. The request, events, and outputs of an attempt go
//! through the files of its folder ([`crate::exec::attempt`]), which both sides must see.

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
    /// A stage requests more than there is, or the resources cannot be determined.
    fn check(&self, stages: &[(&str, Resources)]) -> Result<(), ExecError>;

    /// Grants all requested resources, or none. Never blocks.
    ///
    /// # Errors
    /// The executor cannot tell what is free.
    fn admit(&self, request: &AdmissionRequest<'_>) -> Result<Admission, ExecError>;

    /// Withdraws a request that still waits: no stage of this run needs it now.
    fn withdraw(&self);

    /// Whether a request waits for other runs, so that `admit` is worth repeating after a while.
    fn is_waiting(&self) -> bool;

    /// Starts `launch` and returns at once.
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

/// A grant in force. Dropping it gives the resources back.
pub struct Allocation {
    pub grant: Grant,
    _held: Box<dyn Send>,
}

impl Allocation {
    /// `held` gives the resources back when it is dropped.
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
    /// Waits up to `pause` for the end; `None` while the stage runs.
    fn wait(&mut self, pause: Duration) -> Result<Option<Ended>, ExecError>;
    /// Asks the stage to save its state and stop.
    fn terminate(&mut self);
    /// Asks the stage to save its state and continue. Only for a worker that has reported its
    /// start: the signal would end any other process.
    fn save(&mut self);
    /// Kills the stage with all its children, at once.
    fn kill(&mut self);
}
