//! [`Free`]: arithmetic over the claims on a machine. It reads no file and takes no lock.

use crate::exec::machine::claim::{Capacity, Claim, Shortage};

/// What is not claimed, in the domain of the one who asks and on the whole machine.
pub(super) struct Free<'c> {
    domain: &'c str,
    cpus: i64,
    memory_mib: i128,
    host_cpus: i64,
    host_memory_mib: i128,
    taken_gpus: Vec<String>,
}

impl<'c> Free<'c> {
    pub(super) fn new(capacity: &'c Capacity, claim: &'c Claim, all: &[(bool, Claim)]) -> Self {
        let mut free = Self {
            domain: &claim.domain,
            cpus: capacity.cpus.into(),
            memory_mib: capacity.memory_mib.into(),
            host_cpus: capacity.host_cpus.into(),
            host_memory_mib: capacity.host_memory_mib.into(),
            taken_gpus: Vec::new(),
        };
        for (_, claim) in all.iter().filter(|(granted, _)| *granted) {
            free.take(claim, &claim.gpus.clone());
        }
        free
    }

    fn take(&mut self, claim: &Claim, gpus: &[String]) {
        if claim.domain == self.domain {
            self.cpus -= i64::from(claim.cpus);
            self.memory_mib -= i128::from(claim.memory_mib);
        }
        self.host_cpus -= i64::from(claim.cpus);
        self.host_memory_mib -= i128::from(claim.memory_mib);
        self.taken_gpus.extend(gpus.iter().cloned());
    }

    fn free_gpus(&self, claim: &Claim) -> Vec<String> {
        let free = claim.gpus.iter().filter(|gpu| !self.taken_gpus.contains(gpu));
        free.take(claim.gpu_count).cloned().collect()
    }

    fn lacks(&self, claim: &Claim) -> (bool, bool) {
        let own = claim.domain == self.domain;
        let (cpus, memory) = (i64::from(claim.cpus), i128::from(claim.memory_mib));
        let lacks_cpus = cpus > 0 && (cpus > self.host_cpus || (own && cpus > self.cpus));
        let lacks_memory = memory > 0 && (memory > self.host_memory_mib || (own && memory > self.memory_mib));
        (lacks_cpus, lacks_memory)
    }

    /// Keeps for the older `wish` what it can have, and all of what it waits for.
    pub(super) fn reserve(
        &mut self,
        wish: &Claim,
        cpus: &mut bool,
        memory: &mut bool,
        claim: &Claim,
    ) -> Option<(u32, String)> {
        let gpus = self.free_gpus(wish);
        let (lacks_cpus, lacks_memory) = self.lacks(wish);
        let lacks_gpus = gpus.len() < wish.gpu_count;
        if !(lacks_cpus || lacks_memory || lacks_gpus) {
            self.take(wish, &gpus);
            return None;
        }
        let mut in_the_way = false;
        if lacks_cpus && claim.cpus > 0 {
            (*cpus, in_the_way) = (true, true);
        }
        if lacks_memory && claim.memory_mib > 0 {
            (*memory, in_the_way) = (true, true);
        }
        if lacks_gpus && claim.gpu_count > 0 {
            self.taken_gpus.extend(wish.gpus.iter().cloned());
            in_the_way = claim.gpus.iter().any(|gpu| wish.gpus.contains(gpu));
        }
        in_the_way.then(|| (wish.pid, wish.what.clone()))
    }

    /// Notes what is short for `claim`; the GPUs that it gets.
    pub(super) fn look(&self, claim: &Claim, short: &mut Shortage) -> Vec<String> {
        let gpus = self.free_gpus(claim);
        let (cpus, memory) = self.lacks(claim);
        short.cpus |= cpus;
        short.memory |= memory;
        short.gpus |= gpus.len() < claim.gpu_count;
        gpus
    }

    /// Whether `other` has something of what `claim` lacks.
    pub(super) fn competes(&self, claim: &Claim, other: &Claim, short: &Shortage) -> bool {
        (short.cpus && other.cpus > 0)
            || (short.memory && other.memory_mib > 0)
            || (short.gpus && other.gpus.iter().any(|gpu| claim.gpus.contains(gpu)))
    }
}
