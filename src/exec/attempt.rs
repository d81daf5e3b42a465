//! [`Work`] and [`Attempt`]: the folders of a stage's unfinished work.
//!
//! ```text
//! work-v1/KEY/
//!   items.jsonl        list items that were committed to the store (journal of ItemRecord)
//!   state/             private to the stage, kept between attempts
//!   supervisor.lock    held while any process of an attempt runs
//!   guard.lock         held while the supervisor of an attempt runs
//!   attempts/N/        one process: request.json in/ out/ items/ events.jsonl result.json
//!                      stage.log exit.json; for a command stage, cwd/in cwd/out instead of in/ out/
//! ```
//!
//! The work belongs to the key, not to a run. Any run that holds the key's lock can continue it.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use olmo_base::{IoContext as _, LockedFile, PathError, files, journal, seal};
use olmo_stage::protocol;

use crate::exec::error::ExecError;
use crate::exec::item_list::ItemRecord;
use crate::exec::supervise;
use crate::store::remove_tree;

/// How long to wait until the supervisor of a dead engine has ended its stage.
const LEFTOVER_TIMEOUT: Duration = Duration::from_secs(15);
/// How many log lines a failure shows.
pub const LOG_LINES: usize = 20;
/// Stamps of the sources that an attempt reads in place.
const STAMPS: &str = "stamps.json";
/// Largest `stamps.json` that is read, in bytes.
const MAX_STAMPS: u64 = 1 << 30;
/// Largest `result.json` that is read, in bytes.
const MAX_RESULT: u64 = 16 << 20;
/// How many attempts are kept; the folders of older ones are removed.
const ATTEMPTS_KEPT: usize = 3;

/// The folder of unfinished work on one key. Only the holder of the key's lock may change it.
#[derive(Clone, Debug)]
pub struct Work(PathBuf);

impl Work {
    /// The work in `folder`, which need not exist.
    pub fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Whether there were attempts whose work can be continued.
    pub fn has_attempts(&self) -> bool {
        !self.attempt_numbers().is_empty()
    }

    /// Waits until all processes of earlier attempts have ended. The engine that started them may
    /// have died a moment ago.
    pub fn wait_for_processes(&self) -> Result<(), ExecError> {
        if self.has_attempts() {
            self.kill_leftovers()?;
        }
        let path = self.0.join(supervise::LOCK);
        let file = match files::open_regular(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(PathError::during("open", &path, e).into()),
        };
        let lock = LockedFile::from_file_within(file, LEFTOVER_TIMEOUT, Duration::from_millis(5));
        match lock.context_during("lock", &path)? {
            Some(_) => Ok(()),
            None => Err(ExecError::StillRunning(self.0.clone())),
        }
    }

    /// Kills the processes of attempts whose engine, guard and supervisor were all killed at once.
    /// Does nothing while a guard or a supervisor is alive, since it does this itself.
    pub fn kill_leftovers(&self) -> Result<(), ExecError> {
        supervise::kill_leftovers(&self.0)
    }

    /// Discards all unfinished work.
    pub fn discard(&self) -> Result<(), ExecError> {
        remove(&self.0)
    }

    /// Creates the stage's private folder if needed, and returns its path.
    pub fn state_dir(&self) -> Result<PathBuf, ExecError> {
        create_folder(self.0.join("state"))
    }

    /// Discards the stage's private state.
    pub fn discard_state(&self) -> Result<(), ExecError> {
        remove(&self.0.join("state"))
    }

    /// The records of `items.jsonl`, up to the first damaged line.
    pub fn item_records(&self) -> Result<journal::Contents<ItemRecord>, ExecError> {
        let path = self.items_path();
        Ok(journal::read_prefix(&path).context_during("read", &path)?)
    }

    /// Replaces the content of `items.jsonl` by `records`.
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

