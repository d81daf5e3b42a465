//! `olmo-worker`: runs one built-in stage in its own process, or describes all of them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "olmo-worker", version, about = "Runs the built-in stages of olmo-pipe; started by olmo-pipe itself.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the attempt in a folder that holds request.json.
    Run {
        /// The attempt's folder.
        attempt: PathBuf,
    },
    /// Looks at data: what is trained, how much there is, what is wrong with it.
    #[command(subcommand)]
    Data(olmo_worker::Data),
    /// Prints the protocol version, the build and every stage's contract and params.
    Describe {
        /// As JSON (the only form there is).
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { attempt } => olmo_worker::run(&attempt),
        Command::Data(data) => data.run(),
        Command::Describe { json: _ } => {
            println!("{}", olmo_worker::describe());
            ExitCode::SUCCESS
        }
    }
}
