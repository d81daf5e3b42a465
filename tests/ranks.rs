//! Training by several processes: the same bytes as by one, whatever dies.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use olmo_pipe::run::{self, Record, RunEvent, RunStatus, Status};

use crate::flagship::{Bench, EIGHT_STEPS, outputs};
use crate::run::project::said;

/// The settings of a fine-tuning of eight steps of seven micro-batches, and `more`.
fn long<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let own =
        ["--set", "stages.train.with.device_train_microbatch_size=1", "--set", "stages.train.resources.memory_mib=64"];
    [&EIGHT_STEPS[..], &own, more].concat()
}

fn ranks(count: usize) -> String {
    format!("stages.train.resources.ranks={count}")
}

fn strategy_of(name: &str) -> String {
    format!("stages.train.with.distributed_strategy={name}")
}

/// A project in which everything before the fine-tuning is done.
fn prepared() -> Bench {
    let bench = Bench::new();
    bench.succeeds(&bench.smoke(&long(&["base", "chat_rows", "heldout_rows"])));
    bench
}

/// What is said of the work of each rank.
fn of_ranks(bench: &Bench) -> Option<String> {
    bench.events().into_iter().rev().find_map(|record| match record.event {
        RunEvent::Message { text, .. } if text.contains(" ranks: ") => Some(text),
        _ => None,
    })
}

/// The processes whose environment names `folder`, with their ranks.
fn processes(folder: &Path) -> BTreeMap<i32, Option<String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        let variables: Vec<String> =
            environment.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        let folder = folder.display().to_string();
        if variables.iter().any(|variable| variable.starts_with("TMPDIR=") && variable.contains(&folder)) {
            let rank = variables.iter().find_map(|variable| variable.strip_prefix("OLMO_PIPE_RANK="));
            found.insert(pid, rank.map(str::to_owned));
        }
    }
    found
}

