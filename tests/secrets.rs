//! What comes from the environment: paths to data, and secrets, which leave no trace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use olmo_pipe::spec::{Binding, LoadOptions, load};

const SECRET: &str = "hf_dwsX93kqLm22";

#[test]
fn an_environment_variable_may_be_a_part_of_a_path() {
    // Cargo sets it for every test.
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let sets = [
        "params.files=[\"${env.CARGO_MANIFEST_DIR}/tests/fixtures/data/b.txt\"]",
        "stages.fit.with.init=${env.CARGO_MANIFEST_DIR}/tests/fixtures/data/model",
    ];
    let sets = sets.map(str::to_owned).to_vec();
    let options = LoadOptions { cwd: fixtures.clone(), sets, ..LoadOptions::default() };
    let resolved = load(Path::new("valid/plain.yaml"), &options, &[]).unwrap_or_else(|e| panic!("{e}")).resolved;
    assert_eq!(resolved.stages.get("data").unwrap().inputs["files"], [Binding::Path(fixtures.join("data/b.txt"))]);
    assert_eq!(resolved.stages.get("fit").unwrap().inputs["init"], [Binding::Path(fixtures.join("data/model"))]);
}

struct Project(tempfile::TempDir);

impl Project {
    /// One stage that prints its secret, whole and in parts, and proves that it had it.
    fn new(end: &str) -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        let write = |name: &str, text: &str| {
            let path = project.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("olmo-pipe.yaml", "");
        write("e.yaml", "experiment: e\nuses: pipeline.yaml\n");
        write("pipeline.yaml", "pipeline: p\nstages: {get: {uses: get}}\noutputs: {length: '${stages.get.length}'}\n");
        write(
            "stages/get/stage.yaml",
            "stage: get\nversion: 1\nsummary: For a test.\noutputs: {length: {type: text}}\nresources: {cpus: 1, memory_mib: 16}\n\
             command: {argv: [/bin/sh, '${stage.dir}/run.sh', '${outputs.length}'], files: [run.sh], secrets: [TEST_TOKEN]}\n",
        );
        let script = format!(
            "echo \"token $TEST_TOKEN.\"; echo \"again $TEST_TOKEN\" >&2; printf %s \"$TEST_TOKEN\"\n\
             env | cut -d= -f1 | grep -q OLMO_PIPE_SECRETS && exit 9\necho ${{#TEST_TOKEN}} > \"$1/length\"\n{end}\n"
        );
        write("stages/get/run.sh", &script);
        project
    }

    fn run(&self, token: Option<&str>) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        command.args(["run", "e.yaml"]).current_dir(self.0.path());
        command.env_remove("OLMO_PIPE_STORE").env_remove("OLMO_PIPE_FAILPOINT").env_remove("TEST_TOKEN");
        command.envs(token.map(|token| ("TEST_TOKEN", token)));
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.code(), [String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)].concat())
    }

    fn files(&self) -> Vec<PathBuf> {
        let (mut open, mut files) = (vec![self.0.path().to_owned()], Vec::new());
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() { open.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        files
    }

    /// No file of the project or its store holds the secret; how many hold a mask.
    fn masked(&self) -> usize {
        let mut masks = 0;
        for file in self.files() {
            let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
            assert!(!text.contains(SECRET), "{} holds the secret: {text}", file.display());
            masks += usize::from(text.contains("token ***.") && text.contains("again ***"));
        }
        masks
    }
}

#[test]
fn a_secret_reaches_its_stage_and_no_log_record_or_key() {
    let project = Project::new("");
    let (code, said) = project.run(Some(SECRET));
    assert!(code == Some(0) && !said.contains(SECRET), "{said}");
    assert_eq!(
        fs::read_to_string(project.0.path().join("out/e/length/length")).unwrap(),
        format!("{}\n", SECRET.len())
    );
    assert!(project.masked() >= 1, "the log of the run holds what was printed");
    // Another secret is no other work, and with the result there none is needed.
    for token in [Some("another-secret"), None] {
        let (code, said) = project.run(token);
        assert!(code == Some(0) && said.contains("cached, nothing ran"), "{said}");
    }
}

#[test]
fn a_failed_stage_shows_no_secret_either() {
    let project = Project::new("exit 3");
    let (code, said) = project.run(Some(SECRET));
    assert!(code == Some(1) && said.contains("***") && !said.contains(SECRET), "{said}");
    assert!(project.masked() >= 1);
}

#[test]
fn a_secret_that_is_not_set_is_named_with_the_way_out() {
    let project = Project::new("");
    for token in [None, Some("")] {
        let (code, said) = project.run(token);
        assert!(
            code == Some(1) && said.contains("exec::secret_missing") && said.contains("export TEST_TOKEN="),
            "{said}"
        );
    }
}
