//! The resources that a stage claims ([`Claim`]), those that a machine has ([`Capacity`]), and
//! those that are missing ([`Shortage`]). Plain types without behavior.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The resources that a stage requests or has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Claim {
    pub pid: u32,
    /// Claims in the same domain share its CPUs and its memory limit.
    pub domain: String,
    pub cpus: u32,
    pub memory_mib: u64,
    /// The GPUs of a granted claim. For a request, the GPUs to choose from.
    pub gpus: Vec<String>,
    /// For a request: how many GPUs.
    pub gpu_count: usize,
    /// When a waiting claim was made, in nanoseconds since 1970.
    pub since: u64,
    /// Experiment and stage, shown to users.
    pub what: String,
    /// The lock file of the supervisor of the stage's work.
    pub supervisor: PathBuf,
}

/// The total resources of one domain, and of the whole machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    pub domain: String,
    pub cpus: u32,
    pub memory_mib: u64,
    pub host_cpus: u32,
    pub host_memory_mib: u64,
}

/// Resources that are not available now, and the processes that hold them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    pub cpus: bool,
    pub memory: bool,
    pub gpus: bool,
    /// PID of each holder and a description of its stage.
    pub holders: Vec<(u32, String)>,
}

impl Shortage {
    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        !(self.cpus || self.memory || self.gpus)
    }
}
