//! The resources that a stage requests from an executor ([`AdmissionRequest`]) and those that it
//! gets ([`Grant`]).

use std::path::PathBuf;

use olmo_stage::contract::Resources;

/// A stage's request for resources.
#[derive(Clone, Debug)]
pub struct AdmissionRequest<'a> {
    pub resources: Resources,
    /// The grant of a running stage whose GPUs and CPUs may be shared, if it has enough of them.
    pub share: Option<&'a Grant>,
    /// Experiment and stage, shown to users of this and other engines.
    pub stage: String,
    /// The lock file of the work's supervisor. While it is held, the resources are in use.
    pub supervisor: PathBuf,
    /// Whether no stage of this run has waited longer. Other engines must not overtake such a
    /// request.
    pub is_first: bool,
}

/// The resources of one running stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Number of the grant on its machine, from 1.
    pub number: u64,
    /// Also the number of threads that the stage may use.
    pub cpus: u32,
    pub memory_mib: u64,
    /// GPUs in the notation of CUDA_VISIBLE_DEVICES.
    pub gpus: Vec<String>,
}
