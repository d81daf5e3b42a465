//! Remote sources: the lock file next to the experiment, and fetching missing sources into the
//! store.
//!
//! Files are downloaded into `downloads-v1/NAME/` of the store, one folder per source, and become
//! artifacts once they are complete. If the process is killed, the partial download stays there,
//! and the next process continues it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use olmo_base::files::{self, Durability};
use olmo_base::{ArtifactId, Digest, IoContext as _, LockedFile, PathError};
use olmo_remote::{ArtifactFile, Fetched, Lock, Locked, Remote, RemoteError, Source, Want};
use olmo_stage::PortType;
use olmo_stage::contract::InputPort;

use crate::run::api::{Sourcing, Watch};
use crate::run::error::RunError;
use crate::spec::{Binding, Resolved, want};
use crate::store::{self, Store};

impl Sourcing {
    /// The path of the lock of experiment `file`: `EXPERIMENT.lock.yaml` in the same folder.
    pub fn lock_path(file: &Path) -> PathBuf {
        file.with_extension("lock.yaml")
    }

    /// Reads the lock. Returns an empty one if there is none yet.
    pub fn read(&self) -> Result<Lock, RunError> {
        let Some(path) = &self.lock else { return Ok(Lock::default()) };
        let damaged = |why: String| RunError::LockDamaged { path: path.clone(), why };
        match fs::read_to_string(path) {
            Ok(text) => {
                let lock: Lock = serde_yaml::from_str(&text).map_err(|e| damaged(e.to_string()))?;
                lock.checked().map_err(|e| damaged(e.to_string()))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Lock::default()),
            Err(e) => Err(PathError::during("read", path, e).into()),
        }
    }

    /// Adds `fresh` to the lock atomically. Entries that another process added are kept.
    fn add(&self, fresh: &BTreeMap<String, Locked>) -> Result<(), RunError> {
        let Some(path) = self.lock.as_ref().filter(|_| !fresh.is_empty()) else { return Ok(()) };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Held until the file is written, so that two concurrent runs do not lose entries. On a
        // file system without locks, run one at a time.
        let _guard = File::open(folder).context_during("write", path).map(LockedFile::exclusive)?;
        let mut lock = self.read()?;
        lock.sources.extend(fresh.clone());
        let body =
            serde_yaml::to_string(&lock).map_err(|e| PathError::during("write", path, std::io::Error::other(e)))?;
        let text = format!(
            "# What the remote sources of this experiment are, exactly. Written by olmo-pipe; commit it.\n\
             # `olmo-pipe lock FILE --update` looks whether they changed.\n{body}"
        );
        files::write(path, text.as_bytes(), Durability::Machine).context_during("write", path)?;
        Ok(())
    }
}

/// How a source is used: the type of the port, and whether it wants a file or a folder.
type Use = (PortType, Want);

/// The remote sources of the stages `names`, with the ways in which they are used.
pub(crate) fn uses<'n>(resolved: &Resolved, names: impl IntoIterator<Item = &'n String>) -> BTreeMap<String, Vec<Use>> {
    let mut found: BTreeMap<String, Vec<Use>> = BTreeMap::new();
    for stage in names.into_iter().filter_map(|name| resolved.stages.get(name)) {
        for (port, bindings) in &stage.inputs {
            let Some(input) = stage.description.contract.inputs.get(port) else { continue };
            for binding in bindings {
                let Binding::Remote(source) = binding else { continue };
                let uses = found.entry(source.clone()).or_default();
                let one = (input.port_type, want(input));
                if !uses.contains(&one) {
                    uses.push(one);
                }
            }
        }
    }
    found
}

/// The artifacts of the locked source `source` for port `input`.
pub(crate) fn artifacts(source: &str, locked: &Locked, input: &InputPort) -> Vec<ArtifactId> {
    let Ok(parsed) = Source::parse(source) else { return Vec::new() };
    files(&parsed, locked, want(input)).into_iter().map(|files| store::digest_of(input.port_type, &files)).collect()
}

