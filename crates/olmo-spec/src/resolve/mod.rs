//! Follows every reference, by the contracts of the stages, to a [`resolved::Resolved`] experiment.

pub(crate) mod path_patterns;
pub(crate) mod ports;
pub(crate) mod resolved;
pub(crate) mod resolver;
pub(crate) mod when;
