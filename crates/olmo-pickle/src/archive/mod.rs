//! The zip files of `torch.save`: [`Archive`] reads them, [`ArchiveWriter`] writes them.
//!
//! An archive holds a pickle, `NAME/data.pkl`, and the bytes of each storage in `NAME/data/KEY`,
//! not compressed and aligned to 64 bytes. So a tensor is a range of the file, and is read only on
//! request.

mod read;
mod strided;
mod windows;
mod write;
mod zip;

pub use read::Archive;
pub use write::ArchiveWriter;
