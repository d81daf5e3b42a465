//! `olmo-pipe runs …`: lists, compares, follows and stops runs.

mod compare;
mod logs;
mod manage;

pub(super) use manage::Runs;
