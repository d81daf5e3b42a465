//! Causal attention on the host: over whole rows of tokens, forward and backward ([`forward`],
//! [`backward`]), and over sequences that share their beginnings ([`tree_forward`]).

mod place;
mod rows;
mod tree;

pub(super) use rows::{backward, forward};
pub(super) use tree::forward as tree_forward;
