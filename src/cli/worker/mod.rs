//! Commands that the worker carries out, because it knows data and models.

mod command;
mod data;
mod logits;
mod model;
mod parquet;

pub(super) use data::Data;
pub(super) use logits::Logits;
pub(super) use model::{Chat, Generate};
pub(super) use parquet::write_parquet;
