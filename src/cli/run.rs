//! `olmo-pipe run|resume|plan`, and the hidden command that holds a stage's process.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{Common, Exit, ExperimentFile, Problem, answer, answer_json, current_folder};
use crate::exec::supervise;
use crate::report::{Terminal, escape_control};
use crate::run::{self as engine, Options, PlanState, Report, RunError, RunOutcome};
use crate::spec::Loaded;
use crate::store::Store;

#[derive(Args)]
pub struct Run {
    #[command(flatten)]
    experiment: ExperimentFile,
    /// Only these stages and what they need (all, if none is named).
    stages: Vec<String>,
    /// Throws a stage's unfinished work away, so that it starts from the beginning.
    #[arg(long, value_name = "STAGE")]
    fresh: Vec<String>,
    /// Stops everything when a stage fails.
    #[arg(long, overrides_with = "keep_going")]
    fail_fast: bool,
    /// Goes on with all that does not need a stage that failed (so it is without the option).
    #[arg(long, overrides_with = "fail_fast")]
    keep_going: bool,
}

impl Run {
    pub fn run(self, common: &Common) -> Result<Exit, Problem> {
        let Loaded { resolved, .. } = self.experiment.load()?;
        let store = Store::open(&common.store_folder(&resolved.root))?;
        let options = Options { targets: self.stages, fresh: self.fresh, fail_fast: self.fail_fast, ..options()? };
        watched(|terminal| engine::run(&store, &resolved, &options, terminal))
    }
}

#[derive(Args)]
pub struct Resume {
    /// The first characters of the run's id (`runs list` shows them).
    run: String,
}

impl Resume {
    pub fn run(self, common: &Common) -> Result<Exit, Problem> {
        let store = common.open_store()?;
        let options = options()?;
        watched(|terminal| engine::resume(&store, &self.run, &options, terminal))
    }
}

fn options() -> Result<Options, Problem> {
    let mut options = Options::default();
    if let Ok(text) = std::env::var("OLMO_PIPE_GRACE_S") {
        let seconds = text.parse().ok().and_then(|s: f64| Duration::try_from_secs_f64(s).ok());
        options.grace = seconds.ok_or_else(|| {
            let message = format!("OLMO_PIPE_GRACE_S is `{text}`, not a number of seconds");
            Problem::new(Exit::BadInput, "cli::grace", &message, Some("for example OLMO_PIPE_GRACE_S=60"))
        })?;
    }
    Ok(options)
}

/// Runs with a terminal that shows it, and ends as the run ended.
fn watched(run: impl FnOnce(&mut Terminal) -> Result<Report, RunError>) -> Result<Exit, Problem> {
    let bars = std::io::stderr().is_terminal();
    let mut terminal = Terminal::new(Box::new(std::io::stderr()), bars, &current_folder()?);
    let report = run(&mut terminal)?;
    answer(&terminal.summary(&report));
    Ok(match report.outcome {
        RunOutcome::Succeeded => Exit::Success,
        RunOutcome::Failed => Exit::StageFailed,
        RunOutcome::Interrupted { signal } if signal == signal_hook::consts::SIGTERM => Exit::Terminated,
        RunOutcome::Interrupted { .. } => Exit::Interrupted,
    })
}

#[derive(Args)]
pub struct Plan {
    #[command(flatten)]
    experiment: ExperimentFile,
    /// Only these stages and what they need (all, if none is named).
    stages: Vec<String>,
    /// Every change of every key, not only the first ones.
    #[arg(long)]
    explain: bool,
    /// Ends with 7 if something is to run, for CI.
    #[arg(long)]
    exit_code: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Plan {
    pub fn run(self, common: &Common) -> Result<Exit, Problem> {
        let Loaded { resolved, .. } = self.experiment.load()?;
        let store = Store::open(&common.store_folder(&resolved.root))?;
        let plans = engine::plan(&resolved, &self.stages, &store)?;
        let hits = plans.iter().filter(|p| p.state == PlanState::Hit).count();
        let exit = if self.exit_code && hits < plans.len() { Exit::WouldRun } else { Exit::Success };
        if self.json {
            answer_json(&serde_json::json!({"format": 1, "stages": plans}));
            return Ok(exit);
        }
        let width = plans.iter().map(|p| p.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for plan in &plans {
            let word = plan.state.word();
            let reason = match plan.changes.len() {
                n if self.explain && n > 0 && plan.state == PlanState::Run => {
                    format!("against the nearest earlier result, {n} of what it is made of changed:")
                }
                _ => plan.reason.clone(),
            };
            let _ = writeln!(text, "  {:<width$}  {word:<8}  {}", plan.name, escape_control(&reason));
            if !self.explain {
                continue;
            }
            for change in &plan.changes {
                let _ = writeln!(text, "  {:<width$}            {}", "", escape_control(&change.to_string()));
            }
            for item in plan.items.iter().filter(|item| item.state != PlanState::Hit) {
                let (label, reason) = (escape_control(&item.label), escape_control(&item.reason));
                let _ = writeln!(text, "  {:<width$}            {label}: {} ({reason})", "", item.state.word());
            }
        }
        let _ = writeln!(text, "{} stages: {hits} from the cache, {} to run", plans.len(), plans.len() - hits);
        answer(&text);
        Ok(exit)
    }
}

#[derive(Args)]
pub struct Supervise {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Supervise {
    pub fn run(self) -> ExitCode {
        supervise::main(&self.arguments)
    }
}
