//! The command line, one file per command. Nothing else in the crate prints.

mod artifacts;
mod common;
mod detach;
mod doctor;
mod experiment;
mod findings;
mod lock;
mod nvidia;
mod paired;
mod recipes;
mod run;
mod runs;
mod schema;
mod worker;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use olmo_stage::signals;

use crate::cli::common::Common;
use crate::exec::supervise;
use crate::ui::{answer, exit_after_output, say};

pub use crate::ui::{Exit, Problem};

/// Run declarative experiments that train and fine-tune OLMo language models.
#[derive(Parser)]
#[command(
    name = "olmo-pipe",
    version,
    after_help = "Example: olmo-pipe run experiments/finetune-tulu.yaml\n\n\
                  Guide: docs/guide.md. Exit codes: docs/exit-codes.md."
)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run an experiment; stages with a result in the store do not run again.
    Run(run::Run),
    /// Resume a run from its record.
    Resume(run::Resume),
    /// Fetch an experiment's remote sources and lock their exact versions.
    Lock(lock::Lock),
    /// Show what a run would do, and why.
    Plan(run::Plan),
    /// Check an experiment and report all its errors.
    Validate(experiment::Validate),
    /// Print an experiment with every value resolved.
    Show(experiment::Show),
    /// Print the graph of stages in the DOT language.
    Graph(experiment::Graph),
    /// Find, keep, move and remove the artifacts in the store.
    #[command(subcommand, after_help = "Example: olmo-pipe artifacts list --type checkpoint")]
    Artifacts(artifacts::Artifacts),
    /// Preview, measure and audit data, and show the rows of training steps.
    Data(worker::Data),
    /// Print a model's logits and log-probabilities for some tokens.
    Logits(worker::Logits),
    /// Continue texts, or answer messages, with any model.
    Generate(worker::Generate),
    /// Converse with a model in the terminal.
    Chat(worker::Chat),
    /// List, compare, follow and stop runs, including those in other terminals.
    #[command(subcommand, after_help = "Example: olmo-pipe runs list")]
    Runs(runs::Runs),
    /// Create a project with a first experiment.
    Init(recipes::Init),
    /// List or copy the experiments that ship with olmo-pipe.
    #[command(subcommand, after_help = "Example: olmo-pipe recipes cp finetune-tulu my-project")]
    Recipes(recipes::Recipes),
    /// Report which backends work here, what is missing, and how to get it.
    Doctor(doctor::Doctor),
    /// Print the completion script of a shell.
    Completion(recipes::Completion),
    /// Generate the schemas and the stage reference, or check that they are current.
    Schema(schema::Schema),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Every stage has a supervisor, so it starts before anything else is set up.
    if std::env::args_os().nth(1).is_some_and(|first| first == supervise::COMMAND) {
        return supervise::main();
    }
    signals::reset();
    let filter = tracing_subscriber::EnvFilter::try_from_env("OLMO_PIPE_LOG");
    if let Ok(filter) = filter {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let Arguments { common, command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return print_clap_error(&error),
    };
    let done = match command {
        Command::Run(run) => run.run(&common),
        Command::Resume(resume) => resume.run(&common),
        Command::Lock(lock) => lock.run(&common),
        Command::Plan(plan) => plan.run(&common),
        Command::Validate(validate) => validate.run(&common),
        Command::Show(show) => show.run(),
        Command::Graph(graph) => graph.run(),
        Command::Artifacts(artifacts) => {
            start_threads();
            artifacts.run(&common)
        }
        Command::Data(data) => data.run(&common),
        Command::Logits(logits) => logits.run(&common),
        Command::Generate(generate) => generate.run(&common),
        Command::Chat(chat) => chat.run(&common),
        Command::Runs(runs) => runs.run(&common),
        Command::Init(init) => init.run(),
        Command::Recipes(recipes) => recipes.run(),
        Command::Doctor(doctor) => doctor.run(&common),
        Command::Completion(completion) => completion.run(Arguments::command()),
        Command::Schema(schema) => schema.run(),
    };
    let exit = done.unwrap_or_else(|problem| {
        problem.print();
        problem.exit
    });
    exit_after_output(exit).into()
}

/// Prints help, or the error in the command line.
fn print_clap_error(error: &clap::Error) -> ExitCode {
    use std::io::IsTerminal as _;
    let text = |colored: bool| if colored { error.render().ansi().to_string() } else { error.render().to_string() };
    if error.use_stderr() {
        say(&text(std::io::stderr().is_terminal()));
        return Exit::BadInput.into();
    }
    answer(&text(std::io::stdout().is_terminal()));
    exit_after_output(Exit::Success).into()
}

/// Starts the threads that read an index in parallel; falls back to the current thread if the
/// system refuses to start any.
fn start_threads() {
    if rayon::ThreadPoolBuilder::new().build_global().is_err() {
        // If this fails too, rayon reports it on first use.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global();
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
        check(&Arguments::command(), "olmo-pipe");
    }
}
