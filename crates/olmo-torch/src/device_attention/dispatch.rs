//! Chooses the attention kernel and runs it.

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use super::math;
use super::sizes::{DeviceAttention, aligned};
use crate::shim::{self, Cudnn};

/// The attention kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionKernel {
    /// cuDNN.
    Cudnn,
    /// libtorch's flash kernels for CUDA.
    Flash,
    /// ATen's flash kernel for CPUs.
    Cpu,
    /// Matrix products and softmax in f32, on any device.
    Math,
}

/// State for the backward pass, in addition to queries, keys and values.
#[derive(Debug)]
pub struct AttentionKept {
    /// `[tokens, heads * head]`, contiguous.
    pub output: Tensor,
    pub(super) kept: Kept,
}

#[derive(Debug)]
pub(super) enum Kept {
    Cudnn(Cudnn),
    /// Log-sum-exp, the generator's state, and an unused tensor.
    Flash([Tensor; 3]),
    /// Log-sum-exp.
    Cpu(Tensor),
    Math(Tensor),
}

impl AttentionKept {
    /// The kernel that computed it, and will compute its gradient.
    pub fn kernel(&self) -> AttentionKernel {
        match self.kept {
            Kept::Cudnn(_) => AttentionKernel::Cudnn,
            Kept::Flash(_) => AttentionKernel::Flash,
            Kept::Cpu(_) => AttentionKernel::Cpu,
            Kept::Math(_) => AttentionKernel::Math,
        }
    }
}

/// Set once, with cuDNN's message, if it rejects a shape for which it was chosen.
static REFUSAL: OnceLock<String> = OnceLock::new();

/// Why cuDNN is not used for attention, although the shape qualifies; `None` while it is used.
pub fn cudnn_refusal() -> Option<&'static str> {
    REFUSAL.get().map(String::as_str)
}

impl DeviceAttention {
    /// The kernel, by the table of this module; `wish` is the value of `OLMO_PIPE_ATTENTION`.
    pub fn kernel(&self, kind: Kind, device: Device, wish: Option<&str>) -> AttentionKernel {
        if wish == Some("math") {
            return AttentionKernel::Math;
        }
        if !device.is_cuda() {
            return AttentionKernel::Cpu;
        }
        if !matches!(kind, Kind::BFloat16 | Kind::Half) || self.head > 256 {
            return AttentionKernel::Math;
        }
        let whole = self.documents.is_none() && self.window.is_none_or(|window| window >= self.sequence);
        let can = whole && self.kv_heads == self.heads && self.head <= 128 && self.head.is_multiple_of(8);
        match wish {
            Some("cudnn") if can => AttentionKernel::Cudnn,
            None if can && self.sequence >= 128 => AttentionKernel::Cudnn,
            _ => AttentionKernel::Flash,
        }
    }
}

/// Attention of `q [tokens, heads, head]` and `k` and `v` `[tokens, kv_heads, head]`; views with a
/// last stride of 1.
///
/// # Panics
/// Sizes do not match, or libtorch fails, with its message.
pub fn device_attention_forward(attention: &DeviceAttention, q: &Tensor, k: &Tensor, v: &Tensor) -> AttentionKept {
    let wish = std::env::var("OLMO_PIPE_ATTENTION").ok();
    let chosen = attention.kernel(q.kind(), q.device(), wish.as_deref());
    if chosen == AttentionKernel::Cudnn && wish.is_none() {
        if REFUSAL.get().is_none() {
            match forward(attention, AttentionKernel::Cudnn, [q, k, v]) {
                Ok(kept) => return kept,
                // The shapes that cuDNN supports depend on its version and the GPU: the flash
                // kernels support them all.
                Err(words) if words.to_lowercase().contains("cudnn") => drop(REFUSAL.set(words)),
                Err(words) => panic!("attention by cuDNN, {attention:?}:\n{words}"),
            }
        }
        return device_attention_forward_by(AttentionKernel::Flash, attention, q, k, v);
    }
    device_attention_forward_by(chosen, attention, q, k, v)
}

