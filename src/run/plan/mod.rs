//! Plans a run: selects the stages, finds those with a cached result, explains why the others have
//! none, and reports the findings of their rules. It never starts a stage.

pub(super) mod board;
mod explain;
mod findings;
mod selection;
mod stages;

pub use explain::Changed;
pub use findings::{findings, findings_of};
pub use selection::Selected;
pub(super) use stages::{Found, find};
pub use stages::{ItemPlan, Missing, PlanState, Planned, StagePlan, plan};
