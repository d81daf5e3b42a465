//! `olmo-pipe runs list|show`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Subcommand;

use super::{Common, Exit, Problem, answer, answer_json};
use crate::report::{duration, escape_control, utc};
use crate::run::{self as engine, InstanceState, RunState, RunStatus};
use crate::store::Store;

#[derive(Subcommand)]
pub enum Runs {
    /// Lists runs, the newest last.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows how far each stage of a run is.
    Show {
        /// The first characters of the run's id.
        run: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Runs {
    pub fn run(self, common: &Common) -> Result<Exit, Problem> {
        let store = common.open_store()?;
        match self {
            Runs::List { json } => list(&store, json),
            Runs::Show { run, json } => show(&store, &run, json),
        }
    }
}

fn status(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "running",
        RunStatus::Succeeded => "succeeded",
        RunStatus::Failed => "failed",
        RunStatus::Interrupted => "interrupted",
    }
}

fn took(run: &RunState) -> String {
    run.ended_ms.map(|end| duration(Duration::from_millis(end.saturating_sub(run.started_ms)))).unwrap_or_default()
}

fn list(store: &Store, as_json: bool) -> Result<Exit, Problem> {
    let runs = engine::list(store)?;
    if as_json {
        answer_json(&serde_json::json!({"format": 1, "runs": runs}));
        return Ok(Exit::Success);
    }
    let mut text = format!("{:<22}  {:<12}  {:<20}  {:>8}  experiment\n", "run", "status", "started (UTC)", "took");
    for run in &runs {
        let started = utc(run.started_ms / 1000);
        let name = escape_control(&run.experiment);
        let id = run.id.to_string();
        let _ = writeln!(text, "{id:<22}  {:<12}  {started:<20}  {:>8}  {name}", status(run.status), took(run));
    }
    answer(&text);
    Ok(Exit::Success)
}

fn show(store: &Store, prefix: &str, as_json: bool) -> Result<Exit, Problem> {
    let id = engine::find(store, prefix)?;
    let run = engine::show(store, &id)?;
    if as_json {
        answer_json(&run);
        return Ok(Exit::Success);
    }
    let mut text = format!("run {id}: {}, {}\n", escape_control(&run.experiment), status(run.status));
    for (name, stage) in run.stages.iter() {
        let _ = writeln!(text, "  {name:<20}  {}", stage.status.word());
        for instance in &stage.instances {
            detail(&mut text, instance);
        }
    }
    for (name, path) in &run.results {
        let _ = writeln!(text, "result {name}: {}", escape_control(&path.display().to_string()));
    }
    let folder = engine::folder(store, &id);
    for log in engine::logs(&folder) {
        let _ = writeln!(text, "log {}", log.display());
    }
    if run.status == RunStatus::Interrupted {
        let _ = writeln!(text, "to go on: olmo-pipe resume {id}");
    }
    answer(&text);
    Ok(Exit::Success)
}

fn detail(text: &mut String, instance: &InstanceState) {
    if let Some(item) = &instance.item {
        let _ = writeln!(text, "    {:<18}  {}", escape_control(item), instance.status.word());
    }
    if let Some((done, total, unit)) = instance.progress.as_ref().filter(|_| !instance.status.is_done()) {
        let _ = writeln!(text, "      {done}/{total} {}", escape_control(unit));
    }
    if !instance.items.is_empty() {
        let _ = writeln!(text, "      items: {}", escape_control(&instance.items.join(" ")));
    }
    if let Some(failure) = &instance.failure {
        let _ = writeln!(text, "      error[{}]: {}", failure.code, escape_control(&failure.message));
        for line in &instance.log {
            let _ = writeln!(text, "      | {}", escape_control(line));
        }
    }
    if let Some(because) = &instance.because {
        let _ = writeln!(text, "      skipped: {}", escape_control(because));
    }
}
