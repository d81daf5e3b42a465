//! What the machine has, and who occupies it: [`Machine`] and [`Grant`].
//!
//! A run counts what its own stages occupy; [`super::lease`] keeps it from taking what another
//! engine has. What this process may use (its processors by affinity, the memory of its control
//! group, CUDA_VISIBLE_DEVICES) is the most that its stages get.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use olmo_stage::contract::Resources;

use super::error::RunError;
use super::gpus;
use super::groups::Limits;
use super::lease::{Capacity, Claim, Lease, Ledger, Short, Taken, Want};

/// The machine's processors, memory and GPUs, and which of them are free.
pub struct Machine {
    cpus: u32,
    memory_mib: u64,
    gpus: Vec<String>,
    free_cpus: u32,
    free_memory_mib: u64,
    held: Vec<Weak<Gpus>>,
    /// Shared with all engines of the machine; without it, as in some tests, this one is alone.
    ledger: Option<(Ledger, Capacity)>,
    want: Option<Want>,
}

/// What a running stage gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Also the number of threads it may use.
    pub cpus: u32,
    pub memory_mib: u64,
    /// As CUDA_VISIBLE_DEVICES names them.
    pub gpus: Vec<String>,
}

/// A grant while it is in force. Give it back with [`Machine::give`].
#[derive(Debug)]
pub struct Occupied {
    pub grant: Grant,
    _lease: Option<Lease>,
    gpus: Option<Arc<Gpus>>,
}

/// GPUs that one stage took; others may come to share them. They are free when the last one is done.
#[derive(Debug)]
pub struct Gpus {
    names: Vec<String>,
    _lease: Option<Lease>,
}

/// Who asks, for other engines and for people.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    pub what: String,
    pub supervisor: PathBuf,
}

impl Machine {
    /// This machine, as far as this process may use it. GPUs are only looked for if some stage wants one.
    pub fn here(wants_gpus: bool) -> Result<Self, RunError> {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let memory = memory();
        let gpus = if wants_gpus { gpus::visible() } else { Vec::new() };
        let (own, host) = memory.unwrap_or((u64::MAX, u64::MAX));
        let mut machine = Self::new(cpus, own, gpus);
        let ledger = Ledger::open().map_err(|(path, source)| RunError::Leases { path, source })?;
        let capacity = Capacity {
            domain: domain(),
            cpus,
            memory_mib: own,
            host_cpus: host_cpus().max(cpus),
            host_memory_mib: host.max(own),
        };
        machine.ledger = Some((ledger, capacity));
        Ok(machine)
    }

    /// A machine with so much, and nobody else on it.
    pub fn new(cpus: u32, memory_mib: u64, gpus: Vec<String>) -> Self {
        let (free_cpus, free_memory_mib) = (cpus, memory_mib);
        Self { cpus, memory_mib, gpus, free_cpus, free_memory_mib, held: Vec::new(), ledger: None, want: None }
    }

    /// Checks that a stage with `wants` can run when nothing else does.
    pub fn check(&self, stage: &str, wants: &Resources) -> Result<(), RunError> {
        let asked = [
            ("cpus", u64::from(wants.cpus), u64::from(self.cpus)),
            ("memory_mib", wants.memory_mib, self.memory_mib),
            ("gpus", u64::from(wants.gpus), self.gpus.len() as u64),
        ];
        match asked.into_iter().find(|(_, asked, there)| asked > there) {
            Some((what, asked, there)) => Err(RunError::TooMuch { stage: stage.into(), what, asked, there }),
            None => Ok(()),
        }
    }

    /// Takes all of what `wants` asks for, or nothing. `share`: the GPUs of another stage, used
    /// if they are enough. `first`: nothing of this run waits longer, so the wish may be told to
    /// other engines. The inner error: what is short, and who has it.
    pub fn take(
        &mut self,
        wants: &Resources,
        share: Option<&Occupied>,
        asker: &Asker,
        first: bool,
    ) -> Result<Result<Occupied, Short>, RunError> {
        let cpus = if wants.cpus == 0 { self.cpus } else { wants.cpus };
        let count = wants.gpus as usize;
        let shared = share.and_then(|s| s.gpus.clone()).filter(|gpus| count > 0 && gpus.names.len() >= count);
        self.held.retain(|held| held.strong_count() > 0);
        let taken: Vec<Arc<Gpus>> = self.held.iter().filter_map(Weak::upgrade).collect();
        let free: Vec<String> =
            self.gpus.iter().filter(|gpu| !taken.iter().any(|t| t.names.contains(gpu))).cloned().collect();
        let short = Short {
            cpus: cpus > self.free_cpus,
            memory: wants.memory_mib > self.free_memory_mib,
            gpus: shared.is_none() && count > free.len(),
            holders: Vec::new(),
        };
        if !short.is_nothing() {
            return Ok(Err(short));
        }
        let (lease, gpus) = match &self.ledger {
            None => {
                let names = free.into_iter().take(count).collect();
                (None, shared.or_else(|| (count > 0).then(|| Arc::new(Gpus { names, _lease: None }))))
            }
            Some((ledger, capacity)) => {
                let claim = Claim {
                    pid: std::process::id(),
                    domain: capacity.domain.clone(),
                    cpus,
                    memory_mib: wants.memory_mib,
                    gpus: if shared.is_some() { Vec::new() } else { free },
                    gpu_count: if shared.is_some() { 0 } else { count },
                    since: 0,
                    what: asker.what.clone(),
                    supervisor: asker.supervisor.clone(),
                };
                let want = first.then_some(&mut self.want);
                let taken = ledger.take(&claim, capacity, want);
                match taken.map_err(|source| RunError::Leases { path: ledger.folder().to_owned(), source })? {
                    Taken::Busy(short) => return Ok(Err(short)),
                    Taken::Granted { lease, gpus } => {
                        let own = gpus.map(|lease| Arc::new(Gpus { names: lease.gpus.clone(), _lease: Some(lease) }));
                        (Some(lease), shared.or(own))
                    }
                }
            }
        };
        self.held.extend(gpus.iter().map(Arc::downgrade));
        self.free_cpus -= cpus;
        self.free_memory_mib -= wants.memory_mib;
        let names = gpus.as_ref().map(|gpus| gpus.names[..count].to_vec()).unwrap_or_default();
        Ok(Ok(Occupied { grant: Grant { cpus, memory_mib: wants.memory_mib, gpus: names }, _lease: lease, gpus }))
    }

