//! Causal attention of one row of tokens, without a score matrix: ATen's flash kernel for CPUs.

use tch::Tensor;

use crate::host_tensors::view;

/// Queries, keys and values of one row of tokens, next to each other in each token's row.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Number of tokens.
    pub sequence: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head: usize,
}

impl AttentionShape {
    fn d(&self) -> usize {
        self.heads * self.head
    }

    fn kv(&self) -> usize {
        self.kv_heads * self.head
    }

    fn stride(&self) -> usize {
        self.d() + 2 * self.kv()
    }

    fn scale(&self) -> f64 {
        1.0 / (self.head as f64).sqrt()
    }

    /// Views of the three parts, `[1, heads, sequence, head]` each.
    ///
    /// # Safety
    /// `start` points to `sequence` rows of queries, keys and values that outlive the tensors.
    unsafe fn parts(&self, start: *const f32) -> [Tensor; 3] {
        let (d, kv) = (self.d(), self.kv());
        [(0, self.heads), (d, self.kv_heads), (d + kv, self.kv_heads)].map(|(at, heads)| {
            let size = [1, heads as i64, self.sequence as i64, self.head as i64];
            // SAFETY: guaranteed by the caller.
            unsafe { view(start.add(at), &size, &[0, self.head as i64, self.stride() as i64, 1]) }
        })
    }

    /// A view of `[sequence, d]` as `[1, heads, sequence, head]`.
    ///
    /// # Safety
    /// See [`AttentionShape::parts`].
    unsafe fn output(&self, start: *const f32) -> Tensor {
        let size = [1, self.heads as i64, self.sequence as i64, self.head as i64];
        // SAFETY: guaranteed by the caller.
        unsafe { view(start, &size, &[0, self.head as i64, self.d() as i64, 1]) }
    }

    /// The kernel needs as many key heads as query heads: shared ones are repeated.
    fn repeated(&self, part: Tensor) -> Tensor {
        let group = (self.heads / self.kv_heads) as i64;
        if group == 1 { part } else { part.repeat_interleave_self_int(group, 1, None) }
    }
}

/// Computes `output [sequence, d]` and `lse [heads, sequence]`, the log of each row's sum, from
/// `heads [sequence, qkv]`.
///
/// # Panics
/// The slices do not have these sizes.
pub fn attention_forward(shape: &AttentionShape, heads: &[f32], output: &mut [f32], lse: &mut [f32]) {
    check(shape, heads.len(), output.len(), lse.len());
    // SAFETY: the sizes are checked.
    let ([q, k, v], mut target) = unsafe { (shape.parts(heads.as_ptr()), shape.output(output.as_mut_ptr())) };
    let (k, v) = (shape.repeated(k), shape.repeated(v));
    let (made, sums) = Tensor::internal_scaled_dot_product_flash_attention_for_cpu::<Tensor>(
        &q,
        &k,
        &v,
        0.0,
        true,
        None,
        shape.scale(),
    );
    target.copy_(&made);
    // SAFETY: as above.
    let mut target = unsafe {
        view(lse.as_mut_ptr(), &[1, shape.heads as i64, shape.sequence as i64], &[0, shape.sequence as i64, 1])
    };
    target.copy_(&sums);
}

/// Computes `dheads`, the gradient of `heads`, from the incoming `doutput` and the results of the
/// forward pass.
///
/// # Panics
/// The slices do not have their sizes.
pub fn attention_backward(
    shape: &AttentionShape,
    heads: &[f32],
    output: &[f32],
    lse: &[f32],
    doutput: &[f32],
    dheads: &mut [f32],
) {
    check(shape, heads.len(), output.len(), lse.len());
    check(shape, dheads.len(), doutput.len(), lse.len());
    let sequence = shape.sequence as i64;
    // SAFETY: the sizes are checked.
    let ([q, k, v], output, doutput, lse, targets) = unsafe {
        let lse = view(lse.as_ptr(), &[1, shape.heads as i64, sequence], &[shape.heads as i64 * sequence, sequence, 1]);
        let (output, doutput) = (shape.output(output.as_ptr()), shape.output(doutput.as_ptr()));
        (shape.parts(heads.as_ptr()), output, doutput, lse, shape.parts(dheads.as_mut_ptr()))
    };
    let (k, v) = (shape.repeated(k), shape.repeated(v));
    let (dq, dk, dv) = Tensor::internal_scaled_dot_product_flash_attention_for_cpu_backward::<Tensor>(
        &doutput,
        &q,
        &k,
        &v,
        &output,
        &lse,
        0.0,
        true,
        None,
        shape.scale(),
    );
    let group = (shape.heads / shape.kv_heads) as i64;
    let shared = |gradient: Tensor| {
        if group == 1 {
            return gradient;
        }
        let grouped = gradient.reshape([1, shape.kv_heads as i64, group, sequence, shape.head as i64]);
        grouped.sum_dim_intlist([2i64].as_slice(), false, None)
    };
    for (mut target, made) in targets.into_iter().zip([dq, shared(dk), shared(dv)]) {
        target.copy_(&made);
    }
}

fn check(shape: &AttentionShape, heads: usize, output: usize, lse: usize) {
    let AttentionShape { sequence, heads: count, .. } = *shape;
    assert_eq!(
        [heads, output, lse],
        [sequence * shape.stride(), sequence * shape.d(), sequence * count],
        "attention's arrays have its sizes"
    );
}
