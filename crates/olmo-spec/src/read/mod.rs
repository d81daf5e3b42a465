//! How files become nodes that know their places: text ([`source`]), YAML ([`yaml`], [`scalar`]), nodes
//! ([`node`]), references in texts ([`reference`]), and errors that point at a place
//! ([`diagnostic`]).

pub(crate) mod diagnostic;
pub(crate) mod emit;
pub(crate) mod node;
pub(crate) mod ordered;
pub(crate) mod reference;
pub(crate) mod scalar;
pub(crate) mod source;
pub(crate) mod yaml;
