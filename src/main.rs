//! The `olmo-pipe` command.

fn main() -> std::process::ExitCode {
    olmo_pipe::cli::main()
}
