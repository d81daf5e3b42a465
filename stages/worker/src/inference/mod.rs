//! Commands that ask a model.

mod generate;
mod logits;
mod model;

pub(crate) use generate::Generate;
pub(crate) use logits::Logits;
