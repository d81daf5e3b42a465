//! The Parquet files and the JSON manifests of artifacts.

pub mod dataset;
pub(crate) mod json_file;
mod parquet_file;
pub mod tokens;
