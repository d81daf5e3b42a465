//! [`Machine`]: the resources of this machine, and which of them are free.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use olmo_stage::contract::Resources;

use crate::exec::error::ExecError;
use crate::exec::grant::{AdmissionRequest, Grant};
use crate::exec::machine::claim::{Capacity, Claim};
use crate::exec::machine::groups::Limits;
use crate::exec::machine::lease::{ClaimOutcome, Lease, Ledger, WaitingClaim};
use crate::exec::machine::{Shortage, gpus};

/// The machine's CPUs, memory and GPUs, and which of them are free.
#[derive(Debug)]
pub(crate) struct Machine {
    cpus: u32,
    memory_mib: u64,
    gpus: Vec<String>,
    free_memory_mib: u64,
    held: Vec<Weak<Gpus>>,
    /// The CPUs of each grant, by its number.
    held_cpus: Vec<(u64, Weak<Cpus>)>,
    /// Number of grants so far.
    granted: u64,
    /// Shared with all engines of the machine. `None` in tests in which this engine is alone.
    ledger: Option<(Ledger, Capacity)>,
    waiting: Option<WaitingClaim>,
}

/// The resources that one grant takes from the machine. Return them with [`Machine::release`].
#[derive(Debug)]
pub(crate) struct Occupied {
    pub grant: Grant,
    cpus: Arc<Cpus>,
    /// Number of CPUs that another grant took and that this one shares.
    shared_cpus: u32,
    _lease: Option<Lease>,
    _gpus: Option<Arc<Gpus>>,
}

/// CPUs that one stage took and that others may share. They become free when the last user ends.
#[derive(Debug)]
struct Cpus {
    count: u32,
    /// Number of them that another stage uses too. No CPU has more than two users.
    shared: AtomicU32,
    _lease: Option<Lease>,
}

/// GPUs that one stage took and that others may share. They become free when the last user ends.
#[derive(Debug)]
struct Gpus {
    names: Vec<String>,
    _lease: Option<Lease>,
}

/// The outcome of [`Machine::take`].
#[derive(Debug)]
pub(crate) enum Admitted {
    Granted(Occupied),
    Short(Shortage),
}

