//! `olmo-pipe runs list|compare|show|logs|attach|cancel|rm`.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Subcommand;
use olmo_base::units::{duration, utc};
use olmo_stage::signals;

use crate::cli::common::{Common, current_folder};
use crate::cli::run::ended;
use crate::cli::runs::compare::Compare;
use crate::cli::runs::logs;
use crate::run as engine;
use crate::run::{Attached, InstanceState, RunState, RunStatus};
use crate::store::Store;
use crate::ui::{
    Display, Exit, LOG_LINE, Lines, Problem, SHORT_PATIENCE, Stream, Terminal, answer, answer_json, cut,
    escape_control, say,
};

#[derive(Subcommand)]
pub(crate) enum Runs {
    /// List runs, newest last.
    #[command(after_help = "Example: olmo-pipe runs list")]
    List {
        /// Print JSON (docs/json.md).
        #[arg(long)]
        json: bool,
    },
    /// Compare runs and sweep trials side by side, showing only differences.
    Compare(Compare),
    /// Show the state of each stage of a run.
    #[command(after_help = "Example: olmo-pipe runs show 20260131-0915")]
    Show {
        /// First characters of the run's id, `latest`, or an experiment's name.
        run: String,
        /// Print JSON (docs/json.md).
        #[arg(long)]
        json: bool,
    },
    /// Print the output of a run's stages.
    #[command(after_help = "Example: olmo-pipe runs logs 20260131-0915 train --follow")]
    Logs {
        /// First characters of the run's id, `latest`, or an experiment's name.
        run: String,
        /// Print only this stage, or one item of it: `eval[step40]`.
        stage: Option<String>,
        /// Keep printing until the run ends.
        #[arg(short, long)]
        follow: bool,
        /// Print each line as a JSON line (docs/json.md).
        #[arg(long)]
        json: bool,
    },
    /// Follow a run in another terminal; Ctrl-C detaches without stopping it.
    #[command(after_help = "Example: olmo-pipe runs attach 20260131-0915")]
    Attach {
        /// First characters of the run's id, `latest`, or an experiment's name.
        run: String,
        /// Print every event as a JSON line (docs/json.md).
        #[arg(long)]
        json: bool,
    },
    /// Stop a run in another terminal once its state is saved; see `resume`.
    #[command(after_help = "Example: olmo-pipe runs cancel 20260131-0915")]
    Cancel {
        /// First characters of the run's id, `latest`, or an experiment's name.
        run: String,
        /// Kill its stages at once, without saving.
        #[arg(long)]
        kill: bool,
        /// Print JSON (docs/json.md).
        #[arg(long)]
        json: bool,
    },
    /// Remove the records and logs of runs; their results stay in the store.
    #[command(after_help = "Example: olmo-pipe runs rm 20260131-0915")]
    Rm {
        /// First characters of each run's id, `latest`, or an experiment's name.
        #[arg(required = true)]
        runs: Vec<String>,
        /// Print JSON (docs/json.md).
        #[arg(long)]
        json: bool,
    },
}

impl Runs {
    pub(crate) fn run(self, common: &Common) -> Result<Exit, Problem> {
        let store = match self {
            Runs::Rm { .. } => common.open_store()?,
            _ => common.read_store()?,
        };
        match self {
            Runs::List { json } => list(&store, json),
            Runs::Compare(compare) => compare.run(&store),
            Runs::Show { run, json } => show(&store, &run, json),
            Runs::Logs { run, stage, follow, json } => logs::print(&store, &run, stage.as_deref(), follow, json),
            Runs::Attach { run, json } => attach(&store, &run, json),
            Runs::Cancel { run, kill, json } => cancel(&store, &run, kill, json),
            Runs::Rm { runs, json } => remove(&store, &runs, json),
        }
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
        let _ = writeln!(text, "{id:<22}  {:<12}  {started:<20}  {:>8}  {name}", run.status.word(), took(run));
    }
    answer(&text);
    Ok(Exit::Success)
}

