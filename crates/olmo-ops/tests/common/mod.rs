//! Blocks and their inputs for the tests, and how two lists of numbers are compared.
#![allow(dead_code, reason = "each test binary takes what it needs")]

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Device as BurnDevice, Tensor, TensorData};
use olmo_ops::{
    BlockConfig, BlockWeights, Compute, Cpu, Device, Keep, Linear, LossTerms, Norm, NormKind, Placed, Places, Rope,
    RopeConfig, RopeScaling, Sums, Weight, block, embed, embed_backward, head_loss, norm,
};

use reference::BlockTensors;

pub(crate) mod reference;

/// Numbers that look random and are the same everywhere, in (-1, 1).
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A block with shapes and values for everything that goes into it.
#[derive(Clone)]
pub(crate) struct Case {
    pub name: &'static str,
    pub on: On,
    pub config: BlockConfig,
    pub affine: bool,
    pub batch: usize,
    pub sequence: usize,
    /// The input, then the weights in the order of `BlockWeights`; shape and values.
    pub inputs: Vec<(Vec<usize>, Vec<f64>)>,
    /// What the output is multiplied with before it is summed up.
    pub cotangent: Vec<f64>,
    /// Where the document of each token begins, in its row.
    pub documents: Option<Arc<[u32]>>,
    pub keep: Keep,
}

impl Case {
    pub(crate) fn new(name: &'static str, config: BlockConfig, affine: bool, batch: usize, sequence: usize) -> Case {
        let (d, q, kv, mlp) = (config.d_model, config.query_width(), config.kv_width(), config.mlp_width);
        let mut shapes =
            vec![vec![batch, sequence, d], vec![q + 2 * kv, d], vec![d, q], vec![2 * mlp, d], vec![d, mlp]];
        if affine {
            shapes.extend([vec![d], vec![d]]);
        }
        if config.qk_norm {
            shapes.extend([vec![q], vec![kv]]);
        }
        let values = |(index, shape): (usize, Vec<usize>)| {
            let raw = numbers(shape.iter().product(), index as u64 + 1);
            let scale = match (index, shape.len()) {
                (0, _) => 1.5,
                (_, 1) => 0.3,
                _ => 1.5 / (d as f64).sqrt(),
            };
            let offset = if shape.len() == 1 { 1.0 } else { 0.0 };
            // Rounded to f32, so that both precisions start from the same point.
            let values = raw.into_iter().map(|x| f64::from((x * scale + offset) as f32)).collect();
            (shape, values)
        };
        let inputs = shapes.into_iter().enumerate().map(values).collect();
        let cotangent = numbers(batch * sequence * d, 99).into_iter().map(|x| f64::from(x as f32)).collect();
        let (on, keep) = (On::default(), Keep::All);
        Case { name, on, config, affine, batch, sequence, inputs, cotangent, documents: None, keep }
    }

    /// With documents that begin at `starts` in every row (row `i` drops the first `i` of them).
    fn documents(mut self, starts: &[usize]) -> Case {
        let begins = |row: usize, place: usize| {
            starts.iter().skip(row).filter(|start| **start <= place).max().copied().unwrap_or(0) as u32
        };
        let rows = (0..self.batch).flat_map(|row| (0..self.sequence).map(move |place| begins(row, place)));
        self.documents = Some(rows.collect());
        self
    }

    fn placed(&self) -> Placed {
        Placed { rope: self.rope(), documents: self.documents.clone() }
    }

    /// The fused block's output, and gradients as in [`Case::run`].
    fn run_fused(&self) -> Gradients {
        let shape = [self.batch, self.sequence, self.config.d_model];
        let weights: Vec<&[f64]> = self.inputs[1..].iter().map(|(_, values)| values.as_slice()).collect();
        let x = input(self.on, &self.inputs[0].1, shape);
        let block = Block { config: &self.config, placed: self.placed(), affine: self.affine, keep: self.keep };
        differentiate(self.on, x, &weights, &self.cotangent, &block)
    }

    fn rope(&self) -> Arc<Rope> {
        Arc::new(Rope::new(self.config.rope, self.config.head_dim, self.sequence))
    }

