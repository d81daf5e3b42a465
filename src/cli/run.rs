//! `olmo-pipe run|resume|plan`.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use olmo_stage::rules::{Finding, Level};

use super::detach::{self, Detached};
use super::display::{Display, SHORT_PATIENCE, Show};
use super::findings::placed;
use super::lines::Lines;
use super::output::Stream;
use super::{Common, Exit, ExperimentFile, Problem, answer, answer_json, current_folder, remote_settings};
use crate::report::{Terminal, escape_control};
use crate::run::{self as engine, Options, PlanState, Report, RunError, RunOutcome, Selection, Sourcing, Watch};
use crate::spec::{Loaded, Resolved};
use crate::store::Store;

#[derive(Args)]
pub struct Run {
    #[command(flatten)]
    experiment: ExperimentFile,
    #[command(flatten)]
    choice: Choice,
    /// Runs a stage though its result is there.
    #[arg(long, value_name = "STAGE")]
    force: Vec<String>,
    /// Throws a stage's unfinished work away, so that it starts from the beginning.
    #[arg(long, value_name = "STAGE")]
    fresh: Vec<String>,
    /// Stops everything when a stage fails.
    #[arg(long, overrides_with = "keep_going")]
    fail_fast: bool,
    /// Goes on with all that does not need a stage that failed (so it is without the option).
    #[arg(long, overrides_with = "fail_fast")]
    keep_going: bool,
    /// Runs every stage though results are there; the new ones are kept.
    #[arg(long)]
    no_cache_read: bool,
    /// What is not in EXPERIMENT.lock.yaml is an error: nothing is added to it.
    #[arg(long)]
    locked: bool,
    /// Uses no network: remote sources have to be in the lock and in the store.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    how: How,
}

/// Which stages.
#[derive(Args)]
struct Choice {
    /// Only these stages and what they need (all, if none is named).
    stages: Vec<String>,
    /// Nothing that comes after this stage.
    #[arg(long, value_name = "STAGE")]
    until: Vec<String>,
    /// Only this stage and what comes after it; what they need has to be in the store.
    #[arg(long, value_name = "STAGE")]
    from: Vec<String>,
}

impl From<Choice> for Selection {
    fn from(Choice { stages, until, from }: Choice) -> Self {
        Self { targets: stages, until, from }
    }
}

/// Where a run is shown.
#[derive(Args)]
struct How {
    /// Runs in the background: prints the run's id and ends. `runs attach` shows it.
    #[arg(long)]
    detach: bool,
    /// Prints every event as a line of JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Run {
    pub fn run(self, common: &Common) -> Result<Exit, Problem> {
        let Loaded { resolved, .. } = self.experiment.load()?;
        let store = common.open_store_of(&resolved.root)?;
        let selection = self.choice.into();
        let (fresh, force, no_cache_read) = (self.fresh, self.force, self.no_cache_read);
        let sourcing = self.experiment.sourcing(self.locked, self.offline)?;
        let options =
            Options { selection, fresh, force, no_cache_read, fail_fast: self.fail_fast, sourcing, ..options()? };
        let mut refused = None;
        let done = self.how.watched(&store, |watch| {
            engine::run(&store, resolved, &options, watch).inspect_err(|error| {
                if let RunError::Refused(findings) = error {
                    refused = Some(findings.clone());
                }
            })
        });
        // Said by the stages, and shown where it was written.
        if let Some(findings) = refused {
            placed(&self.experiment, findings)?.refused()?;
        }
        done
    }
}

#[derive(Args)]
pub struct Resume {
    /// The first characters of the run's id (`runs list` shows them).
    run: String,
    /// Uses no network: remote sources have to be in the store.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    how: How,
}

