//! [`Array`]: the memory of activations on the host.

use std::ops::{Deref, DerefMut};

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::TensorData;

use super::buffer::Buffer;
use crate::device::Life;

/// f32 elements, row-major.
pub struct Array(Memory);

enum Memory {
    Scratch(Buffer),
    Output(Vec<f32>),
    /// Contiguous f32, shared with Burn's graph and not written.
    Shared(FloatTensor<Flex>),
}

impl Array {
    /// `length` elements. Their values are arbitrary: write before you read.
    pub(super) fn new(length: usize, life: Life) -> Array {
        Array(match life {
            Life::Scratch => Memory::Scratch(Buffer::new(length)),
            Life::Output => Memory::Output(vec![0.0; length]),
        })
    }

    pub(super) fn scratch(length: usize) -> Array {
        Array::new(length, Life::Scratch)
    }

    /// The elements of a tensor; a copy only if it is not contiguous.
    ///
    /// # Panics
    /// It is not f32.
    pub(super) fn shared(tensor: FloatTensor<Flex>) -> Array {
        let tensor = if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() };
        assert!(tensor.as_slice::<f32>().is_some(), "activations on the host are f32");
        Array(Memory::Shared(tensor))
    }

    pub(super) fn into_tensor(self, shape: &[usize]) -> FloatTensor<Flex> {
        FloatTensor::<Flex>::from_data(TensorData::new(self.into_vec(), shape.to_vec()))
    }

    /// The elements; a copy unless the array was made as [`Life::Output`].
    pub(crate) fn into_vec(self) -> Vec<f32> {
        match self.0 {
            Memory::Output(values) => values,
            _ => self.to_vec(),
        }
    }
}

impl From<Vec<f32>> for Array {
    fn from(values: Vec<f32>) -> Array {
        Array(Memory::Output(values))
    }
}

impl Deref for Array {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Memory::Scratch(buffer) => buffer,
            Memory::Output(values) => values,
            Memory::Shared(tensor) => tensor.as_slice::<f32>().expect("made contiguous"),
        }
    }
}

impl DerefMut for Array {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.0 {
            Memory::Scratch(buffer) => buffer,
            Memory::Output(values) => values,
            Memory::Shared(_) => unreachable!("operations write only to arrays that they made"),
        }
    }
}
