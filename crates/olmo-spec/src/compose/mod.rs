//! Lays files over each other: an experiment and the files it extends ([`experiment`]), a pipeline and
//! the files it includes ([`pipeline`]), and what profiles and `--set` change in params ([`params`])
//! and stages ([`layers`]).

pub(crate) mod experiment;
pub(crate) mod layers;
pub(crate) mod params;
pub(crate) mod pipeline;
pub(crate) mod setting;
