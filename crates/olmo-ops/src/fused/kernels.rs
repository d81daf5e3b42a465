//! Who multiplies matrices for the fused bodies.

use super::matrix::{Strided, Write};

/// Who multiplies matrices for the fused bodies; everything else in them is the same code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// `matrixmultiply`, and our own product for AVX-512 with the same bits: pure Rust, the same for any number of threads.
    #[default]
    Rust,
    /// The BLAS of libtorch, one thread for each piece. The same bits for any number of threads, if it is asked for (`MKL_CBWR`).
    #[cfg(feature = "libtorch")]
    LibTorch,
}

/// Terms that the products in Rust add up in one chain; that of `matrixmultiply`, so no result depends on who multiplies.
pub(crate) const CHAIN: usize = 256;

/// Rows or columns of a piece of a product in libtorch: enough for its speed, few enough for several threads.
#[cfg(feature = "libtorch")]
const PIECE: usize = 128;

impl Kernels {
    /// All that this build has.
    pub const ALL: &[Kernels] = &[
        Kernels::Rust,
        #[cfg(feature = "libtorch")]
        Kernels::LibTorch,
    ];

    /// Into how many pieces a product is cut along a side of `length`.
    pub(crate) fn pieces(self, length: usize) -> usize {
        match self {
            // An element is the same sequence of operations however many pieces there are.
            Kernels::Rust => rayon::current_num_threads().min(length),
            // A BLAS may choose another sequence for another shape: the pieces follow from the length alone.
            #[cfg(feature = "libtorch")]
            Kernels::LibTorch => length.div_ceil(PIECE),
        }
    }

    /// As [`Kernels::gemm`], with the bits of one product after the other over `chain` (at most [`CHAIN`]) terms each.
    ///
    /// # Safety
    /// As for [`Kernels::gemm`].
    pub(crate) unsafe fn gemm_in_chains(
        self,
        [m, n, k]: [usize; 3],
        a: Strided,
        b: Strided,
        write: Write,
        c: (*mut f32, usize),
        chain: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        if self == Kernels::Rust && super::avx512::available() {
            // SAFETY: the machine has what it needs; the rest is the caller's promise.
            return unsafe { super::avx512::gemm([m, n, k], a, b, write, c, chain) };
        }
        for top in (0..k).step_by(chain) {
            let write = if top == 0 { write } else { Write::Add };
            let size = [m, n, chain.min(k - top)];
            // SAFETY: the caller's promise; the parts lie within the matrices.
            unsafe { self.gemm(size, (a.0.add(top * a.1[1]), a.1), (b.0.add(top * b.1[0]), b.1), write, c) };
        }
    }

    /// `c [m, n] (+)= a [m, k] b [k, n]` in the calling thread; c row-major with its stride. Never scaled: see `gemm`.
    ///
    /// # Safety
    /// All three matrices lie in memory that may be read (c: written), and c overlaps nothing that is in use.
    pub(crate) unsafe fn gemm(
        self,
        [m, n, k]: [usize; 3],
        a: Strided,
        b: Strided,
        write: Write,
        (c, c_stride): (*mut f32, usize),
    ) {
        match self {
            Kernels::Rust => {
                #[cfg(target_arch = "x86_64")]
                if super::avx512::available() {
                    // SAFETY: the machine has what it needs; the rest is the caller's promise.
                    return unsafe { super::avx512::gemm([m, n, k], a, b, write, (c, c_stride), CHAIN) };
                }
                let beta = if write == Write::New { 0.0 } else { 1.0 };
                let [ra, ca] = a.1.map(|stride| stride as isize);
                let [rb, cb] = b.1.map(|stride| stride as isize);
                // SAFETY: the caller's promise.
                unsafe { matrixmultiply::sgemm(m, k, n, 1.0, a.0, ra, ca, b.0, rb, cb, beta, c, c_stride as isize, 1) }
            }
            #[cfg(feature = "libtorch")]
            Kernels::LibTorch => {
                let a = olmo_torch::Matrix { start: a.0, size: [m, k], strides: a.1 };
                let b = olmo_torch::Matrix { start: b.0, size: [k, n], strides: b.1 };
                // SAFETY: the caller's promise.
                unsafe { olmo_torch::gemm(a, b, c, c_stride, write == Write::Add) }
            }
        }
    }
}
