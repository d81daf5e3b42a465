//! Norms over rows.

use std::ops::Range;

use olmo_torch::Tensor;

use super::flat::{DeviceFlat, GRID, PARTS};
use crate::config::{Norm, NormKind};

/// State from the forward pass that the backward pass needs; f32, one per row.
#[derive(Debug)]
pub(super) struct Stats {
    mean: Option<Tensor>,
    rstd: Tensor,
}

/// 1 for LayerNorm, as the kernels expect.
pub(super) fn layer(norm: Norm) -> i32 {
    i32::from(norm.kind == NormKind::Layer)
}

/// `(residual +) norm(x) * weight` of `x [rows, d]`.
pub(super) fn forward(
    flat: &DeviceFlat,
    norm: Norm,
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: Option<&Range<usize>>,
) -> (Tensor, Stats) {
    let [rows, d] = sizes(x);
    let out = flat.empty(&[rows, d]);
    let mean = (norm.kind == NormKind::Layer).then(|| flat.floats(&[rows]));
    let stats = Stats { mean, rstd: flat.floats(&[rows]) };
    let weight = flat.vector_of(weight);
    let arguments = [
        x.into(),
        residual.into(),
        weight.as_ref().into(),
        (&out).into(),
        stats.mean.as_ref().into(),
        (&stats.rstd).into(),
        (rows as i64).into(),
        (d as i32).into(),
        norm.eps.into(),
        layer(norm).into(),
    ];
    flat.launch("norm_forward", rows.min(GRID), flat.threads(d), &arguments);
    (out, stats)
}

/// Computes the gradient of `x` for the incoming `dy`, plus `residual`; adds that of the weight.
pub(super) fn backward(
    flat: &DeviceFlat,
    norm: Norm,
    dy: &Tensor,
    x: &Tensor,
    stats: &Stats,
    residual: Option<&Tensor>,
    weight: Option<&Range<usize>>,
) -> Tensor {
    let [rows, d] = sizes(x);
    let (dx, grid) = (flat.empty(&[rows, d]), rows.min(PARTS));
    let parts = weight.map(|_| flat.floats(&[grid, d]));
    let values = flat.vector_of(weight);
    let arguments = [
        dy.into(),
        x.into(),
        stats.mean.as_ref().into(),
        (&stats.rstd).into(),
        values.as_ref().into(),
        residual.into(),
        (&dx).into(),
        parts.as_ref().into(),
        (rows as i64).into(),
        (d as i32).into(),
        layer(norm).into(),
    ];
    flat.launch("norm_backward", grid, flat.threads(d), &arguments);
    if let (Some(weight), Some(parts)) = (weight, &parts) {
        flat.add_columns(weight, parts);
    }
    dx
}

/// The sizes of a matrix.
pub(super) fn sizes(x: &Tensor) -> [usize; 2] {
    let size = x.size();
    [size[0] as usize, size[1] as usize]
}
