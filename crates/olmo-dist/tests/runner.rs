//! The tests of this crate as one program, which links once.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod exact;
mod groups;
mod processes;
mod rendezvous;
mod support;
