//! Queries about the artifacts in a store that combine artifacts, finished stages and run records.
//! Only [`Collection`] changes the store.
//!
//! [`Reference`] resolves the name of an artifact, [`Lineage`] traces what it was made from,
//! [`Difference`] compares two artifacts, [`Usage`] shows where the bytes are, and [`Collection`]
//! decides what garbage collection removes. [`Provenance`] is the full recipe of an artifact, also
//! in the formats of OpenLineage ([`events`]) and in-toto ([`statement()`]).

mod collect;
mod difference;
mod error;
mod lineage;
mod made;
mod openlineage;
mod provenance;
mod reference;
mod statement;
mod usage;

pub use collect::{Collection, Policy, Root, Share};
pub use difference::{Difference, FileChange};
pub use error::ReferenceError;
pub use lineage::{Direction, Lineage, Node, Step, StepInput};
pub use made::{RunOutputs, TaskOutputs};
pub use openlineage::events;
pub use provenance::{Execution, Provenance};
pub use reference::Reference;
pub use statement::statement;
pub use usage::{Group, Usage};
