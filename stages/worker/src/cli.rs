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
    /// Run the attempt in a folder that contains request.json
    Run {
        /// The attempt's folder.
        attempt: PathBuf,
    },
    /// Inspect data: what is trained, statistics, and problems
    #[command(subcommand)]
    Data(Box<crate::Data>),
    /// Check a list of questions from standard input and print the findings as JSON
    Check,
    /// Print this machine's compute devices as JSON
    Devices,
    /// Compile the kernels for a GPU into FOLDER
    ///
    /// The GPU need not be present. Set OLMO_PIPE_KERNELS=FOLDER to use the kernels without a
    /// compiler.
    #[cfg(feature = "libtorch")]
    Kernels {
        /// GPU architecture, such as `sm_90` (H100, H200) or `sm_80` (A100).
        #[arg(long, default_value = "sm_90")]
        gpu: String,
        folder: PathBuf,
    },
    /// Print the protocol version, the build, and every stage's contract and params
    Describe {
        /// Print as JSON (the only format).
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
            print_answer(text.and_then(|text| crate::check(&text)))
        }
        Command::Devices => print_answer(Ok(format!("{:#}", crate::devices()))),
        #[cfg(feature = "libtorch")]
        Command::Kernels { gpu, folder } => {
            print_answer(crate::compile_kernels(&gpu, &folder).map(|names| names.join("\n")))
        }
        Command::Describe { json: _ } => print_answer(Ok(crate::describe())),
    }
}

/// Prints an answer or the reason why there is none. A closed pipe is not an error.
fn print_answer(answer: Result<String, String>) -> ExitCode {
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
