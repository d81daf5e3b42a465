//! [`Terminal`]: shows a run as it happens. On a terminal, each running stage has a progress bar.
//! Elsewhere, and for completed steps, it prints plain lines. The summary comes last.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use olmo_base::units::{bytes, duration};
use olmo_stage::{MessageLevel, signals};

use crate::run::{Place, Report, RunEvent, RunOutcome, Used, Watch};
use crate::ui::format::{LOG_LINE, cut, escape_control};

/// How often a stage's progress is printed as a plain line.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// How many characters of a message are shown.
const MESSAGE: usize = 4000;

/// Shows a run.
pub struct Terminal {
    out: Box<dyn Write + Send>,
    /// Buffered lines of cached stages, of which there may be thousands. They are printed with the
    /// next other line.
    buffered: String,
    bars: Option<MultiProgress>,
    running: BTreeMap<Place, Running>,
    width: usize,
    since: Instant,
    /// Duration of a run that was not shown from its start.
    took: Option<Duration>,
    /// The current folder; paths inside it are shown relative to it.
    here: PathBuf,
    stages: usize,
    ran: BTreeSet<String>,
    cached: BTreeSet<String>,
    skipped: usize,
    incoming: Option<Incoming>,
}

/// The source or file being fetched.
struct Incoming {
    what: String,
    bar: Option<ProgressBar>,
    printed: Instant,
}

struct Running {
    bar: Option<ProgressBar>,
    printed: Instant,
    numbers: String,
}

impl Terminal {
    /// Shows runs on `out` as plain lines. With `bars`, shows progress bars and lines on standard
    /// error instead, which must be a terminal. `here` is the current folder.
    pub fn new(out: Box<dyn Write + Send>, bars: bool, here: &Path) -> Self {
        Self {
            out,
            buffered: String::new(),
            bars: bars.then(MultiProgress::new),
            running: BTreeMap::new(),
            width: 0,
            since: Instant::now(),
            took: None,
            here: here.to_owned(),
            stages: 0,
            ran: BTreeSet::new(),
            cached: BTreeSet::new(),
            skipped: 0,
            incoming: None,
        }
    }

    /// Sets the duration of a run that was not shown from its start.
    pub fn took(&mut self, took: Duration) {
        self.took = Some(took);
    }

