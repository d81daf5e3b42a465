//! Tensors in the files of a model, whatever the format of the files: listed from headers, read on
//! request.

mod distributed;
mod elements;
mod pickled;
mod safetensors;
mod tensor;
mod write;

pub(super) use distributed::{checkpoint, distributed};
pub(super) use pickled::{SavedFile, state_dict};
pub(super) use safetensors::safetensors;
pub(super) use tensor::{OpenTensor, Tensor, Tensors};
pub(super) use write::{Part, write};
