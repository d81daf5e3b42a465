//! Checks that the documentation is true.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use olmo_pipe::cli::Exit;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in [".", "docs", "docs/benchmarks", "docs/design", "data", "stages"] {
        let Ok(entries) = fs::read_dir(root().join(folder)) else { continue };
        found.extend(entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    assert!(found.len() >= 6, "{found:?}");
    found
}

#[test]
fn every_relative_link_leads_somewhere() {
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for part in text.split("](").skip(1) {
            let target = part.split(')').next().unwrap();
            let path = target.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let there = document.parent().unwrap().join(path);
            assert!(there.exists(), "{} links to {target}, which is not there", document.display());
        }
    }
}

#[test]
fn the_table_of_exit_codes_is_that_of_the_code() {
    let text = fs::read_to_string(root().join("docs/exit-codes.md")).unwrap();
    let rows: BTreeSet<&str> = text.lines().filter(|l| l.starts_with("| ") && !l.contains("code |")).collect();
    let expected: BTreeSet<String> =
        Exit::ALL.iter().map(|(exit, meaning)| format!("| {} | {meaning} |", exit.code())).collect();
    assert_eq!(rows, expected.iter().map(String::as_str).collect());
    let codes: BTreeSet<u8> = Exit::ALL.iter().map(|(exit, _)| exit.code()).collect();
    assert_eq!(codes.len(), Exit::ALL.len(), "every code means one thing");
}

#[test]
fn every_promise_of_the_store_names_a_test_that_exists() {
    fn sources(folder: &Path, found: &mut String) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                sources(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut text = String::new();
    for folder in ["tests", "src", "stages", "crates"] {
        sources(&root().join(folder), &mut text);
    }
    let store = fs::read_to_string(root().join("docs/store.md")).unwrap();
    let promises = store.split("## Promises").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = promises.lines().filter(|line| line.starts_with("| ")).collect();
    assert!(rows.len() > 25, "{rows:?}");
    for row in rows.iter().filter(|row| !row.contains("| test |")) {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {row}");
        for name in names {
            assert!(text.contains(&format!("fn {name}()")), "docs/store.md names the test {name}, which is not there");
        }
    }
}

/// The first commands in README.md are those that the CI and scripts/bare-check run.
#[test]
fn readme_has_its_two_lines_and_the_flagship_it_shows() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let lines: Vec<&str> = readme.lines().filter(|l| l.starts_with("cargo build --release")).collect();
    assert_eq!(
        lines,
        [
            "cargo build --release && target/release/olmo-pipe run experiments/finetune-tulu.yaml",
            "cargo build --release && cargo test --release",
        ]
    );
    let experiment = fs::read_to_string(root().join("experiments/finetune-tulu.yaml")).unwrap();
    let shown = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    for line in shown.lines().filter(|l| !l.trim().is_empty() && !l.trim().starts_with('#')) {
        assert!(experiment.contains(line.trim_end()), "README shows a line that the experiment does not have: {line}");
    }
}

#[test]
fn every_failpoint_in_the_sources_is_documented() {
    let formats = fs::read_to_string(root().join("docs/formats.md")).unwrap();
    let mut names = BTreeSet::new();
    let mut folders: Vec<PathBuf> = ["src", "stages", "crates"].iter().map(|f| root().join(f)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                names.extend(text.split("failpoint(\"").skip(1).filter_map(|p| p.split('"').next()).map(str::to_owned));
            }
        }
    }
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        assert!(formats.contains(&format!("`{name}`")), "docs/formats.md does not list the failpoint {name}");
    }
}
