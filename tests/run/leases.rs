//! Leases: a GPU is never leased twice on a machine, regardless of the store, and only for as long
//! as a process uses it.

use std::fs;
use std::path::{Path, PathBuf};

use olmo_pipe::run::{RunEvent, Status};

use super::project::*;

/// A project that shares only the machine, two GPUs and the leases with `other`.
fn beside(other: &Project) -> Project {
    let mut project = Project::new();
    project.variables.push(("OLMO_PIPE_LEASES".into(), other.path("leases").display().to_string()));
    project.variables.push(("OLMO_PIPE_GPUS".into(), "GPU-a,GPU-b".into()));
    project
}

fn with_gpus() -> Project {
    let mut project = Project::new();
    project.variables.push(("OLMO_PIPE_GPUS".into(), "GPU-a,GPU-b".into()));
    project
}

/// A stage with `gpus` GPUs. It writes their names to the file `NAME.gpus`, then waits for the file
/// `go`.
fn gpu_stage(project: &Project, name: &str, gpus: u32) {
    let script = format!(
        "echo \"$CUDA_VISIBLE_DEVICES\" > @{name}.part; mv @{name}.part @{name}.gpus\n\
         while [ ! -e @go ]; do sleep 0.02; done\n{COPY}"
    );
    project.stage_with(name, &script, "text: {type: text}", &format!("cpus: 1, gpus: {gpus}, memory_mib: 16"));
    project.experiment(&format!("  {name}: {{uses: {name}}}\n"), "");
}

/// The resources that the project's last run waits for, and their holders: process and stage.
type Delayed = (Vec<String>, Vec<(u32, String)>);

fn delayed(project: &Project) -> Option<Delayed> {
    let run = project.runs().pop()?;
    project.events(&run).into_iter().find_map(|event| match event {
        RunEvent::Delayed { short, holders, .. } => Some((short, holders)),
        _ => None,
    })
}

#[test]
fn two_engines_with_two_stores_never_have_the_same_gpu_and_a_gang_waits_for_all_of_its_own() {
    let one = with_gpus();
    let two = beside(&one);
    gpu_stage(&one, "one", 1);
    gpu_stage(&two, "gang", 2);
    let first = one.spawn(&["run", "e.yaml"]);
    one.wait_for("one.gpus");
    assert_eq!(one.read("one.gpus"), "GPU-a\n");
    let second = two.spawn(&["run", "e.yaml"]);
    wait_until("the second to wait", || delayed(&two).is_some());
    let (short, holders) = delayed(&two).unwrap();
    assert_eq!((short, holders), (vec!["GPUs".to_owned()], vec![(first.id(), "e: one".to_owned())]));
    assert_eq!(two.status("gang"), Status::Waiting);
    assert!(!two.path("gang.gpus").exists());
    one.write("go", "");
    two.wait_for("gang.gpus");
    assert_eq!(two.read("gang.gpus"), "GPU-a,GPU-b\n");
    two.write("go", "");
    for engine in [first, second] {
        let output = engine.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    let left = fs::read_dir(one.path("leases")).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(left, ["ledger"]);
}

#[test]
fn a_killed_engines_gpus_are_free_when_its_stage_is_gone() {
    let one = with_gpus();
    let two = beside(&one);
    gpu_stage(&one, "one", 2);
    let script = fs::read_to_string(one.path("stages/one/run.sh")).unwrap();
    one.write("stages/one/run.sh", &script.replace("echo", &format!("echo $$ > {}\necho", one.path("pid").display())));
    gpu_stage(&two, "two", 2);
    two.write("go", "");
    let mut first = one.spawn(&["run", "e.yaml"]);
    one.wait_for("one.gpus");
    let second = two.spawn(&["run", "e.yaml"]);
    wait_until("the second to wait", || delayed(&two).is_some());
    first.kill().unwrap();
    first.wait().unwrap();
    two.wait_for("two.gpus");
    assert!(!lives(&one.read("pid")), "the GPUs were still in use");
    assert!(second.wait_with_output().unwrap().status.success());
}

#[test]
fn processors_and_memory_are_shared_with_other_stores_too() {
    let one = Project::new();
    let two = beside(&one);
    // If they ran at the same time, each would see the other.
    for project in [&one, &two] {
        let busy = one.path("busy").display().to_string();
        let alone = format!("mkdir {busy}\nsleep 0.2\nrmdir {busy}\n{COPY}");
        for name in ["a", "b"] {
            project.stage_with(name, &alone, "text: {type: text}", "cpus: 0, memory_mib: 16");
        }
        project.experiment("  a: {uses: a}\n  b: {uses: b}\n", "");
    }
    let engines = [one.spawn(&["run", "e.yaml"]), two.spawn(&["run", "e.yaml"])];
    for engine in engines {
        let output = engine.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn only_visible_gpus_are_given_and_a_stage_without_any_sees_none() {
    let mut project = with_gpus();
    project.variables.push(("CUDA_VISIBLE_DEVICES".into(), "1".into()));
    gpu_stage(&project, "one", 1);
    project.write("go", "");
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.read("one.gpus"), "GPU-b\n");
    gpu_stage(&project, "none", 0);
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.read("none.gpus"), "\n");
    gpu_stage(&project, "two", 2);
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("requests 2 gpus, but this machine has 1"), "{}", said(&output));
}

