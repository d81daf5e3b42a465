//! `olmo-pipe runs …`: lists, compares, follows and stops runs.

mod compare;
mod logs;
mod manage;

pub use manage::Runs;
