//! [`Local`]: runs stages on this machine, each under a supervisor.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use olmo_stage::contract::Resources;

use crate::exec::error::ExecError;
use crate::exec::executor::api::{Admission, Allocation, Executor, Process};
use crate::exec::grant::AdmissionRequest;
use crate::exec::machine::{Admitted, Machine, Occupied};
use crate::exec::supervise::{Ended, Launch, Supervised};

/// Runs stages on this machine. It owns the machine's leases.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// Set by [`Executor::check`], which knows whether GPUs are needed.
    machine: Arc<Mutex<Option<Machine>>>,
}

fn lock(machine: &Mutex<Option<Machine>>) -> MutexGuard<'_, Option<Machine>> {
    // The counters stay consistent if a thread panics: each is changed in one statement.
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Releases the resources when it is dropped.
struct Release {
    machine: Arc<Mutex<Option<Machine>>>,
    occupied: Option<Occupied>,
}

impl Drop for Release {
    fn drop(&mut self) {
        if let (Some(machine), Some(occupied)) = (lock(&self.machine).as_mut(), self.occupied.take()) {
            machine.release(occupied);
        }
    }
}

impl Executor for Local {
    fn check(&self, stages: &[(&str, Resources)]) -> Result<(), ExecError> {
        let mut place = lock(&self.machine);
        let machine = match &mut *place {
            Some(machine) => machine,
            None => place.insert(Machine::detect(stages.iter().any(|(_, wants)| wants.gpus > 0))?),
        };
        stages.iter().try_for_each(|(stage, wants)| machine.check(stage, wants))
    }

    fn admit(&self, request: &AdmissionRequest<'_>) -> Result<Admission, ExecError> {
        let mut place = lock(&self.machine);
        let machine = match &mut *place {
            Some(machine) => machine,
            None => place.insert(Machine::detect(request.resources.gpus > 0)?),
        };
        Ok(match machine.take(request)? {
            Admitted::Short(short) => Admission::Short(short),
            Admitted::Granted(occupied) => {
                let grant = occupied.grant.clone();
                Admission::Granted(Allocation::new(
                    grant,
                    Release { machine: self.machine.clone(), occupied: Some(occupied) },
                ))
            }
        })
    }

    fn withdraw(&self) {
        if let Some(machine) = lock(&self.machine).as_mut() {
            machine.withdraw();
        }
    }

    fn is_waiting(&self) -> bool {
        lock(&self.machine).as_ref().is_some_and(Machine::is_waiting)
    }

    fn start(&self, launch: &Launch) -> Result<Box<dyn Process>, ExecError> {
        // The first process of the stage starts its other ranks.
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
