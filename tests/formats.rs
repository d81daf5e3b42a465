//! Files of older builds can still be read: a store, the record of a run in it, and an archive,
//! each written by a build of that format. A new format gets an additional sample; none is ever
//! removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use olmo_pipe::store::Store;
use serde_json::Value;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats").join(name)
}

/// A project with a store of the first format: one successful run of five stages, a tag and a pin.
struct Project(tempfile::TempDir);

impl Project {
    fn first() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let packed = fs::File::open(sample("store-1.tar.gz")).unwrap();
        tar::Archive::new(flate2::read::GzDecoder::new(packed)).unpack(dir.path()).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("sample")
    }

    fn ends(&self, code: i32, arguments: &[&str]) -> (Vec<u8>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        command.args(arguments).current_dir(self.path());
        command.env_remove("OLMO_PIPE_FAILPOINT").env_remove("OLMO_PIPE_STORE");
        let Output { status, stdout, stderr } = command.output().unwrap();
        let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(code), "{arguments:?}\n{said}");
        (stdout, said)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.ends(0, arguments).0).unwrap()
    }

    fn store(&self) -> Store {
        Store::open(&self.path().join(".olmo-pipe")).unwrap()
    }
}

#[test]
fn a_store_of_the_first_format_is_sound_and_answers() {
    let project = Project::first();
    // Its only source was in a folder of the machine that made the sample.
    let damage = project.store().verify().unwrap().into_iter().filter(|problem| problem.is_damage());
    assert_eq!(damage.collect::<Vec<_>>(), []);
    assert_eq!(project.store().artifacts().unwrap().count(), 9);
    let listed = project.json(&["artifacts", "list", "--json"]);
    assert_eq!(listed["artifacts"].as_array().unwrap().len(), 9);
    let tags = project.json(&["artifacts", "tags", "--json"]);
    assert_eq!((tags["tags"][0]["name"].as_str(), tags["pins"].as_array().unwrap().len()), (Some("first"), 1));
    let (_, lineage) = project.ends(0, &["artifacts", "lineage", "e:pick.best"]);
    assert!(lineage.contains("of fit") && lineage.contains("text"), "{lineage}");
    let (_, provenance) = project.ends(0, &["artifacts", "provenance", "e:pick.best"]);
    assert!(provenance.contains("burn-flex 0.22.1"), "of the environment's record: {provenance}");
}

#[test]
fn the_keys_of_the_first_format_are_still_those_of_the_same_experiment() {
    let project = Project::first();
    // Its source is now in another folder. Only the content matters.
    let plan = project.json(&["plan", "e.yaml", "--json"]);
    for stage in plan["stages"].as_array().unwrap() {
        assert_eq!(stage["state"], "hit", "{stage}");
    }
    let (_, said) = project.ends(0, &["run", "e.yaml"]);
    assert!(said.contains("all 5 stages cached"), "{said}");
    assert_eq!(fs::read_to_string(project.path().join("out/e/best/trainer.json")).unwrap(), "state 2\n");
}

#[test]
fn a_run_of_the_first_format_is_shown_with_its_logs_and_compared() {
    let project = Project::first();
    let runs = project.json(&["runs", "list", "--json"]);
    let run = &runs["runs"][0];
    assert_eq!((run["status"].as_str(), run["experiment"].as_str()), (Some("succeeded"), Some("e")));
    let id = run["id"].as_str().unwrap();
    let shown = project.json(&["runs", "show", id, "--json"]);
    assert_eq!(shown["run"]["stages"].as_object().unwrap().len(), 5);
    project.ends(0, &["runs", "logs", id, "--json"]);
    project.ends(0, &["runs", "compare", id]);
    let gone = project.json(&["runs", "rm", id, "--json"]);
    assert_eq!(gone["removed"][0], id);
}

#[test]
fn an_archive_of_the_first_format_is_taken() {
    let project = Project::first();
    let bundle = sample("bundle-1.tar");
    let bundle = bundle.to_str().unwrap();
    let taken = project.json(&["artifacts", "import", bundle, "--store", "other", "--trust-actions", "--json"]);
    // Two artifacts were requested, and the last checkpoint is also an item of the list that the
    // best one was chosen from.
    assert_eq!(taken["artifacts"].as_array().unwrap().len(), 3, "{taken}");
    let other = Store::open(&project.path().join("other")).unwrap();
    assert_eq!(other.verify().unwrap(), []);
    let plan = project.json(&["plan", "e.yaml", "--store", "other", "--json"]);
    let state = |name: &str| {
        plan["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == name).unwrap()["state"].clone()
    };
    assert_eq!((state("text"), state("pick")), ("hit".into(), "hit".into()), "{plan}");
}
