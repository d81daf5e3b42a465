//! What stages claim of a machine ([`Claim`]), what it has ([`Capacity`]), and what is missing
//! ([`Shortage`]).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a stage asks for, or has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    pub pid: u32,
    /// Claims of one domain share its processors and its memory limit.
    pub domain: String,
    pub cpus: u32,
    pub memory_mib: u64,
    /// The GPUs it has; of a wish, those it may choose from.
    pub gpus: Vec<String>,
    /// Of a wish: how many of them.
    pub gpu_count: usize,
    /// Nanoseconds since 1970: the age of a wish.
    pub since: u64,
    /// For people: experiment and stage.
    pub what: String,
    /// The supervisor's lock of the work that it is for.
    pub supervisor: PathBuf,
}

/// How much there is: for one domain, and for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
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
    /// Process id of each holder and a description of its stage.
    pub holders: Vec<(u32, String)>,
}

impl Shortage {
    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        !(self.cpus || self.memory || self.gpus)
    }
}
