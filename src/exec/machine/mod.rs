//! [`Machine`]: the processors, memory and GPUs of this machine, and which of them are free.
//!
//! A machine counts what the stages of this engine occupy; the leases ([`lease`]) keep it from
//! taking what another engine has. It never grants more than this process may use: its processors
//! by affinity, the memory of its control group, and the GPUs in CUDA_VISIBLE_DEVICES.

mod claim;
mod free;
pub(crate) mod gpus;
mod groups;
mod lease;
mod resources;

pub use claim::Shortage;
pub use groups::memory_limit;
pub(super) use resources::{Machine, Occupied, Take};
