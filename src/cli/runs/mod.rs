//! `olmo-pipe runs …`: lists, compares, follows and stops runs.

mod compare;
mod logs;
mod manage;
mod paired;

pub(super) use manage::Runs;
