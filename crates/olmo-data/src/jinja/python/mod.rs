//! Python's semantics for the values of templates.

pub(super) mod access;
pub(super) mod attributes;
pub(super) mod comparison;
pub(super) mod formatting;
pub(super) mod methods;
pub(super) mod operators;
pub(super) mod repr;
pub(super) mod tojson;
