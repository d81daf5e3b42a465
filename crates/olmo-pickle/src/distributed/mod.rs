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

pub use metadata::{BytesEntry, Chunk, Entry, Place, TensorEntry};
pub use read::Checkpoint;
pub use write::{CheckpointWriter, Writer};

/// Name of the file that lists the entries.
pub const METADATA_FILE: &str = ".metadata";

/// Folder of the weights and the optimizer's state in a checkpoint of OLMo-core's trainer.
pub const MODEL_AND_OPTIM: &str = "model_and_optim";
