//! Values from the environment: paths to data, and secrets, which must not leave any trace.

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
    /// A stage that prints its secret, whole and in parts, and proves that it has it.
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

    /// Checks that no file of the project or its store contains the secret. Returns how many files
    /// contain a mask.
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
    // A different secret does not change the key, and a cached result needs no secret.
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

/// The exit code and the output.
type Ended = (Option<i32>, String);

/// A project whose only stage copies the file at `$TEST_DATA`, and fails while the file `fail`
/// exists.
fn copying() -> (tempfile::TempDir, impl Fn(&[&str], Option<&Path>) -> Ended) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let write = |name: &str, text: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("project/olmo-pipe.yaml", "");
    write("project/e.yaml", "experiment: e\nuses: pipeline.yaml\n");
    write(
        "project/pipeline.yaml",
        "pipeline: p\nparams: {data: {type: path, default: '${env.TEST_DATA}/words.txt'}}\n\
         stages: {copy: {uses: copy, with: {from: '${params.data}'}}}\noutputs: {text: '${stages.copy.text}'}\n",
    );
    write(
        "project/stages/copy/stage.yaml",
        "stage: copy\nversion: 1\nsummary: For a test.\ninputs: {from: {type: file}}\noutputs: {text: {type: text}}\n\
         params: {say: {type: string, default: ''}}\nresources: {cpus: 1, memory_mib: 16}\n\
         command: {argv: [/bin/sh, '${stage.dir}/run.sh', '${inputs.from}', '${outputs.text}'], files: [run.sh]}\n",
    );
    let fail = root.join("fail");
    write("project/stages/copy/run.sh", &format!("set -eu\n[ ! -e '{}' ]\ncp \"$1\"/* \"$2/\"\n", fail.display()));
    write("surely-a-name-of-its-own/words.txt", "hello\n");
    let run = move |arguments: &[&str], data: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        command.args(arguments).current_dir(root.join("project"));
        command.env_remove("OLMO_PIPE_STORE").env_remove("OLMO_PIPE_FAILPOINT").env_remove("TEST_DATA");
        command.envs(data.map(|data| ("TEST_DATA", data)));
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.code(), [String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)].concat())
    };
    (dir, run)
}

#[test]
fn a_record_names_the_variable_of_a_path_and_resume_fills_it_in() {
    let (dir, run) = copying();
    let data = dir.path().join("surely-a-name-of-its-own");
    fs::write(dir.path().join("fail"), "").unwrap();
    let (code, said) = run(&["run", "e.yaml"], Some(&data));
    assert_eq!(code, Some(1), "{said}");
    let runs = fs::read_dir(dir.path().join("project/.olmo-pipe/runs-v1")).unwrap();
    let id = runs.flatten().next().unwrap().file_name().into_string().unwrap();
    let folder = dir.path().join("project/.olmo-pipe/runs-v1").join(&id);
    let record = fs::read_to_string(folder.join("resolved.json")).unwrap();
    assert!(record.contains("${env.TEST_DATA}/words.txt"), "{record}");
    for file in ["resolved.json", "events.jsonl", "environment.jsonl"] {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
        assert!(!text.contains("surely-a-name-of-its-own"), "{file}: {text}");
    }
    fs::remove_file(dir.path().join("fail")).unwrap();
    let (code, said) = run(&["resume", &id], None);
    assert!(code != Some(0) && said.contains("run::variable_gone") && said.contains("TEST_DATA"), "{said}");
    let (code, said) = run(&["resume", &id], Some(&data));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fs::read_to_string(dir.path().join("project/out/e/text/words.txt")).unwrap(), "hello\n");
}

#[test]
fn a_variable_gets_into_no_key_by_way_of_a_param() {
    let (dir, run) = copying();
    let data = dir.path().join("surely-a-name-of-its-own");
    let set = "stages.copy.with.say=${params.data}";
    let (code, said) = run(&["validate", "e.yaml", "--set", set], Some(&data));
    assert!(code == Some(2) && said.contains("spec::variable_in_value") && said.contains("params.data"), "{said}");
    let (code, said) = run(&["validate", "e.yaml", "--set", &format!("{set}/more")], Some(&data));
    assert!(code == Some(2) && said.contains("spec::variable_in_value"), "{said}");
}