    /// Takes back what a stage occupied.
    pub fn give(&mut self, occupied: Occupied) {
        self.free_cpus += occupied.grant.cpus;
        self.free_memory_mib += occupied.grant.memory_mib;
    }

    /// Whether a wish of this run waits for other engines: nobody tells when they are done.
    pub fn waits_for_others(&self) -> bool {
        self.want.is_some()
    }

    /// Withdraws the wish: nothing waits any more.
    pub fn forget_want(&mut self) {
        self.want = None;
    }
}

/// Main memory in MiB: what this process may use (the machine's, or that of its control groups if
/// that is less), and the machine's. `None` where the system does not say.
fn memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024;
    let group = Limits::here().memory.map(|bytes| bytes >> 20);
    Some((group.map_or(machine, |limit| limit.min(machine)), machine))
}

/// All processors of the machine, also those that this process may not use.
fn host_cpus() -> u32 {
    // SAFETY: sysconf takes a plain integer and reads a number of the system.
    u32::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
}

/// What makes this process's processors and memory limit its own: the same text for all
/// processes that share them.
fn domain() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let allowed =
        status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("").trim().to_owned();
    format!("cpus {allowed} limits {}", Limits::here().groups.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(cpus: u32, memory_mib: u64, gpus: u32) -> Resources {
        Resources { cpus, gpus, memory_mib }
    }

    fn take(machine: &mut Machine, wants: &Resources) -> Result<Occupied, Short> {
        machine.take(wants, None, &Asker::default(), false).unwrap()
    }

    #[test]
    fn what_is_taken_is_not_given_twice() {
        let mut machine = Machine::new(4, 1000, vec!["0".into(), "1".into()]);
        let first = take(&mut machine, &wants(3, 400, 1)).unwrap();
        assert_eq!(first.grant.gpus, ["0"]);
        assert!(take(&mut machine, &wants(2, 0, 0)).unwrap_err().cpus);
        assert!(take(&mut machine, &wants(1, 700, 0)).unwrap_err().memory);
        assert!(take(&mut machine, &wants(1, 0, 2)).unwrap_err().gpus);
        let second = take(&mut machine, &wants(1, 600, 1)).unwrap();
        assert_eq!(second.grant.gpus, ["1"]);
        machine.give(first);
        machine.give(second);
        assert_eq!(take(&mut machine, &wants(4, 1000, 2)).unwrap().grant.gpus, ["0", "1"]);
    }

    #[test]
    fn shared_gpus_are_free_when_the_last_one_is_done_with_them() {
        let mut machine = Machine::new(4, 1000, vec!["0".into(), "1".into()]);
        let train = take(&mut machine, &wants(1, 0, 2)).unwrap();
        let share = |machine: &mut Machine, gpus| {
            machine.take(&wants(1, 0, gpus), Some(&train), &Asker::default(), false).unwrap()
        };
        let eval = share(&mut machine, 1).unwrap();
        assert_eq!(eval.grant.gpus, ["0"]);
        assert!(share(&mut machine, 3).unwrap_err().gpus, "more than the other has");
        machine.give(train);
        assert!(take(&mut machine, &wants(1, 0, 1)).unwrap_err().gpus, "one is still used");
        machine.give(eval);
        assert_eq!(take(&mut machine, &wants(1, 0, 2)).unwrap().grant.gpus, ["0", "1"]);
    }

    #[test]
    fn zero_processors_are_all_of_them() {
        let mut machine = Machine::new(4, 1000, vec![]);
        assert_eq!(take(&mut machine, &wants(0, 0, 0)).unwrap().grant.cpus, 4);
        assert!(take(&mut machine, &wants(1, 0, 0)).is_err());
    }

    #[test]
    fn asking_for_more_than_there_is_names_what() {
        let machine = Machine::new(4, 1000, vec![]);
        let message = |r| machine.check("train", &r).unwrap_err().to_string();
        assert_eq!(message(wants(5, 0, 0)), "stage `train` asks for 5 cpus, and this machine has 4");
        assert!(message(wants(0, 2000, 0)).contains("2000 memory_mib"));
        assert!(message(wants(0, 0, 1)).contains("1 gpus"));
        assert!(machine.check("train", &wants(4, 1000, 0)).is_ok());
    }
}
