//! Runs one stage in a worker process: the [`Stage`] trait, the [`Context`] through which a stage
//! talks to the engine, and the entry point of a worker ([`main_run`]). It never decides where
//! results are stored; the engine commits them.

use std::collections::BTreeMap;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use olmo_base::files::{self, Durability};
use olmo_base::seal::{self, Seal};
use olmo_base::{Digest, journal};
use olmo_dist::{Launch, ProcessGroup};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::contract::{Contract, Description};
use crate::error::StageError;
use crate::protocol::{self, Event, InputItem, MessageLevel, Outcome, Request, StageResult};
use crate::ranks::{self, Role};
use crate::rules::{Finding, Level, Question};

/// A built-in stage: the type of its params, its contract, and its code.
pub trait Stage {
    /// Params of the stage. The type must have `deny_unknown_fields`, and a serde default for every
    /// optional field.
    type Params: DeserializeOwned + JsonSchema;
    /// The content of the `stage.yaml` next to the code.
    const CONTRACT: &'static str;
    /// Reads the inputs and writes the outputs. Equal params and inputs must give equal bytes, so
    /// an output must not contain a time, a host, a path or the number of an attempt.
    fn run(params: Self::Params, context: &mut Context) -> Result<(), StageError>;
    /// Checks the params, and the inputs that already exist, before a run. It must be quick and
    /// must not write anything. Called only if the contract has `check: true`.
    fn check(_params: &Self::Params, _question: &Question) -> Vec<Finding> {
        Vec::new()
    }
}

/// A stage with its types erased, for the table of a worker.
pub struct Entry {
    pub describe: fn() -> Description,
    pub run: fn(&mut Context) -> Result<(), StageError>,
    pub check: fn(&Question) -> Vec<Finding>,
}

impl Entry {
    /// The entry of stage `S`.
    pub const fn of<S: Stage>() -> Self {
        Self { describe: describe::<S>, run: run::<S>, check: check::<S> }
    }
}

