//! Jinja2's filters, tests and functions.

pub(super) mod filters;
pub(super) mod functions;
mod names;
mod paths;
pub(super) mod predicates;
mod text_filters;
