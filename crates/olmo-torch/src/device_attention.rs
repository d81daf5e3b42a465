//! Causal attention over whole batches on a device, forward and backward, without a score matrix
//! where a kernel avoids it.
//!
//! | device and type, shapes | kernel |
//! |---|---|
//! | CUDA bf16, whole causal rows, as many key heads as query heads, head width a multiple of 8 up to 128, at least 128 tokens | cuDNN |
//! | CUDA bf16 otherwise, head width up to 256 | flash, with cumulative lengths for documents; supports grouped heads and windows |
//! | CUDA f32, and wider heads | products and softmax in f32, for several queries at a time |
//! | CPU (tests) | ATen's flash kernel for CPUs |
//!
//! For trials, `OLMO_PIPE_ATTENTION=flash|cudnn|math` overrides the choice where the kernel
//! supports the shape. On CUDA, the backward passes of cuDNN and flash add in no fixed order: two
//! runs differ in the last bits.

mod math;

use std::fmt;
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use crate::device::upload_beside;
use crate::shim::{self, Cudnn, Cut};

/// Attention of a batch: causal, optionally restricted to a window or to documents.
#[derive(Clone, Debug)]
pub struct DeviceAttention {
    /// Number of rows.
    pub batch: usize,
    /// Row length in tokens.
    pub sequence: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head: usize,
    /// Maximum number of tokens that a token attends to: itself and those before it.
    pub window: Option<usize>,
    /// Restricts attention to each token's own document.
    pub documents: Option<Documents>,
}

/// Boundaries of documents in the flattened tokens of a batch.
pub struct Documents {
    /// `[documents + 1]`, i32: the first token of each document in the flattened batch, then the
    /// number of tokens.
    ends: Tensor,
    /// Length of the longest document in tokens.
    longest: usize,
    /// `[batch, sequence]`, i64: for each token, the position in its row where its document begins.
    starts: Tensor,
}

/// Without the tensors' values: a report of a GPU's failure must not access the GPU.
impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of at most {} tokens", self.count(), self.longest)
    }
}

impl Clone for Documents {
    fn clone(&self) -> Documents {
        let Documents { ends, longest, starts } = self;
        Documents { ends: ends.shallow_clone(), longest: *longest, starts: starts.shallow_clone() }
    }
}