#[test]
fn a_stage_may_share_the_gpus_of_another_and_only_of_that_one() {
    if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        olmo_base::testing::skip("this machine has one processor");
        return;
    }
    let project = with_gpus();
    gpu_stage(&project, "fit", 2);
    gpu_stage(&project, "score", 1);
    let stage = |name: &str| fs::read_to_string(project.path(&format!("stages/{name}/run.sh"))).unwrap();
    // Each ends only once it has seen the other.
    project.write("stages/fit/run.sh", &stage("fit").replace("/go ]", "/score.gpus ]"));
    project.write("stages/score/run.sh", &stage("score").replace("/go ]", "/fit.gpus ]"));
    project.experiment("  fit: {uses: fit}\n  score: {uses: score, share: fit}\n", "");
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!((project.read("fit.gpus"), project.read("score.gpus")), ("GPU-a,GPU-b\n".into(), "GPU-a\n".into()));
    project.experiment("  fit: {uses: fit}\n  score: {uses: score, share: fti}\n", "");
    let output = project.run(&["validate", "e.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("did you mean `fit`"), "{}", said(&output));
}

#[test]
fn a_stage_may_share_the_processors_of_another_that_has_all_of_them() {
    let project = Project::new();
    // Each ends only once it has seen the other.
    for (name, other) in [("fit", "score"), ("score", "fit")] {
        let script = format!("touch @{name}.runs\nwhile [ ! -e @{other}.runs ]; do sleep 0.02; done\n{COPY}");
        project.stage_with(name, &script, "text: {type: text}", "cpus: 0, memory_mib: 16");
    }
    project.experiment("  fit: {uses: fit}\n  score: {uses: score, share: fit}\n", "");
    project.succeeds(&["run", "e.yaml"]);
    assert!(project.path("score.runs").exists());
}

#[test]
fn leases_that_cannot_be_kept_stop_a_run_before_it_begins() {
    let mut project = with_gpus();
    project.write("file", "");
    project.variables.push(("OLMO_PIPE_LEASES".into(), project.path("file").display().to_string()));
    gpu_stage(&project, "one", 1);
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("OLMO_PIPE_LEASES"), "{}", said(&output));
    assert!(project.runs().is_empty());
}

/// A control group with a memory limit, and one inside it without a limit. Removed on drop.
struct Group(PathBuf);

