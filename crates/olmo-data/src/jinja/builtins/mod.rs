//! Jinja2's filters, tests and functions.

pub mod filters;
pub mod functions;
mod names;
mod paths;
pub mod predicates;
mod text_filters;