    /// The block's output and the gradients of the sum of output times cotangent, in the order of the inputs.
    pub(crate) fn run(&self, body: Body) -> Gradients {
        let Some(dtype) = body.reference() else { return self.run_fused() };
        let device = BurnDevice::flex().autodiff();
        let (mut matrices, mut vectors) = (Vec::new(), Vec::new());
        for (shape, values) in &self.inputs[1..] {
            let data = TensorData::new(values.clone(), shape.clone());
            match shape.len() {
                1 => vectors.push(Tensor::<1>::from_data(data, (&device, dtype)).require_grad()),
                _ => matrices.push(Tensor::<2>::from_data(data, (&device, dtype)).require_grad()),
            }
        }
        let tensor = |values: &[f64]| {
            let shape = [self.batch, self.sequence, self.config.d_model];
            Tensor::<3>::from_data(TensorData::new(values.to_vec(), shape), (&device, dtype))
        };
        let x = tensor(&self.inputs[0].1).require_grad();
        let mut rest = vectors.iter().cloned();
        let mut vector = |exists: bool| if exists { rest.next() } else { None };
        let weights = BlockTensors {
            att_proj: matrices[0].clone(),
            attn_out: matrices[1].clone(),
            ff_proj: matrices[2].clone(),
            ff_out: matrices[3].clone(),
            attn_norm: vector(self.affine),
            ff_norm: vector(self.affine),
            q_norm: vector(self.config.qk_norm),
            k_norm: vector(self.config.qk_norm),
        };
        let rope = self.rope();
        let places = Places { rope: &rope, sequence: self.sequence, documents: self.documents.as_deref() };
        let y = reference::block(&self.config, &places, x.clone(), &weights);
        let output = read(y.clone().inner());
        let grads = (y * tensor(&self.cotangent)).sum().backward();
        let mut gradients = vec![read(x.grad(&grads).expect("x has a gradient"))];
        gradients.extend(matrices.iter().map(|matrix| read(matrix.grad(&grads).expect("a matrix has a gradient"))));
        gradients.extend(vectors.iter().map(|vector| read(vector.grad(&grads).expect("a vector has a gradient"))));
        (output, gradients)
    }

    /// The sum of output times cotangent alone, in f64.
    pub(crate) fn value(&self) -> f64 {
        let (output, _) = self.run(Body::Reference64);
        output.iter().zip(&self.cotangent).map(|(y, c)| y * c).sum()
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Body {
    Fused,
    Reference32,
    Reference64,
}

impl Body {
    /// The precision of a reference body.
    fn reference(self) -> Option<DType> {
        match self {
            Body::Fused => None,
            Body::Reference32 => Some(DType::F32),
            Body::Reference64 => Some(DType::F64),
        }
    }
}

/// An output, and the gradients of the input and of each weight.
pub(crate) type Gradients = (Vec<f64>, Vec<Vec<f64>>);

/// A device of this build.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum On {
    Host(Compute),
    /// The kernels for GPUs in f32, run by the emulator.
    #[cfg(feature = "libtorch")]
    Emulator,
}

impl Default for On {
    fn default() -> On {
        On::Host(Compute::Flex)
    }
}

impl On {
    /// All devices of this build: every test of the operations runs on each.
    pub(crate) fn all() -> Vec<On> {
        #[cfg(feature = "libtorch")]
        let emulator = Some(On::Emulator);
        #[cfg(not(feature = "libtorch"))]
        let emulator = None;
        let all: Vec<On> = Compute::ALL.iter().map(|compute| On::Host(*compute)).chain(emulator).collect();
        for on in &all {
            on.prepare();
        }
        all
    }

    fn prepare(&self) {
        match self {
            On::Host(compute) => compute.prepare(),
            #[cfg(feature = "libtorch")]
            On::Emulator => Compute::LibTorch.prepare(),
        }
    }

    /// The Burn device of its activations, with autodiff.
    fn burn(self) -> BurnDevice {
        match self {
            On::Host(_) => BurnDevice::flex().autodiff(),
            #[cfg(feature = "libtorch")]
            #[allow(deprecated)]
            On::Emulator => BurnDevice::libtorch().autodiff(),
        }
    }
}

/// A leaf of the graph for the operations of a device.
pub(crate) fn input<const D: usize>(on: On, values: &[f64], shape: [usize; D]) -> Tensor<D> {
    on.prepare();
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (&on.burn(), DType::F32)).require_grad()
}