/// Like [`device_attention_forward`], with a given kernel.
///
/// # Panics
/// See [`device_attention_forward`].
pub fn device_attention_forward_by(
    kernel: AttentionKernel,
    attention: &DeviceAttention,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> AttentionKept {
    forward(attention, kernel, [q, k, v])
        .unwrap_or_else(|words| panic!("attention by {kernel:?}, {attention:?}:\n{words}"))
}

fn forward(attention: &DeviceAttention, kernel: AttentionKernel, parts: [&Tensor; 3]) -> Result<AttentionKept, String> {
    attention.check(parts);
    let scale = attention.scale();
    match kernel {
        AttentionKernel::Cudnn => {
            let parts = parts.map(|part| attention.heads_first(&aligned(part)));
            let made = shim::cudnn_forward(parts.each_ref(), scale)?;
            let output = attention.flat(&attention.tokens_first(&made.tensors[0], attention.heads));
            Ok(AttentionKept { output, kept: Kept::Cudnn(made) })
        }
        AttentionKernel::Flash => {
            let (cut, parts) = attention.flash_parts(parts);
            let [output, sums, state, unused] = shim::flash_forward(parts.each_ref(), cut, scale)?;
            let output = attention.flat(&attention.out_of_flash(&output));
            Ok(AttentionKept { output, kept: Kept::Flash([sums, state, unused]) })
        }
        AttentionKernel::Cpu => {
            let [q, k, v] = parts.map(|part| attention.heads_first(part));
            let (k, v) = (attention.repeated(k), attention.repeated(v));
            let bias = attention.bias(q.kind(), q.device());
            let (made, sums) = Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu(
                &q,
                &k,
                &v,
                0.0,
                bias.is_none(),
                bias.as_ref(),
                scale,
            )
            .map_err(|error| error.to_string())?;
            let output = attention.flat(&attention.tokens_first(&made, attention.heads));
            Ok(AttentionKept { output, kept: Kept::Cpu(sums) })
        }
        AttentionKernel::Math => {
            let (output, sums) = math::forward(attention, parts);
            Ok(AttentionKept { output: attention.flat(&output), kept: Kept::Math(sums) })
        }
    }
}

/// The gradients of `q`, `k` and `v`, with the same sizes and a last stride of 1, for the incoming
/// `doutput [tokens, heads * head]`.
///
/// # Panics
/// Sizes do not match, or libtorch fails, with its message.
pub fn device_attention_backward(
    attention: &DeviceAttention,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    kept: &AttentionKept,
    doutput: &Tensor,
) -> [Tensor; 3] {
    backward(attention, [q, k, v], kept, doutput)
        .unwrap_or_else(|words| panic!("attention's gradient by {:?}, {attention:?}:\n{words}", kept.kernel()))
}

fn backward(
    attention: &DeviceAttention,
    parts: [&Tensor; 3],
    kept: &AttentionKept,
    doutput: &Tensor,
) -> Result<[Tensor; 3], String> {
    attention.check(parts);
    let scale = attention.scale();
    let size = [attention.tokens(), attention.heads, attention.head].map(|n| n as i64);
    let doutput = doutput.reshape(size);
    let output = kept.output.view(size);
    match &kept.kept {
        Kept::Cudnn(made) => {
            let parts = parts.map(|part| attention.heads_first(&aligned(part)));
            let doutput = attention.heads_first(&aligned(&doutput));
            let [dq, dk, dv] = shim::cudnn_backward(parts.each_ref(), made, &doutput, scale)?;
            let of = |gradient: &Tensor| attention.tokens_first(gradient, attention.heads);
            Ok([of(&dq), of(&dk), of(&dv)])
        }
        Kept::Flash([sums, state, unused]) => {
            let (cut, parts) = attention.flash_parts(parts);
            let (output, doutput) = (attention.flash_layout(&output), attention.flash_layout(&doutput));
            let kept = [&output, sums, state, unused];
            let gradients = shim::flash_backward(parts.each_ref(), cut, kept, &doutput, scale)?;
            Ok(gradients.map(|gradient| attention.out_of_flash(&gradient)))
        }
        Kept::Cpu(sums) => {
            let [q, k, v] = parts.map(|part| attention.heads_first(part));
            let (k, v) = (attention.repeated(k), attention.repeated(v));
            let bias = attention.bias(q.kind(), q.device());
            let (dq, dk, dv) = Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu_backward(
                &attention.heads_first(&doutput),
                &q,
                &k,
                &v,
                &attention.heads_first(&output),
                sums,
                0.0,
                bias.is_none(),
                bias.as_ref(),
                scale,
            )
            .map_err(|error| error.to_string())?;
            let [dk, dv] =
                [dk, dv].map(|gradient| attention.tokens_first(&attention.shared(gradient), attention.kv_heads));
            Ok([attention.tokens_first(&dq, attention.heads), dk, dv])
        }
        Kept::Math(sums) => Ok(math::backward(attention, parts, &output, sums, &doutput)),
    }
}
