//! Views of data for people: [`preview`] shows what is trained, [`stats`] counts, [`audit`] finds
//! problems.

pub mod audit;
pub mod histogram;
pub mod html;
mod kind;
mod plain;
pub mod preview;
mod sequences;
pub mod stats;

pub use kind::{ArtifactKind, kind};
pub use plain::plain;
pub use sequences::{Sequence, Sequences};