/// The artifacts of a source. Each is given by its files: name, digest and size in bytes.
fn files(source: &Source, locked: &Locked, want: Want) -> Vec<BTreeMap<String, (Digest, u64)>> {
    let all = locked.artifacts(source, want);
    let entry = |(name, file): (String, ArtifactFile<'_>)| (name, (file.blake3(), file.size()));
    all.into_iter().map(|files| files.into_iter().map(entry).collect()).collect()
}

/// Fetches the remote sources `wanted` into the store, unless they are there already. `known` holds
/// the locked sources; newly locked ones are added to it.
pub(crate) fn fetch_missing(
    store: &Store,
    wanted: &BTreeMap<String, Vec<Use>>,
    known: &mut BTreeMap<String, Locked>,
    sourcing: &Sourcing,
    watch: &mut dyn Watch,
) -> Result<(), RunError> {
    let command = |verb: &str| format!("olmo-pipe {verb} {}", sourcing.experiment);
    let unlocked: Vec<String> = wanted.keys().filter(|source| !known.contains_key(*source)).cloned().collect();
    if !unlocked.is_empty() && (sourcing.locked || sourcing.offline) {
        let lock = sourcing.lock.clone().unwrap_or_default();
        let option = if sourcing.locked { "--locked" } else { "--offline" };
        return Err(RunError::NotLocked { sources: unlocked, lock, option, command: command("lock") });
    }
    let mut missing = Vec::new();
    for (source, uses) in wanted {
        let is_stored = match known.get(source) {
            None => false,
            Some(locked) => is_stored(store, source, locked, uses)?,
        };
        if !is_stored {
            missing.push((source, uses));
        }
    }
    if sourcing.offline && !missing.is_empty() {
        let sources = missing.into_iter().map(|(source, _)| source.clone()).collect();
        return Err(RunError::Offline { sources, command: command("lock") });
    }
    if missing.is_empty() {
        return Ok(());
    }
    let remote = Remote::new(&sourcing.settings)?;
    for (source, uses) in missing {
        watch.fetching(source, 0, None);
        let locked = fetch_source(store, &remote, source, uses, known.get(source), watch)?;
        let size = locked.files.iter().map(|file| file.fetched_bytes()).sum();
        watch.fetching(source, size, Some(size));
        if known.insert(source.clone(), locked.clone()).is_none() {
            // Write the lock after each source, since a later source may fail.
            sourcing.add(&BTreeMap::from([(source.clone(), locked)]))?;
        }
    }
    Ok(())
}

/// Resolves the sources `wanted` again, fetches them into the store and writes the lock. Returns
/// the sources that changed.
pub(crate) fn update(
    store: &Store,
    wanted: &BTreeMap<String, Vec<Use>>,
    sourcing: &Sourcing,
    watch: &mut dyn Watch,
) -> Result<BTreeSet<String>, RunError> {
    let before = sourcing.read()?.sources;
    let mut now = BTreeMap::new();
    let remote = Remote::new(&sourcing.settings)?;
    for (source, uses) in wanted {
        watch.fetching(source, 0, None);
        let locked = fetch_source(store, &remote, source, uses, None, watch)?;
        let size = locked.files.iter().map(|file| file.fetched_bytes()).sum();
        watch.fetching(source, size, Some(size));
        now.insert(source.clone(), locked);
    }
    sourcing.add(&now)?;
    let changed = now.iter().filter(|(source, locked)| before.get(*source) != Some(locked));
    Ok(changed.map(|(source, _)| source.clone()).collect())
}

/// Whether the store has all artifacts of a source. If it has all the objects, for example from a
/// local copy, the artifacts are created from them.
fn is_stored(store: &Store, source: &str, locked: &Locked, uses: &[Use]) -> Result<bool, RunError> {
    let parsed = parse(source)?;
    for (port_type, want) in uses {
        for files in files(&parsed, locked, *want) {
            if !store.is_whole(store::digest_of(*port_type, &files))
                && store.commit_present(*port_type, &files)?.is_none()
            {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn parse(source: &str) -> Result<Source, RunError> {
    Source::parse(source).map_err(|why| RemoteError::Form { source_text: source.to_owned(), why }.into())
}

/// Fetches one source, and commits an artifact for each way in which it is used.
fn fetch_source(
    store: &Store,
    remote: &Remote,
    source: &str,
    uses: &[Use],
    locked: Option<&Locked>,
    watch: &mut dyn Watch,
) -> Result<Locked, RunError> {
    let parsed = parse(source)?;
    let downloads = store.downloads_dir();
    let name = Digest::of(source.as_bytes()).hex()[..32].to_owned();
    let folder = downloads.join(&name);
    fs::create_dir_all(&downloads).context_during("make the folder", &downloads)?;
    // If another process fetches the same source, wait for it and use its result.
    let lock_path = downloads.join(format!("{name}.lock"));
    let file = files::open_or_create_regular(&lock_path).context_during("open", &lock_path)?;
    let _lock = LockedFile::exclusive(file).context_during("lock", &lock_path)?;
    if let Some(locked) = locked
        && is_stored(store, source, locked, uses)?
    {
        return Ok(locked.clone());
    }
    let single = uses.iter().any(|(_, want)| *want == Want::File);
    let mut fetch_watch = FetchWatch(watch);
    let Fetched { locked: found, files: places } = remote.fetch(&parsed, locked, single, &folder, &mut fetch_watch)?;
    for (port_type, want) in uses {
        let artifacts = found.artifacts(&parsed, *want);
        for (files, named) in artifacts.iter().zip(self::files(&parsed, &found, *want)) {
            if store.commit_present(*port_type, &named)?.is_some() {
                continue;
            }
            let tree = folder.join("tree");
            let _ = fs::remove_dir_all(&tree);
            for (name, file) in files {
                let to = tree.join(name);
                let parent = to.parent().unwrap_or(&tree);
                fs::create_dir_all(parent).context_during("make the folder", parent)?;
                match file {
                    ArtifactFile::Fetched(file) => {
                        let Some(at) = found.files.iter().position(|other| other.path == file.path) else { continue };
                        fs::rename(&places[at], &to).context_during("move", &places[at])?;
                    }
                    ArtifactFile::Description(text) => fs::write(&to, text).context_during("write", &to)?,
                }
            }
            store.commit_tree(*port_type, &tree)?;
        }
    }
    fs::remove_dir_all(&folder).context_during("remove", &folder)?;
    Ok(found)
}

/// Forwards the reports of a fetch to the watcher of the run.
struct FetchWatch<'w>(&'w mut dyn Watch);

impl olmo_remote::Watch for FetchWatch<'_> {
    fn progress(&mut self, what: &str, done: u64, total: Option<u64>) {
        self.0.fetching(what, done, total);
    }

    fn waits(&mut self, error: &RemoteError, wait: Duration) {
        let text = format!("{error}; retrying in {:.1} s", wait.as_secs_f64());
        self.0.fetch_waiting(&text);
    }
}