/// Weights in one flat array, and the range of each.
pub(crate) fn flatten(weights: &[&[f64]]) -> (Vec<f32>, Vec<Range<usize>>) {
    let (mut flat, mut ranges) = (Vec::new(), Vec::new());
    // Gaps and another order than that of the arguments: nothing may depend on either.
    for values in weights.iter().rev() {
        flat.push(0.25);
        ranges.push(flat.len()..flat.len() + values.len());
        flat.extend(values.iter().map(|x| *x as f32));
    }
    ranges.reverse();
    (flat, ranges)
}

/// An operation on any device.
pub(crate) trait Operation<const D: usize> {
    fn apply<T: Device>(&self, device: &T, weights: &[Range<usize>], x: Tensor<3>) -> Tensor<D>;
}

/// The matrix at `range`, with rows of `inputs` elements.
pub(crate) fn matrix(range: &Range<usize>, inputs: usize) -> Linear {
    Linear::new(Weight::trained(range.clone()), inputs)
}

pub(crate) fn vector(range: &Range<usize>) -> Weight {
    Weight::trained(range.clone())
}

/// A block; its weights in the order of [`BlockWeights`].
pub(crate) struct Block<'a> {
    pub config: &'a BlockConfig,
    pub placed: Placed,
    pub affine: bool,
    pub keep: Keep,
}

impl Block<'_> {
    pub(crate) fn weights(&self, ranges: &[Range<usize>]) -> BlockWeights<Linear, Weight> {
        let config = self.config;
        let mut norms = ranges[4..].iter().map(vector);
        let mut next = |exists: bool| if exists { norms.next() } else { None };
        BlockWeights {
            att_proj: matrix(&ranges[0], config.d_model),
            attn_out: matrix(&ranges[1], config.query_width()),
            ff_proj: matrix(&ranges[2], config.d_model),
            ff_out: matrix(&ranges[3], config.mlp_width),
            attn_norm: next(self.affine),
            ff_norm: next(self.affine),
            q_norm: next(config.qk_norm),
            k_norm: next(config.qk_norm),
        }
    }
}

impl Operation<3> for Block<'_> {
    fn apply<T: Device>(&self, device: &T, ranges: &[Range<usize>], x: Tensor<3>) -> Tensor<3> {
        block(device, self.config, &self.placed, x, &self.weights(ranges), self.keep)
    }
}

impl Operation<3> for Norm {
    fn apply<T: Device>(&self, device: &T, ranges: &[Range<usize>], x: Tensor<3>) -> Tensor<3> {
        norm(device, *self, x, ranges.first().map(vector).as_ref())
    }
}

/// The head with its loss.
pub(crate) struct Head<'a> {
    pub targets: &'a [u32],
    pub terms: LossTerms,
    /// The sums of the last call.
    pub sums: Cell<Sums>,
}

impl Operation<1> for Head<'_> {
    fn apply<T: Device>(&self, device: &T, ranges: &[Range<usize>], x: Tensor<3>) -> Tensor<1> {
        let weight = matrix(&ranges[0], x.dims()[2]);
        let (loss, losses) = head_loss(device, x, &weight, self.targets, self.terms);
        self.sums.set(T::sums(&losses));
        loss
    }
}

/// What to do with a device that trains `flat`: a function for any type of device.
pub(crate) trait Work<R> {
    fn run<T: Device>(self, device: &T) -> R;
}

/// Runs `work` on a device with the weights `flat`: its result, and the gradients.
pub(crate) fn train<R>(on: On, flat: Vec<f32>, work: impl Work<R>) -> (R, Vec<f32>) {
    on.prepare();
    match on {
        On::Host(compute) => {
            let gradients = vec![0f32; flat.len()];
            let device = Cpu::with_gradients(compute, Arc::new(flat), gradients);
            let result = work.run(&device);
            (result, device.into_gradients())
        }
        #[cfg(feature = "libtorch")]
        On::Emulator => {
            use olmo_ops::Trained;
            use olmo_ops::cuda::{DeviceSettings, Element, Place, Training};
            let settings = DeviceSettings { place: Place::Cpu, element: Element::F32, vector: 1 };
            let (zeros, trained) = (vec![0f32; flat.len()], Trained::new(std::iter::once(0..flat.len())));
            let training = Training::new(settings, &flat, [&zeros, &zeros], &trained, &[]).expect("kernels");
            let result = work.run(training.device());
            (result, training.gradients())
        }
    }
}

