//! `olmo-pipe data …`: hands its arguments to the worker, which knows the data formats. References
//! to artifacts become folders on the way.

use std::ffi::OsString;
use std::path::Path;

use olmo_base::ArtifactId;
use olmo_stage::PortType;

use super::command::{WorkerCommand, is_digest_prefix};
use crate::artifacts::Reference;
use crate::cli::common::Common;
use crate::run::{folder, read_recorded};
use crate::spec::Binding;
use crate::store::Store;
use crate::ui::{Exit, Problem};

/// Preview, measure and audit data, and show the rows of training steps.
#[derive(clap::Args)]
#[command(disable_help_flag = true, after_help = "Example: olmo-pipe data preview latest:chat_rows.memmap")]
pub(crate) struct Data {
    /// `preview`, `stats`, `audit`, `inspect` or `order` with its arguments; --help lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    words: Vec<OsString>,
}

/// Options of the worker that take no value.
const FLAGS: [&str; 5] = ["--ids", "--json", "--help", "-h", "--version"];

impl Data {
    pub(crate) fn run(self, common: &Common) -> Result<Exit, Problem> {
        let mut command = WorkerCommand::new("data");
        let mut words = self.words.into_iter();
        let what = words.next();
        let inspects = what.as_ref().is_some_and(|what| what == "inspect");
        let mut resolved = false;
        command.args(what);
        let mut value = false;
        for word in words {
            let text = word.to_str().unwrap_or_default().to_owned();
            let option = text.starts_with('-');
            // A word after an option is its value, not the artifact.
            let place = !option && !value && !resolved && !Path::new(&word).exists();
            value = option && !text.contains('=') && !FLAGS.contains(&text.as_str());
            let target = if place { resolve_target(common, &text, inspects)? } else { None };
            let Some((store, target)) = target else {
                command.args([word]);
                continue;
            };
            resolved = true;
            command.artifact(&store, target.artifact)?;
            if let Some(params) = target.params {
                command.args(["--params".into(), params.into()]);
            }
            if let Some(metrics) = target.metrics {
                command.args(["--metrics".into()]);
                command.folder(&store, metrics)?;
            }
        }
        command.run()
    }
}

/// What an argument names: an artifact, or the rows that a stage of a run reads.
struct Target {
    artifact: ArtifactId,
    params: Option<String>,
    metrics: Option<ArtifactId>,
}

/// Resolves `text` to an artifact; `None` if it is a path.
fn resolve_target(common: &Common, text: &str, inspects: bool) -> Result<Option<(Store, Target)>, Problem> {
    if is_digest_prefix(text) {
        let store = common.read_store()?;
        let artifact = store.find_prefix(text)?;
        return Ok(Some((store, Target { artifact, params: None, metrics: None })));
    }
    if text.contains('/') || text.is_empty() {
        return Ok(None);
    }
    let store = common.read_store()?;
    let (run, stage) = text.split_once(':').map_or((text, None), |(run, stage)| (run, Some(stage)));
    if inspects && !stage.is_some_and(|stage| stage.contains('.')) {
        return resolve_rows(&store, run, stage).map(|found| Some((store, found)));
    }
    let artifact = Reference::resolve(&store, text)?;
    Ok(Some((store, Target { artifact, params: None, metrics: None })))
}

/// The rows that stage `stage` of run `run` reads. Without `stage`, the run must have exactly
/// one stage with a memmap input.
fn resolve_rows(store: &Store, run: &str, stage: Option<&str>) -> Result<Target, Problem> {
    let id = crate::run::find(store, run)?;
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
            let message = format!("run {id} has {} stages that read rows", takers.len());
            let each: Vec<String> = takers.iter().map(|name| format!("{run}:{name}")).collect();
            let hint = if each.is_empty() { None } else { Some(format!("name one: {}", each.join(" or "))) };
            return Err(Problem::new(Exit::BadInput, "data::stage", &message, hint.as_deref()));
        }
    };
    let Some((port, spec)) = rows(name).zip(resolved.stages.get(name)) else {
        let message = format!("run {id} has no stage `{name}` that reads rows");
        let hint = format!("there are: {}", takers.join(", "));
        return Err(Problem::new(Exit::BadInput, "data::stage", &message, Some(&hint)));
    };
    let artifact = match spec.inputs.get(&port).map(Vec::as_slice) {
        Some([Binding::Port(from)]) => Reference::resolve(store, &format!("{id}:{}.{}", from.stage, from.port))?,
        Some([Binding::Path(path)]) => store.commit_reference(PortType::Memmap, path)?,
        _ => {
            let message = format!("the rows of stage `{name}` are not a single artifact");
            let hint = Some("name the rows by the first digits of their digest instead");
            return Err(Problem::new(Exit::BadInput, "data::stage", &message, hint));
        }
    };
    let outputs = &spec.description.contract.outputs;
    let metrics = outputs.iter().find(|(_, port)| port.port_type == PortType::Metrics).and_then(|(port, _)| {
        // A running training has no metrics yet.
        Reference::resolve(store, &format!("{id}:{name}.{port}")).ok()
    });
    Ok(Target { artifact, params: Some(spec.params.to_string()), metrics })
}
