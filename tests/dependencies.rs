//! The crates that each build may depend on.

use std::process::Command;

/// Names of the crates that `package` is built from, including those of build scripts.
fn closure(package: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{lib}|{p}"])
        .args(["--package", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let name = |line: &str| line.split_once('|').and_then(|(_, p)| p.split_whitespace().next()).map(str::to_owned);
    let mut names: Vec<String> = text.lines().filter_map(name).collect();
    names.sort();
    names.dedup();
    assert!(names.iter().any(|n| n == package), "the list holds the package itself: {names:?}");
    names
}

#[test]
fn the_engine_has_no_tensor_crate() {
    let names = closure("olmo-pipe");
    assert!(names.iter().any(|n| n == "petgraph"), "the list is that of the engine");
    for name in names {
        let tensors = [
            "burn",
            "cubecl",
            "tch",
            "torch",
            "olmo-ops",
            "olmo-model",
            "olmo-train",
            "candle",
            "ndarray",
            "matrixmultiply",
        ];
        assert!(!tensors.iter().any(|t| name.starts_with(t)), "the engine depends on {name}");
    }
}

#[test]
fn the_default_build_needs_no_cpp_no_cmake_and_no_tls_library() {
    let names = closure("olmo-worker");
    assert!(names.iter().any(|n| n == "burn-flex"), "the list is that of the worker");
    for package in [names, closure("olmo-pipe")].concat() {
        let refused = [
            "aws-lc",
            "openssl",
            "cmake",
            "cxx",
            "link-cplusplus",
            "torch-sys",
            "tch",
            "burn-tch",
            "olmo-torch",
            "onig",
            "bindgen",
            "libgit2",
        ];
        assert!(!refused.iter().any(|r| package.starts_with(r)), "the default build has {package}");
    }
    // Pure Rust, unless its feature `cpp` is enabled, which the feature `esaxx_fast` of tokenizers
    // would do.
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}|{f}"])
        .args(["--package", "olmo-worker"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let suffix_array = text.lines().find(|line| line.starts_with("esaxx-rs ")).expect("tokenizers uses it");
    assert!(!suffix_array.contains("cpp"), "{suffix_array}");
}

#[test]
fn the_default_build_stays_on_its_diet() {
    let mut names = closure("olmo-worker");
    names.extend(closure("olmo-pipe"));
    names.sort();
    names.dedup();
    assert!(names.len() <= 345, "{} crates; see docs/decisions.md before adding more", names.len());
}

/// All crates of the workspace, with their features.
fn features(edges: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--workspace", "--edges", edges])
        .args(["--prefix", "none", "--format", "{p} [{f}]"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect();
    lines.sort();
    lines.dedup();
    lines
}

#[test]
fn building_and_testing_ask_for_the_same_features_so_that_dependencies_compile_once() {
    let tested = features("normal,build,dev");
    let twice: Vec<String> = features("normal,build").into_iter().filter(|line| !tested.contains(line)).collect();
    assert!(twice.is_empty(), "compiled again for the tests, with more features: {twice:#?}; see `syn` in Cargo.toml");
}

/// The licenses that a dependency may have, as in deny.toml.
const LICENSES: [&str; 15] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Whether the SPDX expression `license` allows one of [`LICENSES`]. `/` is an old notation for OR.
fn is_allowed(license: &str) -> bool {
    let license = license.replace('/', " OR ").replace(['(', ')'], " ");
    license.split(" AND ").all(|all| all.split(" OR ").any(|one| LICENSES.contains(&one.trim())))
}

#[test]
fn every_dependency_has_a_licence_that_permits_its_use() {
    assert!(is_allowed("(MIT OR GPL-3.0) AND Unicode-3.0") && !is_allowed("MIT AND GPL-3.0") && !is_allowed(""));
    let deny = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).unwrap();
    for license in LICENSES {
        assert!(deny.contains(&format!("\"{license}\"")), "deny.toml does not list {license}");
    }
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--workspace", "--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}|{l}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.trim_end_matches(" (*)").split_once('|')).collect();
    assert!(lines.len() > 300, "{text}");
    let refused: Vec<&(&str, &str)> = lines.iter().filter(|(_, license)| !is_allowed(license)).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// The crates below the engine and the stages, each with the workspace crates that it may use.
const LAYERS: [(&str, &[&str]); 11] = [
    ("olmo-base", &[]),
    ("olmo-stage", &["olmo-base", "olmo-dist"]),
    ("olmo-data", &["olmo-base", "olmo-remote"]),
    ("olmo-dist", &["olmo-base"]),
    ("olmo-eval", &["olmo-base"]),
    ("olmo-pickle", &["olmo-base"]),
    ("olmo-remote", &["olmo-base", "olmo-pickle"]),
    ("olmo-store", &["olmo-base", "olmo-stage"]),
    ("olmo-spec", &["olmo-base", "olmo-remote", "olmo-stage"]),
    ("olmo-infer", &["olmo-base", "olmo-data", "olmo-model", "olmo-ops", "olmo-stage"]),
    ("olmo-train", &["olmo-base", "olmo-data", "olmo-dist", "olmo-model", "olmo-ops", "olmo-stage"]),
];

#[test]
fn crates_use_only_the_layers_below_them() {
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/crates")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap();
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default().split("\n[").next().unwrap();
        let used = dependencies.lines().filter_map(|line| line.split(['.', ' ']).next());
        for used in used.filter(|used| used.starts_with("olmo-")) {
            assert!(!used.starts_with("olmo-stage-"), "{name} uses a stage: {used}");
            if let Some((_, below)) = LAYERS.iter().find(|(layer, _)| *layer == name) {
                assert!(below.contains(&used), "{name} may use {below:?}, not {used}");
            }
        }
    }
}
