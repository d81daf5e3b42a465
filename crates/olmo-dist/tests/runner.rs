//! The tests of this crate as one program, which links once.

mod exact;
mod groups;
mod processes;
mod rendezvous;
mod support;
