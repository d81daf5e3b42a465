//! Measures `all_reduce` between ranks.
//!
//! usage: bandwidth [MiB]
//!
//! Alone, it starts 2 and then 4 ranks on this host. Under `torchrun` or `srun` it measures those
//! ranks. It prints the time of one operation and two rates: the size of the array by the time, and
//! the bytes that each rank sends by the time ("bus bandwidth" in NCCL's tests).

use std::collections::BTreeMap;
use std::process::{Child, Command};
use std::time::Instant;

use olmo_dist::{Collective as _, DistError, Launch, ProcessGroup, TreeNode, Values, ValuesRef};

fn main() {
    let mib = std::env::args().nth(1).map_or(64, |mib| mib.parse().expect("a number of MiB"));
    let launch = Launch::from_env().unwrap_or_else(|error| panic!("{error}"));
    if let Some(launch) = launch {
        return measure(mib, &launch).unwrap_or_else(|error| panic!("{error}"));
    }
    println!("{:>5} {:>20} {:>10} {:>12} {:>12}", "ranks", "operation", "ms", "array GB/s", "bus GB/s");
    for size in [2usize, 4] {
        let folder = tempfile::tempdir().expect("a folder");
        let start = |rank: usize| -> Child {
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command.arg(mib.to_string()).env("OLMO_PIPE_RENDEZVOUS", folder.path());
            for (name, value) in
                [("RANK", rank), ("WORLD_SIZE", size), ("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", size)]
            {
                command.env(format!("OLMO_PIPE_{name}"), value.to_string());
            }
            command.env("OLMO_PIPE_RANK_SECRET", "bandwidth").spawn().expect("a process")
        };
        let children: Vec<Child> = (0..size).map(start).collect();
        for mut child in children {
            assert!(child.wait().expect("a child").success());
        }
    }
}

fn measure(mib: usize, launch: &Launch) -> Result<(), DistError> {
    let group = ProcessGroup::join(&launch.join(BTreeMap::new())?)?;
    let (rank, size) = (group.rank(), group.size());
    let mut values = vec![1.0f32; mib << 18];
    let other = values.clone();
    let share = (size - 1) as f64 / size as f64;
    time(&group, "all_reduce", mib, 2.0 * share, || group.all_reduce(Values::F32(&mut values)))?;
    time(&group, "all_gather", mib, share, || group.all_gather(Values::F32(&mut values)))?;
    // One node for each rank.
    let node = TreeNode { level: 0, index: rank as u64, value: Some(ValuesRef::F32(&other)) };
    time(&group, "all_reduce_exact", mib, 2.0 * share, || {
        group.all_reduce_exact(&[node], Values::F32(&mut values)).map(drop)
    })?;
    let mut small = [1.0f32; 16];
    let count = 2000;
    let since = Instant::now();
    for _ in 0..count {
        group.all_reduce(Values::F32(&mut small))?;
    }
    if rank == 0 {
        println!(
            "{size:>5} {:>20} {:>10.3}",
            "all_reduce, 64 bytes",
            since.elapsed().as_secs_f64() * 1e3 / count as f64
        );
    }
    group.close()
}

fn time(
    group: &ProcessGroup,
    name: &str,
    mib: usize,
    share: f64,
    mut work: impl FnMut() -> Result<(), DistError>,
) -> Result<(), DistError> {
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        group.barrier()?;
        let since = Instant::now();
        work()?;
        best = best.min(since.elapsed().as_secs_f64());
    }
    if group.rank() == 0 {
        let rate = (mib << 20) as f64 / best / 1e9;
        println!("{:>5} {name:>20} {:>10.1} {rate:>12.2} {:>12.2}", group.size(), best * 1e3, rate * share);
    }
    Ok(())
}
