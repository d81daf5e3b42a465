//! Reads and writes the files that PyTorch makes: pickles ([`pickle`]), the zip files of
//! `torch.save` ([`archive`]), and the folders of `torch.distributed.checkpoint` as PyTorch and
//! OLMo-core write them ([`distributed`]).
//!
//! A pickle is a program. This crate never executes one: an interpreter with a fixed table of
//! classes turns it into plain values ([`Document`]), and any other class stays a name with
//! arguments. Tensors are places in a file until they are read.
//!
//! The files are untrusted. Whatever their bytes are, reading one never panics, and needs memory in
//! proportion to the bytes that are there.

pub mod archive;
pub mod distributed;
pub mod pickle;

mod document;
mod dtype;
mod error;
mod files;
mod folder_files;
mod olmo_names;
mod ranges;

pub use document::{Array, ClassName, Document, Kind, MAX_DEPTH, Storage, Tensor, Value};
pub use dtype::DType;
pub use error::Error;
pub use files::{Files, MemoryFiles, Part, ReadAt, open_file, read_range};
pub use folder_files::FolderFiles;
pub use olmo_names::OlmoName;
pub use ranges::{Ranges, open_ranges};