impl Group {
    /// `None` if control groups cannot be created.
    fn with_limit(bytes: u64) -> Option<Self> {
        let name = format!("olmo-pipe-test-{}", std::process::id());
        for (mount, file) in [("memory", "memory.limit_in_bytes"), ("", "memory.max")] {
            let group = Self(Path::new("/sys/fs/cgroup").join(mount).join(&name));
            if fs::create_dir(&group.0).is_ok()
                && group.0.join(file).exists()
                && fs::write(group.0.join(file), bytes.to_string()).is_ok()
                && fs::create_dir(group.0.join("inner")).is_ok()
            {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.0.join("inner"));
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn the_memory_limit_of_a_group_above_holds() {
    let Some(group) = Group::with_limit(64 << 20) else {
        olmo_base::testing::skip("control groups cannot be made here");
        return;
    };
    let project = Project::new();
    project.stage_with("a", COPY, "text: {type: text}", "cpus: 1, memory_mib: 65");
    project.experiment("  a: {uses: a}\n", "");
    let inside = |arguments: &[&str]| {
        let script = format!("echo $$ > {}/inner/cgroup.procs && exec \"$@\"", group.0.display());
        let mut command = project.command_of("/bin/sh", &["-c", &script, "sh", env!("CARGO_BIN_EXE_olmo-pipe")]);
        command.args(arguments).output().unwrap()
    };
    let output = inside(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("requests 65 memory_mib") && said(&output).contains("64"), "{}", said(&output));
    let doctor: serde_json::Value = serde_json::from_slice(&inside(&["doctor", "--json"]).stdout).unwrap();
    assert_eq!(doctor["memory_available"], 64 << 20, "{doctor:#}");
    project.succeeds(&["run", "e.yaml"]);
}

#[test]
fn fifos_links_and_huge_files_among_the_leases_stop_no_engine() {
    let project = with_gpus();
    gpu_stage(&project, "one", 1);
    project.write("go", "");
    let leases = project.path("leases");
    fs::create_dir(&leases).unwrap();
    for name in ["x.lease", "x.want", "supervisor"] {
        assert!(std::process::Command::new("mkfifo").arg(leases.join(name)).status().unwrap().success());
    }
    std::os::unix::fs::symlink("/dev/zero", leases.join("y.lease")).unwrap();
    fs::File::create(leases.join("z.lease")).unwrap().set_len(1 << 40).unwrap();
    let supervisor = leases.join("supervisor");
    fs::write(leases.join("w.lease"), format!("{{\"cpus\":1,\"supervisor\":\"{}\"}}", supervisor.display())).unwrap();
    let mut engine = project.spawn(&["run", "e.yaml"]);
    wait_until("the end of the run", || engine.try_wait().unwrap().is_some());
    let output = engine.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let left: Vec<_> = fs::read_dir(&leases).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the ledger and the FIFO that is no lease: {left:?}");
}

#[test]
fn the_longest_way_to_the_end_starts_first() {
    let project = Project::new();
    for name in ["short", "long", "after", "last"] {
        // One at a time.
        project.stage_with(name, COPY, "text: {type: text}", "cpus: 0, memory_mib: 16");
    }
    project.stage_with("first", COPY, "text: {type: text}", "cpus: 0, memory_mib: 16");
    project.experiment(
        "  first: {uses: first}\n\
         \x20 short: {uses: short, with: {one: '${stages.first.text}'}}\n\
         \x20 long: {uses: long, with: {one: '${stages.first.text}'}}\n\
         \x20 after: {uses: after, with: {one: '${stages.long.text}'}}\n\
         \x20 last: {uses: last, with: {one: '${stages.after.text}'}}\n",
        "",
    );
    project.succeeds(&["run", "e.yaml"]);
    let order = project.read("ran");
    let at = |name: &str| order.lines().position(|line| line == name).unwrap();
    assert!(at("long") < at("short"), "{order}");
}

#[test]
fn what_took_longest_before_starts_first() {
    let project = Project::new();
    project.stage_with("quick", COPY, "text: {type: text}", "cpus: 0, memory_mib: 16");
    project.stage_with("slow", &format!("{COPY}sleep 0.5\n"), "text: {type: text}", "cpus: 0, memory_mib: 16");
    project.experiment("  quick: {uses: quick}\n  slow: {uses: slow}\n", "");
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.read("ran"), "quick\nslow\n", "nothing is known yet: in the order of the stages");
    project.succeeds(&["run", "e.yaml", "--no-cache-read"]);
    assert_eq!(project.read("ran"), "quick\nslow\nslow\nquick\n");
}

#[test]
fn engines_whose_stages_need_all_gpus_or_one_all_finish_and_never_share_one() {
    let first = with_gpus();
    let projects = [beside(&first), beside(&first), beside(&first)];
    for (n, project) in projects.iter().enumerate() {
        // Each GPU in use has a folder. Creating one that already exists fails.
        let busy = first.path("busy").display().to_string();
        let script = format!(
            "mkdir -p {busy}\nfor gpu in $(echo \"$CUDA_VISIBLE_DEVICES\" | tr , ' '); do mkdir {busy}/$gpu; done\n\
             sleep 0.1\nfor gpu in $(echo \"$CUDA_VISIBLE_DEVICES\" | tr , ' '); do rmdir {busy}/$gpu; done\n{COPY}"
        );
        let mut stages = String::new();
        for (name, gpus) in [("p", 1 + n % 2), ("q", 2 - n % 2), ("r", 1)] {
            let resources = format!("cpus: 1, gpus: {gpus}, memory_mib: 16");
            project.stage_with(name, &script, "text: {type: text}", &resources);
            stages += &format!("  {name}: {{uses: {name}}}\n");
        }
        project.experiment(&stages, "");
    }
    let engines: Vec<_> = projects.iter().map(|project| project.spawn(&["run", "e.yaml"])).collect();
    for engine in engines {
        let output = engine.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
}
