//! Checkpoints of `torch.distributed.checkpoint`: a folder with `.metadata`, a pickle that lists
//! every tensor and its chunks, and shards, files of `torch.save` archives one after the other.
//!
//! [`Checkpoint`] reads those of PyTorch and of OLMo-core, from any number of ranks;
//! [`CheckpointWriter`] writes them as one rank does. The two differ in the class that names a place
//! in a shard, which is why neither can load the other's.

mod chunks;
mod metadata;
mod read;
mod write;

pub use metadata::{BytesEntry, Chunk, Entry, METADATA_FILE, MODEL_AND_OPTIM, Place, TensorEntry};
pub use read::Checkpoint;
pub use write::{CheckpointWriter, Writer};
