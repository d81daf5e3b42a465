//! [`Index`]: answers `artifacts list` and `runs list` without parsing every file.
//!
//! The index (`index-v1/`, sled) decides nothing. Each query reads the names of artifacts and runs
//! from the folders; a row only saves opening a file whose [`Stamp`] has not changed since the row
//! was made. A row is made only from a settled file (git's racy rule, which serves as the
//! watermark); newer entries come from the files. So the answers always equal those of a scan, and
//! if the index is deleted, damaged or held by another process, the query is a scan.
//!
//! Rows are stored in groups, one for each shard of the store's folders, under one seal: looking up
//! ten thousand single rows took longer than everything else.
//!
//! `run` and `plan` never open it: sled allows one process at a time, and an open takes 5-20 ms.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use olmo_base::{ArtifactId, LockedFile};
use olmo_stage::PortType;
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Store;
use crate::action::Output;
use crate::disk::{self, Stamp};
use crate::disk::{flock, seal};
use crate::error::StoreError;
use crate::layout::{FileName, INDEX};
use crate::verify::misplaced::misplaced_in_index;

/// Bumped when a row's meaning changes: older rows are then rebuilt.
const ROWS: &str = "rows-2";
/// How long sled may keep the files of a closed database open.
const SLED_LETS_GO_WITHIN: Duration = Duration::from_secs(2);

/// Which artifacts to list. A field that is `None` matches all of them.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub artifact_type: Option<PortType>,
    /// Made by this stage.
    pub stage: Option<String>,
    /// Committed at this time or later.
    pub since: Option<SystemTime>,
    /// Committed before this time.
    pub until: Option<SystemTime>,
}

/// An artifact in the answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactRow {
    pub digest: ArtifactId,
    pub artifact_type: PortType,
    /// Number of files.
    pub files: usize,
    /// Size of all files in bytes.
    pub bytes: u64,
    /// Whether some of its bytes are outside the store.
    pub reference: bool,
    /// When it was committed here.
    pub made: SystemTime,
    /// The stages that made it, sorted; none for a source or a part of an artifact.
    pub stages: Vec<String>,
}

/// The row of a manifest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestRow {
    artifact_type: PortType,
    files: usize,
    bytes: u64,
    reference: bool,
}

/// The row of an action.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionRow {
    stage: String,
    outputs: Vec<ArtifactId>,
}

/// Rows by name as stored in sled, sealed under their table and group.
type Group<T> = BTreeMap<String, Row<T>>;

/// The summary of a file, and the stamp of the file when it was read.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row<T> {
    #[serde(rename = "s")]
    stamp: Stamp,
    #[serde(rename = "c")]
    content: T,
}

/// A file that a row describes, as it was when its folder was read.
struct Subject {
    name: String,
    metadata: fs::Metadata,
}

/// The index of one store, open.
pub struct Index<'s> {
    store: &'s Store,
    /// `None` if it is busy or damaged: every answer then comes from the files.
    database: Mutex<Option<sled::Db>>,
    /// Held while the database is open.
    _lock: Option<LockedFile>,
}

impl Drop for Index<'_> {
    fn drop(&mut self) {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Sled may panic on damaged files, and rows only save time.
        let _ = catch_unwind(AssertUnwindSafe(|| database.map(|db| db.flush())));
    }
}

impl<'s> Index<'s> {
    /// Opens the index, and rebuilds it if it is damaged. Never fails: without a database every
    /// answer is a scan.
    pub fn open(store: &'s Store) -> Self {
        let folder = store.root.join(INDEX);
        let scan = Self { store, database: Mutex::new(None), _lock: None };
        let is_there = folder.is_dir() || (!store.is_read_only() && disk::make_folder(&folder).is_ok());
        if !is_there {
            return scan;
        }
        // Our own lock, taken before sled's: a second process knows at once that it has to scan.
        let Ok(Some(held)) = flock::try_exclusive(&folder.join("lock")) else { return scan };
        let place = folder.join("db");
        let database = match open_database(&place) {
            Ok(database) => Some(database),
            Err(Trouble::Busy) => None,
            // The rows are made again when a query needs them.
            Err(Trouble::Damaged) => remove_database(&place).and_then(|()| open_database(&place).ok()),
        };
        Self { store, database: Mutex::new(database), _lock: Some(held) }
    }

