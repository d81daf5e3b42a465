//! [`Machine`]: the CPUs, memory and GPUs of this machine, and which of them are free.
//!
//! A machine counts what the stages of this engine occupy. The leases ([`lease`]) keep it from
//! taking what another engine uses. It never grants more than this process may use: the CPUs in its
//! affinity mask, the memory of its control group, and the GPUs in CUDA_VISIBLE_DEVICES.

mod claim;
mod free;
pub(crate) mod gpus;
mod groups;
mod lease;
mod resources;

pub use claim::Shortage;
pub use groups::memory_limit;
pub(super) use resources::{Admitted, Machine, Occupied};