fn describe<S: Stage>() -> Description {
    let contract: Contract =
        serde_yaml::from_str(S::CONTRACT).unwrap_or_else(|e| panic!("a built-in stage.yaml is valid (tested): {e}"));
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut params = settings.into_generator().into_root_schema_for::<S::Params>().to_value();
    if let Some(map) = params.as_object_mut() {
        map.remove("$schema");
        map.remove("title");
        map.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    Description { contract, params }
}

fn run<S: Stage>(context: &mut Context) -> Result<(), StageError> {
    let params = serde_json::from_value(context.request.params.clone()).map_err(|e| {
        StageError::fail("worker::params", format!("the params of stage `{}` do not fit: {e}", context.request.stage))
    })?;
    S::run(params, context)
}

fn check<S: Stage>(question: &Question) -> Vec<Finding> {
    match serde_json::from_value(question.params.clone()) {
        Ok(params) => S::check(&params, question),
        Err(e) => vec![Finding::error("worker::params", "", format!("the params do not fit: {e}"))],
    }
}

/// Enforces rules.
///
/// # Errors
/// The first error among `findings`, with the messages of all errors of the same code.
pub fn enforce(findings: impl IntoIterator<Item = Finding>) -> Result<(), StageError> {
    let errors: Vec<Finding> = findings.into_iter().filter(|finding| finding.level == Level::Error).collect();
    let Some(first) = errors.first() else { return Ok(()) };
    let same = errors.iter().filter(|finding| finding.code == first.code);
    let messages: Vec<&str> = same.map(|finding| finding.message.as_str()).collect();
    let failure = StageError::fail(&first.code, messages.join("; "));
    Err(match &first.hint {
        Some(hint) => failure.hint(hint.as_str()),
        None => failure,
    })
}

/// The interface between a running stage and the engine. Of several ranks, only the first one
/// reports to the engine.
pub struct Context {
    pub request: Request,
    attempt: PathBuf,
    /// `None` on a rank that does not report.
    events: Option<journal::Writer<Event>>,
    /// How this rank was started, if the stage has several.
    launch: Option<Launch>,
    stop: Arc<AtomicBool>,
    save: Arc<AtomicBool>,
    last_progress: Option<Instant>,
}

impl Context {
    /// Opens the attempt in folder `attempt`.
    pub fn open(attempt: &Path) -> io::Result<Self> {
        Self::new(attempt, read_request(attempt)?, None)
    }

    /// Opens the attempt in folder `attempt`, for the rank that `launch` describes if there are
    /// several.
    fn new(attempt: &Path, mut request: Request, launch: Option<Launch>) -> io::Result<Self> {
        if launch.is_some() {
            request.threads = ranks::threads(&request);
        }
        let reports = launch.as_ref().is_none_or(|launch| launch.world.rank == 0);
        let events = reports.then(|| journal::Writer::open(&attempt.join(protocol::EVENTS), false)).transpose()?;
        let (stop, save) = (Arc::default(), Arc::default());
        Ok(Self { request, attempt: attempt.to_owned(), events, launch, stop, save, last_progress: None })
    }

    /// Joins the other ranks, if the stage has several. They must run the same program and have the
    /// same `facts`.
    ///
    /// # Errors
    /// A rank is missing, or differs in a fact; the launcher has not told where the ranks meet.
    pub fn join_ranks(&self, mut facts: BTreeMap<String, String>) -> Result<Option<ProcessGroup>, StageError> {
        let Some(launch) = &self.launch else { return Ok(None) };
        let program = std::env::current_exe().and_then(|path| Ok(Digest::of(&std::fs::read(path)?)));
        let program =
            program.map_err(|e| StageError::fail("worker::ranks", format!("cannot read the program: {e}")))?;
        facts.insert("build".into(), program.to_string());
        Ok(Some(ProcessGroup::join(&launch.join(facts)?)?))
    }

    /// Number of ranks of the stage on this machine.
    pub fn local_ranks(&self) -> usize {
        self.launch.as_ref().map_or(1, |launch| launch.world.local_size)
    }

    /// Number of ranks of the stage.
    pub fn ranks(&self) -> usize {
        self.launch.as_ref().map_or(1, |launch| launch.world.size)
    }

    /// The items of input port `port`. Empty if the port is optional and absent.
    pub fn inputs(&self, port: &str) -> &[InputItem] {
        self.request.inputs.get(port).map_or(&[], Vec::as_slice)
    }

    /// The files of `port`, item by item; those of an item sorted by path.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn input_files(&self, port: &str) -> Result<Vec<PathBuf>, StageError> {
        let mut files = Vec::new();
        for item in self.inputs(port) {
            let first = files.len();
            let mut folders = vec![item.path.clone()];
            while let Some(folder) = folders.pop() {
                let entries = std::fs::read_dir(&folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
                for entry in entries.map_err(|e| StageError::io(&folder, e))? {
                    let path = entry.path();
                    if path.is_dir() { folders.push(path) } else { files.push(path) }
                }
            }
            files[first..].sort();
        }
        Ok(files)
    }

    /// The folder of the single artifact in `port`, if there is one.
    pub fn optional_input(&self, port: &str) -> Option<PathBuf> {
        self.inputs(port).first().map(|item| item.path.clone())
    }

    /// The folder of the single artifact in `port`.
    pub fn input(&self, port: &str) -> Result<PathBuf, StageError> {
        self.optional_input(port)
            .ok_or_else(|| StageError::fail("worker::missing_input", format!("input port `{port}` is empty")))
    }

    /// The folder to fill for output port `port`. It is created on first use.
    pub fn output(&self, port: &str) -> Result<PathBuf, StageError> {
        self.folder(self.attempt.join("out").join(port))
    }

    /// The folder to fill for item `label` of list port `port`. Call [`Context::item_done`] once it
    /// is complete.
    pub fn item_dir(&self, port: &str, label: &str) -> Result<PathBuf, StageError> {
        self.folder(self.attempt.join("items").join(port).join(label))
    }

    /// A private folder that is kept for later attempts. A later attempt must use only files that
    /// are sealed ([`Seal`]) and match their seals.
    pub fn state_dir(&self) -> Result<PathBuf, StageError> {
        self.folder(self.request.state_dir.clone())
    }

    fn folder(&self, path: PathBuf) -> Result<PathBuf, StageError> {
        std::fs::create_dir_all(&path).map_err(|e| StageError::io(&path, e))?;
        Ok(path)
    }

    /// Reports an item as complete. The engine then commits it, so its folder must not change
    /// anymore. Seals the item first ([`Seal`]), unless it is already sealed.
    ///
    /// # Errors
    /// The item cannot be sealed.
    pub fn item_done(&mut self, port: &str, label: &str) -> Result<(), StageError> {
        let folder = self.attempt.join("items").join(port).join(label);
        if !seal::is_sealed(&folder) {
            Seal::write(&folder).map_err(|e| StageError::io(&folder, e))?;
        }
        self.event(&Event::Item { port: port.into(), label: label.into() });
        Ok(())
    }

    /// Reports progress. At most ten reports per second reach the engine.
    pub fn progress(&mut self, done: u64, total: u64, unit: &str, message: impl Into<String>) {
        let due = self.last_progress.is_none_or(|t| t.elapsed() > Duration::from_millis(100));
        if due || done == total {
            self.last_progress = Some(Instant::now());
            self.event(&Event::Progress { done, total, unit: unit.into(), message: message.into() });
        }
    }

    /// Reports metrics of a step, for display only. Results belong in an output.
    pub fn metrics(&mut self, step: u64, values: BTreeMap<String, f64>) {
        self.event(&Event::Metrics { step, values });
    }

    /// Shows a message to the user.
    pub fn message(&mut self, text: impl Into<String>) {
        self.event(&Event::Message { level: MessageLevel::Info, text: text.into() });
    }

    /// Shows a warning.
    pub fn warning(&mut self, text: impl Into<String>) {
        self.event(&Event::Message { level: MessageLevel::Warning, text: text.into() });
    }

    /// Reports how to need less memory. The engine shows it if the process is killed for memory.
    pub fn memory_hint(&mut self, text: impl Into<String>) {
        self.event(&Event::MemoryHint { text: text.into() });
    }

    /// Appends a line to the attempt's `perf.jsonl`, for times and speeds, which an output must not
    /// contain. If the line cannot be written, it is dropped.
    pub fn perf(&self, line: &Value) {
        if self.events.is_none() {
            return;
        }
        let path = self.attempt.join(protocol::PERF);
        let appended = files::open_or_create_regular(&path).and_then(|mut file| {
            file.seek(SeekFrom::End(0))?;
            file.write_all(format!("{line}\n").as_bytes())
        });
        if let Err(e) = appended {
            eprintln!("cannot append to {}: {e}", path.display());
        }
    }

    /// Sends an event to the engine. If it cannot be written, it is dropped: events only inform,
    /// and the engine finds the item of a lost [`Event::Item`] by its folder.
    pub fn event(&mut self, event: &Event) {
        if let Some(events) = &mut self.events
            && let Err(e) = events.append(event)
        {
            eprintln!("cannot append to events.jsonl: {e}");
        }
    }

    /// Whether SIGTERM or SIGINT asked the stage to save its state and stop.
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether SIGUSR1 has asked the stage to save its state since the last call. Only stages with
    /// a state need to call this.
    pub fn save_requested(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }

    /// Fails with [`StageError::Interrupted`] once a stop was requested. For stages without a state
    /// to save.
    pub fn check_stop(&self) -> Result<(), StageError> {
        if self.stop_requested() { Err(StageError::Interrupted) } else { Ok(()) }
    }
}

/// Writes `value` as pretty JSON with a final newline.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StageError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| StageError::io(path, e.into()))?;
    text.push('\n');
    std::fs::write(path, text).map_err(|e| StageError::io(path, e))
}

