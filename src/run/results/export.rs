//! Chooses the folder of each named result and copies the result there. It never replaces a folder
//! that the run itself reads.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use olmo_base::{IoContext as _, LockedFile};
use serde_json::{Map, Value};

use crate::run::api::RunId;
use crate::run::error::RunError;
use crate::run::plan::board::{Board, End as StageEnd, Inputs};
use crate::run::record::{self, Git};
use crate::run::results::marker::{MadeBy, Marker};
use crate::run::results::place::{self, Place};
use crate::spec::{Binding, PortRef, Resolved};
use crate::store::{Output, Store};

/// The folder of an experiment's results: `out/EXPERIMENT`. Results must not replace what the run
/// reads. If the run reads results of an earlier run from there, its own results go to
/// `out/EXPERIMENT-2`; if it reads from that folder, they go to `out/EXPERIMENT-3`, and so on.
pub(super) fn folder(resolved: &Resolved) -> PathBuf {
    let out = resolved.root.join("out");
    let name = &resolved.experiment;
    let paths = resolved.stages.iter().flat_map(|(_, stage)| stage.inputs.values().flatten());
    let last_read = paths.filter_map(|binding| match binding {
        Binding::Path(path) => generation(&out, name, path),
        _ => None,
    });
    match last_read.max() {
        None => out.join(name),
        Some(generation) => out.join(format!("{name}-{}", generation + 1)),
    }
}

/// Which result folder of experiment `name` contains `path`: 1 for `out/NAME`, N for `out/NAME-N`,
/// `None` if none does.
fn generation(out: &Path, name: &str, path: &Path) -> Option<u64> {
    let inside =
        |out: &Path, path: &Path| path.strip_prefix(out).ok()?.components().next().map(|c| c.as_os_str().to_owned());
    // Symbolic links may give the same folder several names.
    let found = inside(out, path).or_else(|| inside(&out.canonicalize().ok()?, &path.canonicalize().ok()?))?;
    match found.to_str()?.strip_prefix(name)? {
        "" => Some(1),
        rest => rest.strip_prefix('-')?.parse().ok(),
    }
}

/// The exported results of a run.
#[derive(Debug, Default)]
pub(crate) struct Exported {
    /// Paths by name. Results of a trial are named `TRIAL/NAME`.
    pub results: BTreeMap<String, PathBuf>,
    /// Notices for the user, such as files that were set aside.
    pub notices: Vec<String>,
}

/// One named result.
struct Target<'r> {
    trial: Option<&'r str>,
    name: &'r str,
    port: &'r PortRef,
}

impl Target<'_> {
    fn folder(&self, results: &Path) -> PathBuf {
        self.trial.map_or_else(|| results.to_owned(), |trial| results.join(trial))
    }
}

fn targets(resolved: &Resolved) -> impl Iterator<Item = Target<'_>> {
    let shared = resolved.outputs.iter().map(|(name, port)| Target { trial: None, name, port });
    shared.chain(resolved.trials.iter().flat_map(|trial| {
        let trial_name = Some(trial.name.as_str());
        trial.outputs.iter().map(move |(name, port)| Target { trial: trial_name, name, port })
    }))
}

/// Checks that every folder for the results of the stages `names` is free or was created by
/// olmo-pipe. Runs before the stages do, so that a conflict does not show up after hours of work.
///
/// # Errors
/// [`RunError::ForeignResults`] with the first folder that is neither.
pub(crate) fn check(resolved: &Resolved, names: &[String], store: &Store) -> Result<(), RunError> {
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    for target in targets(resolved).filter(|target| names.contains(target.port.stage.as_str())) {
        let place = target.folder(&folder(resolved)).join(target.name);
        if Marker::read(&place).is_none() {
            Place::inspect(&place, store)?;
        }
    }
    Ok(())
}

