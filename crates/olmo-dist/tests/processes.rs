//! Process groups whose ranks are processes, which are killed and stopped.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::Duration;

use crate::support::{folder, settings};
use olmo_dist::{Collective as _, DistError, ProcessGroup, TreeNode, Values, ValuesRef, conformance};
use rustix::process::{Pid, Signal, kill_process};

const OPERATIONS: [&str; 8] =
    ["all_reduce", "reduce_scatter", "all_gather", "broadcast", "barrier", "send", "all_to_all_v", "exact"];

/// Not a test: the program of a rank, which the tests below start.
#[test]
#[ignore = "the tests start it as a process"]
fn rank_process() {
    let Ok(task) = std::env::var("OLMO_DIST_TEST") else { return };
    let words: Vec<&str> = task.split(' ').collect();
    let [task, rank, size, seconds, path] = words[..] else { panic!("{task}") };
    let (rank, size) = (rank.parse().unwrap(), size.parse().unwrap());
    let path = Path::new(path);
    let mut join = settings(folder(path), rank, size);
    join.limits.dead = Duration::from_secs(seconds.parse().unwrap());
    let group = ProcessGroup::join(&join).unwrap();
    let result = match task {
        "conform" => {
            conformance::check_rank(&group, &[0, 1, 1001, 1 << 20]);
            Ok(())
        }
        // Ends in time only if the ranks are not kept from it.
        "count" => (0..5000).try_for_each(|k| once(&group, "all_reduce", 100, path, k)),
        operation => (0..).try_for_each(|k| once(&group, operation, 300_001, path, k)),
    };
    match result {
        Ok(()) => group.close().unwrap(),
        Err(error) => fs::write(path.join(format!("error-{rank}")), error.to_string()).unwrap(),
    }
}

/// Runs an operation, and reports the first few.
fn once(group: &ProcessGroup, operation: &str, length: usize, path: &Path, k: usize) -> Result<(), DistError> {
    let (rank, size) = (group.rank(), group.size());
    let mut values = vec![1.0f32; length];
    let mut other = values.clone();
    match operation {
        "all_reduce" => group.all_reduce(Values::F32(&mut values))?,
        "reduce_scatter" => {
            group.reduce_scatter(Values::F32(&mut values))?;
        }
        "all_gather" => group.all_gather(Values::F32(&mut values))?,
        "broadcast" => group.broadcast(Values::F32(&mut values), 0)?,
        "barrier" => group.barrier()?,
        "send" => {
            group.send(ValuesRef::F32(&values), (rank + 1) % size)?;
            group.recv(Values::F32(&mut other), (rank + size - 1) % size)?;
        }
        "all_to_all_v" => {
            let counts = vec![length / size; size];
            let end = length / size * size;
            group.all_to_all_v(ValuesRef::F32(&values[..end]), &counts, Values::F32(&mut other[..end]), &counts)?;
        }
        "exact" => {
            let node = TreeNode { level: 0, index: rank as u64, value: Some(ValuesRef::F32(&values)) };
            group.all_reduce_exact(&[node], Values::F32(&mut other))?;
        }
        other => panic!("{other}"),
    }
    if k == 3 {
        fs::write(path.join(format!("ready-{rank}")), "").unwrap();
    }
    Ok(())
}

/// Rank processes, which do not outlive the test.
struct Ranks {
    children: Vec<Child>,
    dir: tempfile::TempDir,
}

impl Ranks {
    /// Starts `size` ranks, in which a rank is gone after `seconds` without a sign of life.
    fn start(task: &str, size: usize, seconds: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let start = |rank| {
            let task = format!("{task} {rank} {size} {seconds} {}", dir.path().display());
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "processes::rank_process", "--ignored", "--quiet"]).env("OLMO_DIST_TEST", task);
            command.spawn().unwrap()
        };
        Self { children: (0..size).map(start).collect(), dir }
    }

    fn signal(&self, rank: usize, signal: Signal) {
        kill_process(Pid::from_child(&self.children[rank]), signal).unwrap();
    }

    /// Waits until all ranks have finished a few operations.
    fn wait_until_ready(&self) {
        let is_ready = |rank| self.dir.path().join(format!("ready-{rank}")).exists();
        while !(0..self.children.len()).all(is_ready) {
            sleep(Duration::from_millis(2));
        }
    }

    fn wait(&mut self, rank: usize) -> ExitStatus {
        self.children[rank].wait().unwrap()
    }

    /// The error with which `rank` ended.
    fn error(&mut self, rank: usize) -> String {
        let status = self.wait(rank);
        fs::read_to_string(self.dir.path().join(format!("error-{rank}")))
            .unwrap_or_else(|_| panic!("rank {rank} ended without an error: {status}"))
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn processes_conform() {
    for size in [1, 2, 3, 5] {
        let mut ranks = Ranks::start("conform", size, 30);
        for rank in 0..size {
            assert!(ranks.wait(rank).success(), "rank {rank} of {size}");
        }
    }
}

#[test]
fn a_rank_that_is_killed_in_any_operation_ends_all_others_with_its_name() {
    for (k, operation) in OPERATIONS.iter().enumerate() {
        let mut ranks = Ranks::start(operation, 3, 30);
        ranks.wait_until_ready();
        // At different moments within an operation.
        sleep(Duration::from_micros(700 * k as u64));
        let killed = k % 3;
        ranks.signal(killed, Signal::KILL);
        for rank in (0..3).filter(|rank| *rank != killed) {
            let error = ranks.error(rank);
            assert!(error.starts_with(&format!("rank {killed} is gone: ")), "{operation}: {error}");
        }
    }
}

#[test]
fn a_rank_that_is_stopped_for_a_short_time_goes_on() {
    let mut ranks = Ranks::start("count", 3, 30);
    ranks.wait_until_ready();
    ranks.signal(1, Signal::STOP);
    sleep(Duration::from_millis(300));
    ranks.signal(1, Signal::CONT);
    for rank in 0..3 {
        assert!(ranks.wait(rank).success(), "rank {rank}");
        assert!(!ranks.dir.path().join(format!("error-{rank}")).exists());
    }
}

#[test]
fn a_rank_that_is_stopped_for_too_long_is_gone_and_learns_it_when_it_comes_back() {
    let mut ranks = Ranks::start("all_reduce", 3, 3);
    ranks.wait_until_ready();
    ranks.signal(1, Signal::STOP);
    for rank in [0, 2] {
        assert_eq!(ranks.error(rank), "rank 1 is gone: it has sent no sign of life for 3 s");
    }
    ranks.signal(1, Signal::CONT);
    assert_eq!(ranks.error(1), "rank 1 is gone: it has sent no sign of life for 3 s");
}
