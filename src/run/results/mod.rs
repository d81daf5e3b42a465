//! The named results of a run, in `out/EXPERIMENT/NAME`. They are copies for people and are
//! replaced when a run makes other ones. The store keeps the originals.
//!
//! Each result folder has a marker, `.olmo-pipe.json` ([`Marker`]). A file in a result folder that
//! olmo-pipe did not write, or that was edited since, is never deleted: it stays where it is, or
//! moves to `NAME.set-aside/` if a new file needs its path. A lock on `out/EXPERIMENT` keeps the
//! results of two runs that end at the same time from mixing.

mod export;
mod marker;
mod place;

pub(super) use export::{Exported, check, export};
