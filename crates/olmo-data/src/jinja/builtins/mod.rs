//! The built-in filters, tests, functions and methods.

pub mod date;
pub mod filters;
pub mod format;
pub mod functions;
pub mod json;
pub mod methods;
mod sequences;
pub mod tests;
