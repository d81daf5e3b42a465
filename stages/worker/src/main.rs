//! `olmo-worker`: runs one built-in stage in its own process, or describes all of them.

use std::process::ExitCode;

fn main() -> ExitCode {
    olmo_worker::main()
}