fn assert_nothing_runs(bench: &Bench, after: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !processes(bench.dir.path()).is_empty() {
        assert!(Instant::now() < deadline, "{after}: {:?} still run", processes(bench.dir.path()));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn any_number_of_ranks_makes_the_bytes_of_one() {
    same_bytes("flex");
}

#[test]
#[ignore = "needs olmo-worker-libtorch: scripts/libtorch cpu --build"]
fn any_number_of_ranks_on_libtorch_makes_the_bytes_of_one() {
    same_bytes("libtorch");
}

fn same_bytes(backend: &str) {
    let before = prepared();
    let one = before.copy();
    let backend = format!("stages.train.with.backend={backend}");
    let settings = long(&["--set", &backend]);
    one.succeeds(&one.smoke(&settings));
    let expected = outputs(&one.last_run());
    assert_eq!(of_ranks(&one), None);
    for (count, strategy) in [(2, "ddp"), (3, "ddp"), (2, "zero1"), (3, "zero1")] {
        let bench = before.copy();
        let (set, strategy) = (ranks(count), strategy_of(strategy));
        bench.succeeds(&bench.smoke(&[&settings[..], &["--set", &set, "--set", &strategy]].concat()));
        assert_eq!(outputs(&bench.last_run()), expected, "{count} ranks, {strategy}");
        let text = of_ranks(&bench).unwrap();
        // Eight steps of seven micro-batches, all with labels.
        let computed: Vec<u64> =
            text.split(" computed ").skip(1).map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!((computed.len(), computed.iter().sum::<u64>()), (count, 56), "{text}");
        assert!(computed.iter().all(|parts| *parts >= 16), "every rank works in every step: {text}");
        // The number of ranks is not part of the key.
        let again = bench.succeeds(&bench.smoke(&settings));
        assert!(again.contains("all 17 stages cached"), "{again}");
    }
}

#[test]
#[ignore = "needs olmo-worker-libtorch: scripts/libtorch cpu --build"]
fn each_gpu_has_a_rank_on_libtorch_and_they_train_as_one() {
    let before = prepared();
    let losses = |gpus: usize| {
        let bench = before.copy();
        let gpus = format!("stages.train.resources.gpus={gpus}");
        // In bf16, the order of the sums would change more than the last digits.
        let settings = ["--set", &gpus, "--set", "stages.train.with.precision=fp32", "--until", "train"];
        let mut command = bench.command(&bench.smoke(&long(&settings)));
        command.env("OLMO_PIPE_EMULATE_GPU", "1").env("OLMO_PIPE_GPUS", "GPU-a,GPU-b");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let metrics = bench.dir.path().join("exported");
        let to = metrics.display().to_string();
        bench.succeeds(&["artifacts", "export", "latest:train.metrics", "--to", &to]);
        let mut losses = Vec::new();
        for line in fs::read_to_string(metrics.join("metrics.jsonl")).unwrap().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            losses.extend(["loss", "grad_norm", "eval_loss"].iter().filter_map(|name| line[name].as_f64()));
        }
        (losses, of_ranks(&bench))
    };
    let ((one, alone), (two, text)) = (losses(1), losses(2));
    assert_eq!(alone, None);
    assert!(text.unwrap().contains("2 ranks: rank 0 computed 32 micro-batches"));
    assert!(one.len() > 16, "{one:?}");
    assert_eq!(one.len(), two.len());
    for (one, two) in one.iter().zip(&two) {
        assert!((one / two - 1.0).abs() < 1e-5, "{one} {two}");
    }
}

#[test]
fn whichever_rank_is_killed_the_run_goes_on_with_any_number_of_ranks() {
    let before = prepared();
    let one = before.copy();
    one.succeeds(&one.smoke(&long(&[])));
    let expected = outputs(&one.last_run());
    // A failpoint of a rank, what each rank holds, and the number of ranks that go on. Each kills its
    // process and the engine.
    for (point, strategy, then) in [
        ("train.step:1@1", "ddp", 2),
        ("train.step:5@0", "ddp", 1),
        ("train.step:5@1", "zero1", 3),
        ("train.evaluating:2@1", "ddp", 2),
        ("train.saving:2@0", "ddp", 2),
        ("train.saving:2@1", "zero1", 2),
        ("train.before_save:2@1", "zero1", 1),
        ("train.saved:2@0", "zero1", 2),
        ("train.last_step:1@1", "ddp", 2),
    ] {
        let bench = before.copy();
        let (two, strategy) = (ranks(2), strategy_of(strategy));
        let arguments = long(&["--set", &two, "--set", &strategy]);
        let died = bench.command(&bench.smoke(&arguments)).env("OLMO_PIPE_FAILPOINT", point).output().unwrap();
        assert!(!died.status.success(), "{point} was not reached\n{}", said(&died));
        assert_nothing_runs(&bench, point);
        let set = ranks(then);
        bench.succeeds(&bench.smoke(&long(&["--set", &set, "--set", &strategy])));
        assert_eq!(outputs(&bench.last_run()), expected, "{point}, {strategy}, then {then} ranks");
    }
}

/// A run of many steps by two ranks that has begun to train.
fn training(bench: &Bench, strategy: &str) -> Child {
    let (two, strategy) = (ranks(2), strategy_of(strategy));
    let arguments = long(&["--set", &two, "--set", &strategy, "--set", "params.duration=4000steps"]);
    let mut command = bench.command(&bench.smoke(&arguments));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let is_training = |record: Record| matches!(record.event, RunEvent::Metrics { place, step, .. } if place.stage == "train" && step > 3);
    while !run::list(&bench.store()).is_ok_and(|runs| runs.len() > 1) || !bench.events().into_iter().any(is_training) {
        assert!(Instant::now() < deadline, "training never began");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[test]
fn a_killed_rank_is_named_and_ends_the_others() {
    let bench = prepared();
    let child = training(&bench, "ddp");
    let running = processes(bench.dir.path());
    let of_ranks: Vec<&String> = running.values().flatten().collect();
    assert_eq!(of_ranks.len(), 2, "{running:?}");
    let second = running.iter().find(|(_, rank)| rank.as_deref() == Some("1")).unwrap().0;
    // SAFETY: sends a signal to a process that this test has started.
    assert_eq!(unsafe { libc::kill(*second, libc::SIGKILL) }, 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("rank 1: it was killed by signal 9 (SIGKILL)"), "{}", said(&output));
    assert_nothing_runs(&bench, "a killed rank");
}

#[test]
fn ranks_stop_together_and_save_their_state() {
    let bench = prepared();
    let child = training(&bench, "zero1");
    // SAFETY: sends a signal to a child of this process that was not reaped yet.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    assert_eq!(bench.last_run().status, RunStatus::Interrupted);
    assert_nothing_runs(&bench, "SIGTERM");
    let saved = bench.events().into_iter().rev().find_map(|record| match record.event {
        RunEvent::Message { text, .. } if text.contains("the state is saved") => Some(text),
        _ => None,
    });
    assert!(saved.is_some_and(|text| text.starts_with("stopped after step ")));
    assert_eq!(bench.stages(Status::Finished).iter().filter(|name| *name == "train").count(), 0);
}

/// Starts rank `rank` of two of the attempt in folder `attempt`, as `launcher` would.
fn start_rank(attempt: &Path, launcher: &str, port: u16, rank: usize) -> Child {
    let worker = Path::new(env!("CARGO_BIN_EXE_olmo-pipe")).with_file_name("olmo-worker");
    let mut command = std::process::Command::new(worker);
    command.arg("run").arg(attempt).stdout(Stdio::null()).stderr(Stdio::piped()).stdin(Stdio::null());
    let rank = rank.to_string();
    let variables = match launcher {
        "torchrun" => {
            [("RANK", &*rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", &rank), ("LOCAL_WORLD_SIZE", "2")].to_vec()
        }
        _ => [
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", &rank),
            ("SLURM_NTASKS", "2"),
            ("SLURM_LOCALID", &rank),
            ("SLURM_NODEID", "0"),
            ("SLURM_TASKS_PER_NODE", "2"),
        ]
        .to_vec(),
    };
    command.envs(variables).env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    command.env("OLMO_PIPE_RANK_SECRET", if launcher == "another secret" { &rank } else { "secret" });
    command.env("OLMO_PIPE_RANK_JOIN_S", "20");
    command.spawn().unwrap()
}

/// A port that nothing uses.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn torchrun_and_srun_may_start_the_ranks() {
    let before = prepared();
    let one = before.copy();
    one.succeeds(&one.smoke(&long(&[])));
    // The request of the attempt that trained, with its inputs from the store.
    let kept = before.copy();
    let died = kept.command(&kept.smoke(&long(&[]))).env("OLMO_PIPE_FAILPOINT", "train.step:1").output().unwrap();
    assert!(!died.status.success());
    assert_nothing_runs(&kept, "the failpoint");
    let is_train = |path: &&std::path::PathBuf| {
        let request: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        request["stage"] == "train"
    };
    let attempts = glob(kept.dir.path(), "request.json");
    let request = attempts.iter().find(is_train).unwrap();
    let weights = fs::read(one.dir.path().join("out/finetune-tulu/metrics/metrics.jsonl")).unwrap();
    for launcher in ["torchrun", "srun"] {
        let attempt = kept.dir.path().join(launcher);
        fs::create_dir(&attempt).unwrap();
        fs::copy(request, attempt.join("request.json")).unwrap();
        let port = free_port();
        let ranks = [0, 1].map(|rank| start_rank(&attempt, launcher, port, rank));
        for rank in ranks {
            let output = rank.wait_with_output().unwrap();
            assert!(output.status.success(), "{launcher}: {}", said(&output));
        }
        assert_eq!(fs::read(attempt.join("out/metrics/metrics.jsonl")).unwrap(), weights, "{launcher}");
        let result = fs::read_to_string(attempt.join("result.json")).unwrap();
        assert!(result.contains("succeeded"), "{launcher}: {result}");
    }
    // Ranks of two launches that use the same port by mistake.
    let attempt = kept.dir.path().join("mistaken");
    fs::create_dir(&attempt).unwrap();
    fs::copy(request, attempt.join("request.json")).unwrap();
    let port = free_port();
    let ranks = [0, 1].map(|rank| start_rank(&attempt, "another secret", port, rank));
    let texts: Vec<String> = ranks.into_iter().map(|rank| said(&rank.wait_with_output().unwrap())).collect();
    assert!(texts.iter().any(|text| text.contains("secret")), "{texts:?}");
}

/// The files named `name` below `folder`.
fn glob(folder: &Path, name: &str) -> Vec<std::path::PathBuf> {
    let output = std::process::Command::new("find").arg(folder).args(["-name", name]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(Into::into).collect()
}

#[test]
fn what_ranks_cannot_do_is_refused_before_anything_runs() {
    let bench = Bench::new();
    let refused = |settings: &[&str]| {
        let mut arguments = vec!["validate", "experiments/finetune-tulu.yaml", "--profile", "smoke"];
        for setting in settings {
            arguments.extend(["--set", setting]);
        }
        let output = bench.command(&arguments).output().unwrap();
        assert!(!output.status.success(), "{settings:?}\n{}", said(&output));
        said(&output)
    };
    let text = refused(&["stages.convert.resources.ranks=2"]);
    assert!(text.contains("stage `convert` (uses `convert`) runs as one process"), "{text}");
    let text = refused(&["stages.train.resources.ranks=2", "stages.train.resources.gpus=4"]);
    assert!(text.contains("2 of 4 GPUs would be used"), "{text}");
    let rows = ["stages.train.with.global_train_batch_size=6", "stages.train.with.global_batch_size=null"];
    let text = refused(&[&rows[..], &["stages.train.resources.ranks=2"]].concat());
    assert!(
        text.contains(
            "a step of 6 rows has one micro-batch (`device_train_microbatch_size: 8`), fewer than the 2 ranks"
        ),
        "{text}"
    );
    assert!(text.contains("`device_train_microbatch_size` to at most 3"), "{text}");
    let text = refused(&[&rows[..], &["stages.train.resources.ranks=7"]].concat());
    assert!(text.contains("a step has 6 rows, fewer than the 7 ranks"), "{text}");
}