impl Machine {
    /// Detects the resources that this process may use. Looks for GPUs only if `wants_gpus`.
    ///
    /// # Errors
    /// The folder of the leases cannot be used.
    pub(crate) fn detect(wants_gpus: bool) -> Result<Self, ExecError> {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let memory = memory();
        let gpus = if wants_gpus { gpus::visible() } else { Vec::new() };
        let (own, host) = memory.unwrap_or((u64::MAX, u64::MAX));
        let mut machine = Self::new(cpus, own, gpus);
        let ledger = Ledger::open().map_err(|(path, source)| ExecError::Leases { path, source })?;
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

    /// Creates a machine of this size that no other engine uses.
    pub(crate) fn new(cpus: u32, memory_mib: u64, gpus: Vec<String>) -> Self {
        Self {
            cpus,
            memory_mib,
            gpus,
            free_memory_mib: memory_mib,
            held: Vec::new(),
            held_cpus: Vec::new(),
            granted: 0,
            ledger: None,
            waiting: None,
        }
    }

    /// Checks that a stage that requests `wants` fits while nothing else runs.
    ///
    /// # Errors
    /// [`ExecError::TooMuch`] with the first resource of which the machine has too little.
    pub(crate) fn check(&self, stage: &str, wants: &Resources) -> Result<(), ExecError> {
        let requests = [
            ("cpus", u64::from(wants.cpus), u64::from(self.cpus)),
            ("memory_mib", wants.memory_mib, self.memory_mib),
            ("gpus", u64::from(wants.gpus), self.gpus.len() as u64),
        ];
        match requests.into_iter().find(|(_, requested, available)| requested > available) {
            Some((what, requested, available)) => {
                Err(ExecError::TooMuch { stage: stage.into(), what, requested, available })
            }
            None => Ok(()),
        }
    }

    /// Takes everything that `request` names, or nothing.
    ///
    /// # Errors
    /// The leases cannot be read or written.
    pub(crate) fn take(&mut self, request: &AdmissionRequest<'_>) -> Result<Admitted, ExecError> {
        let wants = request.resources;
        let lender = request.share.and_then(|grant| self.cpus_of(grant));
        let cpus = match (wants.cpus, &lender) {
            (0, Some(lender)) => lender.count,
            (0, None) => self.cpus,
            (cpus, _) => cpus,
        };
        let free_cpus = self.free_cpus();
        // Free CPUs are better than shared ones.
        let lender = lender.filter(|lender| cpus > free_cpus && cpus <= lender.count);
        let lent = lender.as_ref().map(|lender| lender.count - lender.shared.load(Ordering::Relaxed));
        let count = wants.gpus as usize;
        self.held.retain(|held| held.strong_count() > 0);
        let taken: Vec<Arc<Gpus>> = self.held.iter().filter_map(Weak::upgrade).collect();
        let shared = request.share.filter(|grant| count > 0 && grant.gpus.len() >= count);
        let shared = shared.and_then(|grant| taken.iter().find(|gpus| gpus.names.starts_with(&grant.gpus)).cloned());
        let is_taken = |gpu: &&String| taken.iter().any(|taken| taken.names.contains(gpu));
        let free: Vec<String> = self.gpus.iter().filter(|gpu| !is_taken(gpu)).cloned().collect();
        let short = Shortage {
            cpus: cpus > lent.unwrap_or(free_cpus),
            memory: wants.memory_mib > self.free_memory_mib,
            gpus: shared.is_none() && count > free.len(),
            holders: Vec::new(),
        };
        if !short.is_empty() {
            return Ok(Admitted::Short(short));
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
                    cpus: if lender.is_some() { 0 } else { cpus },
                    memory_mib: wants.memory_mib,
                    gpus: if shared.is_some() { Vec::new() } else { free },
                    gpu_count: if shared.is_some() { 0 } else { count },
                    since: 0,
                    what: request.stage.clone(),
                    supervisor: request.supervisor.clone(),
                };
                let waiting = request.is_first.then_some(&mut self.waiting);
                let taken = ledger.take(&claim, capacity, waiting);
                match taken.map_err(|source| ExecError::Leases { path: ledger.folder().to_owned(), source })? {
                    ClaimOutcome::Busy(short) => return Ok(Admitted::Short(short)),
                    ClaimOutcome::Granted { lease, gpus } => {
                        let own = gpus.map(|lease| Arc::new(Gpus { names: lease.gpus.clone(), _lease: Some(lease) }));
                        (Some(lease), shared.or(own))
                    }
                }
            }
        };
        self.held.extend(gpus.iter().map(Arc::downgrade));
        self.free_memory_mib -= wants.memory_mib;
        self.granted += 1;
        let (shared_cpus, lease, taken) = match lender {
            Some(lender) => {
                lender.shared.fetch_add(cpus, Ordering::Relaxed);
                (cpus, lease, lender)
            }
            None => {
                let taken = Arc::new(Cpus { count: cpus, shared: AtomicU32::new(0), _lease: lease });
                self.held_cpus.push((self.granted, Arc::downgrade(&taken)));
                (0, None, taken)
            }
        };
        let names = gpus.as_ref().map(|gpus| gpus.names[..count].to_vec()).unwrap_or_default();
        let grant = Grant { number: self.granted, cpus, memory_mib: wants.memory_mib, gpus: names };
        Ok(Admitted::Granted(Occupied { grant, cpus: taken, shared_cpus, _lease: lease, _gpus: gpus }))
    }

    /// The CPUs of a grant that is in use.
    fn cpus_of(&self, grant: &Grant) -> Option<Arc<Cpus>> {
        let found = self.held_cpus.iter().find(|(number, _)| *number == grant.number);
        found.and_then(|(_, cpus)| cpus.upgrade())
    }

    /// Number of CPUs that no grant of this engine uses.
    fn free_cpus(&mut self) -> u32 {
        self.held_cpus.retain(|(_, held)| held.strong_count() > 0);
        let held = self.held_cpus.iter().filter_map(|(_, held)| held.upgrade());
        self.cpus.saturating_sub(held.map(|held| held.count).sum())
    }

    /// Releases resources that [`Machine::take`] granted.
    pub(crate) fn release(&mut self, occupied: Occupied) {
        occupied.cpus.shared.fetch_sub(occupied.shared_cpus, Ordering::Relaxed);
        self.free_memory_mib += occupied.grant.memory_mib;
    }

    /// Whether a claim waits for other engines. They send no message when they release resources.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Withdraws the waiting claim.
    pub(crate) fn withdraw(&mut self) {
        self.waiting = None;
    }
}

/// Main memory in MiB: the limit for this process (that of its control groups, or all of the
/// machine's memory), and the machine's. `None` if the system does not report it.
fn memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024;
    let group = Limits::current().memory.map(|bytes| bytes >> 20);
    Some((group.map_or(machine, |limit| limit.min(machine)), machine))
}

/// Number of CPUs of the machine, including those that this process may not use.
fn host_cpus() -> u32 {
    // SAFETY: sysconf takes an integer and only reads a system value.
    u32::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
}

