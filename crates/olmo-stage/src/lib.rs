//! The stage side of olmo-pipe: what a stage declares ([`contract`]), how the engine and a
//! worker process talk ([`protocol`], [`journal`]), and the loop that runs a stage ([`worker`]).
//!
//! The engine depends on this crate for the wire types alone; it holds no tensor code.

pub mod contract;
pub mod digest;
pub mod failpoint;
pub mod files;
pub mod journal;
pub mod markdown;
pub mod protocol;
pub mod rules;
pub mod seal;
pub mod signals;
pub mod worker;

pub use contract::{Contract, Description, ParamSpec, PortType};
pub use digest::Digest;
pub use failpoint::failpoint;
pub use protocol::{Event, Failure, InputItem, Outcome, Request, StageResult};
pub use worker::{Context, Stage, StageError};
