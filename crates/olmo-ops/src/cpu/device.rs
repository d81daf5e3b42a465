//! [`Cpu`]: the operations on the host.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;

use super::array::Array;
use super::buffer::Buffer;
use super::matmul::{Write, matmul_nn, matmul_nt, matmul_tn, product_of_rows};
use super::norm::Stats;
use super::{Compute, attention, embedding, head, norm, qkv, swiglu};
use crate::config::{BlockConfig, LossTerms, Norm, Sums};
use crate::device::{Device, HeadOutput, Life, QkNorms};
use crate::linear::{Linear, Weight};
use crate::matrix::{Matrices, MatrixView};
use crate::rope::{Placed, Places, Rope};
use crate::tree::TokenTree;

/// The host, in f32, with the weights of a model.
#[derive(Clone, Debug)]
pub struct Cpu {
    pub(super) compute: Compute,
    weights: Weights,
    /// `None`: nothing is differentiated.
    gradients: Option<Arc<Mutex<Vec<f32>>>>,
    /// Whether each element of a product is one sum over its weight's row, for any number of rows.
    pub(super) stepwise: bool,
}

/// The weights of a model on the host.
#[derive(Clone, Debug)]
enum Weights {
    /// One array, as the optimizer writes it.
    Flat(Arc<Vec<f32>>),
    /// Matrices of their own, for inference. Vectors (the weights of norms) are f32.
    Matrices(Arc<Matrices>),
}

impl Cpu {
    /// Weights without gradients.
    pub fn new(compute: Compute, weights: Arc<Vec<f32>>) -> Cpu {
        Cpu { compute, weights: Weights::Flat(weights), gradients: None, stepwise: false }
    }

    /// Weights without gradients, in matrices of their own; bf16 ones are widened as they are read.
    /// The weights of norms must be f32.
    pub fn of_matrices(compute: Compute, weights: Arc<Matrices>) -> Cpu {
        Cpu { compute, weights: Weights::Matrices(weights), gradients: None, stepwise: false }
    }

    /// Weights whose gradients are added to `gradients`.
    pub fn with_gradients(compute: Compute, weights: Arc<Vec<f32>>, gradients: Vec<f32>) -> Cpu {
        Cpu { gradients: Some(Arc::new(Mutex::new(gradients))), ..Cpu::new(compute, weights) }
    }

    /// Returns the gradients, once no graph that could add to them is alive.
    ///
    /// # Panics
    /// There are none, or a graph is still alive.
    pub fn into_gradients(self) -> Vec<f32> {
        let gradients = self.gradients.expect("made with gradients");
        let gradients = Arc::into_inner(gradients).expect("the graph has been walked through and dropped");
        gradients.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The elements of a weight that is f32.
    ///
    /// # Panics
    /// It is not f32, or consists of several matrices.
    fn values(&self, weight: &Weight) -> &[f32] {
        match self.parts(weight)[..] {
            [MatrixView::F32(values)] => values,
            _ => panic!("training and norms read f32"),
        }
    }

    /// The matrices that make up a weight, one below the other.
    fn parts(&self, weight: &Weight) -> Vec<MatrixView<'_>> {
        match &self.weights {
            Weights::Flat(flat) => vec![MatrixView::F32(&flat[weight.values.clone()])],
            Weights::Matrices(matrices) => matrices.of(&weight.values).collect(),
        }
    }

    /// `y (+)= x w^T`.
    pub(super) fn product(&self, x: &[f32], weight: &Linear, y: &mut [f32], write: Write) {
        let (inputs, outputs, parts) = (weight.inputs, weight.outputs(), self.parts(&weight.weight));
        if self.stepwise {
            return product_of_rows(x, inputs, &parts, outputs, y, write);
        }
        let rows = x.len() / inputs;
        let mut column = 0;
        for part in parts {
            matmul_nt(self.compute, x, part, rows, inputs, (&mut y[column..], outputs), write);
            column += part.len() / inputs;
        }
    }

    /// `dx (+)= dy w`.
    fn input_product(&self, dy: &[f32], weight: &Linear, dx: &mut [f32], write: Write) {
        let sizes = [dy.len() / weight.outputs(), weight.inputs, weight.outputs()];
        matmul_nn(self.compute, dy, self.values(&weight.weight), sizes, dx, write);
    }

    fn sum(&self) -> MutexGuard<'_, Vec<f32>> {
        let gradients = self.gradients.as_ref().expect("only devices that train run backward passes");
        gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `add` with the gradient of a trained weight.
    fn add_gradient(&self, weight: Option<&Weight>, add: impl FnOnce(Option<&mut [f32]>)) {
        match weight.and_then(|weight| weight.gradient.clone()) {
            None => add(None),
            Some(range) => add(Some(&mut self.sum()[range])),
        }
    }