impl Resume {
    pub fn run(self, common: &Common) -> Result<Exit, Problem> {
        let store = common.open_store()?;
        let sourcing = Sourcing { offline: self.offline, settings: remote_settings()?, ..Sourcing::default() };
        let options = Options { sourcing, ..options()? };
        self.how.watched(&store, |watch| engine::resume(&store, &self.run, &options, watch))
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

impl How {
    /// Runs where it is to be seen, and ends as the run ended.
    fn watched(
        &self,
        store: &Store,
        run: impl FnOnce(&mut dyn Watch) -> Result<Report, RunError>,
    ) -> Result<Exit, Problem> {
        if self.detach && !detach::is_the_detached() {
            return detach::start();
        }
        if self.json && !self.detach {
            return shown_by(Lines, run, |_, _| {});
        }
        let bars = !self.detach && std::io::stderr().is_terminal();
        let terminal = Terminal::new(Box::new(Stream::Error), bars, &current_folder()?);
        if self.detach {
            let end = |shown: &mut Detached, report: &Report| answer(&shown.terminal.summary(report));
            return shown_by(Detached::new(terminal, store), run, end);
        }
        shown_by(terminal, run, |terminal, report| answer(&terminal.summary(report)))
    }
}

/// Runs `run` while `shown` shows it, with `end` last.
fn shown_by<S: Show>(
    shown: S,
    run: impl FnOnce(&mut dyn Watch) -> Result<Report, RunError>,
    end: impl FnOnce(&mut S, &Report) + Send + 'static,
) -> Result<Exit, Problem> {
    let mut display = Display::start(shown)?;
    let report = run(&mut display)?;
    let outcome = report.outcome;
    let patience = matches!(outcome, RunOutcome::Interrupted { .. }).then_some(SHORT_PATIENCE);
    display.close(patience, move |shown| end(shown, &report));
    Ok(ended(outcome))
}

/// The exit of a run that ended so.
pub(super) fn ended(outcome: RunOutcome) -> Exit {
    use signal_hook::consts::{SIGHUP, SIGTERM};
    match outcome {
        RunOutcome::Succeeded => Exit::Success,
        RunOutcome::Failed => Exit::StageFailed,
        RunOutcome::Interrupted { signal: SIGTERM } => Exit::Terminated,
        RunOutcome::Interrupted { signal: SIGHUP } => Exit::HungUp,
        RunOutcome::Interrupted { .. } => Exit::Interrupted,
    }
}

#[derive(Args)]
pub struct Plan {
    #[command(flatten)]
    experiment: ExperimentFile,
    #[command(flatten)]
    choice: Choice,
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
        let store = Store::read(&common.store_folder(&resolved.root))?;
        let sourcing = self.experiment.sourcing(false, true)?;
        let engine::Planned { stages: plans, missing } =
            engine::plan(resolved, &self.choice.into(), &store, &sourcing.read()?)?;
        let left_out = resolved.left_out.clone();
        let notes = notes(resolved, &missing, &store, sourcing)?;
        let hits = plans.iter().filter(|p| p.state == PlanState::Hit).count();
        let exit = if self.exit_code && hits < plans.len() { Exit::WouldRun } else { Exit::Success };
        if self.json {
            let notes: Vec<_> = notes
                .iter()
                .map(|(stage, note)| serde_json::json!({"stage": stage, "code": note.code, "message": note.message}))
                .collect();
            answer_json(&serde_json::json!({"format": 1, "stages": plans, "notes": notes, "left_out": left_out}));
            return Ok(exit);
        }
        let names = plans.iter().map(|p| p.name.as_str()).chain(left_out.keys().map(String::as_str));
        let width = names.map(str::len).max().unwrap_or(0);
        let mut text = String::new();
        for (name, reason) in &left_out {
            let _ = writeln!(text, "  {name:<width$}  left out  {}", escape_control(reason));
        }
        for plan in &plans {
            let word = plan.state.word();
            let reason = match plan.changes.len() {
                n if self.explain && n > 0 && plan.state == PlanState::Run => {
                    format!("against the nearest earlier result, {n} of what it is made of changed:")
                }
                _ => plan.reason.clone(),
            };
            let _ = writeln!(text, "  {:<width$}  {word:<8}  {}", plan.name, escape_control(&reason));
            for (_, note) in notes.iter().filter(|(stage, _)| *stage == plan.name) {
                let _ = writeln!(text, "  {:<width$}            {}", "", escape_control(&note.message));
            }
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
        // As the experiment: not worth giving back.
        std::mem::forget(plans);
        Ok(exit)
    }
}

/// What the stages without a result tell of themselves, by stage. None without a worker: a plan needs none.
fn notes(
    resolved: &Resolved,
    missing: &[engine::Missing],
    store: &Store,
    sourcing: Sourcing,
) -> Result<Vec<(String, Finding)>, Problem> {
    let found = match engine::findings_of(resolved, missing, Some(store), &Options { sourcing, ..options()? }) {
        Ok(found) => found,
        Err(RunError::Exec(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let notes = found.into_iter().filter(|found| found.finding.level == Level::Note);
    Ok(notes.map(|found| (found.stage, found.finding)).collect())
}