/// Runs the attempt in folder `attempt`, or one rank of it. `find` looks up the stage by its name.
pub fn main_run(attempt: &Path, find: impl Fn(&str) -> Option<Entry>) -> ExitCode {
    let request = match read_request(attempt) {
        Ok(request) => request,
        Err(e) => return cannot_open(attempt, &e),
    };
    let (role, refused) = match Role::of(&request) {
        Ok(role) => (role, None),
        Err(error) => (Role::Alone, Some(error)),
    };
    let (launch, count) = match role {
        Role::Rank(launch) => (Some(launch), None),
        Role::Launcher(count) => (None, Some(count)),
        Role::Alone => (None, None),
    };
    let place = match &launch {
        Some(launch) => ranks::result_path(attempt, launch),
        None => Some(attempt.join(protocol::RESULT)),
    };
    let follows_launcher = launch.as_ref().is_some_and(|launch| launch.launcher == olmo_dist::Launcher::OlmoPipe);
    let mut context = match Context::new(attempt, request, launch) {
        Ok(context) => context,
        Err(e) => return cannot_open(attempt, &e),
    };
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        if let Err(e) = signal_hook::flag::register(signal, context.stop.clone()) {
            eprintln!("cannot watch for signal {signal}: {e}");
        }
    }
    if let Err(e) = signal_hook::flag::register(signal_hook::consts::SIGUSR1, context.save.clone()) {
        eprintln!("cannot watch for SIGUSR1: {e}");
    }
    if follows_launcher {
        // The launcher has reported the start.
        if let Err(e) = ranks::follow_launcher(context.stop.clone(), context.save.clone()) {
            eprintln!("cannot follow the launcher: {e}");
        }
    } else {
        // After this event, the engine may send signals.
        context.event(&Event::Started { pid: std::process::id() });
    }
    let result = match (refused, count) {
        (Some(error), _) => StageResult::of(Err(error)),
        (None, Some(count)) => {
            // From here on, the first rank writes the events.
            context.events = None;
            ranks::launch(attempt, &context.request, count, &context.stop, &context.save)
        }
        (None, None) => StageResult::of(run_stage(&mut context, find)),
    };
    if let Some(failure) = &result.failure {
        eprintln!("error[{}]: {}", failure.code, failure.message);
    }
    let code = match result.outcome {
        Outcome::Succeeded => ExitCode::SUCCESS,
        Outcome::Failed => ExitCode::FAILURE,
        Outcome::Interrupted => ExitCode::from(ranks::INTERRUPTED),
    };
    match place.map_or(Ok(()), |place| write_result(&place, &result)) {
        Ok(()) => code,
        Err(e) => {
            eprintln!("cannot write result.json: {e}");
            ExitCode::from(2)
        }
    }
}