impl Documents {
    /// `starts`: for each token, the position in its row where its document begins, row by row. The
    /// end of a row ends a document.
    ///
    /// # Panics
    /// There are not `batch * sequence` entries, or a document begins after one of its tokens.
    pub fn new(starts: &[u32], batch: usize, sequence: usize, device: Device) -> Documents {
        assert_eq!(starts.len(), batch * sequence, "a place for each token");
        let mut ends: Vec<i32> = Vec::new();
        for (token, &start) in starts.iter().enumerate() {
            let place = token % sequence;
            assert!(start as usize <= place, "the document of token {place} of a row begins at {start}");
            if start as usize == place {
                ends.push(token as i32);
            }
        }
        ends.push(starts.len() as i32);
        let longest = ends.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0);
        let starts: Vec<i64> = starts.iter().map(|&start| i64::from(start)).collect();
        let starts = Tensor::from_slice(&starts).reshape([batch as i64, sequence as i64]);
        Documents {
            ends: upload_beside(Tensor::from_slice(&ends), device),
            longest,
            starts: upload_beside(starts, device),
        }
    }

    /// Length of the longest document in tokens.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Number of documents.
    pub fn count(&self) -> usize {
        self.ends.numel() - 1
    }
}

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
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
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
    fn tokens(&self) -> usize {
        self.batch * self.sequence
    }

    fn scale(&self) -> f64 {
        1.0 / (self.head as f64).sqrt()
    }

    /// The kernel, by the table above; `wish` is the value of `OLMO_PIPE_ATTENTION`.
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

    /// The window, if it restricts more than causality; `None` if no row is longer than it.
    fn narrowing(&self) -> Option<usize> {
        self.window.filter(|&window| window < self.sequence)
    }

    /// `[tokens, heads, head]` as `[batch, sequence, heads, head]`.
    fn rows(&self, part: &Tensor) -> Tensor {
        let [batch, sequence, head] = [self.batch, self.sequence, self.head].map(|n| n as i64);
        part.view([batch, sequence, -1, head])
    }

    /// `[tokens, heads, head]` as `[batch, heads, sequence, head]`.
    fn heads_first(&self, part: &Tensor) -> Tensor {
        self.rows(part).transpose(1, 2)
    }

    /// `[batch, heads, sequence, head]` as `[tokens, heads, head]`, with a last stride of 1.
    fn tokens_first(&self, part: &Tensor, heads: usize) -> Tensor {
        let [tokens, heads, head] = [self.tokens(), heads, self.head].map(|n| n as i64);
        part.transpose(1, 2).reshape([tokens, heads, head])
    }

    /// `[tokens, heads, head]` with any strides as the contiguous `[tokens, heads * head]`.
    fn flat(&self, output: &Tensor) -> Tensor {
        output.reshape([self.tokens() as i64, (self.heads * self.head) as i64]).contiguous()
    }

    /// Repeats shared key heads once per query head; `[batch, heads, sequence, head]`.
    fn repeated(&self, part: Tensor) -> Tensor {
        let group = (self.heads / self.kv_heads) as i64;
        if group == 1 { part } else { part.repeat_interleave_self_int(group, 1, None) }
    }

    /// The gradient of [`DeviceAttention::repeated`].
    fn shared(&self, gradient: Tensor) -> Tensor {
        let group = self.heads / self.kv_heads;
        if group == 1 {
            return gradient;
        }
        let size = [self.batch, self.kv_heads, group, self.sequence, self.head].map(|n| n as i64);
        gradient.reshape(size).sum_dim_intlist([2i64].as_slice(), false, None)
    }

    /// The bias added to scores, 0 or -inf; `None` if causality is enough.
    /// `[1 or batch, 1, sequence, sequence]`.
    fn bias(&self, kind: Kind, device: Device) -> Option<Tensor> {
        if self.narrowing().is_none() && self.documents.is_none() {
            return None;
        }
        let sequence = self.sequence as i64;
        let places = Tensor::arange(sequence, (Kind::Int64, device));
        let seen = self.seen(&places, &places, None);
        let bias = Tensor::zeros(seen.size(), (kind, device)).masked_fill(&seen.logical_not(), f64::NEG_INFINITY);
        Some(bias.unsqueeze(1))
    }

    /// Whether queries at some positions of a row see keys at others:
    /// `[1 or batch, queries, keys]`, or for one `row` only.
    fn seen(&self, queries: &Tensor, keys: &Tensor, row: Option<usize>) -> Tensor {
        let (queries, keys) = (queries.view([1, -1, 1]), keys.view([1, 1, -1]));
        let mut seen = keys.le_tensor(&queries);
        if let Some(window) = self.narrowing() {
            seen = seen.logical_and(&keys.gt_tensor(&(&queries - window as i64)));
        }
        if let Some(documents) = &self.documents {
            let starts = match row {
                Some(row) => documents.starts.narrow(0, row as i64, 1),
                None => documents.starts.shallow_clone(),
            };
            let starts = starts.index_select(1, &queries.flatten(0, -1)).unsqueeze(-1);
            seen = seen.logical_and(&keys.ge_tensor(&starts));
        }
        seen
    }

    fn check(&self, [q, k, v]: [&Tensor; 3]) {
        let [tokens, heads, kv_heads, head] = [self.tokens(), self.heads, self.kv_heads, self.head].map(|n| n as i64);
        assert_eq!(q.size(), [tokens, heads, head], "queries are [tokens, heads, head]");
        assert_eq!(k.size(), [tokens, kv_heads, head], "keys are [tokens, kv_heads, head]");
        assert_eq!(v.size(), [tokens, kv_heads, head], "values are [tokens, kv_heads, head]");
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "key heads divide query heads");
        assert!(self.window != Some(0), "a token sees at least itself");
        if let Some(documents) = &self.documents {
            let expected = [self.batch as i64, self.sequence as i64];
            assert_eq!(documents.starts.size(), expected, "the documents are of this batch");
        }
    }

    /// The sequence boundaries for a flash kernel, and the tensors in its layout with heads padded
    /// to a multiple of 8.
    fn flash_parts(&self, parts: [&Tensor; 3]) -> (Cut<'_>, [Tensor; 3]) {
        let ends = self.documents.as_ref().map(|documents| &documents.ends);
        let longest = self.documents.as_ref().map_or(self.sequence, |documents| documents.longest);
        let cut = Cut { ends, longest, window: self.narrowing() };
        (cut, parts.map(|part| self.flash_layout(part)))
    }

    fn flash_layout(&self, part: &Tensor) -> Tensor {
        let missing = self.head.next_multiple_of(8) - self.head;
        let part = if missing == 0 { aligned(part) } else { part.constant_pad_nd([0, missing as i64]) };
        if self.documents.is_some() {
            return part;
        }
        let [batch, sequence] = [self.batch, self.sequence].map(|n| n as i64);
        part.view([batch, sequence, part.size()[1], part.size()[2]])
    }

    /// The inverse of [`DeviceAttention::flash_layout`].
    fn out_of_flash(&self, part: &Tensor) -> Tensor {
        let size = part.size();
        let [heads, head] = [size[size.len() - 2], size[size.len() - 1]];
        part.reshape([self.tokens() as i64, heads, head]).narrow(2, 0, self.head as i64)
    }
}

/// `[tokens, heads, head]`, aligned for kernels that move 16 bytes at a time: the tensor itself, or
/// a copy if it is not aligned.
fn aligned(part: &Tensor) -> Tensor {
    let lies = (part.data_ptr() as usize).is_multiple_of(16) && part.stride()[..2].iter().all(|stride| stride % 8 == 0);
    if lies { part.shallow_clone() } else { part.contiguous().copy() }
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