/// Copies each named output of `resolved` whose stage is done into its folder. Outputs that differ
/// between the trials of a sweep go into one folder for each trial. A result is replaced atomically
/// by a complete new one. If the process is killed, at most a folder whose name starts with a dot
/// remains, which the next run removes.
///
/// # Errors
/// An artifact is damaged, a folder was not created by olmo-pipe, or an I/O error occurred.
pub(crate) fn export(resolved: &Resolved, board: &Board, store: &Store, run: &RunId) -> Result<Exported, RunError> {
    let results = folder(resolved);
    let mut exported = Exported::default();
    let mut lock: Option<LockedFile> = None;
    let mut made_by: Option<MadeBy> = None;
    // Git runs only if a result is written.
    let git = LazyCell::new(|| Git::read(&resolved.root));
    for target in targets(resolved) {
        let Some(stage) = board.stage(&target.port.stage) else { continue };
        let StageEnd::Done(outputs) = &board.stages[stage].end else { continue };
        let Some(output) = outputs.get(&target.port.port) else { continue };
        let folder = target.folder(&results);
        fs::create_dir_all(&folder).context_during("make the folder", &folder)?;
        if lock.is_none() {
            lock = take_lock(&results)?;
        }
        let made_by = made_by.get_or_insert_with(|| MadeBy {
            run: run.to_string(),
            experiment: resolved.experiment.clone(),
            params: changed_params(resolved),
            git: None,
        });
        let place = folder.join(target.name);
        let marker = marker(made_by, resolved, &target, board, stage, output, store)?;
        place::put(store, output, &place, marker, &|| git.clone(), &mut exported.notices)?;
        let shown = target.trial.map_or_else(|| target.name.to_owned(), |trial| format!("{trial}/{}", target.name));
        exported.results.insert(shown, place);
    }
    if results != resolved.root.join("out").join(&resolved.experiment) && !exported.results.is_empty() {
        exported.notices.push(format!(
            "the results are in {}: this run reads the results of an earlier run, which are left unchanged",
            results.strip_prefix(&resolved.root).unwrap_or(&results).display()
        ));
    }
    Ok(exported)
}

/// Waits for the lock on the folder of an experiment's results. Returns `None` on a file system
/// that cannot lock folders.
fn take_lock(results: &Path) -> Result<Option<LockedFile>, RunError> {
    let folder = File::open(results).context_during("open", results)?;
    Ok(LockedFile::exclusive(folder).ok())
}

/// The params that the experiment, a profile or the command line sets, without paths of this
/// machine.
fn changed_params(resolved: &Resolved) -> Map<String, Value> {
    let changed = resolved.params.iter().filter(|(name, _)| resolved.changed_params.contains(*name));
    let mut params: Map<String, Value> = changed.map(|(name, value)| (name.clone(), value.clone())).collect();
    params.values_mut().for_each(|value| shorten_paths(value, &resolved.root));
    let mut record = serde_json::json!({"resolved": {"params": params}});
    record::hide(&mut record, &resolved.variables);
    match record.pointer_mut("/resolved/params").map(Value::take) {
        Some(Value::Object(params)) => params,
        _ => Map::new(),
    }
}

/// Makes absolute paths below `root` relative to it.
fn shorten_paths(value: &mut Value, root: &Path) {
    match value {
        Value::String(text) => {
            if let Ok(below) = Path::new(text.as_str()).strip_prefix(root) {
                *text = below.display().to_string();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| shorten_paths(item, root)),
        Value::Object(map) => map.values_mut().for_each(|item| shorten_paths(item, root)),
        _ => {}
    }
}

/// Creates the marker for `output` of stage `stage`.
fn marker(
    made_by: &MadeBy,
    resolved: &Resolved,
    target: &Target<'_>,
    board: &Board,
    stage: usize,
    output: &Output,
    store: &Store,
) -> Result<Marker, RunError> {
    let mut made_by = made_by.clone();
    let trial = resolved.trials.iter().find(|trial| Some(trial.name.as_str()) == target.trial);
    if let Some(trial) = trial {
        made_by.params.extend(trial.values.iter().map(|(path, value)| (path.clone(), value.clone())));
    }
    let mut keys = BTreeMap::new();
    for index in &board.stages[stage].tasks {
        if let Ok(Inputs::Ready(inputs)) = board.inputs(*index, store) {
            let label = board.tasks[*index].label.clone().unwrap_or_default();
            keys.insert(label, board.key(*index, &inputs)?.digest());
        }
    }
    Marker::new(made_by, target.trial, target.port, keys, output, store)
}