/// A project whose stage `get` has the check program `check`.
fn checked(check: &str) -> Project {
    let project = Project::new("");
    let contract = project.0.path().join("stages/get/stage.yaml");
    let text = fs::read_to_string(&contract).unwrap();
    let with_check =
        text.replace("secrets: [TEST_TOKEN]", "secrets: [TEST_TOKEN], check: [/bin/sh, '${stage.dir}/check.sh']");
    fs::write(&contract, with_check).unwrap();
    fs::write(project.0.path().join("stages/get/check.sh"), check).unwrap();
    project
}

impl Project {
    fn command(&self, arguments: &[&str], token: Option<&str>) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        command.args(arguments).current_dir(self.0.path());
        command.env_remove("OLMO_PIPE_STORE").env_remove("OLMO_PIPE_FAILPOINT").env_remove("TEST_TOKEN");
        command.envs(token.map(|token| ("TEST_TOKEN", token)));
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.code(), [String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)].concat())
    }

    fn store_holds(&self, secret: &str) -> bool {
        let store = self.0.path().join(".olmo-pipe");
        let mut files = self.files().into_iter().filter(|file| file.starts_with(&store));
        files.any(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).contains(secret))
    }
}

#[test]
fn what_a_checking_program_says_of_a_secret_is_masked_everywhere() {
    let secret = "tok\"en\\of-mine";
    // As escaped in JSON, with every possible character escaped, and in plain form.
    let escaped = serde_json::to_string(secret).unwrap();
    let escaped = &escaped[1..escaped.len() - 1];
    let numbers: String = secret.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
    for said_as in [escaped, numbers.as_str()] {
        let finding = format!(
            "[{{\"level\":\"warning\",\"code\":\"get::warns\",\"message\":\"it is {said_as}!\",\"hint\":\"try {said_as}?\"}}]"
        );
        let project = checked(&format!("cat <<'END'\n{finding}\nEND\n"));
        for arguments in [&["validate", "e.yaml"][..], &["validate", "e.yaml", "--json"], &["run", "e.yaml"]] {
            let (code, shown) = project.command(arguments, Some(secret));
            assert_eq!(code, Some(0), "{shown}");
            assert!(!shown.contains("of-mine") && shown.contains("it is ***!"), "{arguments:?}: {shown}");
        }
        assert!(!project.store_holds("of-mine"));
    }
    let project = checked("echo \"bad $TEST_TOKEN\" >&2; exit 1\n");
    for arguments in [&["validate", "e.yaml"][..], &["run", "e.yaml"]] {
        let (code, shown) = project.command(arguments, Some(secret));
        assert!(code == Some(3) && shown.contains("bad ***") && !shown.contains("of-mine"), "{shown}");
    }
    assert!(!project.store_holds("of-mine"));
}

#[test]
fn a_secret_is_not_needed_to_check_params() {
    let project = checked("echo '[]'\n[ -z \"${TEST_TOKEN:-}\" ]\n");
    let (code, shown) = project.command(&["validate", "e.yaml"], None);
    assert_eq!(code, Some(0), "{shown}");
}

#[test]
fn a_secret_that_a_stage_prints_as_json_is_masked() {
    let secret = "tok\"en\\of-mine é";
    let project = Project::new("");
    let printed = serde_json::to_string(&serde_json::json!({"token": secret})).unwrap();
    fs::write(
        project.0.path().join("stages/get/run.sh"),
        format!(
            "cat <<'END'\n{printed}\n{{\"token\": \"tok\\\"en\\\\of-mine \\u00e9\"}}\nEND\necho x > \"$1/length\"\n"
        ),
    )
    .unwrap();
    let (code, shown) = project.command(&["run", "e.yaml"], Some(secret));
    assert_eq!(code, Some(0), "{shown}");
    let (_, shown) = project.command(&["runs", "list"], None);
    let id = shown.lines().last().unwrap().split(' ').next().unwrap().to_owned();
    let (_, shown) = project.command(&["runs", "logs", &id], None);
    assert_eq!(shown, "get | {\"token\":\"***\"}\nget | {\"token\": \"***\"}\n");
}