fn cannot_open(attempt: &Path, error: &io::Error) -> ExitCode {
    eprintln!("cannot open the attempt in {}: {error}", attempt.display());
    ExitCode::from(2)
}

/// Reads the request of the attempt in folder `attempt`.
///
/// # Errors
/// The request cannot be read, or is invalid.
pub fn read_request(attempt: &Path) -> io::Result<Request> {
    let text = std::fs::read(attempt.join(protocol::REQUEST))?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

/// Runs the stage of `context` in this process.
fn run_stage(context: &mut Context, find: impl Fn(&str) -> Option<Entry>) -> Result<(), StageError> {
    let stage = context.request.stage.clone();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match find(&stage) {
        _ if context.request.protocol != protocol::PROTOCOL_VERSION => Err(StageError::fail(
            "worker::protocol",
            format!(
                "the engine uses protocol {}, but this worker uses {}",
                context.request.protocol,
                protocol::PROTOCOL_VERSION
            ),
        )
        .hint("build both again: cargo build --release")),
        Some(entry) => (entry.run)(context),
        None => Err(StageError::fail("worker::unknown_stage", format!("this worker has no stage `{stage}`"))),
    }))
    .unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(StageError::fail("worker::panic", format!("stage `{stage}` panicked: {}", text.unwrap_or("no message")))
            .hint("this is a bug in the stage; its log shows where"))
    })
}

/// Writes `result` to the file `path` atomically.
fn write_result(path: &Path, result: &StageResult) -> io::Result<()> {
    files::write(path, &serde_json::to_vec_pretty(result)?, Durability::Machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_of_the_first_code_are_enforced_together() {
        let findings = [
            Finding::warning("a::warning", "", "only a warning"),
            Finding::error("a::first", "x", "`x` is wrong").hint("change it"),
            Finding::error("a::second", "z", "`z` is wrong"),
            Finding::error("a::first", "y", "`y` is wrong"),
        ];
        let Err(StageError::Failed(failure)) = enforce(findings.clone()) else { panic!("there are errors") };
        assert_eq!((failure.code.as_str(), failure.message.as_str()), ("a::first", "`x` is wrong; `y` is wrong"));
        assert_eq!(failure.hint.as_deref(), Some("change it"));
        assert!(enforce(findings.into_iter().take(1)).is_ok());
    }
}