struct Differentiate<'a, O, const D: usize> {
    ranges: &'a [Range<usize>],
    x: Tensor<3>,
    cotangent: Tensor<D>,
    operation: &'a O,
}

impl<O: Operation<D>, const D: usize> Work<[Vec<f64>; 2]> for Differentiate<'_, O, D> {
    fn run<T: Device>(self, device: &T) -> [Vec<f64>; 2] {
        let y = self.operation.apply(device, self.ranges, self.x.clone());
        let output = read(y.clone().inner());
        let grads = (y * self.cotangent).sum().backward();
        [output, read(self.x.grad(&grads).expect("the input has a gradient"))]
    }
}

/// Applies an operation to `x` with `weights` in flat arrays: its output, and the gradients of the
/// sum of output times `cotangent`.
pub(crate) fn differentiate<const D: usize>(
    on: On,
    x: Tensor<3>,
    weights: &[&[f64]],
    cotangent: &[f64],
    operation: &impl Operation<D>,
) -> Gradients {
    let (flat, ranges) = flatten(weights);
    let shape: [usize; D] = if D == 1 { [1; D] } else { std::array::from_fn(|index| x.dims()[index]) };
    let cotangent = Tensor::<D>::from_data(TensorData::new(cotangent.to_vec(), shape), (&on.burn(), DType::F32));
    let work = Differentiate { ranges: &ranges, x, cotangent, operation };
    let ([output, dx], gradients) = train(on, flat, work);
    let of = |range: &Range<usize>| gradients[range.clone()].iter().map(|x| f64::from(*x)).collect();
    (output, std::iter::once(dx).chain(ranges.iter().map(of)).collect())
}

/// A norm's output and gradients.
pub(crate) fn run_norm(on: On, norm: Norm, x: Tensor<3>, weight: Option<&[f64]>, cotangent: &[f64]) -> Gradients {
    let weights: Vec<&[f64]> = weight.into_iter().collect();
    differentiate(on, x, &weights, cotangent, &norm)
}

struct Embed<'a> {
    weight: Linear,
    ids: &'a [u32],
    shape: [usize; 2],
    cotangent: Tensor<3>,
}

impl Work<Vec<f64>> for Embed<'_> {
    fn run<T: Device>(self, device: &T) -> Vec<f64> {
        let Embed { weight, ids, shape, cotangent } = self;
        let y = embed(device, &weight, ids, shape);
        let mut grads = (y.clone() * cotangent).sum().backward();
        let gradient = y.grad_remove(&mut grads).expect("the rows are a leaf");
        embed_backward(device, &weight, ids, gradient);
        read(y.inner())
    }
}

/// The rows of an embedding, and the gradient of its weight.
pub(crate) fn run_embedding(
    on: On,
    weight: &[f64],
    width: usize,
    ids: &[u32],
    shape: [usize; 2],
    cotangent: &[f64],
) -> Gradients {
    let (flat, ranges) = flatten(&[weight]);
    let data = TensorData::new(cotangent.to_vec(), [shape[0], shape[1], width]);
    let cotangent = Tensor::<3>::from_data(data, (&on.burn(), DType::F32));
    let work = Embed { weight: matrix(&ranges[0], width), ids, shape, cotangent };
    let (output, gradients) = train(on, flat, work);
    (output, vec![gradients[ranges[0].clone()].iter().map(|x| f64::from(*x)).collect()])
}

/// The head's loss and gradients, and the sums.
pub(crate) fn run_head(
    on: On,
    hidden: Tensor<3>,
    weight: &[f64],
    targets: &[u32],
    terms: LossTerms,
) -> (Gradients, Sums) {
    let head = Head { targets, terms, sums: Cell::default() };
    (differentiate(on, hidden, &[weight], &[1.0], &head), head.sums.get())
}

pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// The largest difference, relative to the largest wanted number.
pub(crate) fn difference(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "as many numbers as wanted");
    assert!(got.iter().all(|x| x.is_finite()), "all numbers are finite");
    let scale = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let most = got.iter().zip(want).fold(0.0f64, |most, (g, w)| most.max((g - w).abs()));
    if scale == 0.0 { most } else { most / scale }
}

