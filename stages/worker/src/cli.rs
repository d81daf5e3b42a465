//! The command line of both workers.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Runs the built-in stages of olmo-pipe; started by olmo-pipe itself.")]
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
    Data(Box<crate::Data>),
    /// Reads a list of questions on standard input and prints what each stage finds wrong, as JSON.
    Check,
    /// Prints what this machine offers to compute on, as JSON.
    Devices,
    /// Compiles the kernels for a GPU that need not be here into FOLDER: there, OLMO_PIPE_KERNELS=FOLDER takes the place of a compiler.
    #[cfg(feature = "libtorch")]
    Kernels {
        /// Its architecture, as `sm_90` (H100, H200), `sm_80` (A100).
        #[arg(long, default_value = "sm_90")]
        gpu: String,
        folder: PathBuf,
    },
    /// Prints the protocol version, the build and every stage's contract and params.
    Describe {
        /// As JSON (the only form there is).
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    olmo_stage::signals::reset();
    match Arguments::parse().command {
        Command::Run { attempt } => crate::run(&attempt),
        Command::Data(data) => data.run(),
        Command::Check => {
            let text = std::io::read_to_string(std::io::stdin()).map_err(|e| e.to_string());
            told(text.and_then(|text| crate::check(&text)))
        }
        Command::Devices => told(Ok(format!("{:#}", crate::devices()))),
        #[cfg(feature = "libtorch")]
        Command::Kernels { gpu, folder } => told(crate::compile_kernels(&gpu, &folder).map(|names| names.join("\n"))),
        Command::Describe { json: _ } => told(Ok(crate::describe())),
    }
}

/// Prints an answer, or why there is none. Whoever reads no further has what he wants.
fn told(answer: Result<String, String>) -> ExitCode {
    let written = match answer {
        Ok(answer) => writeln!(std::io::stdout(), "{answer}"),
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("cannot print the answer: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
