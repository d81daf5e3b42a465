//! Sweeps: the trials that `sweep:` defines ([`axes`]), and the stages of each ([`trials`]).

pub(crate) mod axes;
pub(crate) mod draw;
pub(crate) mod label;
pub(crate) mod trials;
pub(crate) mod value;
