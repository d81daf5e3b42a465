//! Commands that ask a model.

mod chat;
mod generate;
mod logits;
mod model;

pub(crate) use chat::Chat;
pub(crate) use generate::Generate;
pub(crate) use logits::Logits;
