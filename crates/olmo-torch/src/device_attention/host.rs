//! Causal attention of one row of tokens in the host's memory, by [`AttentionKernel::Cpu`].

use tch::Tensor;

use super::dispatch::{AttentionKept, AttentionKernel, Kept, device_attention_backward, device_attention_forward_by};
use super::sizes::DeviceAttention;
use crate::host_tensors::view;

/// Views of queries, keys and values, next to each other in each token's row: `[tokens, heads, head]`
/// each.
///
/// # Safety
/// `start` points to the rows of all tokens, which outlive the tensors.
unsafe fn parts(attention: &DeviceAttention, start: *const f32) -> [Tensor; 3] {
    let DeviceAttention { heads, kv_heads, head, .. } = *attention;
    [(0, heads), (heads, kv_heads), (heads + kv_heads, kv_heads)].map(|(before, count)| {
        let size = [attention.tokens(), count, head].map(|n| n as i64);
        let strides = [(heads + 2 * kv_heads) * head, head, 1].map(|n| n as i64);
        // SAFETY: guaranteed by the caller.
        unsafe { view(start.add(before * head), &size, &strides) }
    })
}

/// Computes `output [sequence, heads * head]` and `lse [heads, sequence]`, the log of each row's sum,
/// from `heads [sequence, qkv]`.
///
/// # Panics
/// The slices do not have these sizes, or there are several rows, documents or a window.
pub fn attention_forward(attention: &DeviceAttention, heads: &[f32], output: &mut [f32], lse: &mut [f32]) {
    check(attention, heads.len(), output.len(), lse.len());
    // SAFETY: the sizes are checked.
    let [q, k, v] = unsafe { parts(attention, heads.as_ptr()) };
    let made = device_attention_forward_by(AttentionKernel::Cpu, attention, &q, &k, &v);
    let Kept::Cpu(sums) = &made.kept else { unreachable!("the kernel is given") };
    made.output.copy_data(output, output.len());
    sums.copy_data(lse, lse.len());
}

/// Computes `dheads`, the gradient of `heads`, from the incoming `doutput` and the results of the
/// forward pass.
///
/// # Panics
/// See [`attention_forward`].
pub fn attention_backward(
    attention: &DeviceAttention,
    heads: &[f32],
    output: &[f32],
    lse: &[f32],
    doutput: &[f32],
    dheads: &mut [f32],
) {
    check(attention, heads.len(), output.len(), lse.len());
    check(attention, dheads.len(), doutput.len(), lse.len());
    let [count, sequence, width] =
        [attention.heads, attention.sequence, attention.heads * attention.head].map(|n| n as i64);
    // SAFETY: the sizes are checked.
    let ([q, k, v], [output, doutput], sums, targets) = unsafe {
        let rows = |values: &[f32]| view(values.as_ptr(), &[sequence, width], &[width, 1]);
        let sums = view(lse.as_ptr(), &[1, count, sequence], &[count * sequence, sequence, 1]);
        let targets = parts(attention, dheads.as_mut_ptr());
        (parts(attention, heads.as_ptr()), [rows(output), rows(doutput)], sums, targets)
    };
    let kept = AttentionKept { output, kept: Kept::Cpu(sums) };
    let gradients = device_attention_backward(attention, &q, &k, &v, &kept, &doutput);
    for (mut target, gradient) in targets.into_iter().zip(gradients) {
        target.copy_(&gradient);
    }
}

fn check(attention: &DeviceAttention, heads: usize, output: usize, lse: usize) {
    let DeviceAttention { batch, sequence, heads: count, kv_heads, head, window, documents } = attention;
    assert!(*batch == 1 && window.is_none() && documents.is_none(), "the host's memory has one plain row");
    assert_eq!(
        [heads, output, lse],
        [sequence * (count + 2 * kv_heads) * head, sequence * count * head, sequence * count],
        "attention's arrays have its sizes"
    );
}
