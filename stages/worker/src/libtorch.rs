//! `olmo-worker-libtorch`: as `olmo-worker`, with libtorch beside flex to compute on.

use std::process::ExitCode;

/// Counts what bounded threads hold: chat templates, and readers of tables.
#[global_allocator]
static ALLOCATOR: olmo_data::bounded::Allocator = olmo_data::bounded::Allocator;

fn main() -> ExitCode {
    // Its BLAS is to give the same bits wherever in memory a matrix lies; it looks at this before its first product.
    if std::env::var_os("MKL_CBWR").is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("MKL_CBWR", "AUTO") };
    }
    olmo_worker::main()
}