    /// Discards all rows and makes them again. Returns the number of artifacts in them; `None` if
    /// the database is busy or cannot be created, so that answers come from the files.
    pub fn rebuild(&self) -> Result<Option<usize>, StoreError> {
        if self.with_database(|db| db.clear()).is_none() {
            return Ok(None);
        }
        let count = self.artifacts(&Query::default())?.len();
        let flushed = self.with_database(|db| db.flush());
        Ok(flushed.map(|_| count))
    }

    /// Whether answers may come from the database. It may be busy or beyond repair.
    pub fn uses_database(&self) -> bool {
        self.database.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The artifacts that match `query`, oldest first. Damaged ones are left out.
    pub fn artifacts(&self, query: &Query) -> Result<Vec<ArtifactRow>, StoreError> {
        let makers = self.makers()?;
        let mut rows = Vec::new();
        let info = |digest| {
            let info = self.store.artifact_info(digest).ok()??;
            let (artifact_type, files) = (info.artifact_type, info.files);
            Some(ManifestRow { artifact_type, files, bytes: info.bytes, reference: info.reference })
        };
        for (digest, metadata, row) in self.all_rows(info)? {
            let Ok(made) = metadata.modified() else { continue };
            let first = makers.partition_point(|(made, _)| *made < digest);
            let stages = makers[first..].iter().take_while(|(made, _)| *made == digest);
            let stages = stages.map(|(_, stage)| stage.to_string()).collect();
            let ManifestRow { artifact_type, files, bytes, reference } = row;
            rows.push(ArtifactRow { digest, artifact_type, files, bytes, reference, made, stages });
        }
        rows.retain(|row| {
            query.artifact_type.is_none_or(|t| row.artifact_type == t)
                && query.stage.as_ref().is_none_or(|s| row.stages.contains(s))
                && query.since.is_none_or(|t| row.made >= t)
                && query.until.is_none_or(|t| row.made < t)
        });
        rows.sort_by_key(|row| (row.made, row.digest));
        Ok(rows)
    }

    /// Which stages made which artifacts, sorted.
    fn makers(&self) -> Result<Vec<(ArtifactId, Arc<str>)>, StoreError> {
        let mut makers = Vec::new();
        let outputs = |key| {
            let action = self.store.recorded_action(key)?;
            let outputs = action.outputs.values().flat_map(Output::artifacts).collect();
            Some(ActionRow { stage: action.key.stage, outputs })
        };
        for (_, _, ActionRow { stage, outputs }) in self.all_rows(outputs)? {
            let stage: Arc<str> = stage.into();
            makers.extend(outputs.into_iter().map(|artifact| (artifact, stage.clone())));
        }
        makers.sort_unstable();
        makers.dedup();
        Ok(makers)
    }

    /// The rows of all files in the folder of `N`, sorted by name.
    fn all_rows<N: FileName + Send + Sync, T: Serialize + DeserializeOwned + Send>(
        &self,
        make: impl Fn(N) -> Option<T> + Sync,
    ) -> Result<Vec<(N, fs::Metadata, T)>, StoreError> {
        let shards = self.store.shards::<N>("")?;
        // In order, whichever finishes first.
        let found = in_parallel(&shards, |shard| self.shard_rows(shard, &make));
        Ok(found.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// The rows of the files of one shard of the folder of `N`.
    fn shard_rows<N: FileName, T: Serialize + DeserializeOwned>(
        &self,
        shard: &str,
        make: impl Fn(N) -> Option<T>,
    ) -> Result<Vec<(N, fs::Metadata, T)>, StoreError> {
        // The system finds a file faster by its place in an open folder than by its whole path.
        let files = self.store.files_of_shard::<N>(shard, "")?.into_iter();
        let (names, subjects): (Vec<N>, Vec<Subject>) = files
            .filter_map(|(name, file)| {
                Some((name, Subject { name: name.to_string(), metadata: file.metadata().ok()? }))
            })
            .unzip();
        let group = format!("{}/{shard}", N::FOLDER);
        let rows = self.rows(&group, &subjects, |n| self.store.sharded(names[n]), |n| make(names[n]));
        Ok(rows.into_iter().map(|(n, row)| (names[n], subjects[n].metadata.clone(), row)).collect())
    }

    /// A summary of each run, sorted by id. `summarise` reads a run's folder; it is called only
    /// if the run's file `file` has changed since the last time (a finished run's does not), and
    /// must depend on nothing but that file. Runs for which it gives `None` are left out.
    pub fn runs(
        &self,
        file: &str,
        summarise: &dyn Fn(&Path) -> Option<Value>,
    ) -> Result<Vec<(String, Value)>, StoreError> {
        let folder = self.store.runs_dir();
        let mut ids = disk::names_in(&folder)?;
        ids.sort();
        let mut summaries = Vec::with_capacity(ids.len());
        // An id begins with its date.
        for day in ids.chunk_by(|a, b| a.get(..8) == b.get(..8)) {
            let group = format!("runs/{}", day[0].get(..8).unwrap_or_default());
            let path = |id: &str| folder.join(id).join(file);
            let subject = |id: &String| {
                let metadata = fs::symlink_metadata(path(id)).ok()?;
                Some(Subject { name: id.clone(), metadata })
            };
            let subjects: Vec<Subject> = day.iter().filter_map(subject).collect();
            let summary = |n: usize| summarise(&folder.join(&subjects[n].name));
            let rows = self.rows(&group, &subjects, |n| path(&subjects[n].name), summary);
            summaries.extend(rows.into_iter().map(|(n, summary)| (subjects[n].name.clone(), summary)));
        }
        Ok(summaries)
    }

    /// The rows of `group`, each with the index of its subject in `subjects`. A stored row is used if
    /// its file has not changed since; else `make` makes it, and it is stored. Subjects without a
    /// row are left out. `path` gives the file of a subject.
    fn rows<T: Serialize + DeserializeOwned>(
        &self,
        group: &str,
        subjects: &[Subject],
        path: impl Fn(usize) -> PathBuf,
        make: impl Fn(usize) -> Option<T>,
    ) -> Vec<(usize, T)> {
        let kept = self.with_database(|db| db.get(group)).flatten();
        let kept = kept.and_then(|text| serde_json::from_str(seal::open(ROWS, group, &text).ok()?).ok());
        let mut kept: Group<T> = kept.unwrap_or_default();
        // Stamps of the rows to store, with their places in `found`.
        let mut keep: Vec<(Stamp, usize)> = Vec::with_capacity(subjects.len());
        let mut changed = false;
        let mut found = Vec::with_capacity(subjects.len());
        for (n, Subject { name, metadata }) in subjects.iter().enumerate() {
            let stamp = Stamp::of(metadata);
            let (content, settled) = match kept.remove(name).filter(|row| row.stamp == stamp) {
                Some(row) => (row.content, true),
                None => {
                    let read_at = disk::now();
                    let Some(content) = make(n) else { continue };
                    // The file may have changed while it was read: return the row, but do not store it.
                    let settled = stamp.settled_before(read_at)
                        && fs::symlink_metadata(path(n)).is_ok_and(|m| Stamp::of(&m) == stamp);
                    changed |= settled;
                    (content, settled)
                }
            };
            if settled {
                keep.push((stamp, found.len()));
            }
            found.push((n, content));
        }
        // The remaining rows describe files that are gone or changed.
        if changed || !kept.is_empty() {
            let row = |(stamp, at): &(Stamp, usize)| {
                let (n, content) = &found[*at];
                (&subjects[*n].name, Row { stamp: *stamp, content })
            };
            let rows: BTreeMap<&String, Row<&T>> = keep.iter().map(row).collect();
            if let Ok(body) = serde_json::to_string(&rows) {
                self.with_database(|db| db.insert(group, seal::seal(ROWS, group, &body).as_bytes()));
            }
        }
        found
    }

    /// Queries the database. After its first failure it is not used again by this process.
    fn with_database<T>(&self, ask: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Option<T> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = slot.as_ref()?;
        match catch_unwind(AssertUnwindSafe(|| ask(database))) {
            Ok(Ok(answer)) => Some(answer),
            _ => {
                let broken = slot.take();
                let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
                None
            }
        }
    }
}

/// Calls `f` for each of `items`, on several threads if the system has them. Results keep their
/// order.
fn in_parallel<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    match rayon::ThreadPoolBuilder::new().build() {
        Ok(pool) => pool.install(|| items.par_iter().map(&f).collect()),
        Err(_) => items.iter().map(f).collect(),
    }
}

/// Why there is no database.
enum Trouble {
    Busy,
    /// Sled cannot read the files, or panics on them.
    Damaged,
}

/// Removes the files of a database, or anything in their place; `None` if that fails.
fn remove_database(place: &Path) -> Option<()> {
    match place.symlink_metadata().is_ok_and(|m| m.is_dir()) {
        true => fs::remove_dir_all(place).ok(),
        false => fs::remove_file(place).ok(),
    }
}

fn open_database(place: &Path) -> Result<sled::Db, Trouble> {
    // Sled follows links, and waits for FIFOs.
    if !misplaced_in_index(place).is_empty() {
        return Err(Trouble::Damaged);
    }
    let config = sled::Config::new().path(place).cache_capacity(16 << 20).flush_every_ms(None);
    let since = Instant::now();
    loop {
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(database)) => return Ok(database),
            // No other process uses it: we hold our own lock. But sled's threads may still hold the
            // files, and the lock, of a database that was dropped a moment ago.
            Ok(Err(sled::Error::Io(e))) if e.to_string().contains("acquire lock") => {
                if since.elapsed() > SLED_LETS_GO_WITHIN {
                    return Err(Trouble::Busy);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => return Err(Trouble::Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::tests::{record, store_with_action};
    use crate::{Action, Store};
    use serde_json::json;
    use std::cell::Cell;

    /// The answers to one query of each kind, each from a newly opened index.
    fn answers(store: &Store) -> Vec<Vec<ArtifactRow>> {
        let all = answers_of(store, &Query::default());
        let middle = Some(all[all.len() / 2].made);
        let queries = [
            Query { artifact_type: Some(PortType::Model), ..Query::default() },
            Query { stage: Some("train".into()), ..Query::default() },
            Query { stage: Some("nobody".into()), ..Query::default() },
            Query { since: middle, ..Query::default() },
            Query { until: middle, ..Query::default() },
        ];
        let mut found: Vec<_> = queries.iter().map(|q| answers_of(store, q)).collect();
        found.push(all);
        found
    }

    fn answers_of(store: &Store, query: &Query) -> Vec<ArtifactRow> {
        Index::open(store).artifacts(query).unwrap()
    }

    /// A store with artifacts of two types, some made by no stage.
    fn store() -> (tempfile::TempDir, Store) {
        let (dir, store, _, action) = store_with_action();
        for n in 0..6 {
            let folder = dir.path().join(format!("other{n}"));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("file"), format!("content {n}")).unwrap();
            store.commit_tree(PortType::Model, &folder).unwrap();
        }
        let again = Action::new(record(0.5), action.outputs);
        store.commit_action(again.key.digest(), &again).unwrap();
        (dir, store)
    }

    /// Waits until the newest file of the store is behind the watermark.
    fn settle(store: &Store) {
        let settled = || {
            let artifacts = store.names::<ArtifactId>("").unwrap().into_iter().map(|name| store.sharded(name));
            let actions = store.action_keys().unwrap().into_iter().map(|key| store.sharded(key));
            artifacts.chain(actions).all(|p| Stamp::of(&fs::metadata(p).unwrap()).settled_before(disk::now()))
        };
        while !settled() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn rows_kept(store: &Store) -> usize {
        let index = Index::open(store);
        let groups = index.with_database(|db| db.iter().collect::<Result<Vec<_>, _>>()).expect("the database is free");
        let count = |(name, text): &(sled::IVec, sled::IVec)| {
            let body = seal::open(ROWS, std::str::from_utf8(name).unwrap(), text).unwrap();
            serde_json::from_str::<Group<Value>>(body).unwrap().len()
        };
        groups.iter().map(count).sum()
    }

    #[test]
    fn a_query_selects_by_type_stage_and_time() {
        let (_dir, store) = store();
        let found = answers(&store);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>()[..3], [6, 3, 0]);
        assert_eq!(found[3].len() + found[4].len(), found[5].len());
        assert_eq!(found[5].len(), 9);
        assert_eq!(found[1][0].stages, ["train"]);
    }

    #[test]
    fn the_answers_are_the_same_without_with_and_after_the_database() {
        let (_dir, store) = store();
        let expected = answers(&store);
        assert_eq!(rows_kept(&store), 0, "fresh files are behind no watermark");
        settle(&store);
        assert_eq!(answers(&store), expected);
        assert_eq!(rows_kept(&store), 9 + 2, "now they are kept");
        assert_eq!(answers(&store), expected, "answered from the rows");

        let held = Index::open(&store);
        let second = Index::open(&store);
        assert!(held.uses_database() && !second.uses_database());
        drop(second);
        assert_eq!(answers(&store), expected, "busy");
        drop(held);

        fs::remove_dir_all(store.root.join(INDEX)).unwrap();
        assert_eq!(answers(&store), expected, "deleted");
        assert_eq!(rows_kept(&store), 11, "and built again");
    }

    #[test]
    fn the_answers_are_the_same_over_a_damaged_database() {
        let (_dir, store) = store();
        settle(&store);
        let expected = answers(&store);
        assert_eq!(rows_kept(&store), 11);
        let place = store.root.join(INDEX).join("db");
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for round in 0..12 {
            let files: Vec<PathBuf> =
                fs::read_dir(&place).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect();
            for path in files {
                let mut bytes = fs::read(&path).unwrap();
                for _ in 0..1 + round * 8 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // The head of the file is where the rows are; the tail is zeros.
                    let at = (state >> 33) as usize % bytes.len().clamp(1, 1 << 14);
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= (state >> 20) as u8;
                    }
                }
                fs::write(&path, bytes).unwrap();
            }
            assert_eq!(answers(&store), expected, "round {round}");
        }
        fs::remove_dir_all(&place).unwrap();
        fs::write(&place, "a file where sled wants a folder").unwrap();
        assert_eq!(answers(&store), expected);
    }

    #[test]
    fn a_removed_or_replaced_file_is_seen_at_once() {
        let (_dir, store) = store();
        settle(&store);
        let before = answers_of(&store, &Query::default());
        fs::remove_file(store.sharded(before[0].digest)).unwrap();
        assert_eq!(answers_of(&store, &Query::default()), before[1..]);
        fs::remove_file(store.sharded(before[1].digest)).unwrap();
        fs::write(store.sharded(before[1].digest), "damaged").unwrap();
        assert_eq!(answers_of(&store, &Query::default()), before[2..]);
    }

    #[test]
    fn a_runs_summary_is_made_again_only_if_its_file_changed() {
        let (_dir, store) = store();
        for id in ["run-b", "run-a", "half-made"] {
            fs::create_dir(store.runs_dir().join(id)).unwrap();
        }
        let events = |id: &str| store.runs_dir().join(id).join("events.jsonl");
        fs::write(events("run-a"), "1").unwrap();
        fs::write(events("run-b"), "22").unwrap();
        let calls = Cell::new(0);
        let list = || {
            Index::open(&store)
                .runs("events.jsonl", &|run| {
                    calls.set(calls.get() + 1);
                    Some(json!({"bytes": fs::metadata(run.join("events.jsonl")).ok()?.len()}))
                })
                .unwrap()
        };
        let expected = [("run-a".to_owned(), json!({"bytes": 1})), ("run-b".to_owned(), json!({"bytes": 2}))];
        assert_eq!(list(), expected);
        while !["run-a", "run-b"]
            .iter()
            .all(|r| Stamp::of(&fs::metadata(events(r)).unwrap()).settled_before(disk::now()))
        {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(list(), expected);
        let called = calls.get();
        assert_eq!(list(), expected);
        assert_eq!(calls.get(), called, "answered from the rows");
        fs::write(events("run-b"), "333").unwrap();
        assert_eq!(list()[1].1, json!({"bytes": 3}));
    }
}
