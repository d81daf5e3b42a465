//! [`Work`] and [`Attempt`]: the folders of a stage's unfinished work.
//!
//! ```text
//! work-v1/KEY/
//!   items.jsonl        list items that are safe in the store (journal of ItemRecord)
//!   state/             private to the stage, kept from attempt to attempt
//!   supervisor.lock    held while a process of any attempt lives
//!   guard.lock         held while a supervisor of any attempt lives
//!   attempts/N/        one process: request.json in/ out/ items/ events.jsonl result.json
//!                      stage.log exit.json; of a command stage: cwd/in cwd/out instead of in/ out/
//! ```
//!
//! All of it belongs to the key, not to a run: whoever holds the key's lock goes on here.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use olmo_base::{IoContext, LockedFile, PathError, files, journal, seal};
use olmo_stage::protocol;

use crate::exec::error::ExecError;
use crate::exec::item_list::ItemRecord;
use crate::exec::supervise;
use crate::store::remove_tree;

/// How long the supervisor of a dead engine may take to end its stage.
const QUIET_WITHIN: Duration = Duration::from_secs(15);
/// How many lines of a log a failure shows.
pub const LOG_LINES: usize = 20;
/// Stamps of the sources that an attempt reads in place.
const STAMPS: &str = "stamps.json";
/// Longest `stamps.json` that is read, in bytes.
const MAX_STAMPS: u64 = 1 << 30;
/// Longest `result.json` that is read, in bytes.
const MAX_RESULT: u64 = 16 << 20;
/// Older attempts than this many keep nothing.
const ATTEMPTS_KEPT: usize = 3;

/// The folder of unfinished work on one key. Only the holder of the key's lock may change it.
#[derive(Clone, Debug)]
pub struct Work(PathBuf);

impl Work {
    /// The work in folder `folder`, which need not exist.
    pub fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Whether something was begun here and can be continued.
    pub fn begun(&self) -> bool {
        !self.attempt_numbers().is_empty()
    }

    /// Waits until no process of an earlier attempt lives: the engine that started it may have
    /// died a moment ago.
    pub fn wait_until_quiet(&self) -> Result<(), ExecError> {
        if self.begun() {
            self.end_leftovers()?;
        }
        let path = self.0.join(supervise::LOCK);
        let file = match files::open_regular(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(PathError::during("open", &path, e).into()),
        };
        let lock = LockedFile::from_file_within(file, QUIET_WITHIN, Duration::from_millis(5));
        match lock.context_during("lock", &path)? {
            Some(_) => Ok(()),
            None => Err(ExecError::StillRunning(self.0.clone())),
        }
    }

    /// Kills what attempts left behind whose engine, guard and supervisor were all killed at once.
    /// While a guard or a supervisor lives, this is its own business.
    pub fn end_leftovers(&self) -> Result<(), ExecError> {
        supervise::end_leftovers(&self.0)
    }

    /// Forgets everything.
    pub fn discard(&self) -> Result<(), ExecError> {
        remove(&self.0)
    }

    /// The stage's private folder; made here.
    pub fn state_dir(&self) -> Result<PathBuf, ExecError> {
        make(self.0.join("state"))
    }

    /// Discards the stage's private state.
    pub fn forget_state(&self) -> Result<(), ExecError> {
        remove(&self.0.join("state"))
    }

    /// The records of `items.jsonl`, up to the first damaged line.
    pub fn item_records(&self) -> Result<journal::Contents<ItemRecord>, ExecError> {
        let path = self.items_path();
        Ok(journal::read_prefix(&path).context_during("read", &path)?)
    }

    /// Makes `records` the whole content of `items.jsonl`.
    pub fn write_items(&self, records: &[ItemRecord]) -> Result<(), ExecError> {
        let (path, temporary) = (self.items_path(), self.0.join("items.tmp"));
        let written = (|| {
            let _ = fs::remove_file(&temporary);
            let mut writer = journal::Writer::open(&temporary, true)?;
            records.iter().try_for_each(|record| writer.append(record))?;
            fs::rename(&temporary, &path)
        })();
        Ok(written.context_during("write", &path)?)
    }

