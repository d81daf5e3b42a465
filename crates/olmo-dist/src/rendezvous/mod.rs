//! The rendezvous: the ranks of a run find each other, prove that they know the secret of the run,
//! compare what must be equal, and end with two connections between each pair of ranks.

mod folder;
mod handshake;
mod interface;
mod join;
mod listener;
mod settings;

pub(crate) use join::connect;
pub use settings::{Join, Limits, Rendezvous, Secret};