    fn qk_values(&self, norms: QkNorms<'_>) -> Option<[&[f32]; 2]> {
        norms.map(|both| both.map(|weight| self.values(weight)))
    }
}

/// The positions of a batch.
#[derive(Debug)]
pub enum Positions {
    /// Rows of `sequence` tokens.
    Rows { placed: Placed, sequence: usize },
    /// One token of each of some sequences.
    Each { rope: Arc<Rope>, positions: Vec<usize> },
    /// The tokens of a tree, and their positions.
    Tree { rope: Arc<Rope>, tree: Arc<TokenTree>, positions: Vec<usize> },
}

impl Positions {
    fn places(&self) -> Places<'_> {
        match self {
            Positions::Rows { placed, sequence } => placed.places(*sequence),
            Positions::Each { .. } => unreachable!("single tokens have the attention of `Decoder`"),
            Positions::Tree { .. } => unreachable!("a tree has no rows, and no backward pass"),
        }
    }
}

/// The result of attention before its output projection.
pub struct Attended {
    output: Array,
    /// Log of each softmax's sum.
    lse: Buffer,
}

impl Device for Cpu {
    type Backend = Flex;
    type Array = Array;
    type Positions = Positions;
    type NormStats = Stats;
    type QkvStats = ();
    type Attended = Attended;
    type HeadGradients = Array;
    type Losses = Sums;

    fn trains(&self) -> bool {
        self.gradients.is_some()
    }

    fn array(tensor: FloatTensor<Flex>, _: usize) -> Array {
        Array::shared(tensor)
    }

    fn primitive(array: Array, shape: &[usize]) -> FloatTensor<Flex> {
        array.into_tensor(shape)
    }

    fn positions(&self, placed: &Placed, [batch, sequence]: [usize; 2]) -> Positions {
        placed.places(sequence).check(batch * sequence);
        Positions::Rows { placed: placed.clone(), sequence }
    }

    fn linear(&self, x: &Array, weight: &Linear) -> Array {
        let mut y = Array::scratch(x.len() / weight.inputs * weight.outputs());
        self.product(x, weight, &mut y, Write::New);
        y
    }

    fn linear_add(&self, residual: &Array, x: &Array, weight: &Linear, life: Life) -> Array {
        let mut y = Array::new(residual.len(), life);
        y.copy_from_slice(residual);
        self.product(x, weight, &mut y, Write::Add);
        y
    }

    fn linear_input(&self, dy: &Array, weight: &Linear) -> Array {
        let mut dx = Array::scratch(dy.len() / weight.outputs() * weight.inputs);
        self.input_product(dy, weight, &mut dx, Write::New);
        dx
    }

    fn linear_input_add(&self, residual: &Array, dy: &Array, weight: &Linear, life: Life) -> Array {
        let mut dx = Array::new(residual.len(), life);
        dx.copy_from_slice(residual);
        self.input_product(dy, weight, &mut dx, Write::Add);
        dx
    }

    fn linear_weight(&self, weight: &Linear, dy: &Array, x: &Array) {
        let Some(range) = weight.weight.gradient.clone() else { return };
        let sizes = [x.len() / weight.inputs, weight.inputs, weight.outputs()];
        matmul_tn(self.compute, dy, x, sizes, &mut self.sum()[range], None);
    }

    fn norm(
        &self,
        norm: Norm,
        x: &Array,
        residual: Option<&Array>,
        weight: Option<&Weight>,
        width: usize,
        life: Life,
    ) -> (Array, Stats) {
        let mut y = Array::new(x.len(), life);
        let weight = weight.map(|weight| self.values(weight));
        let stats = norm::forward(norm, x, weight, residual.map(|residual| &**residual), width, &mut y);
        (y, stats)
    }

    fn norm_backward(
        &self,
        norm: Norm,
        dy: &Array,
        x: &Array,
        stats: &Stats,
        residual: Option<&Array>,
        weight: Option<&Weight>,
        width: usize,
        life: Life,
    ) -> Array {
        let mut dx = Array::new(x.len(), life);
        let (values, residual) = (weight.map(|weight| self.values(weight)), residual.map(|residual| &**residual));
        self.add_gradient(weight, |gradient| {
            norm::backward(norm, dy, x, stats, values, residual, width, &mut dx, gradient);
        });
        dx
    }