/// Identifies the CPUs and the memory limit of this process. Processes that share them get the same
/// text.
fn domain() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let allowed =
        status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("").trim().to_owned();
    format!("cpus {allowed} limits {}", Limits::current().groups.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(cpus: u32, memory_mib: u64, gpus: u32) -> Resources {
        Resources { cpus, gpus, memory_mib, ranks: 0 }
    }

    fn take_sharing(machine: &mut Machine, wants: &Resources, share: Option<&Grant>) -> Result<Occupied, Shortage> {
        let (stage, supervisor) = (String::new(), Default::default());
        match machine.take(&AdmissionRequest { resources: *wants, share, stage, supervisor, is_first: false }).unwrap()
        {
            Admitted::Granted(occupied) => Ok(occupied),
            Admitted::Short(short) => Err(short),
        }
    }

    fn take(machine: &mut Machine, wants: &Resources) -> Result<Occupied, Shortage> {
        take_sharing(machine, wants, None)
    }

    #[test]
    fn resources_are_not_granted_twice() {
        let mut machine = Machine::new(4, 1000, vec!["0".into(), "1".into()]);
        let first = take(&mut machine, &wants(3, 400, 1)).unwrap();
        assert_eq!(first.grant.gpus, ["0"]);
        assert!(take(&mut machine, &wants(2, 0, 0)).unwrap_err().cpus);
        assert!(take(&mut machine, &wants(1, 700, 0)).unwrap_err().memory);
        assert!(take(&mut machine, &wants(1, 0, 2)).unwrap_err().gpus);
        let second = take(&mut machine, &wants(1, 600, 1)).unwrap();
        assert_eq!(second.grant.gpus, ["1"]);
        machine.release(first);
        machine.release(second);
        assert_eq!(take(&mut machine, &wants(4, 1000, 2)).unwrap().grant.gpus, ["0", "1"]);
    }

    #[test]
    fn shared_gpus_are_free_when_their_last_user_ends() {
        let mut machine = Machine::new(4, 1000, vec!["0".into(), "1".into()]);
        let train = take(&mut machine, &wants(1, 0, 2)).unwrap();
        let share = |machine: &mut Machine, gpus| take_sharing(machine, &wants(1, 0, gpus), Some(&train.grant));
        let eval = share(&mut machine, 1).unwrap();
        assert_eq!(eval.grant.gpus, ["0"]);
        assert!(share(&mut machine, 3).unwrap_err().gpus, "more than the other stage has");
        machine.release(train);
        assert!(take(&mut machine, &wants(1, 0, 1)).unwrap_err().gpus, "one is still in use");
        machine.release(eval);
        assert_eq!(take(&mut machine, &wants(1, 0, 2)).unwrap().grant.gpus, ["0", "1"]);
    }

    #[test]
    fn shared_cpus_have_at_most_two_users_and_are_free_when_their_last_user_ends() {
        let mut machine = Machine::new(4, 1000, vec![]);
        let train = take(&mut machine, &wants(0, 100, 0)).unwrap();
        let share = |machine: &mut Machine, cpus| take_sharing(machine, &wants(cpus, 100, 0), Some(&train.grant));
        assert!(take(&mut machine, &wants(1, 0, 0)).unwrap_err().cpus, "only a stage that names the other one shares");
        let first = share(&mut machine, 3).unwrap();
        assert_eq!(first.grant.cpus, 3);
        assert!(share(&mut machine, 2).unwrap_err().cpus, "one CPU has a single user");
        let second = share(&mut machine, 1).unwrap();
        assert!(share(&mut machine, 1).unwrap_err().cpus);
        machine.release(second);
        assert_eq!(share(&mut machine, 0).unwrap_err(), Shortage { cpus: true, ..Shortage::default() });
        machine.release(first);
        let all = share(&mut machine, 0).unwrap();
        assert_eq!(all.grant.cpus, 4, "0 means as many as the other stage has");
        machine.release(train);
        assert!(take(&mut machine, &wants(1, 0, 0)).unwrap_err().cpus, "they are still in use");
        machine.release(all);
        assert_eq!(take(&mut machine, &wants(4, 1000, 0)).unwrap().grant.cpus, 4);
    }

    #[test]
    fn free_cpus_are_taken_before_shared_ones() {
        let mut machine = Machine::new(4, 1000, vec![]);
        let train = take(&mut machine, &wants(2, 0, 0)).unwrap();
        let own = take_sharing(&mut machine, &wants(2, 0, 0), Some(&train.grant)).unwrap();
        let shared = take_sharing(&mut machine, &wants(2, 0, 0), Some(&train.grant)).unwrap();
        assert!(take(&mut machine, &wants(1, 0, 0)).is_err());
        machine.release(shared);
        machine.release(own);
        assert!(take_sharing(&mut machine, &wants(3, 0, 0), Some(&train.grant)).unwrap_err().cpus);
        assert_eq!(take(&mut machine, &wants(2, 0, 0)).unwrap().grant.cpus, 2);
    }

    #[test]
    fn zero_cpus_means_all_of_them() {
        let mut machine = Machine::new(4, 1000, vec![]);
        let all = take(&mut machine, &wants(0, 0, 0)).unwrap();
        assert_eq!(all.grant.cpus, 4);
        assert!(take(&mut machine, &wants(1, 0, 0)).is_err());
        machine.release(all);
    }

    #[test]
    fn a_request_that_is_too_large_names_the_resource() {
        let machine = Machine::new(4, 1000, vec![]);
        let message = |r| machine.check("train", &r).unwrap_err().to_string();
        assert_eq!(message(wants(5, 0, 0)), "stage `train` requests 5 cpus, but this machine has 4");
        assert!(message(wants(0, 2000, 0)).contains("2000 memory_mib"));
        assert!(message(wants(0, 0, 1)).contains("1 gpus"));
        assert!(machine.check("train", &wants(4, 1000, 0)).is_ok());
    }
}
