//! Unusual outputs of stages: read-only folders, programs, and labels that differ in case.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::readers::somebody;
use crate::run::project::*;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_read_only_folder_in_an_output_is_taken_and_nothing_stays_in_tmp() {
    let project = Project::new();
    let script = "mkdir -p own/deep; echo > own/deep/file; chmod 555 own/deep own; mkdir -p \"$2/a/b\"; echo one > \"$2/a/b/one\"; echo two > \"$2/two\"\n\
                  chmod 444 \"$2/a/b/one\"; chmod 555 \"$2/a/b\" \"$2/a\" \"$2\"\n";
    project.stage_with("a", script, "tree: {type: dir}", "cpus: 1, memory_mib: 16");
    project.experiment("  a: {uses: a}\n", "tree: '${stages.a.tree}'");
    let output = somebody(&project, &["run", "e.yaml"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(project.read("out/e/tree/a/b/one"), "one\n");
    for folder in ["tmp", "work-v1"] {
        let left = fs::read_dir(project.path(".olmo-pipe").join(folder)).unwrap();
        let left: Vec<_> = left.map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let output = somebody(&project, &["run", "e.yaml"]).output().unwrap();
    assert!(said(&output).contains("cached"), "{}", said(&output));
}

#[test]
fn a_program_stays_one_through_the_store_the_next_stage_and_an_export() {
    let project = Project::new();
    let script = "printf '#!/bin/sh\\necho it runs\\n' > \"$2/tool\"; cp \"$2/tool\" \"$2/plain\"; chmod 755 \"$2/tool\"; chmod 644 \"$2/plain\"\n";
    project.stage_with("make", script, "tool: {type: text}", "cpus: 1, memory_mib: 16");
    project.stage("use", "\"$4/tool\" > \"$2/text\"; test ! -x \"$4/plain\"\n");
    project.experiment(
        "  make: {uses: make}\n  use: {uses: use, with: {one: '${stages.make.tool}'}}\n",
        "text: '${stages.use.text}', tool: '${stages.make.tool}'",
    );
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.read("out/e/text/text"), "it runs\n");
    assert_eq!((mode(&project.path("out/e/tool/tool")), mode(&project.path("out/e/tool/plain"))), (0o755, 0o644));
    for how in ["auto", "copy", "hardlink"] {
        project.succeeds(&["artifacts", "export", "latest:tool", "--to", how, "--how", how]);
        assert_eq!(mode(&project.path(how).join("tool")) & 0o111, 0o111, "{how}");
        assert_eq!(mode(&project.path(how).join("plain")) & 0o111, 0, "{how}");
    }
    project.succeeds(&["artifacts", "export", "latest:tool", "--to", "tool.tar", "--archive"]);
    project.succeeds(&["artifacts", "import", "tool.tar", "--tag", "tool", "--store", "other"]);
    project.succeeds(&["artifacts", "export", "tool", "--to", "again", "--store", "other"]);
    assert_eq!((mode(&project.path("again/tool")), mode(&project.path("again/plain"))), (0o755, 0o644));
    project.succeeds(&["artifacts", "import", "again", "--type", "text", "--tag", "folder", "--store", "other"]);
    let digest = |name: &str| {
        let output = project.run(&["artifacts", "show", name, "--json", "--store", "other"]);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["digest"].clone()
    };
    assert_eq!(digest("folder"), digest("tool"));
    // The two files have the same bytes, which are stored once and stay read-only.
    let objects = project.store().objects().unwrap();
    let of_tool = objects.iter().filter(|(_, size)| *size == 23).count();
    assert_eq!(of_tool, 1, "{objects:?}");
}

#[test]
fn labels_that_differ_only_in_case_are_refused() {
    let project = Project::new();
    let script = "for n in step1 Step1; do mkdir \"$2/$n\"; echo $n > \"$2/$n/text\"; done\n";
    project.stage_with("a", script, "items: {type: text, list: true}", "cpus: 1, memory_mib: 16");
    project.experiment("  a: {uses: a}\n", "items: '${stages.a.items}'");
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("differ only in upper and lower case"), "{}", said(&output));
}