    fn qkv(&self, config: &BlockConfig, positions: &Positions, raw: &Array, norms: QkNorms<'_>) -> (Array, ()) {
        let (mut heads, norms) = (Array::scratch(raw.len()), self.qk_values(norms));
        match positions {
            Positions::Rows { placed, sequence } => {
                let position = |row: usize| row % sequence;
                qkv::forward(config, &placed.rope, position, raw, norms, &mut heads);
            }
            Positions::Each { rope, positions } | Positions::Tree { rope, positions, .. } => {
                qkv::forward(config, rope, |row| positions[row], raw, norms, &mut heads);
            }
        }
        (heads, ())
    }

    fn qkv_backward(
        &self,
        config: &BlockConfig,
        positions: &Positions,
        mut gradients: Array,
        raw: Option<&Array>,
        (): &(),
        norms: QkNorms<'_>,
    ) -> Array {
        let raw = raw.map(|raw| &**raw);
        let sums = qkv::backward(config, &positions.places(), raw, self.qk_values(norms), &mut gradients);
        for (weight, first) in norms.into_iter().flatten().zip([0, config.query_width()]) {
            self.add_gradient(Some(weight), |gradient| {
                if let Some(gradient) = gradient {
                    norm::add_rows(&sums, config.query_width() + config.kv_width(), first, gradient);
                }
            });
        }
        gradients
    }

    fn attention(&self, config: &BlockConfig, positions: &Positions, heads: &Array) -> Attended {
        let rows = heads.len() / config.qkv_width();
        let mut output = Array::scratch(rows * config.query_width());
        if let Positions::Tree { tree, .. } = positions {
            attention::tree_forward(config, tree, heads, &mut output);
            return Attended { output, lse: Buffer::new(0) };
        }
        let mut lse = Buffer::new(rows * config.n_heads);
        attention::forward(self.compute, config, &positions.places(), heads, &mut output, &mut lse);
        Attended { output, lse }
    }

    fn attended(attended: &Attended) -> &Array {
        &attended.output
    }

    fn attention_backward(
        &self,
        config: &BlockConfig,
        positions: &Positions,
        heads: &Array,
        Attended { output, lse }: &Attended,
        dattended: &Array,
    ) -> Array {
        let mut dheads = Array::scratch(heads.len());
        attention::backward(self.compute, config, &positions.places(), heads, output, lse, dattended, &mut dheads);
        dheads
    }

    fn swiglu(&self, up_gate: &Array, width: usize) -> Array {
        let mut activation = Array::scratch(up_gate.len() / 2);
        swiglu::forward(up_gate, width, &mut activation);
        activation
    }

    fn swiglu_backward(&self, up_gate: &mut Array, activation: &mut Array, width: usize) {
        swiglu::backward(up_gate, width, activation);
    }

    fn embed(&self, weight: &Linear, ids: &[u32]) -> Array {
        match self.parts(&weight.weight)[..] {
            [values] => embedding::forward(values, weight.inputs, ids).into(),
            _ => panic!("the embedding is one matrix"),
        }
    }

    fn embed_backward(&self, weight: &Linear, ids: &[u32], dx: &Array) {
        self.add_gradient(Some(&weight.weight), |gradient| {
            if let Some(gradient) = gradient {
                embedding::backward(dx, weight.inputs, ids, gradient);
            }
        });
    }

    fn head_loss(
        &self,
        hidden: &Array,
        weight: &Linear,
        targets: &[u32],
        terms: LossTerms,
        gradients: bool,
    ) -> HeadOutput<Cpu> {
        let mut dhidden = gradients.then(|| Array::new(hidden.len(), Life::Output));
        let values = self.values(&weight.weight);
        let mut losses = Sums::default();
        self.add_gradient(Some(&weight.weight).filter(|_| gradients), |dweight| {
            let gradients = dhidden.as_deref_mut().map(|hidden| head::Gradients { hidden, weight: dweight });
            losses = head::loss(self.compute, hidden, values, weight.inputs, targets, terms, gradients);
        });
        let loss = ((losses.nll + losses.z) / terms.denominator) as f32;
        HeadOutput { loss: vec![loss].into(), losses, dhidden }
    }

    fn sums(losses: &Sums) -> Sums {
        *losses
    }

    fn check_loss_gradient(gradient: FloatTensor<Flex>) {
        assert_eq!(*Array::shared(gradient), [1.0], "the loss itself is differentiated");
    }

    fn logits(&self, hidden: &Array, weight: &Linear) -> Vec<f32> {
        let mut logits = vec![0f32; hidden.len() / weight.inputs * weight.outputs()];
        self.product(hidden, weight, &mut logits, Write::New);
        logits
    }
}
