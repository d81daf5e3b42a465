//! Sweeps and merged experiments: the trials, their names, the stages that they share, and how they
//! run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use olmo_pipe::run::{self, RunState, Status};
use olmo_pipe::spec::{LoadOptions, Loaded, Resolved, load};
use olmo_pipe::store::Store;
use serde_json::json;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn options() -> LoadOptions {
    LoadOptions { cwd: fixtures(), ..LoadOptions::default() }
}

fn load_with(file: &str, options: &LoadOptions) -> Loaded {
    load(Path::new(file), options, &[]).unwrap_or_else(|e| panic!("{e}"))
}

fn sweep(sweeps: &[&str], sets: &[&str]) -> Resolved {
    let texts = |all: &[&str]| all.iter().map(|&text| text.to_owned()).collect();
    load_with("valid/plain.yaml", &LoadOptions { sweeps: texts(sweeps), sets: texts(sets), ..options() }).resolved
}

fn trials(resolved: &Resolved) -> Vec<&str> {
    resolved.trials.iter().map(|trial| trial.name.as_str()).collect()
}

#[test]
fn what_trials_share_is_one_stage_and_the_rest_is_named_by_what_differs() {
    let resolved = load_with("valid/sweep.yaml", &options()).resolved;
    assert_eq!(
        trials(&resolved),
        [
            "lr=0.1,max_length=64",
            "lr=0.1,max_length=128",
            "lr=1e-5,max_length=64",
            "lr=1e-5,max_length=128",
            "lr=1e-5,max_length=256",
            "lr=0.3"
        ]
    );
    // 128 is the default, and the last trial keeps it.
    assert_eq!(
        resolved.stages.keys().collect::<Vec<_>>(),
        [
            "data",
            "encode@max_length=64",
            "encode@max_length=128",
            "encode@max_length=256",
            "fit@lr=0.1,max_length=64",
            "fit@lr=0.1,max_length=128",
            "fit@lr=1e-5,max_length=64",
            "fit@lr=1e-5,max_length=128",
            "fit@lr=1e-5,max_length=256",
            "fit@lr=0.3",
            "score@lr=0.1,max_length=64",
            "score@lr=0.1,max_length=128",
            "score@lr=1e-5,max_length=64",
            "score@lr=1e-5,max_length=128",
            "score@lr=1e-5,max_length=256",
            "score@lr=0.3",
            "best@lr=0.1,max_length=64",
            "best@lr=0.1,max_length=128",
            "best@lr=1e-5,max_length=64",
            "best@lr=1e-5,max_length=128",
            "best@lr=1e-5,max_length=256",
            "best@lr=0.3",
        ]
    );
    let last = resolved.trials.last().unwrap();
    assert_eq!(last.stages["encode"], "encode@max_length=128");
    assert_eq!(last.stages["fit"], "fit@lr=0.3");
    assert!(!last.stages.contains_key("data") && resolved.outputs.is_empty());
    assert_eq!(last.outputs["model"].to_string(), "stages.best@lr=0.3.model");
    let fit = resolved.stages.get("fit@lr=0.3").unwrap();
    assert_eq!(
        fit.inputs["data"][0],
        serde_json::from_value(json!({"port": {"stage": "encode@max_length=128", "port": "tokens"}})).unwrap()
    );
    assert_eq!(fit.params["learning_rate"], json!(0.3));
    let score = resolved.stages.get("score@lr=1e-5,max_length=256").unwrap();
    assert_eq!(score.for_each.as_ref().unwrap().stage, "fit@lr=1e-5,max_length=256");
    assert!(!resolved.params.contains_key("lr"), "it has no one value");
    assert_eq!(
        resolved.trials[4].values,
        json!({"params.lr": 1e-5, "stages.encode.with.max_length": 256}).as_object().unwrap().clone()
    );
}

