//! Finds and kills other processes. It decides nothing about them.
//!
//! On Linux, all descendants are found through `/proc`. On other systems, only the process group of
//! the child is known.

#[cfg(target_os = "linux")]
use std::os::unix::ffi::OsStrExt as _;
#[cfg(target_os = "linux")]
use std::path::Path;
use std::path::PathBuf;

use rustix::process::{Pid, Signal};

/// All living descendants of process `root`, which must be the subreaper of its tree. Orphans
/// become children of `root`, so no descendant is missed.
#[cfg(target_os = "linux")]
pub(crate) fn descendants(root: u32) -> Vec<Pid> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        // The process may have ended since the folder was listed.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some((parent, true)) = parse_stat(&stat) {
            parents.push((pid, parent));
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        next += 1;
        tree.extend(
            parents.iter().filter(|(pid, its_parent)| *its_parent == parent && *pid != parent).map(|(pid, _)| *pid),
        );
    }
    tree[1..].iter().filter_map(|pid| i32::try_from(*pid).ok().and_then(Pid::from_raw)).collect()
}

#[cfg(not(target_os = "linux"))]
pub fn descendants(_root: u32) -> Vec<Pid> {
    Vec::new()
}

/// Parses `/proc/PID/stat`: the parent, and whether the process is alive (not a zombie). The name
/// is in parentheses and may contain any character.
#[cfg(target_os = "linux")]
fn parse_stat(stat: &str) -> Option<(u32, bool)> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    Some((parent, state != "Z" && state != "X"))
}

/// Sends SIGKILL to all `pids`. Processes that have already ended are ignored.
pub(crate) fn kill_all(pids: &[Pid]) {
    for pid in pids {
        let _ = rustix::process::kill_process(*pid, Signal::KILL);
    }
}

/// Sends SIGKILL to every process of session `session`. Used when a supervisor died and its
/// children were reparented to init.
#[cfg(target_os = "linux")]
pub(crate) fn kill_session(session: u32) {
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The fields after the name are state, parent, group and session.
        let its_session =
            stat.rfind(')').and_then(|at| stat[at + 1..].split_ascii_whitespace().nth(3)?.parse::<u32>().ok());
        if its_session == Some(session) {
            kill_all(Pid::from_raw(pid).as_slice());
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub fn kill_session(session: u32) {
    if let Some(pid) = i32::try_from(session).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

/// The processes of this user that belong to an attempt, each with the attempt's WORK folder. They
/// are recognized by their `TMPDIR` (`WORK/attempts/N/tmp`), which all processes of an attempt
/// inherit.
#[cfg(target_os = "linux")]
pub(crate) fn attempt_processes() -> Vec<(Pid, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()).and_then(Pid::from_raw);
        // The environment of a process that ended, or of another user, cannot be read.
        let (Some(pid), Ok(environment)) = (pid, std::fs::read(entry.path().join("environ"))) else { continue };
        let temporary = environment.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"TMPDIR="));
        let temporary = temporary.map(|path| Path::new(std::ffi::OsStr::from_bytes(path)));
        let attempts = temporary.filter(|path| path.ends_with("tmp")).and_then(Path::parent).and_then(Path::parent);
        if let Some(work) = attempts.filter(|path| path.ends_with("attempts")).and_then(Path::parent) {
            found.push((pid, work.to_owned()));
        }
    }
    found
}

#[cfg(not(target_os = "linux"))]
pub fn attempt_processes() -> Vec<(Pid, PathBuf)> {
    Vec::new()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_contain_parentheses_and_spaces() {
        assert_eq!(parse_stat("7 (a) S 9 (b)) S 42 7 7 0 -1"), Some((42, true)));
        assert_eq!(parse_stat("7 (sh) Z 1 7 7"), Some((1, false)));
        assert_eq!(parse_stat("7 sh"), None);
    }

    #[test]
    fn a_child_and_its_child_are_descendants() {
        let mut child = std::process::Command::new("/bin/sh").args(["-c", "sleep 30 & wait"]).spawn().unwrap();
        let mut found = Vec::new();
        // The shell needs a moment to start its own child. The loop ends with the sleep at the
        // latest.
        while found.len() < 2 && child.try_wait().unwrap().is_none() {
            // Kill the shell first. Otherwise it would see its child end, and exit successfully.
            found = vec![Pid::from_child(&child)];
            found.extend(descendants(child.id()));
        }
        assert_eq!(found.len(), 2);
        kill_all(&found);
        assert!(!child.wait().unwrap().success());
    }
}
