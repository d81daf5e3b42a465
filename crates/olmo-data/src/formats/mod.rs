//! The Parquet files and the JSON manifests of artifacts.

pub mod dataset;
pub(crate) mod documents;
pub(crate) mod gguf_vocabulary;
pub(crate) mod id_bytes;
pub(crate) mod json_file;
pub(crate) mod label_runs;
pub(crate) mod parquet_file;
pub(crate) mod rows;
pub mod tokens;