fn show(store: &Store, prefix: &str, as_json: bool) -> Result<Exit, Problem> {
    let id = engine::find(store, prefix)?;
    let run = engine::show(store, &id)?;
    if as_json {
        answer_json(&serde_json::json!({"format": 1, "run": run}));
        return Ok(Exit::Success);
    }
    let mut text = format!("run {id}: {}, {}\n", escape_control(&run.experiment), run.status.word());
    if let Some(damage) = &run.damage {
        let _ = writeln!(text, "  {}; showing what the record held before the damage", escape_control(damage));
    }
    for (name, stage) in run.stages.iter() {
        let _ = writeln!(text, "  {name:<20}  {}", stage.status.word());
        for instance in &stage.instances {
            detail(&mut text, instance);
        }
    }
    for (name, path) in &run.results {
        let _ = writeln!(text, "result {name}: {}", escape_control(&path.display().to_string()));
    }
    for log in engine::log_files(store, &id)? {
        let _ = writeln!(text, "log {}", escape_control(&log.path.display().to_string()));
    }
    if run.status == RunStatus::Interrupted {
        let _ = writeln!(text, "to continue: olmo-pipe resume {id}");
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
            let _ = writeln!(text, "      | {}", cut(&escape_control(line), LOG_LINE));
        }
    }
    if let Some(because) = &instance.because {
        let _ = writeln!(text, "      skipped: {}", escape_control(because));
    }
}

/// A flag that Ctrl-C and SIGTERM set.
fn stop_flag() -> Result<Arc<AtomicBool>, Problem> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, flag.clone()).map_err(|e| {
            Problem::new(Exit::Environment, "cli::signals", &format!("cannot watch for signals: {e}"), None)
        })?;
    }
    Ok(flag)
}

fn attach(store: &Store, prefix: &str, as_json: bool) -> Result<Exit, Problem> {
    let id = engine::find(store, prefix)?;
    let stop = stop_flag()?;
    let go_on = &mut || !stop.load(Ordering::Relaxed);
    let bars = !as_json && std::io::stderr().is_terminal();
    let terminal = Terminal::new(Box::new(Stream::Error), bars, &current_folder()?);
    let attached = match as_json {
        true => engine::attach(store, &id, &mut Display::start(Lines)?, go_on)?,
        false => {
            let mut display = Display::start(terminal)?;
            let attached = engine::attach(store, &id, &mut display, go_on)?;
            let ended = match &attached {
                Attached::Ended(report, took) => Some((report.clone(), *took)),
                Attached::Died | Attached::Detached => None,
            };
            display.close(Some(SHORT_PATIENCE).filter(|_| ended.is_none()), move |terminal| {
                if let Some((report, took)) = ended {
                    terminal.took(took);
                    answer(&terminal.summary(&report));
                }
            });
            attached
        }
    };
    match attached {
        Attached::Ended(report, _) => Ok(ended(report.outcome)),
        Attached::Died => {
            let message = format!("the engine of run {id} is gone and did not record how the run ended");
            let hint = format!("to continue: olmo-pipe resume {id}");
            Err(Problem::new(Exit::StageFailed, "run::died", &message, Some(&hint)))
        }
        Attached::Detached => {
            say(&format!("run {id} continues\n"));
            Ok(Exit::Success)
        }
    }
}

fn cancel(store: &Store, prefix: &str, kill: bool, as_json: bool) -> Result<Exit, Problem> {
    let id = engine::find(store, prefix)?;
    let stop = stop_flag()?;
    let run = engine::cancel(store, &id, kill, &mut || !stop.load(Ordering::Relaxed))?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signals::set(signal, libc::SIG_DFL);
    }
    if as_json {
        answer_json(&serde_json::json!({"format": 1, "run": run}));
        return Ok(Exit::Success);
    }
    let how = if run.status == RunStatus::Interrupted {
        format!("; to continue: olmo-pipe resume {id}")
    } else {
        String::new()
    };
    answer(&format!("run {id}: {}{how}\n", run.status.word()));
    Ok(Exit::Success)
}

fn remove(store: &Store, prefixes: &[String], as_json: bool) -> Result<Exit, Problem> {
    // Resolve all ids first, so that a wrong one removes nothing.
    let ids = prefixes.iter().map(|prefix| engine::find(store, prefix)).collect::<Result<Vec<_>, _>>()?;
    for id in &ids {
        engine::remove(store, id)?;
        if !as_json {
            answer(&format!("removed {id}\n"));
        }
    }
    if as_json {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        answer_json(&serde_json::json!({"format": 1, "removed": ids}));
    }
    Ok(Exit::Success)
}