#[test]
fn a_trial_resolves_to_what_setting_its_values_by_hand_does() {
    for file in ["valid/sweep.yaml", "valid/sweep_kinds.yaml"] {
        let swept = load_with(file, &options()).resolved;
        assert!(swept.trials.len() > 4, "{file}");
        for trial in &swept.trials {
            let sets = trial.values.iter().map(|(path, value)| format!("{path}={value}")).collect();
            let alone = load_with(file, &LoadOptions { no_sweep: true, sets, ..options() }).resolved;
            for (name, stage) in alone.stages.iter() {
                let node = trial.stages.get(name).map_or(name, String::as_str);
                let node = swept.stages.get(node).unwrap_or_else(|| panic!("{}: {name}", trial.name));
                assert_eq!(
                    (&node.params, &node.resources, node.timeout_s),
                    (&stage.params, &stage.resources, stage.timeout_s)
                );
                let reads: Vec<_> =
                    stage.reads().map(|port| trial.stages.get(&port.stage).unwrap_or(&port.stage)).collect();
                assert_eq!(node.reads().map(|port| &port.stage).collect::<Vec<_>>(), reads, "{}: {name}", trial.name);
            }
        }
    }
}

#[test]
fn lists_and_draws_multiply_and_references_in_values_are_followed() {
    let resolved = load_with("valid/sweep_kinds.yaml", &options()).resolved;
    assert_eq!(resolved.trials.len(), 8);
    insta::assert_snapshot!(trials(&resolved)[..3].join("\n"), @r"
    size=1,steps=params.base.size,name=a,lr=4.377e-4
    size=1,steps=params.base.size,name=a,lr=0.006702
    size=1,steps=params.base.size,name=b,timeout=30m,lr=4.377e-4
    ");
    let steps = |trial: usize| {
        let stage = &resolved.trials[trial].stages["fit"];
        resolved.stages.get(stage).unwrap().params["steps"].clone()
    };
    assert_eq!((steps(0), steps(7)), (json!(1), json!(20)));
}

#[test]
fn the_command_line_adds_axes_replaces_them_and_takes_them_away() {
    let grid = sweep(&["params.lr=[0.1, 0.2]", "stages.fit.with.steps=[1, 2]"], &[]);
    assert_eq!(trials(&grid), ["lr=0.1,steps=1", "lr=0.1,steps=2", "lr=0.2,steps=1", "lr=0.2,steps=2"]);
    let set = sweep(&["params.lr=[0.1, 0.2]", "stages.fit.with.steps=[1, 2]"], &["stages.fit.with.steps=7"]);
    assert_eq!(trials(&set), ["lr=0.1", "lr=0.2"]);
    assert_eq!(set.stages.get("fit@lr=0.2").unwrap().params["steps"], json!(7));
    let one = sweep(&["params.lr=[0.1]"], &[]);
    assert_eq!((trials(&one), one.stages.len()), (vec!["lr=0.1"], 5));
    assert!(one.stages.contains_key("fit") && one.outputs.contains_key("model"), "nothing differs");
    let file = |options: LoadOptions| load_with("valid/sweep.yaml", &options).resolved;
    let replaced = file(LoadOptions {
        sweeps: vec!["params.lr=[0.5]".into()],
        sets: vec!["stages.encode.with.max_length=8".into()],
        ..options()
    });
    assert!(replaced.trials.iter().all(|trial| !trial.values.contains_key("stages.encode.with.max_length")));
    assert!(file(LoadOptions { no_sweep: true, ..options() }).trials.is_empty());
}

#[test]
fn trials_of_equal_values_are_one() {
    assert_eq!(trials(&sweep(&["params.seed=[1, 1.0, 2, 1]"], &[])), ["seed=1", "seed=2"]);
    // All params that the trials change are overridden, so no trials remain.
    assert!(sweep(&["params.lr=[0.1, 0.2]"], &["params.lr=0.5"]).trials.is_empty());
}

#[test]
fn stages_are_found_by_name_by_trial_and_by_both() {
    let resolved = load_with("valid/sweep.yaml", &options()).resolved;
    assert_eq!(resolved.named("encode").len(), 3);
    assert_eq!(resolved.named("data"), ["data"]);
    assert_eq!(resolved.named("stages.encode@max_length=64"), ["encode@max_length=64"]);
    // The full name of a trial works even if the stage depends on only a part of it.
    assert_eq!(resolved.named("encode@lr=1e-5,max_length=64"), ["encode@max_length=64"]);
    assert_eq!(resolved.named("data@lr=0.3"), ["data"]);
    assert_eq!(resolved.named("@lr=0.3"), ["best@lr=0.3", "encode@max_length=128", "fit@lr=0.3", "score@lr=0.3"]);
    assert!(resolved.named("encode@max_length=65").is_empty() && resolved.named("enc").is_empty());
}

#[test]
fn a_swept_experiment_comes_back_from_yaml_with_each_contract_once() {
    let resolved = load_with("valid/sweep.yaml", &options()).resolved;
    let text = serde_yaml::to_string(&resolved).unwrap();
    assert_eq!(serde_yaml::from_str::<Resolved>(&text).unwrap(), resolved);
    assert_eq!(text.matches("summary: Fits a model.").count(), 1, "{text}");
}

#[test]
fn a_hundred_thousand_trials_share_what_they_can_and_no_more_are_taken() {
    let steps: Vec<String> = (1..=100_000).map(|step| step.to_string()).collect();
    let many = sweep(&[&format!("stages.fit.with.steps=[{}]", steps.join(","))], &[]);
    assert_eq!(many.trials.len(), 100_000);
    // data and encode once; fit, score and best for each trial.
    assert_eq!(many.stages.len(), 300_002);
    assert_eq!(many.stages.get("fit@steps=77777").unwrap().params["steps"], json!(77_777));
}

// --- Merged experiments. ---

#[test]
fn an_experiment_that_extends_another_changes_it_in_parts() {
    let Loaded { resolved, origins } = load_with("valid/extends.yaml", &LoadOptions { origins: true, ..options() });
    assert_eq!((resolved.experiment.as_str(), resolved.profile.as_deref()), ("extends", Some("low")));
    // The profile applies before the `params` of both files, and is merged from both.
    assert_eq!(
        (&resolved.params["lr"], &resolved.params["seed"], &resolved.params["name"]),
        (&json!(0.0001), &json!(8), &json!("low"))
    );
    assert_eq!(resolved.params["files"], json!([fixtures().join("data/a.txt")]));
    assert_eq!(resolved.stages.keys().collect::<Vec<_>>(), ["data", "encode", "fit", "score", "again"]);
    let fit = resolved.stages.get("fit").unwrap();
    assert_eq!(
        (&fit.params["betas"], &fit.params["steps"], &fit.params["limit"]),
        (&json!([0.1, 0.2]), &json!(5), &json!(3))
    );
    assert_eq!(fit.timeout_s, Some(3_600));
    assert_eq!(resolved.stages.get("again").unwrap().params["steps"], json!(9));
    assert_eq!(resolved.outputs.keys().collect::<Vec<_>>(), ["model", "scores"]);
    for (path, origin) in [
        ("params.lr", "valid/extended/base.yaml:4:22"),
        ("params.seed", "valid/extends.yaml:5:24"),
        ("params.files", "valid/extended/base.yaml:3:26"),
        ("stages.fit.with.steps", "valid/extended/base.yaml:7:23"),
        ("stages.fit.with.betas", "valid/extends.yaml:8:23"),
        ("stages.fit.timeout", "valid/extended/base.yaml:7:46"),
        ("outputs.model", "valid/extended/base.yaml:10:18"),
    ] {
        assert_eq!(origins.get(path).map(String::as_str), Some(origin), "{path}");
    }
}

#[test]
fn several_profiles_are_laid_over_each_other() {
    let profile = |names: &str| {
        let options = LoadOptions { profile: Some(names.into()), ..options() };
        let resolved = load_with("valid/extends.yaml", &options).resolved;
        (resolved.profile.unwrap(), resolved.params["lr"].clone(), resolved.params["seed"].clone())
    };
    assert_eq!(profile("low,high"), ("low,high".to_owned(), json!(0.1), json!(8)));
    assert_eq!(profile("high,low"), ("high,low".to_owned(), json!(0.0001), json!(8)));
    let options = LoadOptions { profile: Some("low,hig".into()), ..options() };
    let text = load(Path::new("valid/extends.yaml"), &options, &[]).unwrap_err().render(false);
    assert!(text.contains("--> --profile:1:5") && text.contains("did you mean `high`?"), "{text}");
}

#[test]
fn a_pipeline_made_of_others_holds_each_once_and_the_last_word_is_its_own() {
    let resolved = load_with("valid/includes.yaml", &options()).resolved;
    assert_eq!(resolved.stages.keys().collect::<Vec<_>>(), ["data", "encode", "fit", "score"]);
    assert_eq!(resolved.params["seed"], json!(5));
    assert_eq!(resolved.stages.get("fit").unwrap().params["tag"], json!("seed 5"));
    assert_eq!(resolved.outputs["scores"].to_string(), "stages.score.metrics");
    assert_eq!(resolved.outputs["tokens"].to_string(), "stages.encode.tokens");
}

// --- Runs. ---

/// A project whose stage `make` writes its param to its output and its name to `ran`, and fails for
/// the values in `failing`. Stage `add` reads the output and adds another param.
struct Project(tempfile::TempDir);

const MAKE: &str = r#"set -eu
echo "$1" >> "@/ran"
if grep -qx "$1" "@/failing"; then echo "no $1" >&2; exit 1; fi
if [ -e "@/slow" ] && [ "${1#make}" != "$1" ]; then while [ ! -e "@/go-on" ]; do sleep 0.02; done; fi
echo "$1" > "$2/text"
"#;

impl Project {
    fn new(sweep: &str) -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        for stage in ["base", "make", "add"] {
            let contract = format!(
                "stage: {stage}\nversion: 1\nsummary: For a test.\ninputs: {{from: {{type: text, optional: true}}}}\n\
                 outputs: {{text: {{type: text}}}}\nparams: {{say: {{type: string, default: ''}}}}\n\
                 resources: {{cpus: 1, memory_mib: 16}}\n\
                 command: {{argv: [/bin/sh, '${{stage.dir}}/run.sh', '{stage} ${{params.say}}', '${{outputs.text}}'], files: [run.sh]}}\n"
            );
            project.write(&format!("stages/{stage}/stage.yaml"), &contract);
            project
                .write(&format!("stages/{stage}/run.sh"), &MAKE.replace('@', &project.0.path().display().to_string()));
        }
        project.write("olmo-pipe.yaml", "");
        project.write("failing", "");
        project.write(
            "pipeline.yaml",
            "pipeline: p\nparams: {a: {type: string, default: x}, b: {type: string, default: z}}\nstages:\n\
             \x20 base: {uses: base}\n\
             \x20 make: {uses: make, with: {from: '${stages.base.text}', say: '${params.a}'}}\n\
             \x20 add: {uses: add, with: {from: '${stages.make.text}', say: '${params.b}'}}\n\
             outputs: {all: '${stages.add.text}', start: '${stages.base.text}'}\n",
        );
        project.write("e.yaml", &format!("experiment: e\nuses: pipeline.yaml\nsweep: {sweep}\n"));
        project
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        command.args(arguments).current_dir(self.0.path());
        command.env_remove("OLMO_PIPE_STORE").env_remove("OLMO_PIPE_FAILPOINT");
        command
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        (status.code(), [String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)].concat())
    }

    fn ran(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in fs::read_to_string(self.0.path().join("ran")).unwrap_or_default().lines() {
            *counts.entry(line.to_owned()).or_insert(0) += 1;
        }
        counts
    }

    fn last_run(&self) -> RunState {
        run::list(&Store::open(&self.0.path().join(".olmo-pipe")).unwrap()).unwrap().pop().unwrap()
    }

    fn status(&self, stage: &str) -> Status {
        let run = self.last_run();
        run.stages.get(stage).unwrap_or_else(|| panic!("{stage}: {:?}", run.stages.keys().collect::<Vec<_>>())).status
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

fn counts(all: &[(&str, usize)]) -> BTreeMap<String, usize> {
    all.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn a_sweep_runs_shared_stages_once_and_each_trial_has_its_results() {
    let project = Project::new("{grid: {params.a: [p, q], params.b: [r, s]}}");
    let (code, said) = project.run(&["run", "e.yaml"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(project.ran(), counts(&[("base ", 1), ("make p", 1), ("make q", 1), ("add r", 2), ("add s", 2)]));
    assert_eq!(project.read("out/e/start/text"), "base \n");
    assert_eq!(project.read("out/e/a=q,b=r/all/text"), "add r\n");
    assert!(!project.0.path().join("out/e/all").exists());
    let (code, again) = project.run(&["run", "e.yaml"]);
    assert!(code == Some(0) && again.contains("all 7 stages cached"), "{again}");
}

#[test]
fn runs_and_trials_are_compared_by_what_differs_and_the_best_come_first() {
    let project = Project::new("{grid: {params.a: [p, q, r], params.b: [same]}}");
    // A stage whose metrics are derived from its param.
    project.write(
        "stages/rate/stage.yaml",
        "stage: rate\nversion: 1\nsummary: For a test.\noutputs: {metrics: {type: metrics}}\n\
         params: {say: {type: string}, more: {type: integer, default: 1}}\nresources: {cpus: 1, memory_mib: 16}\n\
         command: {argv: [/bin/sh, '${stage.dir}/run.sh', '${params.say}', '${outputs.metrics}'], files: [run.sh]}\n",
    );
    project.write(
        "stages/rate/run.sh",
        "case $1 in p) loss=3;; q) loss=1;; r) loss=2;; esac\n\
         printf '{\"step\": 1, \"loss\": 9}\\n{\"step\": 2, \"loss\": %s}\\n' $loss > \"$2/metrics.jsonl\"\n",
    );
    project.write(
        "pipeline.yaml",
        "pipeline: p\nparams: {a: {type: string}, b: {type: string, default: z}}\nstages:\n\
         \x20 rate: {uses: rate, with: {say: '${params.a}'}}\noutputs: {}\n",
    );
    assert_eq!(project.run(&["run", "e.yaml"]).0, Some(0));
    let id = project.last_run().id.to_string();
    let (code, said) = project.run(&["runs", "compare", &id, "--min", "loss", "--top", "2"]);
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["run", "status", "a", "rate.loss"], "{said}");
    assert_eq!(lines[1][2..], ["a=q", "finished", "q", "1"], "{said}");
    assert_eq!(lines[2][2..], ["a=r", "finished", "r", "2"], "{said}");
    assert_eq!(lines.len(), 3, "{said}");
    // Another run without a sweep: a param of a stage differs, and cached stages have metrics, too.
    let (code, said) = project.run(&[
        "run",
        "e.yaml",
        "--no-sweep",
        "--set",
        "params.a=q",
        "--set",
        "stages.rate.with.more=2",
        "--set",
        "params.b=same",
    ]);
    assert_eq!(code, Some(0), "{said}");
    let other = project.last_run().id.to_string();
    let (_, said) = project.run(&["runs", "compare", &id, &other, "--max", "rate.loss"]);
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["run", "status", "a", "rate.more", "rate.loss"], "{said}");
    assert_eq!(lines[1][2..], ["a=p", "finished", "p", "1", "3"], "{said}");
    assert_eq!(lines.len(), 5, "{said}");
    let (_, json) = project.run(&["runs", "compare", &id, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["format"].as_u64(), json["differing"].clone()), (Some(1), json!(["params.a"])));
    assert_eq!(json["rows"][1]["metrics"]["rate.loss"], json!(1.0));
    let (code, said) = project.run(&["runs", "compare", &id, "--max", "accuracy"]);
    assert!(code == Some(2) && said.contains("there are: rate.loss, rate.step"), "{said}");
}

#[test]
fn a_value_that_is_added_to_a_sweep_runs_only_its_own_trial() {
    let project = Project::new("{grid: {params.a: [p, q]}}");
    assert_eq!(project.run(&["run", "e.yaml"]).0, Some(0));
    project.write("ran", "");
    let (code, said) = project.run(&["run", "e.yaml", "--sweep", "params.a=[p,q,r]"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(project.ran(), counts(&[("make r", 1), ("add z", 1)]));
}

#[test]
fn a_failed_trial_leaves_the_others_alone_and_a_second_run_does_what_is_left() {
    let project = Project::new("{grid: {params.a: [p, q, r]}}");
    project.write("failing", "make q\n");
    let (code, said) = project.run(&["run", "e.yaml"]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(project.status("make@a=q"), Status::Failed);
    assert_eq!(project.status("add@a=q"), Status::Skipped);
    assert_eq!((project.status("add@a=p"), project.status("add@a=r")), (Status::Finished, Status::Finished));
    assert_eq!(project.read("out/e/a=p/all/text"), "add z\n", "what is done of a sweep is given out");
    assert!(!project.0.path().join("out/e/a=q").exists());
    project.write("failing", "");
    project.write("ran", "");
    let id = project.last_run().id.to_string();
    let (code, said) = project.run(&["resume", &id]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(project.ran(), counts(&[("make q", 1), ("add z", 1)]));
    assert_eq!(project.read("out/e/a=q/all/text"), "add z\n");
}

#[test]
fn with_fail_fast_nothing_begins_after_a_failure() {
    let project = Project::new("{grid: {params.a: [p, q, r, s, t, u]}}");
    // Everything waits except the failing stage. The stages that run at the same time are stopped.
    project.write("failing", "make p\nmake q\n");
    project.write("slow", "");
    let (code, said) = project.run(&["run", "e.yaml", "--fail-fast", "make"]);
    assert_eq!(code, Some(1), "{said}");
    let run = project.last_run();
    let made = || run.stages.iter().filter(|(name, _)| name.starts_with("make@"));
    assert!(made().filter(|(_, stage)| stage.status == Status::Planned).count() >= 3, "{said}");
    assert!(made().all(|(_, stage)| stage.status != Status::Finished), "{said}");
    assert!(run.stages.values().any(|s| s.status == Status::Failed));
    // The reason is the failure, not a signal.
    assert!(said.contains("failed after"), "{said}");
    fs::remove_file(project.0.path().join("slow")).unwrap();
    let (code, said) = project.run(&["run", "e.yaml", "--keep-going"]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(project.status("add@a=u"), Status::Finished);
}

#[test]
fn a_stage_of_one_trial_and_all_of_a_stage_can_be_asked_for() {
    let project = Project::new("{grid: {params.a: [p, q]}}");
    let (code, said) = project.run(&["run", "e.yaml", "make@a=q"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(project.ran(), counts(&[("base ", 1), ("make q", 1)]));
    let (code, said) = project.run(&["run", "e.yaml", "make"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(project.ran(), counts(&[("base ", 1), ("make q", 1), ("make p", 1)]));
    let (code, said) = project.run(&["run", "e.yaml", "make@a=z"]);
    assert!(code == Some(2) && said.contains("make@a=z"), "{said}");
}

#[test]
fn a_swept_run_is_planned_and_drawn_like_any_other() {
    let project = Project::new("{grid: {params.a: [p, q]}}");
    let (_, plan) = project.run(&["plan", "e.yaml"]);
    assert!(plan.contains("5 stages: 0 from the cache, 5 to run") && plan.contains("make@a=p"), "{plan}");
    let (_, graph) = project.run(&["graph", "e.yaml"]);
    assert!(graph.contains("\"make@a=p\" -> \"add@a=p\""), "{graph}");
    let (_, said) = project.run(&["validate", "e.yaml"]);
    assert_eq!(said, "e: 5 stages in 2 trials: no errors\n");
    let (_, shown) = project.run(&["show", "e.yaml", "--origin"]);
    assert!(
        shown.contains("trials.a=p.params.a  e.yaml:3:27") && shown.contains("stages.make@a=q.with.say  e.yaml:3:30"),
        "{shown}"
    );
}
