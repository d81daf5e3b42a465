//! Rows of equal length in OLMo's raw layout: reading, writing, and packing documents into them.

pub mod boundaries_csv;
mod hashed_file;
mod instance_filter;
pub mod pack;
mod reader;
mod writer;

pub use instance_filter::InstanceFilter;
pub use olmo_remote::RemoteFile;
pub use reader::{Dtype, Instance, Manifest, Memmap, find_numpy_header};
pub use writer::{Layout, MemmapOptions, MemmapWriter};
