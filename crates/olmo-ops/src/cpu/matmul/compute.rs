//! [`Compute`]: the backends of the host.

use super::matrix::{Strided, Write};

/// The backend that multiplies matrices on the host. All other code is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// Our own product for AVX-512 and AVX2, and `matrixmultiply` elsewhere, with the same bits: pure
    /// Rust, bit-identical for any number of threads.
    #[default]
    Flex,
    /// The BLAS of libtorch, with one thread per piece, and its attention. Bit-identical for any
    /// number of threads if `MKL_CBWR` is set.
    #[cfg(feature = "libtorch")]
    LibTorch,
}

/// Number of terms that the products in Rust add in one chain. It equals that of `matrixmultiply`,
/// so results are the same for both.
pub(crate) const CHAIN: usize = 256;

/// Rows or columns of a piece of a product in libtorch: large enough for speed, small enough for
/// several threads.
#[cfg(feature = "libtorch")]
const PIECE: usize = 128;

impl Compute {
    /// All backends of this build.
    pub const ALL: &[Compute] = &[
        Compute::Flex,
        #[cfg(feature = "libtorch")]
        Compute::LibTorch,
    ];

    /// Its name in params and records.
    pub fn name(self) -> &'static str {
        match self {
            Compute::Flex => "flex",
            #[cfg(feature = "libtorch")]
            Compute::LibTorch => "libtorch",
        }
    }

    /// The backend with this name, if this build has it.
    pub fn named(name: &str) -> Option<Compute> {
        Compute::ALL.iter().copied().find(|compute| compute.name() == name)
    }

    /// Must be called before the first operation: configures libtorch's use of threads.
    pub fn prepare(self) {
        #[cfg(feature = "libtorch")]
        if self == Compute::LibTorch {
            olmo_torch::keep_to_one_thread();
        }
    }

    /// Number of pieces into which a side of `length` is split.
    pub(crate) fn pieces(self, length: usize) -> usize {
        match self {
            // An element is computed by the same sequence of operations for any number of pieces.
            Compute::Flex => rayon::current_num_threads().min(length),
            // A BLAS may use another sequence for another shape, so the pieces depend only on the
            // length.
            #[cfg(feature = "libtorch")]
            Compute::LibTorch => length.div_ceil(PIECE),
        }
    }

    /// Like [`Compute::gemm`], but bit-identical to a sequence of products over `chain` (at most
    /// [`CHAIN`]) terms each.
    ///
    /// # Safety
    /// See [`Compute::gemm`].
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
        // SAFETY: guaranteed by the caller.
        if self == Compute::Flex && unsafe { super::gemm::gemm([m, n, k], a, b, write, c, chain) } {
            return;
        }
        for top in (0..k).step_by(chain) {
            let write = if top == 0 { write } else { Write::Add };
            let size = [m, n, chain.min(k - top)];
            // SAFETY: guaranteed by the caller; the parts are within the matrices.
            unsafe { self.gemm(size, (a.0.add(top * a.1[1]), a.1), (b.0.add(top * b.1[0]), b.1), write, c) };
        }
    }

    /// `c [m, n] (+)= a [m, k] b [k, n]` in the calling thread; c is row-major with its stride.
    /// Never scaled: see `gemm`.
    ///
    /// # Safety
    /// All three matrices are in readable memory (c: writable), and c does not overlap anything in
    /// use.
    pub(crate) unsafe fn gemm(
        self,
        [m, n, k]: [usize; 3],
        a: Strided,
        b: Strided,
        write: Write,
        (c, c_stride): (*mut f32, usize),
    ) {
        match self {
            Compute::Flex => {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: guaranteed by the caller.
                if unsafe { super::gemm::gemm([m, n, k], a, b, write, (c, c_stride), CHAIN) } {
                    return;
                }
                let beta = if write == Write::New { 0.0 } else { 1.0 };
                let [ra, ca] = a.1.map(|stride| stride as isize);
                let [rb, cb] = b.1.map(|stride| stride as isize);
                // SAFETY: guaranteed by the caller.
                unsafe { matrixmultiply::sgemm(m, k, n, 1.0, a.0, ra, ca, b.0, rb, cb, beta, c, c_stride as isize, 1) }
            }
            #[cfg(feature = "libtorch")]
            Compute::LibTorch => {
                let a = olmo_torch::Matrix { start: a.0, size: [m, k], strides: a.1 };
                let b = olmo_torch::Matrix { start: b.0, size: [k, n], strides: b.1 };
                // SAFETY: guaranteed by the caller.
                unsafe { olmo_torch::gemm(a, b, c, c_stride, write == Write::Add) }
            }
        }
    }
}
