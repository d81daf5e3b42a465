//! The named results of a run under `out/EXPERIMENT/NAME`: copies for people, replaced when they
//! are not what the run made. The store keeps the originals.
//!
//! Each result folder has a marker, `.olmo-pipe.json` ([`Marker`]). A file in a result folder that
//! olmo-pipe did not write, or that was edited since, is never deleted: it stays where it is, or
//! moves to `NAME.set-aside/` if a new file needs its place. A lock on `out/EXPERIMENT` makes the
//! results of two runs that end at the same time appear one after the other, never mixed.

mod export;
mod marker;
mod place;

pub(super) use export::{Exported, check, export};
