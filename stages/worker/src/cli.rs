//! The command line of both workers, `olmo-worker` and `olmo-worker-libtorch`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::data::Data;
use crate::inference::{Chat, Generate, Logits};
use crate::{parquet, table};

#[derive(Parser)]
#[command(
    version,
    about = "Run the built-in stages of olmo-pipe (started by olmo-pipe itself)",
    after_help = "Example: olmo-worker describe --json"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the attempt in a folder that holds request.json.
    #[command(after_help = "Example: olmo-worker run .olmo-pipe/work-v1/KEY")]
    Run {
        /// Folder of the attempt.
        attempt: PathBuf,
    },
    /// Preview, measure and audit data, and show the rows of training steps.
    #[command(
        subcommand,
        disable_help_subcommand = true,
        after_help = "Example: olmo-pipe data preview latest:chat_rows.memmap"
    )]
    Data(Box<Data>),
    /// Print a model's logits and log-probabilities for some tokens.
    #[command(after_help = "Example: olmo-worker logits out/finetune-tulu/model --tokens 1,2,3")]
    Logits(Logits),
    /// Continue texts, or answer messages.
    #[command(after_help = "Example: olmo-pipe generate latest:model 'Language modeling is'\n\n\
                      A text is continued as it is. --chat answers it as a message, by the model's chat template.")]
    Generate(Box<Generate>),
    /// Converse with a model in the terminal.
    #[command(after_help = "Example: olmo-pipe chat latest:model --temperature 0.7")]
    Chat(Box<Chat>),
    /// Answer a JSON list of questions on standard input with each stage's findings.
    #[command(after_help = "Example: echo '[]' | olmo-worker check")]
    Check,
    /// Write a JSON list of rows on standard input as a Parquet file.
    #[command(after_help = "Example: echo '[{\"a\": 1}]' | olmo-worker parquet table.parquet")]
    Parquet {
        /// The file to write.
        file: PathBuf,
    },
    /// Print the backends and devices of this machine as JSON.
    #[command(after_help = "Example: olmo-worker devices")]
    Devices,
    /// Compile kernels for a GPU, which need not be in this machine.
    #[cfg(feature = "libtorch")]
    #[command(after_help = "On the machine with the GPU, set OLMO_PIPE_KERNELS=FOLDER; it then needs no compiler.\n\n\
                      Example: olmo-worker-libtorch kernels --gpu sm_90 kernels")]
    Kernels {
        /// Architecture of the GPU: `sm_90` (H100, H200), `sm_80` (A100).
        #[arg(long, default_value = "sm_90")]
        gpu: String,
        /// Folder for the compiled kernels.
        folder: PathBuf,
    },
    /// Print the protocol version, the build, and each stage's contract and params.
    #[command(after_help = "Example: olmo-worker describe --json")]
    Describe {
        /// Print JSON (the only format).
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    olmo_stage::signals::reset();
    match Arguments::parse().command {
        Command::Run { attempt } => table::run(&attempt),
        Command::Data(data) => data.run(),
        Command::Logits(logits) => logits.run(),
        Command::Generate(generate) => generate.run(),
        Command::Chat(chat) => chat.run(),
        Command::Check => {
            let text = std::io::read_to_string(std::io::stdin()).map_err(|e| e.to_string());
            print_answer(text.and_then(|text| table::check(&text)))
        }
        Command::Parquet { file } => {
            let written = std::io::read_to_string(std::io::stdin()).map_err(|e| e.to_string());
            match written.and_then(|text| parquet::write(&text, &file)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => {
                    eprintln!("{why}");
                    ExitCode::from(2)
                }
            }
        }
        Command::Devices => print_answer(Ok(format!("{:#}", table::devices()))),
        #[cfg(feature = "libtorch")]
        Command::Kernels { gpu, folder } => {
            print_answer(table::compile_kernels(&gpu, &folder).map(|names| names.join("\n")))
        }
        Command::Describe { json: _ } => print_answer(Ok(table::describe())),
    }
}

/// Prints an answer, or the error instead. A reader that closes the pipe early is not an error.
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Checks the help of `command` and of its subcommands.
    fn check(command: &clap::Command, path: &str) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(!about.is_empty() && about.chars().count() <= 80, "{path}: {about}");
        let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(examples.contains("Example: "), "{path} has no example");
        for subcommand in command.get_subcommands() {
            check(subcommand, &format!("{path} {}", subcommand.get_name()));
        }
    }

    #[test]
    fn every_command_has_a_short_summary_and_an_example() {
        check(&Arguments::command(), "olmo-worker");
    }
}