    fn line(&mut self, text: &str) {
        // If writing fails, the reader is gone. The run continues, and its record has every event.
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            None => {
                self.buffer(text);
                self.show();
            }
        }
    }

    fn buffer(&mut self, text: &str) {
        self.buffered.push_str(text);
        self.buffered.push('\n');
    }

    fn show(&mut self) {
        let _ = self.out.write_all(self.buffered.as_bytes()).and_then(|()| self.out.flush());
        self.buffered.clear();
    }

    fn stage_line(&mut self, place: &Place, text: &str) {
        self.line(&self.format_line(place, text));
    }

    fn format_line(&self, place: &Place, text: &str) -> String {
        let name = place.to_string();
        let text = escape_control(text);
        format!("  {:<width$}  {}", escape_control(&name), cut(&text, MESSAGE), width = self.width)
    }

    fn indented_line(&mut self, text: &str, most: usize) {
        let text = escape_control(text);
        self.line(&format!("  {:width$}  {}", "", cut(&text, most), width = self.width));
    }

    /// Prints a line about the display itself.
    pub fn note(&mut self, text: &str) {
        self.line(text);
    }

    fn end(&mut self, place: &Place) {
        if let Some(bar) = self.running.remove(place).and_then(|r| r.bar) {
            bar.finish_and_clear();
        }
    }

    fn start(&mut self, place: &Place) {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::no_length());
            // The template is a constant; if it were invalid, indicatif would keep its own style.
            if let Ok(style) = ProgressStyle::with_template("  {prefix}  {spinner} {elapsed:>4} {msg}") {
                bar.set_style(style);
            }
            let name = place.to_string();
            bar.set_prefix(format!("{:<width$}", escape_control(&name), width = self.width));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        self.running.insert(place.clone(), Running { bar, printed: Instant::now(), numbers: String::new() });
    }

    fn progress(&mut self, place: &Place, done: u64, total: u64, unit: &str, message: &str) {
        let Some(running) = self.running.get_mut(place) else { return };
        let counted = if total > 0 { format!("{done}/{total} {unit}") } else { format!("{done} {unit}") };
        let text = [counted.as_str(), message, &running.numbers];
        let text = text.iter().filter(|t| !t.is_empty()).copied().collect::<Vec<_>>().join("  ");
        if let Some(bar) = &running.bar {
            if total > 0 && bar.length() != Some(total) {
                bar.set_length(total);
                if let Ok(style) = ProgressStyle::with_template("  {prefix}  [{bar:24}] {elapsed:>4} {msg}") {
                    bar.set_style(style.progress_chars("=> "));
                }
            }
            bar.set_position(done);
            bar.set_message(escape_control(&text).into_owned());
        } else if running.printed.elapsed() >= PLAIN_EVERY {
            running.printed = Instant::now();
            self.stage_line(place, &text);
        }
    }

    fn metrics(&mut self, place: &Place, values: &BTreeMap<String, f64>) {
        if let Some(running) = self.running.get_mut(place) {
            let shown = values.iter().take(4).map(|(name, value)| format!("{name} {}", number(*value)));
            running.numbers = shown.collect::<Vec<_>>().join("  ");
        }
    }

    fn relative_path(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.here).unwrap_or(path);
        escape_control(&path.display().to_string()).into_owned()
    }

    /// The summary of a run: counts, failures, how to continue, and where the results are.
    pub fn summary(&self, report: &Report) -> String {
        let took = duration(self.took.unwrap_or_else(|| self.since.elapsed()));
        let cached = self.cached.difference(&self.ran).count();
        let counts = match self.ran.len() {
            0 if cached == self.stages => format!("all {cached} stages cached, nothing ran"),
            ran => {
                let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
                format!("{ran} ran, {cached} cached{skipped}")
            }
        };
        let mut lines = Vec::new();
        let id = &report.id;
        match report.outcome {
            RunOutcome::Succeeded => lines.push(format!("run {id} succeeded in {took}: {counts}")),
            RunOutcome::Failed => {
                lines.push(format!("run {id} failed after {took}: {counts}"));
                for failed in &report.failures {
                    let text = format!("{}: [{}] {}", failed.place, failed.failure.code, failed.failure.message);
                    lines.push(format!("  {}", cut(&escape_control(&text), MESSAGE)));
                    if let Some(hint) = &failed.failure.hint {
                        lines.push(format!("    help: {}", escape_control(hint)));
                    }
                }
                lines.push(format!("logs: `olmo-pipe runs show {id}`; finished stages will not run again"));
            }
            RunOutcome::Interrupted { signal } => {
                lines.push(format!("run {id} stopped by {} after {took}: {counts}", signals::name(signal)));
                lines.push(format!("to continue: `olmo-pipe resume {id}`, or repeat the command"));
            }
        }
        if !report.results.is_empty() {
            lines.push("results:".into());
            let width = report.results.keys().map(String::len).max().unwrap_or(0);
            for (name, path) in &report.results {
                lines.push(format!("  {:<width$}  {}", escape_control(name), self.relative_path(path)));
            }
        }
        lines.join("\n") + "\n"
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.show();
    }
}

impl Watch for Terminal {
    fn fetching(&mut self, what: &str, done: u64, total: Option<u64>) {
        let counted = match total {
            Some(total) => format!("{} of {}", bytes(done), bytes(total)),
            None if done == 0 => String::new(),
            None => bytes(done),
        };
        let text = format!("fetching {}  {counted}", escape_control(what));
        let ended = total.is_some_and(|total| done >= total);
        if self.incoming.as_ref().is_none_or(|incoming| incoming.what != what) {
            if let Some(bar) = self.incoming.take().and_then(|incoming| incoming.bar) {
                bar.finish_and_clear();
            }
            let bar = self.bars.as_ref().map(|bars| bars.add(ProgressBar::new_spinner()));
            if bar.is_none() || ended {
                self.line(text.trim_end());
            }
            self.incoming = Some(Incoming { what: what.to_owned(), bar, printed: Instant::now() });
        }
        let Some(incoming) = &mut self.incoming else { return };
        match &incoming.bar {
            Some(bar) if ended => bar.finish_and_clear(),
            Some(bar) => {
                bar.set_message(text);
                bar.tick();
            }
            None if incoming.printed.elapsed() >= PLAIN_EVERY => {
                incoming.printed = Instant::now();
                self.line(text.trim_end());
            }
            None => {}
        }
    }

    fn fetch_waiting(&mut self, text: &str) {
        self.line(&escape_control(text));
    }

