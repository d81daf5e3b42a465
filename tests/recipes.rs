//! `init`, `recipes` and `completion`: the first steps of a user who has only the binary.

use std::fs;
use std::path::Path;
use std::process::Command;

use olmo_pipe::recipes::RECIPES;
use olmo_pipe::spec::{LoadOptions, load};

fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
    let output = command.args(arguments).current_dir(folder).env_remove("OLMO_PIPE_STORE").output().unwrap();
    let said = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    (output.status.code(), said)
}

#[test]
fn a_new_project_runs_and_runs_again_from_its_cache() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = run(folder.path(), &["init", "p"]);
    assert!(code == Some(0) && said.contains("to run it: olmo-pipe run p/experiments/word-frequency.yaml"), "{said}");
    let (code, said) = run(folder.path(), &["run", "p/experiments/word-frequency.yaml"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(folder.path().join("p/out/word-frequency/words").is_dir(), "{said}");
    let (code, said) = run(&folder.path().join("p"), &["run", "experiments/word-frequency.yaml"]);
    assert!(code == Some(0) && said.contains("cached, nothing ran"), "{said}");
    assert_eq!(fs::read_to_string(folder.path().join("p/.gitignore")).unwrap(), "/.olmo-pipe\n/out\n");
}

#[test]
fn every_recipe_resolves_where_it_is_copied_to_and_its_editor_schema_is_there() {
    for recipe in &RECIPES {
        let folder = tempfile::tempdir().unwrap();
        let (code, said) = run(folder.path(), &["recipes", "cp", recipe.name]);
        assert_eq!(code, Some(0), "{said}");
        let experiment = recipe.files[0].0;
        // Some recipes evaluate a model that the user gives.
        let needs_model = String::from_utf8_lossy(recipe.files[1].1).contains("  model: {type: path, summary");
        let sets = if needs_model { vec!["params.model=.".to_owned()] } else { Vec::new() };
        let options = LoadOptions { cwd: folder.path().to_owned(), sets, ..LoadOptions::default() };
        load(Path::new(experiment), &options, &olmo_pipe::builtin::STAGES)
            .unwrap_or_else(|e| panic!("{}: {e}", recipe.name));
        for (path, content) in recipe.files.iter().filter(|(path, _)| path.ends_with(".yaml")) {
            let first = String::from_utf8_lossy(content).lines().next().unwrap_or_default().to_owned();
            if let Some(schema) = first.strip_prefix("# yaml-language-server: $schema=") {
                let schema = folder.path().join(path).parent().unwrap().join(schema);
                assert!(schema.is_file(), "{path} names {}", schema.display());
            }
        }
    }
}

#[test]
fn edited_files_are_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &["init", "--empty"]).0, Some(0));
    fs::create_dir(folder.path().join("pipelines")).unwrap();
    fs::write(folder.path().join("pipelines/word-frequency.yaml"), "mine").unwrap();
    let (code, said) = run(folder.path(), &["recipes", "cp", "word-frequency"]);
    assert!(code == Some(2) && said.contains("pipelines/word-frequency.yaml") && said.contains("--force"), "{said}");
    assert!(!folder.path().join("experiments").exists());
    assert_eq!(run(folder.path(), &["recipes", "cp", "word-frequency", "--force"]).0, Some(0));
    let (code, said) = run(folder.path(), &["recipes", "cp", "word"]);
    assert!(code == Some(2) && said.contains("there are: word-frequency, finetune-tulu"), "{said}");
}

#[test]
fn completion_scripts_know_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let (code, script) = run(folder.path(), &["completion", shell]);
        assert_eq!(code, Some(0), "{script}");
        for word in ["validate", "recipes", "no-sweep", "compare"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    // A shell accepts the script.
    let (_, script) = run(folder.path(), &["completion", "bash"]);
    fs::write(folder.path().join("c.bash"), script).unwrap();
    let checked = Command::new("bash").args(["-n", "c.bash"]).current_dir(folder.path()).status();
    assert!(checked.is_ok_and(|status| status.success()), "bash cannot read the script");
}