    /// What [`Attempt::write_stamps`] noted for the last attempt; `None` if nothing.
    pub fn last_stamps(&self) -> Result<Option<Vec<u8>>, ExecError> {
        let Some(last) = self.attempts().pop() else { return Ok(None) };
        let path = last.folder.join(STAMPS);
        match files::read_regular(&path, MAX_STAMPS) {
            Ok(stamps) => Ok(Some(stamps)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(PathError::during("read", &path, e).into()),
        }
    }

    /// Discards the noted items.
    pub fn forget_items(&self) -> Result<(), ExecError> {
        remove(&self.items_path())
    }

    /// Opens `items.jsonl` for appending; every record is on the disk before the call returns.
    pub fn item_writer(&self) -> Result<journal::Writer<ItemRecord>, ExecError> {
        let path = self.items_path();
        make(self.0.clone())?;
        Ok(journal::Writer::open(&path, true).context_during("open", &path)?)
    }

    /// `items.jsonl`.
    pub fn items_path(&self) -> PathBuf {
        self.0.join("items.jsonl")
    }

    fn attempt_numbers(&self) -> Vec<u32> {
        let entries = fs::read_dir(self.0.join("attempts")).into_iter().flatten().flatten();
        let mut numbers: Vec<u32> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The attempts so far, the first one first.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempt_numbers().into_iter().map(|number| self.attempt(number)).collect()
    }

    fn attempt(&self, number: u32) -> Attempt {
        Attempt { number, folder: self.0.join("attempts").join(number.to_string()) }
    }

    /// Makes the folder of the next attempt. Of the earlier ones only what tells what happened
    /// stays; call when their items are safe.
    pub fn next_attempt(&self) -> Result<Attempt, ExecError> {
        let numbers = self.attempt_numbers();
        for (age, number) in numbers.iter().rev().enumerate() {
            let attempt = self.attempt(*number);
            if age + 1 < ATTEMPTS_KEPT { attempt.strip()? } else { remove(&attempt.folder)? }
        }
        let attempt = self.attempt(numbers.last().map_or(1, |last| last + 1));
        make(attempt.folder.clone())?;
        make(attempt.temporary())?;
        Ok(attempt)
    }
}

/// [`Work::end_leftovers`] of all `works` that a process belongs to. What cannot be locked is found
/// out when its work begins.
pub fn end_leftovers(works: &[Work]) {
    if works.is_empty() {
        return;
    }
    let mut keys: Vec<_> = supervise::processes::of_attempts()
        .into_iter()
        .filter_map(|(_, work)| work.file_name().map(ToOwned::to_owned))
        .collect();
    keys.dedup();
    for work in works.iter().filter(|work| keys.iter().any(|key| work.0.file_name() == Some(key))) {
        let _ = work.end_leftovers();
    }
}

fn make(folder: PathBuf) -> Result<PathBuf, ExecError> {
    fs::create_dir_all(&folder).context_during("make the folder", &folder)?;
    Ok(folder)
}

/// Removes the file or folder at `path`, if it is there. Links are not followed.
fn remove(path: &Path) -> Result<(), ExecError> {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    match if is_folder { remove_tree(path) } else { fs::remove_file(path) } {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(PathError::during("remove", path, e).into()),
        _ => Ok(()),
    }
}

/// The folder of one attempt at a stage.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// From 1, within this key's unfinished work.
    pub number: u32,
    pub folder: PathBuf,
}

impl Attempt {
    /// Where a command stage runs: an empty folder with `in/` and `out/`.
    pub fn command_folder(&self) -> PathBuf {
        self.folder.join("cwd")
    }

