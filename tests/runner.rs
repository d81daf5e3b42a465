//! The only integration test binary of the engine. Each module covers one topic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

mod artifacts;
mod backends;
mod chat;
mod data;
mod dependencies;
mod docs;
mod evaluation;
mod finetune;
mod flagship;
mod formats;
mod generate;
mod limits;
mod logits;
mod output;
mod ranks;
mod recipes;
mod remote;
mod rules;
mod run;
mod secrets;
mod situations;
mod spec;
mod spec_fuzz;
mod store;
mod structure;
mod sweep;
mod when;

/// Every test file must be listed above, since it would never run otherwise.
#[test]
fn every_file_of_tests_is_a_module_of_this_binary() {
    let listed = include_str!("runner.rs");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs").filter(|m| *m != "runner") {
            assert!(listed.contains(&format!("mod {module};")), "tests/{name} is not listed in tests/runner.rs");
        }
    }
}
