//! Rust bindings for `shim.cpp`.

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::Tensor;

unsafe extern "C" {
    fn olmo_free(text: *mut c_char);
    fn olmo_cudnn_forward(
        q: *const c_void,
        k: *const c_void,
        v: *const c_void,
        scale: f64,
        kept: *mut *mut c_void,
        lengths: *mut i64,
    ) -> *mut c_char;
    fn olmo_cudnn_backward(
        doutput: *const c_void,
        q: *const c_void,
        k: *const c_void,
        v: *const c_void,
        kept: *const *const c_void,
        lengths: *const i64,
        scale: f64,
        gradients: *mut *mut c_void,
    ) -> *mut c_char;
    fn olmo_flash_forward(
        q: *const c_void,
        k: *const c_void,
        v: *const c_void,
        ends: *const c_void,
        longest: i64,
        window: i64,
        scale: f64,
        kept: *mut *mut c_void,
    ) -> *mut c_char;
    fn olmo_flash_backward(
        doutput: *const c_void,
        q: *const c_void,
        k: *const c_void,
        v: *const c_void,
        kept: *const *const c_void,
        ends: *const c_void,
        longest: i64,
        window: i64,
        scale: f64,
        gradients: *mut *mut c_void,
    ) -> *mut c_char;
    fn olmo_pinned(tensor: *const c_void, copy: *mut *mut c_void) -> *mut c_char;
    fn olmo_current_stream(index: c_int, stream: *mut *mut c_void) -> *mut c_char;
    fn olmo_allow_tf32(allow: c_int) -> *mut c_char;
    fn olmo_tf32_allowed() -> c_int;
}

/// Tensors created by libtorch, or its error message.
type Made<const N: usize> = Result<[Tensor; N], String>;

fn raw(tensor: &Tensor) -> *const c_void {
    tensor.as_ptr().cast()
}

fn raw_or_null(tensor: Option<&Tensor>) -> *const c_void {
    tensor.map_or(std::ptr::null(), raw)
}

/// # Safety
/// `work` returns null or a message from the shim; with null, it has filled all `N` places with
/// tensors that we own.
unsafe fn made<const N: usize>(work: impl FnOnce(*mut *mut c_void) -> *mut c_char) -> Made<N> {
    let mut places = [std::ptr::null_mut(); N];
    // SAFETY: guaranteed by the caller.
    unsafe {
        taken(work(places.as_mut_ptr()))?;
        Ok(places.map(|place| Tensor::from_ptr(place.cast())))
    }
}

/// # Safety
/// Null or a message from the shim, which is freed here.
unsafe fn taken(text: *mut c_char) -> Result<(), String> {
    if text.is_null() {
        return Ok(());
    }
    // SAFETY: guaranteed by the caller.
    unsafe {
        let words = CStr::from_ptr(text).to_string_lossy().into_owned();
        olmo_free(text);
        Err(words)
    }
}

/// State of cuDNN's forward pass for its backward pass: output, log-sum-exp, seed, offset, two
/// cumulative lengths; longest sequences.
#[derive(Debug)]
pub(crate) struct Cudnn {
    pub(crate) tensors: [Tensor; 6],
    lengths: [i64; 2],
}

pub(crate) fn cudnn_forward([q, k, v]: [&Tensor; 3], scale: f64) -> Result<Cudnn, String> {
    let mut lengths = [0; 2];
    // SAFETY: tensors live; the shim fills six places and two lengths.
    let tensors =
        unsafe { made(|kept| olmo_cudnn_forward(raw(q), raw(k), raw(v), scale, kept, lengths.as_mut_ptr()))? };
    Ok(Cudnn { tensors, lengths })
}

pub(crate) fn cudnn_backward([q, k, v]: [&Tensor; 3], kept: &Cudnn, doutput: &Tensor, scale: f64) -> Made<3> {
    let tensors = kept.tensors.each_ref().map(raw);
    // SAFETY: tensors live; the shim fills three places.
    unsafe {
        made(|gradients| {
            let (kept, lengths) = (tensors.as_ptr(), kept.lengths.as_ptr());
            olmo_cudnn_backward(raw(doutput), raw(q), raw(k), raw(v), kept, lengths, scale, gradients)
        })
    }
}

/// How a flash kernel divides its sequences.
#[derive(Clone, Copy)]
pub(crate) struct Cut<'a> {
    /// Cumulative lengths; without them, the tensors have a dimension for rows.
    pub(crate) ends: Option<&'a Tensor>,
    pub(crate) longest: usize,
    /// Number of keys that a query sees, including its own.
    pub(crate) window: Option<usize>,
}

impl Cut<'_> {
    fn window(&self) -> i64 {
        self.window.map_or(0, |window| window as i64)
    }
}

/// Output, log-sum-exp, the generator's state, and an unused tensor.
pub(crate) fn flash_forward([q, k, v]: [&Tensor; 3], cut: Cut<'_>, scale: f64) -> Made<4> {
    let (ends, longest, window) = (raw_or_null(cut.ends), cut.longest as i64, cut.window());
    // SAFETY: tensors live; the shim fills four places.
    unsafe { made(|kept| olmo_flash_forward(raw(q), raw(k), raw(v), ends, longest, window, scale, kept)) }
}

pub(crate) fn flash_backward(
    [q, k, v]: [&Tensor; 3],
    cut: Cut<'_>,
    kept: [&Tensor; 4],
    doutput: &Tensor,
    scale: f64,
) -> Made<3> {
    let kept = kept.map(raw);
    let (ends, longest, window) = (raw_or_null(cut.ends), cut.longest as i64, cut.window());
    // SAFETY: tensors live; the shim fills three places.
    unsafe {
        made(|gradients| {
            let kept = kept.as_ptr();
            olmo_flash_backward(raw(doutput), raw(q), raw(k), raw(v), kept, ends, longest, window, scale, gradients)
        })
    }
}

/// A copy of a host tensor in pinned memory.
pub(crate) fn pinned(tensor: &Tensor) -> Result<Tensor, String> {
    // SAFETY: the tensor lives; the shim fills one place.
    let [copy] = unsafe { made(|copy| olmo_pinned(raw(tensor), copy))? };
    Ok(copy)
}

/// The stream of this thread's libtorch operations on GPU `index`; null is the default stream.
pub(crate) fn current_stream(index: usize) -> Result<*mut c_void, String> {
    let mut stream = std::ptr::null_mut();
    // SAFETY: a place to write to.
    unsafe { taken(olmo_current_stream(index as c_int, &mut stream))? };
    Ok(stream)
}

/// Whether f32 products on CUDA may use TF32 (10 bits of mantissa); off by default. Applies to the
/// whole process.
///
/// # Panics
/// libtorch fails.
pub fn allow_tf32(allow: bool) {
    // SAFETY: returns a message or null.
    if let Err(words) = unsafe { taken(olmo_allow_tf32(c_int::from(allow))) } {
        panic!("libtorch does not set TF32: {words}");
    }
}

/// The value set by [`allow_tf32`].
pub fn tf32_allowed() -> bool {
    // SAFETY: it takes no arguments.
    unsafe { olmo_tf32_allowed() == 1 }
}
