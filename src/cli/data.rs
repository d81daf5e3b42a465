//! `olmo-pipe data …`: looks at data. The worker, which knows what data is, does the looking; here an artifact's digest
//! becomes a folder.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use olmo_base::Digest;
use olmo_stage::PortType;

use super::{Common, Exit, Problem};
use crate::artifacts::{Reference, find_run};
use crate::exec::Worker;
use crate::run::{folder, read_recorded};
use crate::spec::Binding;
use crate::store::{Handover, Store};

/// Looks at data: what is trained, how much there is, what is wrong with it.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Data {
    /// `preview`, `stats`, `audit`, `inspect` or `order`, and its words; `--help` behind one of them lists these.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Options that take no value.
const FLAGS: [&str; 5] = ["--ids", "--json", "--help", "-h", "--version"];

impl Data {
    pub fn run(self, common: &Common) -> Result<Exit, Problem> {
        let path = Worker::place();
        let mut command = Command::new(&path);
        command.arg("data").stdin(Stdio::null());
        // Held until the worker has ended.
        let mut folder = None;
        let mut words = self.words.into_iter();
        let what = words.next();
        let inspects = what.as_ref().is_some_and(|what| what == "inspect");
        command.args(what);
        let mut value = false;
        for word in words {
            let text = word.to_str().unwrap_or_default().to_owned();
            let option = text.starts_with('-');
            // What stands behind an option is its value, not what is looked at.
            let place = !option && !value && folder.is_none() && !Path::new(&word).exists();
            value = option && !text.contains('=') && !FLAGS.contains(&text.as_str());
            let looked_at = if place { looked_at(common, &text, inspects)? } else { None };
            let Some((store, looked_at)) = looked_at else {
                command.arg(word);
                continue;
            };
            // In the store files are linked, not copied; but it may be one that this user only reads.
            let place = tempfile::tempdir_in(store.root()).or_else(|_| tempfile::tempdir()).map_err(|e| {
                Problem::new(Exit::Store, "cli::folder", &format!("cannot make a temporary folder: {e}"), None)
            })?;
            command.arg(materialize(&store, looked_at.artifact, place.path())?);
            command.arg("--objects").arg(store.objects_dir());
            if let Some(params) = looked_at.params {
                command.arg("--params").arg(params);
            }
            if let Some(metrics) = looked_at.metrics {
                command.arg("--metrics").arg(materialize(&store, metrics, place.path())?);
            }
            folder = Some(place);
        }
        let status = command.status().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                let hint = Some("build it: cargo build --release");
                Problem::new(
                    Exit::Environment,
                    "exec::worker_missing",
                    &format!("there is no {}", path.display()),
                    hint,
                )
            }
            _ => Problem::new(Exit::Environment, "exec::worker", &format!("{}: {e}", path.display()), None),
        })?;
        Ok(match status.code() {
            Some(0) => Exit::Success,
            Some(2) => Exit::BadInput,
            Some(74) => Exit::Output,
            _ => Exit::CheckFailed,
        })
    }
}

/// Whether `word` may be the start of a digest.
fn digits(word: &str) -> bool {
    (4..=64).contains(&word.len()) && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a word names: an artifact, or what a stage of a run took.
struct LookedAt {
    artifact: Digest,
    params: Option<String>,
    metrics: Option<Digest>,
}

/// What `text` names; `None` if it is a path, or nothing that is known here.
fn looked_at(common: &Common, text: &str, inspects: bool) -> Result<Option<(Store, LookedAt)>, Problem> {
    if digits(text) {
        let store = common.read_store()?;
        let artifact = store.find_prefix(text)?;
        return Ok(Some((store, LookedAt { artifact, params: None, metrics: None })));
    }
    if text.contains('/') || text.is_empty() {
        return Ok(None);
    }
    let store = common.read_store()?;
    let (run, stage) = text.split_once(':').map_or((text, None), |(run, stage)| (run, Some(stage)));
    if inspects && !stage.is_some_and(|stage| stage.contains('.')) {
        return trained(&store, run, stage).map(|found| Some((store, found)));
    }
    let artifact = Reference::resolve(&store, text)?;
    Ok(Some((store, LookedAt { artifact, params: None, metrics: None })))
}

/// The rows that stage `stage` of run `run` took; without `stage`, those of the one stage that takes rows.
fn trained(store: &Store, run: &str, stage: Option<&str>) -> Result<LookedAt, Problem> {
    let id = find_run(store, run)?;
    let recorded = read_recorded(&folder(store, &id), &id)?;
    let resolved = recorded.resolved;
    let rows = |name: &str| {
        let inputs = &resolved.stages.get(name)?.description.contract.inputs;
        inputs
            .iter()
            .find(|(_, port)| port.port_type == PortType::Memmap && !port.optional)
            .map(|(port, _)| port.clone())
    };
    let takers: Vec<&str> = resolved.stages.keys().filter(|name| rows(name).is_some()).collect();
    let name = match (stage, takers.as_slice()) {
        (Some(stage), _) => stage,
        (None, [only]) => only,
        (None, _) => {
            let message = format!("run {id} has {} stages that take rows", takers.len());
            let each: Vec<String> = takers.iter().map(|name| format!("{run}:{name}")).collect();
            let hint = if each.is_empty() { None } else { Some(format!("say which one: {}", each.join(" or "))) };
            return Err(Problem::new(Exit::BadInput, "data::stage", &message, hint.as_deref()));
        }
    };
    let Some((port, spec)) = rows(name).zip(resolved.stages.get(name)) else {
        let message = format!("run {id} has no stage `{name}` that takes rows");
        let hint = format!("there are: {}", takers.join(", "));
        return Err(Problem::new(Exit::BadInput, "data::stage", &message, Some(&hint)));
    };
    let artifact = match spec.inputs.get(&port).map(Vec::as_slice) {
        Some([Binding::Port(from)]) => Reference::resolve(store, &format!("{id}:{}.{}", from.stage, from.port))?,
        Some([Binding::Path(path)]) => store.commit_reference(PortType::Memmap, path)?,
        _ => {
            let message = format!("the rows of stage `{name}` are not one artifact");
            let hint = Some("name the rows themselves, by the digits of their digest");
            return Err(Problem::new(Exit::BadInput, "data::stage", &message, hint));
        }
    };
    let outputs = &spec.description.contract.outputs;
    let metrics = outputs.iter().find(|(_, port)| port.port_type == PortType::Metrics).and_then(|(port, _)| {
        // Of a training that goes on there are none yet.
        Reference::resolve(store, &format!("{id}:{name}.{port}")).ok()
    });
    Ok(LookedAt { artifact, params: Some(spec.params.to_string()), metrics })
}

/// An artifact as a folder below `folder`.
fn materialize(store: &Store, artifact: Digest, folder: &Path) -> Result<OsString, Problem> {
    let place = folder.join(artifact.short());
    store.materialize(artifact, &place, Handover::Link)?;
    Ok(place.into())
}