    /// The stamps that [`Attempt::write_stamps`] wrote for the last attempt, if any.
    pub fn last_stamps(&self) -> Result<Option<Vec<u8>>, ExecError> {
        let Some(last) = self.attempts().pop() else { return Ok(None) };
        let path = last.folder.join(STAMPS);
        match files::read_regular(&path, MAX_STAMPS) {
            Ok(stamps) => Ok(Some(stamps)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(PathError::during("read", &path, e).into()),
        }
    }

    /// Discards the records of the items.
    pub fn discard_items(&self) -> Result<(), ExecError> {
        remove(&self.items_path())
    }

    /// Opens `items.jsonl` for appending. Every appended record is synced to disk.
    pub fn item_writer(&self) -> Result<journal::Writer<ItemRecord>, ExecError> {
        let path = self.items_path();
        create_folder(self.0.clone())?;
        Ok(journal::Writer::open(&path, true).context_during("open", &path)?)
    }

    /// Path of `items.jsonl`.
    pub fn items_path(&self) -> PathBuf {
        self.0.join("items.jsonl")
    }

    fn attempt_numbers(&self) -> Vec<u32> {
        let entries = fs::read_dir(self.0.join("attempts")).into_iter().flatten().flatten();
        let mut numbers: Vec<u32> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The attempts so far, oldest first.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempt_numbers().into_iter().map(|number| self.attempt(number)).collect()
    }

    fn attempt(&self, number: u32) -> Attempt {
        Attempt { number, folder: self.0.join("attempts").join(number.to_string()) }
    }

    /// Creates the folder of the next attempt. Of earlier attempts, only logs and other small files
    /// are kept, so call this after their items were committed.
    pub fn next_attempt(&self) -> Result<Attempt, ExecError> {
        let numbers = self.attempt_numbers();
        for (age, number) in numbers.iter().rev().enumerate() {
            let attempt = self.attempt(*number);
            if age + 1 < ATTEMPTS_KEPT { attempt.strip()? } else { remove(&attempt.folder)? }
        }
        let attempt = self.attempt(numbers.last().map_or(1, |last| last + 1));
        create_folder(attempt.folder.clone())?;
        create_folder(attempt.temporary())?;
        Ok(attempt)
    }
}

/// Calls [`Work::kill_leftovers`] for all `works` that a running process belongs to. Errors are
/// ignored here, since they occur again when the work is continued.
pub fn kill_leftovers(works: &[Work]) {
    if works.is_empty() {
        return;
    }
    let mut keys: Vec<_> = supervise::processes::attempt_processes()
        .into_iter()
        .filter_map(|(_, work)| work.file_name().map(ToOwned::to_owned))
        .collect();
    keys.dedup();
    for work in works.iter().filter(|work| keys.iter().any(|key| work.0.file_name() == Some(key))) {
        let _ = work.kill_leftovers();
    }
}

fn create_folder(folder: PathBuf) -> Result<PathBuf, ExecError> {
    fs::create_dir_all(&folder).context_during("make the folder", &folder)?;
    Ok(folder)
}

/// Removes the file or folder at `path`, if it exists. Links are not followed.
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
    /// Counts from 1 within the unfinished work of the key.
    pub number: u32,
    pub folder: PathBuf,
}

impl Attempt {
    /// The working folder of a command stage. It starts with only `in/` and `out/`.
    pub fn command_folder(&self) -> PathBuf {
        self.folder.join("cwd")
    }

