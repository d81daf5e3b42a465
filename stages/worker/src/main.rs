//! `olmo-worker`: runs one built-in stage in its own process, or describes all of them.

use std::process::ExitCode;

/// Tracks the memory of bounded threads: chat templates and table readers.
#[global_allocator]
static ALLOCATOR: olmo_data::bounded::Allocator = olmo_data::bounded::Allocator;

fn main() -> ExitCode {
    olmo_worker::main()
}