/// Every kind of block on everything that this build computes on.
pub(crate) fn cases() -> Vec<Case> {
    let on = |on: &On| flex_cases().into_iter().map(|case| Case { on: *on, ..case }).collect::<Vec<_>>();
    On::all().iter().flat_map(on).collect()
}

/// Every kind of block, with shapes that do not fit tiles and lanes.
fn flex_cases() -> Vec<Case> {
    let rms = Norm { kind: NormKind::Rms, eps: 1e-6 };
    let layer = Norm { kind: NormKind::Layer, eps: 1e-5 };
    let olmo2 = BlockConfig {
        d_model: 24,
        n_heads: 4,
        n_kv_heads: 4,
        head_dim: 6,
        rope: RopeConfig::new(10_000.0),
        mlp_width: 20,
        clip_qkv: None,
        norm: rms,
        norm_after: true,
        qk_norm: true,
        window: None,
    };
    let olmo1 = BlockConfig { clip_qkv: Some(0.8), norm: layer, norm_after: false, qk_norm: false, ..olmo2 };
    let grouped = BlockConfig { n_kv_heads: 2, ..olmo2 };
    let scaled = RopeConfig { theta: 500.0, scaling: RopeScaling::Linear(4.0), attention_factor: 1.25 };
    let olmo3 = BlockConfig { window: Some(5), ..grouped };
    vec![
        Case::new("olmo3, a window", olmo3, true, 2, 17),
        Case::new(
            "olmo3, a window longer than a tile",
            BlockConfig {
                d_model: 12,
                n_heads: 2,
                head_dim: 6,
                n_kv_heads: 1,
                mlp_width: 7,
                window: Some(70),
                ..olmo2
            },
            true,
            1,
            200,
        ),
        Case::new("a window of one token", BlockConfig { window: Some(1), ..olmo2 }, true, 1, 6),
        Case::new("documents", grouped, true, 3, 11).documents(&[2, 3, 9]),
        Case::new("documents and a window", olmo3, true, 2, 19).documents(&[4, 5, 17]),
        Case::new(
            "documents of a tile and more",
            BlockConfig { d_model: 12, n_heads: 2, head_dim: 6, n_kv_heads: 2, mlp_width: 7, ..olmo1 },
            false,
            2,
            150,
        )
        .documents(&[63, 64, 100]),
        Case::new("olmo2", olmo2, true, 2, 9),
        Case::new("a scaled rope", BlockConfig { rope: scaled, ..grouped }, true, 2, 9),
        Case::new("heads wider than the stream", BlockConfig { head_dim: 10, ..grouped }, true, 2, 9),
        Case::new("heads narrower than the stream", BlockConfig { head_dim: 4, ..olmo1 }, false, 2, 9),
        Case::new("olmo2 with grouped keys", grouped, true, 2, 9),
        Case::new(
            "olmo2, longer than a tile",
            BlockConfig { d_model: 12, n_heads: 2, head_dim: 6, n_kv_heads: 1, mlp_width: 7, ..olmo2 },
            true,
            1,
            131,
        ),
        Case::new("olmo2, one token", grouped, true, 1, 1),
        Case::new(
            "olmo2, odd widths",
            BlockConfig { d_model: 42, n_heads: 3, head_dim: 14, n_kv_heads: 3, mlp_width: 37, ..olmo2 },
            true,
            3,
            5,
        ),
        Case::new("olmo1 with clamp", olmo1, false, 2, 9),
        Case::new("olmo1 without clamp", BlockConfig { clip_qkv: None, ..olmo1 }, false, 2, 70),
        Case::new("layer norm with weights, grouped", BlockConfig { n_kv_heads: 1, ..olmo1 }, true, 1, 6),
        Case::new("rms norm before, with weights", BlockConfig { norm: rms, clip_qkv: None, ..olmo1 }, true, 2, 65),
        Case::new("clamp and QK-norm together", BlockConfig { clip_qkv: Some(0.7), ..grouped }, true, 1, 8),
        Case::new("layer norm after, without weights", BlockConfig { norm: layer, ..olmo2 }, false, 1, 8),
    ]
}
