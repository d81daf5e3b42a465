//! `olmo-worker-libtorch`: `olmo-worker` with libtorch as an additional backend.

use std::process::ExitCode;

/// Tracks the memory of bounded threads: chat templates and table readers.
#[global_allocator]
static ALLOCATOR: olmo_data::bounded::Allocator = olmo_data::bounded::Allocator;

fn main() -> ExitCode {
    // Make MKL give the same bits for any memory alignment. It reads this before its first product.
    if std::env::var_os("MKL_CBWR").is_none() {
        // SAFETY: no other thread is running yet.
        unsafe { std::env::set_var("MKL_CBWR", "AUTO") };
    }
    olmo_worker::main()
}
