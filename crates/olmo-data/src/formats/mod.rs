//! The Parquet files and the JSON manifests of artifacts.

pub mod dataset;
pub(crate) mod json;
mod parquet_file;
pub mod tokens;
