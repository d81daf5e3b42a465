//! Ranks for tests: as threads of the test.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use olmo_dist::{DistError, Join, Limits, ProcessGroup, Rendezvous, Secret, World};

/// Settings of a rank on this host.
pub(crate) fn settings(rendezvous: Rendezvous, rank: usize, size: usize) -> Join {
    Join {
        world: World { rank, size, local_rank: rank, local_size: size },
        rendezvous,
        secret: Secret::new(b"a secret"),
        facts: BTreeMap::from([("build".into(), "1".into())]),
        interface: None,
        limits: Limits { join: Duration::from_secs(60), ..Limits::default() },
    }
}

pub(crate) fn folder(path: &Path) -> Rendezvous {
    Rendezvous::Folder(path.join("ranks"))
}

/// Runs `work` on every rank, each in a thread, and returns the results in the order of the ranks.
pub(crate) fn run_ranks<T: Send>(
    size: usize,
    adapt: impl Fn(&mut Join) + Sync,
    work: impl Fn(ProcessGroup) -> T + Sync,
) -> Vec<Result<T, DistError>> {
    let dir = tempfile::tempdir().unwrap();
    let run = |rank| {
        let mut join = settings(folder(dir.path()), rank, size);
        adapt(&mut join);
        ProcessGroup::join(&join).map(&work)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..size).map(|rank| scope.spawn(move || run(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
