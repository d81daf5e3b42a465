//! What a stage requests of an executor ([`AdmissionRequest`]), and what it gets ([`Grant`]).

use std::path::PathBuf;

use olmo_stage::contract::Resources;

/// A stage that asks for resources.
#[derive(Clone, Debug)]
pub struct AdmissionRequest<'a> {
    pub resources: Resources,
    /// The grant of a running stage whose GPUs may be shared, if they are enough.
    pub share: Option<&'a Grant>,
    /// Experiment and stage, for people and other engines.
    pub stage: String,
    /// Lock file of the work's supervisor. While it is held, the resources are in use.
    pub supervisor: PathBuf,
    /// No stage of this run has waited longer, so other engines must not overtake this request.
    pub is_first: bool,
}

/// The resources of one running stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Also the number of threads that the stage may use.
    pub cpus: u32,
    pub memory_mib: u64,
    /// In the notation of CUDA_VISIBLE_DEVICES.
    pub gpus: Vec<String>,
}
