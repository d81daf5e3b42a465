//! What the store holds and why: questions that need artifacts, finished stages and runs at once.
//!
//! [`Reference`] finds the artifact that a person means, [`Lineage`] says what it was made of,
//! [`Difference`] what two do not share, [`Usage`] where the bytes are, and
//! [`Collection`] which of them are to go.
//! [`Provenance`] is the full recipe of one, also as OpenLineage ([`events`]) and in-toto ([`statement()`]).

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
pub use made::{Made, RunMade};
pub use openlineage::events;
pub use provenance::{Making, Provenance};
pub use reference::{Reference, dated_in_the_future, find_run};
pub use statement::statement;
pub use usage::{Group, Usage};
