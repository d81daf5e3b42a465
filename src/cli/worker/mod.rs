//! Commands that the worker carries out, because it knows data and models.

mod command;
mod data;
mod logits;
mod parquet;

pub(super) use data::Data;
pub(super) use logits::Logits;
pub(super) use parquet::write_parquet;
