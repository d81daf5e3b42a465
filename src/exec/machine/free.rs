//! [`FreeResources`]: arithmetic over the claims on a machine. It reads no file and takes no lock.

use crate::exec::machine::claim::{Capacity, Claim, Shortage};

/// The resources that are not claimed, in the domain of a claim and on the whole machine.
pub(super) struct FreeResources<'c> {
    domain: &'c str,
    cpus: i64,
    memory_mib: i128,
    host_cpus: i64,
    host_memory_mib: i128,
    taken_gpus: Vec<String>,
}

impl<'c> FreeResources<'c> {
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

    fn shortage_of_cpus_and_memory(&self, claim: &Claim) -> (bool, bool) {
        let own = claim.domain == self.domain;
        let (cpus, memory) = (i64::from(claim.cpus), i128::from(claim.memory_mib));
        let lacks_cpus = cpus > 0 && (cpus > self.host_cpus || (own && cpus > self.cpus));
        let lacks_memory = memory > 0 && (memory > self.host_memory_mib || (own && memory > self.memory_mib));
        (lacks_cpus, lacks_memory)
    }

    /// Reserves resources for the older waiting claim `older`: what it needs if it fits, and
    /// otherwise everything that it waits for. Sets `cpus` and `memory` if that leaves too little
    /// for `claim`. Returns the holder if `older` is in the way of `claim`.
    pub(super) fn reserve(
        &mut self,
        older: &Claim,
        cpus: &mut bool,
        memory: &mut bool,
        claim: &Claim,
    ) -> Option<(u32, String)> {
        let gpus = self.free_gpus(older);
        let (lacks_cpus, lacks_memory) = self.shortage_of_cpus_and_memory(older);
        let lacks_gpus = gpus.len() < older.gpu_count;
        if !(lacks_cpus || lacks_memory || lacks_gpus) {
            self.take(older, &gpus);
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
            self.taken_gpus.extend(older.gpus.iter().cloned());
            in_the_way = claim.gpus.iter().any(|gpu| older.gpus.contains(gpu));
        }
        in_the_way.then(|| (older.pid, older.what.clone()))
    }

    /// Adds the resources that `claim` lacks to `short`. Returns the GPUs that it would get.
    pub(super) fn find_shortage(&self, claim: &Claim, short: &mut Shortage) -> Vec<String> {
        let gpus = self.free_gpus(claim);
        let (cpus, memory) = self.shortage_of_cpus_and_memory(claim);
        short.cpus |= cpus;
        short.memory |= memory;
        short.gpus |= gpus.len() < claim.gpu_count;
        gpus
    }

    /// Whether `other` holds resources that `claim` lacks.
    pub(super) fn competes(&self, claim: &Claim, other: &Claim, short: &Shortage) -> bool {
        (short.cpus && other.cpus > 0)
            || (short.memory && other.memory_mib > 0)
            || (short.gpus && other.gpus.iter().any(|gpu| claim.gpus.contains(gpu)))
    }
}
