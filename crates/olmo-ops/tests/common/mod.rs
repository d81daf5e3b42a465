//! Blocks and their inputs for the tests, and how two lists of numbers are compared.
#![allow(dead_code, reason = "each test binary takes what it needs")]

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use olmo_ops::{
    BlockConfig, BlockWeights, Compute, Flat, Keep, LossTerms, Norm, NormKind, Placed, Places, Rope, Sums, block_flat,
    embed, embed_backward, head_loss_flat, norm_flat,
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
    pub compute: Compute,
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
        let (d, kv, mlp) = (config.d_model, config.kv_width(), config.mlp_width);
        let mut shapes =
            vec![vec![batch, sequence, d], vec![d + 2 * kv, d], vec![d, d], vec![2 * mlp, d], vec![d, mlp]];
        if affine {
            shapes.extend([vec![d], vec![d]]);
        }
        if config.qk_norm {
            shapes.extend([vec![d], vec![kv]]);
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
        let (compute, keep) = (Compute::Flex, Keep::All);
        Case { name, compute, config, affine, batch, sequence, inputs, cotangent, documents: None, keep }
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
        let x = input(self.compute, &self.inputs[0].1, shape);
        differentiate(self.compute, x, &weights, &self.cotangent, |flat, ranges, x| {
            let mut norms = ranges[4..].iter().cloned();
            let mut next = |exists: bool| if exists { norms.next() } else { None };
            let weights = BlockWeights {
                att_proj: ranges[0].clone(),
                attn_out: ranges[1].clone(),
                ff_proj: ranges[2].clone(),
                ff_out: ranges[3].clone(),
                attn_norm: next(self.affine),
                ff_norm: next(self.affine),
                q_norm: next(self.config.qk_norm),
                k_norm: next(self.config.qk_norm),
            };
            block_flat(&self.config, &self.placed(), x, flat, &weights, self.keep)
        })
    }

    fn rope(&self) -> Arc<Rope> {
        Arc::new(Rope::new(self.config.head_width(), 10_000.0, self.sequence))
    }

    /// The block's output and the gradients of the sum of output times cotangent, in the order of the inputs.
    pub(crate) fn run(&self, body: Body) -> Gradients {
        let Some(dtype) = body.reference() else { return self.run_fused() };
        let device = Device::flex().autodiff();
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

/// A leaf of the graph for the operations of `compute`.
pub(crate) fn input<const D: usize>(compute: Compute, values: &[f64], shape: [usize; D]) -> Tensor<D> {
    compute.prepare();
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (&compute.device().autodiff(), DType::F32)).require_grad()
}

/// Weights in one flat array, and the range of each.
pub(crate) fn flatten(weights: &[&[f64]]) -> (Vec<f32>, Vec<Range<usize>>) {
    let (mut flat, mut ranges) = (Vec::new(), Vec::new());
    // Gaps and another order than that of the arguments: nothing may depend on either.
    for values in weights.iter().rev() {
        flat.push(f32::NAN);
        ranges.push(flat.len()..flat.len() + values.len());
        flat.extend(values.iter().map(|x| *x as f32));
    }
    ranges.reverse();
    (flat, ranges)
}

/// Applies `op` to `x` with `weights` in flat arrays: its output, and the gradients of the sum of
/// output times `cotangent`.
pub(crate) fn differentiate<const D: usize>(
    compute: Compute,
    x: Tensor<3>,
    weights: &[&[f64]],
    cotangent: &[f64],
    op: impl FnOnce(&Flat, &[Range<usize>], Tensor<3>) -> Tensor<D>,
) -> Gradients {
    let (flat, ranges) = flatten(weights);
    let gradients = vec![0f32; flat.len()];
    let flat = Flat::with_gradients(compute, Arc::new(flat), gradients);
    let y = op(&flat, &ranges, x.clone());
    let output = read(y.clone().inner());
    let data = TensorData::new(cotangent.to_vec(), y.dims());
    let cotangent = Tensor::<D>::from_data(data, (&compute.device().autodiff(), DType::F32));
    let grads = (y * cotangent).sum().backward();
    let mut all = vec![read(x.grad(&grads).expect("the input has a gradient"))];
    drop(grads);
    let gradients = flat.into_gradients();
    all.extend(ranges.into_iter().map(|range| gradients[range].iter().map(|x| f64::from(*x)).collect()));
    (output, all)
}

/// A norm's output and gradients.
pub(crate) fn run_norm(
    compute: Compute,
    norm: Norm,
    x: Tensor<3>,
    weight: Option<&[f64]>,
    cotangent: &[f64],
) -> Gradients {
    let weights: Vec<&[f64]> = weight.into_iter().collect();
    differentiate(compute, x, &weights, cotangent, |flat, ranges, x| norm_flat(norm, x, flat, ranges.first()))
}

/// The rows of an embedding, and the gradient of its weight.
pub(crate) fn run_embedding(
    compute: Compute,
    weight: &[f64],
    width: usize,
    ids: &[u32],
    shape: [usize; 2],
    cotangent: &[f64],
) -> Gradients {
    compute.prepare();
    let (flat, ranges) = flatten(&[weight]);
    let gradients = vec![0f32; flat.len()];
    let flat = Flat::with_gradients(compute, Arc::new(flat), gradients);
    let y = embed(&flat, &ranges[0], width, ids, shape);
    let output = read(y.clone().inner());
    let data = TensorData::new(cotangent.to_vec(), [shape[0], shape[1], width]);
    let cotangent = Tensor::<3>::from_data(data, (&compute.device().autodiff(), DType::F32));
    let mut grads = (y.clone() * cotangent).sum().backward();
    let gradient = y.grad_remove(&mut grads).expect("the rows are a leaf");
    embed_backward(&flat, &ranges[0], width, ids, gradient);
    drop(grads);
    let gradients = flat.into_gradients();
    (output, vec![gradients[ranges[0].clone()].iter().map(|x| f64::from(*x)).collect()])
}

/// The head's loss and gradients, and the sums.
pub(crate) fn run_head(
    compute: Compute,
    hidden: Tensor<3>,
    weight: &[f64],
    targets: &[u32],
    terms: LossTerms,
) -> (Gradients, Sums) {
    let mut sums = None;
    let made = differentiate(compute, hidden, &[weight], &[1.0], |flat, ranges, hidden| {
        let (loss, found) = head_loss_flat(hidden, flat, &ranges[0], targets, terms);
        sums = Some(found);
        loss
    });
    (made, sums.expect("the head has run"))
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
    let on =
        |compute: &Compute| flex_cases().into_iter().map(|case| Case { compute: *compute, ..case }).collect::<Vec<_>>();
    Compute::ALL.iter().flat_map(on).collect()
}

/// Every kind of block, with shapes that do not fit tiles and lanes.
fn flex_cases() -> Vec<Case> {
    let rms = Norm { kind: NormKind::Rms, eps: 1e-6 };
    let layer = Norm { kind: NormKind::Layer, eps: 1e-5 };
    let olmo2 = BlockConfig {
        d_model: 24,
        n_heads: 4,
        n_kv_heads: 4,
        mlp_width: 20,
        clip_qkv: None,
        norm: rms,
        norm_after: true,
        qk_norm: true,
        window: None,
    };
    let olmo1 = BlockConfig { clip_qkv: Some(0.8), norm: layer, norm_after: false, qk_norm: false, ..olmo2 };
    let grouped = BlockConfig { n_kv_heads: 2, ..olmo2 };
    let olmo3 = BlockConfig { window: Some(5), ..grouped };
    vec![
        Case::new("olmo3, a window", olmo3, true, 2, 17),
        Case::new(
            "olmo3, a window longer than a tile",
            BlockConfig { d_model: 12, n_heads: 2, n_kv_heads: 1, mlp_width: 7, window: Some(70), ..olmo2 },
            true,
            1,
            200,
        ),
        Case::new("a window of one token", BlockConfig { window: Some(1), ..olmo2 }, true, 1, 6),
        Case::new("documents", grouped, true, 3, 11).documents(&[2, 3, 9]),
        Case::new("documents and a window", olmo3, true, 2, 19).documents(&[4, 5, 17]),
        Case::new(
            "documents of a tile and more",
            BlockConfig { d_model: 12, n_heads: 2, n_kv_heads: 2, mlp_width: 7, ..olmo1 },
            false,
            2,
            150,
        )
        .documents(&[63, 64, 100]),
        Case::new("olmo2", olmo2, true, 2, 9),
        Case::new("olmo2 with grouped keys", grouped, true, 2, 9),
        Case::new(
            "olmo2, longer than a tile",
            BlockConfig { d_model: 12, n_heads: 2, n_kv_heads: 1, mlp_width: 7, ..olmo2 },
            true,
            1,
            131,
        ),
        Case::new("olmo2, one token", grouped, true, 1, 1),
        Case::new(
            "olmo2, odd widths",
            BlockConfig { d_model: 42, n_heads: 3, n_kv_heads: 3, mlp_width: 37, ..olmo2 },
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