    fn event(&mut self, event: &RunEvent) {
        if !self.buffered.is_empty() && !matches!(event, RunEvent::Cached { .. }) {
            self.show();
        }
        match event {
            RunEvent::Opened { experiment, stages, resumed, .. } => {
                self.width = stages.iter().map(String::len).max().unwrap_or(0);
                self.stages = stages.len();
                let verb = if *resumed { "resumes" } else { "begins" };
                self.line(&format!("{} {verb}: {} stages", escape_control(experiment), stages.len()));
            }
            RunEvent::Cached { place, cut_off, .. } => {
                self.cached.insert(place.stage.clone());
                let text = if *cut_off { "cached (its recomputed inputs are unchanged)" } else { "cached" };
                match &self.bars {
                    Some(_) => self.stage_line(place, text),
                    None => self.buffer(&self.format_line(place, text)),
                }
            }
            RunEvent::Waiting { place, holder, .. } => {
                let who = holder.map(|pid| format!("process {pid}")).unwrap_or_else(|| "another process".into());
                self.stage_line(place, &format!("waiting: {who} is running the same stage"));
            }
            RunEvent::Started { place, continues, after, .. } => {
                self.ran.insert(place.stage.clone());
                self.start(place);
                match (continues, after) {
                    (true, Some(label)) => self.stage_line(place, &format!("resuming after {label}")),
                    (true, None) => self.stage_line(place, "resuming where it stopped"),
                    // A progress bar already shows that the stage is running.
                    _ if self.bars.is_none() => self.stage_line(place, "running"),
                    _ => {}
                }
            }
            RunEvent::Resumed { place, step, .. } if *step > 0 => {
                self.stage_line(place, &format!("continues from step {step}"));
            }
            RunEvent::Item { place, port, label, .. } => self.stage_line(place, &format!("{port}: {label}")),
            RunEvent::Progress { place, done, total, unit, message } => {
                self.progress(place, *done, *total, unit, message);
            }
            RunEvent::Metrics { place, values, .. } => self.metrics(place, values),
            RunEvent::Message { place, level, text } => {
                let mark = if *level == MessageLevel::Warning { "warning: " } else { "" };
                self.stage_line(place, &format!("{mark}{text}"));
            }
            RunEvent::Finished { place, shared, used, .. } => {
                self.end(place);
                match shared {
                    true => {
                        self.cached.insert(place.stage.clone());
                        self.stage_line(place, "done by another process; its result is used");
                    }
                    false => self.stage_line(place, &done(used)),
                }
            }
            RunEvent::Failed { place, failure, log } => {
                self.end(place);
                self.stage_line(place, &format!("failed: {}", failure.message));
                for line in log {
                    self.indented_line(&format!("| {line}"), LOG_LINE);
                }
                if let Some(hint) = &failure.hint {
                    self.indented_line(&format!("help: {hint}"), MESSAGE);
                }
            }
            RunEvent::Retrying { place, failure, class, log, pause_s, tried, max } => {
                self.end(place);
                self.stage_line(place, &format!("failed ({}): {}", class.word(), failure.message));
                for line in log {
                    self.indented_line(&format!("| {line}"), LOG_LINE);
                }
                let pause = duration(Duration::from_secs(*pause_s));
                self.stage_line(place, &format!("retrying in {pause} ({tried} of {max})"));
            }
            RunEvent::Delayed { place, short, holders } => {
                let what = short.join(" and ");
                let who: Vec<String> = holders.iter().map(|(pid, what)| format!("{what} (process {pid})")).collect();
                let who = if who.is_empty() { "other processes".to_owned() } else { who.join(", ") };
                self.stage_line(place, &format!("waiting for {what}, held by {who}"));
            }
            RunEvent::Saving => self.line("SIGUSR1: running stages save their state and continue"),
            RunEvent::Skipped { place, because } => {
                self.skipped += 1;
                self.stage_line(place, &format!("skipped because `{because}` failed"));
            }
            RunEvent::Interrupted { place } => {
                self.end(place);
                self.stage_line(place, "stopped");
            }
            RunEvent::Damaged { place, maker, why, .. } => {
                self.end(place);
                self.stage_line(place, &format!("warning: {why}; running `{maker}` again"));
            }
            RunEvent::Stopping { signal } => {
                let text = "stages save their state and stop (a second signal kills them)";
                self.line(&format!("{}: {text}", signals::name(*signal)));
            }
            RunEvent::Resumed { .. } | RunEvent::Closed { .. } | RunEvent::Unknown => {}
        }
    }
}

fn done(used: &Used) -> String {
    format!("done in {}", duration(Duration::try_from_secs_f64(used.wall_s).unwrap_or_default()))
}

/// Formats a number in a few characters.
fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if value == 0.0 => "0".into(),
        0.001..100_000.0 => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}
