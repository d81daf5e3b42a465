//! What a run will do: which stages it is about, which of them have a result in the cache, why the
//! others do not, and what their own rules object to. Nothing here starts a stage.

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
