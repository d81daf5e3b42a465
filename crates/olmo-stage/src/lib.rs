//! The stage side of olmo-pipe: what a stage declares ([`contract`]), how the engine and a worker
//! process communicate ([`protocol`]), how a stage checks its params before a run ([`rules`]), how
//! a worker runs a stage ([`worker`], [`threads`]), and how several processes run one ([`ranks`]).
//!
//! The engine uses the types of the first three. Nothing here computes with tensors.

#![cfg_attr(not(test), warn(unreachable_pub))]

pub mod compute;
pub mod compute_params;
pub mod contract;
mod error;
pub mod markdown;
pub mod protocol;
pub mod ranks;
pub mod rules;
pub mod signals;
pub mod threads;
pub mod worker;

pub use compute::Compute;
pub use contract::{Contract, Description, ParamSpec, PortType};
pub use error::StageError;
pub use protocol::{Event, Failure, FailureClass, InputItem, MessageLevel, Outcome, Request, StageResult};
pub use threads::Threads;
pub use worker::{Context, Stage};
