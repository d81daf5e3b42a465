//! The command line: one file for each command. Nothing else in the crate prints.

mod artifacts;
mod compare;
mod data;
mod detach;
mod display;
mod doctor;
mod exit;
mod experiment;
mod findings;
mod lines;
mod lock;
mod logs;
mod nvidia;
mod output;
mod problem;
mod recipes;
mod run;
mod runs;
mod schema;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use olmo_stage::signals;

use crate::exec::supervise;
use crate::run::Sourcing;
use crate::spec::{LoadOptions, Loaded};
use crate::store::Store;

use output::{answer, answer_json, say};

pub use exit::Exit;
pub use problem::Problem;

/// Declarative experiment pipelines for training and fine-tuning OLMo language models.
#[derive(Parser)]
#[command(name = "olmo-pipe", version, after_help = "Exit codes: docs/exit-codes.md. Guide: docs/guide.md.")]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(clap::Args)]
pub struct Common {
    /// The store's folder (else OLMO_PIPE_STORE, else `.olmo-pipe` in the project root).
    #[arg(long, global = true)]
    store: Option<PathBuf>,
    /// A store that this command makes is shared by the group of its folder (docs/store.md).
    #[arg(long, global = true)]
    shared: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Runs an experiment: what the store does not have yet.
    Run(run::Run),
    /// Goes on with a run from its own record.
    Resume(run::Resume),
    /// Fetches an experiment's remote sources, and writes down what exactly they are.
    Lock(lock::Lock),
    /// Says what a run would do, and why.
    Plan(run::Plan),
    /// Checks an experiment and prints all its errors.
    Validate(experiment::Validate),
    /// Prints an experiment with every value known.
    Show(experiment::Show),
    /// Prints the graph of stages in the dot language.
    Graph(experiment::Graph),
    /// What the store holds.
    #[command(subcommand)]
    Artifacts(artifacts::Artifacts),
    /// Looks at data: `data preview|stats|audit|inspect`.
    Data(data::Data),
    /// Runs, also those that are going on in another terminal.
    #[command(subcommand)]
    Runs(runs::Runs),
    /// Makes a project, with an experiment to begin with.
    Init(recipes::Init),
    /// The experiments that ship with olmo-pipe.
    #[command(subcommand)]
    Recipes(recipes::Recipes),
    /// What this machine can compute with, what is missing, and how to get it.
    Doctor(doctor::Doctor),
    /// Prints a shell's completion script: `source <(olmo-pipe completion bash)`.
    Completion(recipes::Completion),
    /// Writes the generated schemas and the stage reference, or checks them.
    Schema(schema::Schema),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // One for every stage: it starts before anything else is built up.
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
        Err(error) => return refused(&error),
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
        Command::Runs(runs) => runs.run(&common),
        Command::Init(init) => init.run(),
        Command::Recipes(recipes) => recipes.run(),
        Command::Doctor(doctor) => doctor.run(&common),
        Command::Completion(completion) => completion.run(),
        Command::Schema(schema) => schema.run(),
    };
    let exit = done.unwrap_or_else(|problem| {
        problem.print();
        problem.exit
    });
    output::checked(exit).into()
}

/// Prints help, or what is wrong with the command line.
fn refused(error: &clap::Error) -> ExitCode {
    use std::io::IsTerminal;
    let text = |colored: bool| if colored { error.render().ansi().to_string() } else { error.render().to_string() };
    if error.use_stderr() {
        say(&text(std::io::stderr().is_terminal()));
        return Exit::BadInput.into();
    }
    answer(&text(std::io::stdout().is_terminal()));
    output::checked(Exit::Success).into()
}

/// Starts the threads that read an index in parallel. Where the system gives none, one has to do.
fn start_threads() {
    if rayon::ThreadPoolBuilder::new().build_global().is_err() {
        // Without even this, rayon says so when it is used.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global();
    }
}

/// An experiment and how to read it.
#[derive(clap::Args)]
pub struct ExperimentFile {
    /// The experiment's YAML file.
    file: PathBuf,
    /// Takes the params of this profile, not of the default one.
    #[arg(long)]
    profile: Option<String>,
    /// Sets one value: `--set params.lr=1e-4`, `--set stages.train.with.save_interval=50`.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
    /// Sweeps over values: `--sweep params.lr=[1e-4,2e-4]`. Several make every combination.
    #[arg(long = "sweep", value_name = "PATH=[VALUE,…]")]
    sweeps: Vec<String>,
    /// Leaves out the experiment's own sweep.
    #[arg(long)]
    no_sweep: bool,
}

impl ExperimentFile {
    /// Reads and checks it. It lasts as long as the process: to give a hundred thousand stages
    /// back piece by piece, just before the end, takes a tenth of all the time.
    fn load(&self) -> Result<&'static Loaded, Problem> {
        Ok(Box::leak(Box::new(crate::spec::load(&self.file, &self.options(false)?, &crate::builtin::STAGES)?)))
    }

    /// How its remote sources are dealt with.
    fn sourcing(&self, locked: bool, offline: bool) -> Result<Sourcing, Problem> {
        let lock = Some(Sourcing::lock_beside(&current_folder()?.join(&self.file)));
        let experiment = self.file.display().to_string();
        Ok(Sourcing { lock, locked, offline, settings: remote_settings()?, experiment })
    }

    fn options(&self, origins: bool) -> Result<LoadOptions, Problem> {
        Ok(LoadOptions {
            profile: self.profile.clone(),
            sets: self.sets.clone(),
            sweeps: self.sweeps.clone(),
            no_sweep: self.no_sweep,
            origins,
            cwd: current_folder()?,
        })
    }
}

/// How servers are reached, by the environment.
fn remote_settings() -> Result<olmo_remote::Settings, Problem> {
    olmo_remote::Settings::of_environment(|name| std::env::var(name).ok())
        .map_err(|why| Problem::new(Exit::BadInput, "remote::settings", &why, None))
}

fn current_folder() -> Result<PathBuf, Problem> {
    std::env::current_dir()
        .map_err(|e| Problem::new(Exit::Environment, "cli::cwd", &format!("cannot find the current folder: {e}"), None))
}

impl Common {
    /// The store's folder: `--store`, `OLMO_PIPE_STORE`, or `.olmo-pipe` in `project`.
    fn store_folder(&self, project: &Path) -> PathBuf {
        let variable = std::env::var_os("OLMO_PIPE_STORE").filter(|v| !v.is_empty()).map(PathBuf::from);
        self.store.clone().or(variable).unwrap_or_else(|| project.join(".olmo-pipe"))
    }

    /// The store of the project that the current folder lies in; made if it is not there.
    fn open_store(&self) -> Result<Store, Problem> {
        self.open_store_of(&crate::spec::project_root(&current_folder()?))
    }

    /// The store of `project`; made if it is not there.
    fn open_store_of(&self, project: &Path) -> Result<Store, Problem> {
        let folder = self.store_folder(project);
        Ok(if self.shared { Store::open_shared(&folder)? } else { Store::open(&folder)? })
    }

    /// The store of the project that the current folder lies in, and what had to be moved away to
    /// open it.
    fn open_store_for_repair(&self) -> Result<(Store, Vec<crate::store::Problem>), Problem> {
        let folder = self.store_folder(&crate::spec::project_root(&current_folder()?));
        Ok(Store::open_for_repair(&folder)?)
    }

    /// The store of the project that the current folder lies in, for looking at it. Makes nothing.
    fn read_store(&self) -> Result<Store, Problem> {
        Ok(Store::read(&self.store_folder(&crate::spec::project_root(&current_folder()?)))?)
    }
}