    /// The stage's folder for temporary files.
    pub fn temporary(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    /// Path of the input `in/PORT`.
    pub fn input(&self, command: bool, port: &str) -> PathBuf {
        self.base(command).join("in").join(port)
    }

    /// Path of the output `out/PORT`.
    pub fn output(&self, command: bool, port: &str) -> PathBuf {
        self.base(command).join("out").join(port)
    }

    fn base(&self, command: bool) -> PathBuf {
        if command { self.command_folder() } else { self.folder.clone() }
    }

    /// Folder of a list item that the stage reported.
    pub fn item(&self, port: &str, label: &str) -> PathBuf {
        self.items(port).join(label)
    }

    fn items(&self, port: &str) -> PathBuf {
        self.folder.join("items").join(port)
    }

    /// Folder in which a list item of an earlier attempt is handed to this one.
    pub fn earlier_item(&self, port: &str, label: &str) -> PathBuf {
        self.folder.join("earlier").join(port).join(label)
    }

    /// The item folders of list port `port` in natural order (`step9` before `step10`). A command
    /// makes them below `cwd/out/PORT`; a worker seals them below `items/PORT`.
    ///
    /// # Errors
    /// A command put something there that is not a folder with a valid name.
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
                // A worker's folder without a seal is unfinished.
                Ok(label) if kind.is_dir() && (command || seal::is_sealed(&path)) => found.push((label, path)),
                Ok(_) if !command => {}
                Ok(name) => {
                    let kind = files::kind_name(kind);
                    return Err(refuse(format!("`{}` is {kind}, but an item must be a folder", name.escape_debug())));
                }
                Err(name) => return Err(refuse(format!("the name {name:?} is not valid UTF-8"))),
            }
        }
        found.sort_by_cached_key(|(label, _)| natural_key(label));
        Ok(found)
    }

    /// Path of `events.jsonl`.
    pub fn events(&self) -> PathBuf {
        self.folder.join(protocol::EVENTS)
    }

    /// Path of the log, which holds the stage's output.
    pub fn log(&self) -> PathBuf {
        self.folder.join(supervise::LOG)
    }

    /// Whether its process was started. If so, the log exists.
    pub fn was_started(&self) -> bool {
        self.log().symlink_metadata().is_ok()
    }

    /// The last [`LOG_LINES`] lines of the log.
    pub fn log_tail(&self) -> Vec<String> {
        tail(&self.log(), LOG_LINES)
    }

    /// The content of `result.json`, if the stage wrote it.
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

    /// Writes the stamps of the sources that the attempt reads in place.
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

    /// Keeps the log as `kept`, with the timings of the stage next to it. If the stage replaced one
    /// of them by something that is not a regular file, that one is not kept.
    pub fn keep_log(&self, kept: &Path) {
        if files::open_regular(&self.log()).is_ok() {
            let linked = fs::hard_link(self.log(), kept);
            // Linking fails if an earlier engine died after it, or on a file system without hard
            // links.
            let _ = linked.or_else(|_| copy_regular(&self.log(), kept));
        }
        let _ = copy_regular(&self.folder.join(protocol::PERF), &kept.with_extension("perf.jsonl"));
    }

    /// Removes everything except the small files that show what happened.
    pub fn strip(&self) -> Result<(), ExecError> {
        ["in", "out", "items", "earlier", "cwd", "tmp"].iter().try_for_each(|name| remove(&self.folder.join(name)))
    }
}

/// Checks that every existing part of the path from `base` down to `path` is a folder, and not a
/// link or another file.
///
/// # Errors
/// The message names the first part that is not a folder.
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

/// The key by which labels are sorted, so that `step9` comes before `step10`.
fn natural_key(label: &str) -> Vec<(String, u128, String)> {
    let mut key = Vec::new();
    let mut rest = label;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, after) = tail.split_at(end);
        // A number too large for u128 sorts last, and by its text.
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

/// The last `count` lines of the file at `path`. Empty if it cannot be read.
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
    fn attempts_count_up_and_old_ones_keep_only_their_logs() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work::at(dir.path().join("key"));
        assert!(!work.has_attempts());
        for expected in 1..=5 {
            let attempt = work.next_attempt().unwrap();
            assert_eq!(attempt.number, expected);
            fs::create_dir_all(attempt.input(false, "a")).unwrap();
            fs::write(attempt.log(), "said\n").unwrap();
        }
        assert!(work.has_attempts());
        let left: Vec<u32> = work.attempts().iter().map(|a| a.number).collect();
        assert_eq!(left, [3, 4, 5]);
        let (old, new) = (work.attempt(4), work.attempt(5));
        assert!(!old.input(false, "a").exists() && old.log().exists() && new.input(false, "a").exists());
        work.discard().unwrap();
        work.discard().unwrap();
        assert!(!work.has_attempts());
    }

    #[test]
    fn waiting_for_processes_ends_when_the_supervisors_lock_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work::at(dir.path().to_owned());
        work.wait_for_processes().unwrap();
        let lock = fs::File::create(dir.path().join(supervise::LOCK)).unwrap();
        lock.lock().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            work.wait_for_processes().unwrap();
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
        labels.sort_by_cached_key(|l| natural_key(l));
        assert_eq!(labels, ["9", "10", "a", "step9", "step10", "step100"]);
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines_even_if_it_is_long_or_binary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, (0..100_000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        assert_eq!(tail(&path, 2), ["line 99998", "line 99999"]);
        fs::write(&path, b"\xff\xfe ok").unwrap();
        assert_eq!(tail(&path, 2).len(), 1);
        assert!(tail(&dir.path().join("none"), 2).is_empty());
    }
}
