//! Matrix products: in parallel pieces, by the matrix-multiply backend of the caller.

mod compute;
#[cfg(target_arch = "x86_64")]
mod gemm;
mod matrix;
mod products;
mod rows;
#[cfg(target_arch = "x86_64")]
mod vector;

pub(super) use compute::CHAIN;
pub use compute::Compute;
pub(super) use matrix::{Strided, Write};
pub(super) use products::{matmul_nn, matmul_nt, matmul_tn};
pub(super) use rows::product_of_rows;
