//! [`Executor`]: where stages' processes run. A run knows nothing else of it; what an attempt is
//! told, tells and makes goes through the files of its folder ([`super::attempt`]), which any
//! executor has to make visible to both sides.

use std::time::Duration;

use super::error::ExecError;
use super::launch::{Ended, Launch, Supervised};

/// Starts stages' processes somewhere.
pub trait Executor: Send + Sync {
    /// Starts `launch` and returns at once.
    fn start(&self, launch: &Launch) -> Result<Box<dyn Process>, ExecError>;
}

/// A running stage. Dropping it kills the stage with all its children.
pub trait Process {
    /// Waits up to `pause` for the end; `None` while it goes on.
    fn wait(&mut self, pause: Duration) -> Result<Option<Ended>, ExecError>;
    /// Asks the stage to save its state and stop.
    fn terminate(&mut self);
    /// Asks the stage to save its state and go on. Only for a worker that has told that it
    /// started: the signal would end anybody else.
    fn save(&mut self);
    /// Kills the stage with all its children, at once.
    fn kill(&mut self);
}

/// Runs stages on this machine, each under a supervisor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

impl Executor for Local {
    fn start(&self, launch: &Launch) -> Result<Box<dyn Process>, ExecError> {
        Ok(Box::new(Supervised::start(launch)?))
    }
}

impl Process for Supervised {
    fn wait(&mut self, pause: Duration) -> Result<Option<Ended>, ExecError> {
        Supervised::wait(self, pause)
    }

    fn terminate(&mut self) {
        Supervised::terminate(self);
    }

    fn save(&mut self) {
        Supervised::save(self);
    }

    fn kill(&mut self) {
        Supervised::kill(self);
    }
}