    /// The stage's folder for temporary files.
    pub fn temporary(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    /// `in/PORT`.
    pub fn input(&self, command: bool, port: &str) -> PathBuf {
        self.side(command).join("in").join(port)
    }

    /// `out/PORT`.
    pub fn output(&self, command: bool, port: &str) -> PathBuf {
        self.side(command).join("out").join(port)
    }

    fn side(&self, command: bool) -> PathBuf {
        if command { self.command_folder() } else { self.folder.clone() }
    }

    /// Folder of a list item that the stage reported.
    pub fn item(&self, port: &str, label: &str) -> PathBuf {
        self.items(port).join(label)
    }

    fn items(&self, port: &str) -> PathBuf {
        self.folder.join("items").join(port)
    }

    /// Folder of a list item of an earlier attempt, as it is handed to this one.
    pub fn earlier_item(&self, port: &str, label: &str) -> PathBuf {
        self.folder.join("earlier").join(port).join(label)
    }

    /// The item folders of list port `port`, sorted so that numbers in their names count as
    /// numbers: what a command made below `cwd/out/PORT`, or a worker sealed below `items/PORT`.
    ///
    /// # Errors
    /// Anything that a command put there and that is not a folder with a readable name.
    pub fn item_folders(&self, command: bool, port: &str) -> Result<Vec<(String, PathBuf)>, ExecError> {
        let folder = if command { self.output(true, port) } else { self.items(port) };
        let refuse = |why: String| ExecError::BadItem { port: port.to_owned(), why };
        if command {
            check_folders(&self.folder, &folder).map_err(refuse)?;
        }
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.context_during("read the folder", &folder)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.context_during("read the folder", &folder)?;
            let (path, kind) = (entry.path(), entry.file_type().context_during("look at", entry.path())?);
            match entry.file_name().into_string() {
                // A worker's folder without a seal is not finished.
                Ok(label) if kind.is_dir() && (command || seal::is_sealed(&path)) => found.push((label, path)),
                Ok(_) if !command => {}
                Ok(name) => {
                    let kind = files::kind_name(kind);
                    return Err(refuse(format!("`{}` is {kind}, and an item is a folder", name.escape_debug())));
                }
                Err(name) => return Err(refuse(format!("the name {name:?} is not valid UTF-8"))),
            }
        }
        found.sort_by_cached_key(|(label, _)| natural(label));
        Ok(found)
    }

    /// `events.jsonl`.
    pub fn events(&self) -> PathBuf {
        self.folder.join(protocol::EVENTS)
    }

    /// What the stage printed.
    pub fn log(&self) -> PathBuf {
        self.folder.join(supervise::LOG)
    }

    /// Whether its process was started: then something is in the place of the log.
    pub fn was_started(&self) -> bool {
        self.log().symlink_metadata().is_ok()
    }

    /// The last [`LOG_LINES`] lines of the log.
    pub fn log_tail(&self) -> Vec<String> {
        tail(&self.log(), LOG_LINES)
    }

    /// `result.json`, if the stage came to write it.
    pub fn result(&self) -> Result<Option<protocol::StageResult>, ExecError> {
        let path = self.folder.join(protocol::RESULT);
        match files::read_regular(&path, MAX_RESULT) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).map_err(|e| PathError::during("read", &path, e.into()).into())
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(PathError::during("read", &path, e).into()),
        }
    }

    /// Notes the stamps of the sources that the attempt reads in place.
    pub fn write_stamps(&self, stamps: &[u8]) -> Result<(), ExecError> {
        let path = self.folder.join(STAMPS);
        Ok(fs::write(&path, stamps).context_during("write", &path)?)
    }

    /// Writes `request.json`.
    pub fn write_request(&self, request: &protocol::Request) -> Result<(), ExecError> {
        let path = self.folder.join(protocol::REQUEST);
        let text = serde_json::to_vec_pretty(request).map_err(|e| PathError::during("write", &path, e.into()))?;
        Ok(fs::write(&path, text).context_during("write", &path)?)
    }

    /// Keeps the log as `kept`, and the times that the stage noted beside it. The stage may have put
    /// something else in the place of either; then that one is not kept.
    pub fn keep_log(&self, kept: &Path) {
        if files::open_regular(&self.log()).is_ok() {
            let linked = fs::hard_link(self.log(), kept);
            // Of an earlier engine that died in between; or a file system without links.
            let _ = linked.or_else(|_| copy_regular(&self.log(), kept));
        }
        let _ = copy_regular(&self.folder.join(protocol::PERF), &kept.with_extension("perf.jsonl"));
    }

    /// Removes all but the small files that tell what happened.
    pub fn strip(&self) -> Result<(), ExecError> {
        ["in", "out", "items", "earlier", "cwd", "tmp"].iter().try_for_each(|name| remove(&self.folder.join(name)))
    }
}

