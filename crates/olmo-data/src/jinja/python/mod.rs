//! Python's semantics for the values of templates.

pub mod access;
pub mod attributes;
pub mod comparison;
pub mod format;
pub mod json;
pub mod methods;
pub mod operators;
pub mod repr;
