//! Checkpoints of `torch.distributed.checkpoint`: a folder with `.metadata`, a pickle that lists
//! every tensor and its chunks, and shards, files of `torch.save` archives one after the other.
//!
//! [`Checkpoint`] reads those of PyTorch and of OLMo-core, from any number of ranks;
//! [`CheckpointWriter`] writes them as one rank does. The two differ in the class of a place in a
//! shard. OLMo-core loads both; PyTorch misses a field of OLMo-core's class, and loads only its
//! own.

mod chunks;
mod metadata;
mod read;
mod write;

pub use metadata::{BytesEntry, Chunk, Entry, METADATA_FILE, MODEL_AND_OPTIM, Place, TensorEntry};
pub use read::Checkpoint;
pub use write::{CheckpointWriter, Writer};
