//! Weights as Burn tensors, on any device: what the reference bodies and other backends compute with.

use std::ops::Range;

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use olmo_ops::{BlockTensors, BlockWeights, HostSlice};

use crate::batch::Batch;
use crate::error::ModelError;
use crate::layout::{Ranges, TensorSpec};
use crate::model::Model;

/// One tensor for each of a model's.
#[derive(Debug)]
pub(crate) struct TensorWeights {
    device: Device,
    /// In the order of the layout.
    tensors: Vec<Weight>,
}

#[derive(Clone, Debug)]
enum Weight {
    Matrix(Tensor<2>),
    Vector(Tensor<1>),
}

impl Weight {
    /// A leaf of an autodiff graph that shares this weight's memory.
    fn leaf(&self) -> Weight {
        match self {
            Weight::Matrix(tensor) => Weight::Matrix(tensor.clone().autodiff().require_grad()),
            Weight::Vector(tensor) => Weight::Vector(tensor.clone().autodiff().require_grad()),
        }
    }

    fn host(&self) -> HostSlice {
        match self {
            Weight::Matrix(tensor) => HostSlice::new(tensor),
            Weight::Vector(tensor) => HostSlice::new(tensor),
        }
    }
}

/// The weights by what they are for, plain or as leaves.
pub(crate) struct Parts {
    all: Vec<Weight>,
    embedding: Tensor<2>,
    blocks: Vec<BlockTensors>,
    final_norm: Option<Tensor<1>>,
    pub head: Tensor<2>,
}

impl TensorWeights {
    /// Without weights yet.
    pub fn new(device: Device) -> TensorWeights {
        TensorWeights { device, tensors: Vec::new() }
    }

    /// Copies `flat` to the device.
    pub fn set(&mut self, specs: &[TensorSpec], flat: &[f32]) {
        let weight = |spec: &TensorSpec| {
            let data = TensorData::new(flat[spec.range.clone()].to_vec(), spec.shape.clone());
            match spec.shape.len() {
                1 => Weight::Vector(Tensor::from_data(data, &self.device)),
                _ => Weight::Matrix(Tensor::from_data(data, &self.device)),
            }
        };
        self.tensors = specs.iter().map(weight).collect();
    }

    /// The weights in the flat layout, on the host.
    pub fn to_host(&self) -> Vec<f32> {
        self.tensors.iter().flat_map(|weight| weight.host().to_vec()).collect()
    }

    /// The weights by what they are for; as leaves of a new graph if they are to be differentiated.
    pub fn parts(&self, ranges: &Ranges, specs: &[TensorSpec], leaves: bool) -> Parts {
        let all: Vec<Weight> =
            if leaves { self.tensors.iter().map(Weight::leaf).collect() } else { self.tensors.clone() };
        let find = |range: &Range<usize>| {
            let index = specs.partition_point(|spec| spec.range.start < range.start);
            &all[index]
        };
        let matrix = |range: &Range<usize>| match find(range) {
            Weight::Matrix(tensor) => tensor.clone(),
            Weight::Vector(_) => unreachable!("the layout has a matrix at {range:?}"),
        };
        let vector = |range: &Option<Range<usize>>| match find(range.as_ref()?) {
            Weight::Vector(tensor) => Some(tensor.clone()),
            Weight::Matrix(_) => unreachable!("the layout has a vector at {range:?}"),
        };
        let block = |block: &BlockWeights<Range<usize>>| BlockTensors {
            att_proj: matrix(&block.att_proj),
            attn_out: matrix(&block.attn_out),
            ff_proj: matrix(&block.ff_proj),
            ff_out: matrix(&block.ff_out),
            attn_norm: vector(&block.attn_norm),
            ff_norm: vector(&block.ff_norm),
            q_norm: vector(&block.q_norm),
            k_norm: vector(&block.k_norm),
        };
        let (embedding, blocks) = (matrix(&ranges.embedding), ranges.blocks.iter().map(block).collect());
        let (final_norm, head) = (vector(&ranges.final_norm), matrix(&ranges.head));
        Parts { embedding, blocks, final_norm, head, all }
    }
}

impl Parts {
    /// The residual stream after all blocks and the final norm.
    pub fn hidden(&self, model: &Model, batch: &Batch) -> Tensor<3> {
        let placed = model.placed(batch);
        let shape = [batch.batch, batch.sequence];
        let mut hidden = olmo_ops::embedding(self.embedding.clone(), &batch.input_ids, shape);
        for (layer, weights) in self.blocks.iter().enumerate() {
            let keep = olmo_ops::Keep::All;
            hidden = olmo_ops::block(&model.block_config(layer), &placed, hidden, weights, keep);
        }
        olmo_ops::norm(model.norm(), hidden, self.final_norm.clone())
    }

    /// Adds the gradients of these leaves to `sum`.
    pub fn add_gradients(&self, mut made: Gradients, specs: &[TensorSpec], sum: &mut [f32]) -> Result<(), ModelError> {
        for (leaf, spec) in self.all.iter().zip(specs) {
            let gradient = match leaf {
                Weight::Matrix(tensor) => tensor.grad_remove(&mut made).map(|gradient| HostSlice::new(&gradient)),
                Weight::Vector(tensor) => tensor.grad_remove(&mut made).map(|gradient| HostSlice::new(&gradient)),
            };
            let gradient =
                gradient.ok_or_else(|| ModelError::Backend(format!("no gradient reached `{}`", spec.name)))?;
            for (sum, value) in sum[spec.range.clone()].iter_mut().zip(gradient.iter()) {
                *sum += value;
            }
        }
        Ok(())
    }
}
