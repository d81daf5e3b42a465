//! `olmo-pipe run|resume|plan`: runs experiments, and shows what a run would do.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use olmo_stage::rules::{Finding, Level};

use crate::cli::common::{Common, ExperimentFile, current_folder, remote_settings};
use crate::cli::detach::{self, Detached};
use crate::cli::findings::place_findings;
use crate::run as engine;
use crate::run::{Options, PlanState, Report, RunError, RunOutcome, Selection, Sourcing, Watch};
use crate::spec::{Loaded, Resolved};
use crate::store::Store;
use crate::ui::{
    Display, Exit, Lines, Problem, SHORT_PATIENCE, Show, Stream, Terminal, answer, answer_json, escape_control,
};

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe run experiments/finetune-tulu.yaml --set params.lr=1e-4")]
pub(super) struct Run {
    #[command(flatten)]
    experiment: ExperimentFile,
    #[command(flatten)]
    choice: StageSelection,
    /// Run this stage even if its result is cached.
    #[arg(long, value_name = "STAGE", help_heading = "Cache")]
    force: Vec<String>,
    /// Discard this stage's unfinished work, so that it starts from the beginning.
    #[arg(long, value_name = "STAGE", help_heading = "Cache")]
    fresh: Vec<String>,
    /// Stop all stages as soon as one fails.
    #[arg(long, overrides_with = "keep_going", help_heading = "What runs")]
    fail_fast: bool,
    /// Keep running stages that do not depend on a failed one (the default).
    #[arg(long, overrides_with = "fail_fast", help_heading = "What runs")]
    keep_going: bool,
    /// Run every stage even if its result is cached, and keep the new results.
    #[arg(long, help_heading = "Cache")]
    no_cache_read: bool,
    /// Fail if a remote source is missing from EXPERIMENT.lock.yaml; do not add it.
    #[arg(long, help_heading = "Remote sources")]
    locked: bool,
    /// Use no network: remote sources must be in the lock and in the store.
    #[arg(long, help_heading = "Remote sources")]
    offline: bool,
    #[command(flatten)]
    how: OutputOptions,
}

/// Options that select stages.
#[derive(Args)]
struct StageSelection {
    /// Select only these stages and the stages that they need (default: all).
    stages: Vec<String>,
    /// Leave out the stages that depend on this one.
    #[arg(long, value_name = "STAGE", help_heading = "What runs")]
    until: Vec<String>,
    /// Select only this stage and its dependents; their other inputs must be in the store.
    #[arg(long, value_name = "STAGE", help_heading = "What runs")]
    from: Vec<String>,
}

impl From<StageSelection> for Selection {
    fn from(StageSelection { stages, until, from }: StageSelection) -> Self {
        Self { targets: stages, until, from }
    }
}

/// Options for showing a run.
#[derive(Args)]
struct OutputOptions {
    /// Run in the background and print the run's id; `runs attach` follows it.
    #[arg(long)]
    detach: bool,
    /// Print every event as a JSON line (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(super) fn run(self, common: &Common) -> Result<Exit, Problem> {
        let Loaded { resolved, .. } = self.experiment.load()?;
        let store = common.open_store_of(&resolved.root)?;
        let selection = self.choice.into();
        let (fresh, force, no_cache_read) = (self.fresh, self.force, self.no_cache_read);
        let sourcing = self.experiment.sourcing(self.locked, self.offline)?;
        let options =
            Options { selection, fresh, force, no_cache_read, fail_fast: self.fail_fast, sourcing, ..options()? };
        let mut refused = None;
        let done = self.how.run_shown(&store, |watch| {
            engine::run(&store, resolved, &options, watch).inspect_err(|error| {
                if let RunError::Refused(findings) = error {
                    refused = Some(findings.clone());
                }
            })
        });
        // Show findings of the stages where the values were written.
        if let Some(findings) = refused {
            place_findings(&self.experiment, findings)?.into_result()?;
        }
        done
    }
}

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe resume 20260131-0915")]
pub(super) struct Resume {
    /// First characters of the run's id (`runs list` shows ids), `latest`, or an experiment's name.
    run: String,
    /// Use no network: remote sources must be in the store.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    how: OutputOptions,
}

impl Resume {
    pub(super) fn run(self, common: &Common) -> Result<Exit, Problem> {
        let store = common.open_store()?;
        let sourcing = Sourcing { offline: self.offline, settings: remote_settings()?, ..Sourcing::default() };
        let options = Options { sourcing, ..options()? };
        self.how.run_shown(&store, |watch| engine::resume(&store, &self.run, &options, watch))
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

impl OutputOptions {
    /// Runs `run`, in the background or shown as these options say; returns the exit of the run.
    fn run_shown(
        &self,
        store: &Store,
        run: impl FnOnce(&mut dyn Watch) -> Result<Report, RunError>,
    ) -> Result<Exit, Problem> {
        if self.detach && !detach::is_the_detached() {
            return detach::start();
        }
        if self.json && !self.detach {
            return run_with_display(Lines, run, |_, _| {});
        }
        let bars = !self.detach && std::io::stderr().is_terminal();
        let terminal = Terminal::new(Box::new(Stream::Error), bars, &current_folder()?);
        if self.detach {
            let end = |shown: &mut Detached, report: &Report| answer(&shown.terminal.summary(report));
            return run_with_display(Detached::new(terminal, store), run, end);
        }
        run_with_display(terminal, run, |terminal, report| answer(&terminal.summary(report)))
    }
}

/// Runs `run` while `shown` shows it, then calls `end`.
fn run_with_display<S: Show>(
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

/// The exit for a run with this outcome.
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
#[command(after_help = "Example: olmo-pipe plan experiments/finetune-tulu.yaml --explain")]
pub(super) struct Plan {
    #[command(flatten)]
    experiment: ExperimentFile,
    #[command(flatten)]
    choice: StageSelection,
    /// List every changed key field, not only the first ones.
    #[arg(long)]
    explain: bool,
    /// Exit with 7 if any stage would run (for CI).
    #[arg(long)]
    exit_code: bool,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Plan {
    pub(super) fn run(self, common: &Common) -> Result<Exit, Problem> {
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
                    let fields = if n == 1 { "field" } else { "fields" };
                    format!("compared with the nearest earlier result, {n} key {fields} changed:")
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
        // Leaked like the experiment: freeing it just before exit is wasted time.
        std::mem::forget(plans);
        Ok(exit)
    }
}

/// Notes by stage, from the rules of the stages without a result. Empty if there is no worker,
/// which a plan does not need.
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