/// Checks that no part of the way from `base` down to `path` is a link or anything else but a
/// folder. What is missing is no error.
///
/// # Errors
/// Which part is something else.
pub fn check_folders(base: &Path, path: &Path) -> Result<(), String> {
    let below = path.strip_prefix(base).map_err(|e| e.to_string())?;
    let mut place = base.to_owned();
    for part in below {
        place.push(part);
        let Ok(found) = place.symlink_metadata() else { return Ok(()) };
        if !found.is_dir() {
            let shown = place.strip_prefix(base).unwrap_or(&place).display();
            return Err(format!("{shown} is {}, not a folder", files::kind_name(found.file_type())));
        }
    }
    Ok(())
}

/// A label as a sort key: `step9` before `step10`.
fn natural(label: &str) -> Vec<(String, u128, String)> {
    let mut key = Vec::new();
    let mut rest = label;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, after) = tail.split_at(end);
        // A number too long for u128 sorts last, then as text.
        key.push((
            text.to_owned(),
            number.parse().unwrap_or(if number.is_empty() { 0 } else { u128::MAX }),
            number.to_owned(),
        ));
        rest = after;
    }
    key
}

fn copy_regular(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut from = files::open_regular(from)?;
    std::io::copy(&mut from, &mut fs::File::create(to)?).map(drop)
}

/// The last `count` lines of the file at `path`; none if it cannot be read.
pub fn tail(path: &Path, count: usize) -> Vec<String> {
    /// Enough for twenty long lines.
    const WINDOW: u64 = 64 * 1024;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = files::open_regular(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(WINDOW)))?;
        let mut text = Vec::new();
        file.take(WINDOW).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_count_up_and_old_ones_keep_only_what_tells_what_happened() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work::at(dir.path().join("key"));
        assert!(!work.begun());
        for expected in 1..=5 {
            let attempt = work.next_attempt().unwrap();
            assert_eq!(attempt.number, expected);
            fs::create_dir_all(attempt.input(false, "a")).unwrap();
            fs::write(attempt.log(), "said\n").unwrap();
        }
        assert!(work.begun());
        let left: Vec<u32> = work.attempts().iter().map(|a| a.number).collect();
        assert_eq!(left, [3, 4, 5]);
        let (old, new) = (work.attempt(4), work.attempt(5));
        assert!(!old.input(false, "a").exists() && old.log().exists() && new.input(false, "a").exists());
        work.discard().unwrap();
        work.discard().unwrap();
        assert!(!work.begun());
    }

    #[test]
    fn work_is_quiet_only_when_nobody_holds_the_supervisors_lock() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work::at(dir.path().to_owned());
        work.wait_until_quiet().unwrap();
        let lock = fs::File::create(dir.path().join(supervise::LOCK)).unwrap();
        lock.lock().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            work.wait_until_quiet().unwrap();
            sender.send(()).unwrap();
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        drop(lock);
        waiter.join().unwrap();
        assert!(receiver.try_recv().is_ok());
    }

    #[test]
    fn labels_sort_by_their_numbers() {
        let mut labels = ["step10", "step9", "a", "step100", "10", "9"];
        labels.sort_by_cached_key(|l| natural(l));
        assert_eq!(labels, ["9", "10", "a", "step9", "step10", "step100"]);
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines_also_of_a_long_or_binary_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, (0..100_000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        assert_eq!(tail(&path, 2), ["line 99998", "line 99999"]);
        fs::write(&path, b"\xff\xfe ok").unwrap();
        assert_eq!(tail(&path, 2).len(), 1);
        assert!(tail(&dir.path().join("none"), 2).is_empty());
    }
}
