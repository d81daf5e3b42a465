//! Hostile specs: whatever a file contains, reading it ends within bounded memory, with a value or
//! with errors, and nothing in it can control a terminal.
//!
//! `fixtures/corpus/` contains the inputs that are always tested, including those that property
//! tests have found. Each is read as an experiment, as a pipeline, as an extended base, and as a
//! stage contract.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use olmo_pipe::spec::{LoadOptions, load};
use proptest::prelude::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(fixtures().join("corpus")).unwrap().flatten();
    let mut all: Vec<_> =
        entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect();
    all.sort();
    assert!(all.len() > 40, "only {} inputs", all.len());
    all
}

/// A project that reads the hostile file in every role.
struct Bench(tempfile::TempDir);

const PARTS: [&str; 4] =
    ["experiments/x.yaml", "experiments/extending.yaml", "experiments/of_pipeline.yaml", "experiments/of_stage.yaml"];

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for folder in ["experiments", "pipelines", "data"] {
            fs::create_dir_all(bench.0.path().join(folder)).unwrap();
        }
        let copied = Command::new("cp")
            .arg("-r")
            .arg(fixtures().join("stages"))
            .arg(fixtures().join("pipelines"))
            .arg(fixtures().join("data"))
            .arg(bench.0.path())
            .status();
        assert!(copied.unwrap().success());
        let write = |name: &str, text: &str| fs::write(bench.0.path().join(name), text).unwrap();
        write("olmo-pipe.yaml", "");
        write(
            "experiments/extending.yaml",
            "experiment: e\nextends: x.yaml\nparams: {lr: 0.5}\nstages: {fit: {with: {steps: 3}}}\n",
        );
        write("experiments/of_pipeline.yaml", "experiment: e\nuses: x.yaml\nsweep: {grid: {params.lr: [0.1, 0.2]}}\n");
        write("experiments/of_stage.yaml", "experiment: e\nuses: ../pipelines/hostile.yaml\n");
        write("pipelines/hostile.yaml", "pipeline: p\nstages: {h: {uses: hostile, with: {a: 1}}}\n");
        fs::create_dir_all(bench.0.path().join("stages/hostile")).unwrap();
        bench
    }

    fn put(&self, bytes: &[u8]) {
        fs::write(self.0.path().join("experiments/x.yaml"), bytes).unwrap();
        fs::write(self.0.path().join("stages/hostile/stage.yaml"), bytes).unwrap();
    }

    /// Reads the hostile file in each role. Returns the texts of all errors.
    fn load(&self) -> Vec<String> {
        let options = LoadOptions { cwd: self.0.path().to_owned(), origins: true, ..LoadOptions::default() };
        let read = |part: &&str| load(Path::new(part), &options, &[]).err().map(|errors| errors.render(false));
        PARTS.iter().filter_map(read).collect()
    }

    /// The same through the command, with limits of 1.5 GiB of memory and 30 seconds of CPU time.
    fn validate(&self, part: &str) -> Output {
        let script = format!("ulimit -v 1572864; ulimit -t 30; exec \"$0\" validate {part}");
        Command::new("/bin/sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_olmo-pipe")])
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }
}

fn is_harmless(text: &str) -> bool {
    let acts = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    !text.chars().any(acts)
}

#[test]
fn every_input_of_the_corpus_ends_in_a_value_or_in_errors() {
    let bench = Bench::new();
    for (name, bytes) in corpus() {
        bench.put(&bytes);
        for text in bench.load() {
            assert!(is_harmless(&text), "{name}: {text:?}");
        }
    }
}

/// Sizes so large that a non-linear algorithm would not end, and an expansion would not fit into
/// memory.
#[test]
fn large_inputs_end_within_bounded_memory_and_processor_time() {
    let bench = Bench::new();
    let many = |count: usize, one: &dyn Fn(usize) -> String| (0..count).map(one).collect::<String>();
    let head = "experiment: x\nuses: ../pipelines/small.yaml\nparams: {lr: 0.5}\n";
    let n = 15_000;
    for (name, text) in [
        ("brackets", "[".repeat(1_000_000)),
        ("items", "- a\n".repeat(1_000_000)),
        ("one long text", format!("experiment: \"{}\"\nuses: y\n", "x".repeat(4_000_000))),
        ("one long line of errors", format!("experiment: x\nuses: y\n{}", many(n, &|i| format!("k{i}: 1\n")))),
        ("keys of a stage", format!("{head}stages: {{fit: {{with: {{{}}}}}}}\n", many(n, &|i| format!("k{i}: 1, ")))),
        ("stages to remove", format!("{head}stages: {{{}}}\n", many(n, &|i| format!("s{i}: null, ")))),
        (
            "stages to add",
            format!(
                "{head}stages: {{{}}}\n",
                many(n, &|i| format!("s{i}: {{uses: gather, with: {{files: [../data/a.txt]}}}}, "))
            ),
        ),
        ("unknown stages", format!("{head}stages: {{{}}}\n", many(n, &|i| format!("s{i}: {{uses: u{i}}}, ")))),
        ("outputs", format!("{head}outputs: {{{}}}\n", many(n, &|i| format!("o{i}: \"${{stages.fit.model}}\", ")))),
        ("unknown outputs", format!("{head}outputs: {{{}}}\n", many(n, &|i| format!("o{i}: null, ")))),
        ("params", format!("{head}profiles: {{p: {{{}}}}}\n", many(n, &|i| format!("q{i}: 1, ")))),
        ("profiles", format!("{head}profiles: {{{}}}\n", many(n, &|i| format!("p{i}: {{seed: {i}}}, ")))),
        ("references", format!("{head}stages: {{fit: {{with: {{tag: \"{}\"}}}}}}\n", "${params.name}".repeat(n))),
        ("open references", format!("{head}stages: {{fit: {{with: {{tag: \"{}\"}}}}}}\n", "${".repeat(n))),
        (
            "excludes",
            format!(
                "{head}sweep: {{grid: {{params.seed: [{}]}}, exclude: [{}]}}\n",
                many(n, &|i| format!("{i}, ")),
                many(n, &|i| format!("{{params.seed: {i}}}, "))
            ),
        ),
        (
            "paths of a sweep",
            format!("{head}sweep: {{grid: {{{}}}}}\n", many(n, &|i| format!("params.base.k{i}: [1], "))),
        ),
        (
            "rows of a sweep",
            format!("{head}sweep: {{list: [{}]}}\n", many(n, &|i| format!("{{params.base.k{i}: 1}}, "))),
        ),
        (
            "wrong values of a sweep",
            format!("{head}sweep: {{grid: {{params.lr: [{}]}}}}\n", many(n, &|i| format!("{}, ", i + 2))),
        ),
        (
            "a circle",
            format!(
                "pipeline: p\nstages:\n{}",
                many(n, &|i| format!(
                    "  s{i}: {{uses: fit, with: {{data: ../data/model, init: \"${{stages.s{}.model}}\", learning_rate: 0.1}}}}\n",
                    (i + 1) % n
                ))
            ),
        ),
    ] {
        bench.put(text.as_bytes());
        let parts: &[&str] = if name == "a circle" { &PARTS[2..3] } else { &PARTS[..2] };
        for part in parts {
            let Output { status, stdout, stderr } = bench.validate(part);
            let said = [String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)].concat();
            let shown: String = said.chars().take(400).collect();
            assert_eq!(status.signal(), None, "{name} as {part} was stopped by its limits: {shown}");
            assert!(matches!(status.code(), Some(0 | 2)), "{name} as {part}: {:?} {shown}", status.code());
            assert!(said.len() < 1_000_000, "{name} as {part} prints {} bytes", said.len());
        }
    }
}

/// Words from which faulty specs are built.
const WORDS: [&str; 44] = [
    "experiment: ",
    "pipeline: ",
    "stage: ",
    "uses: ",
    "extends: ",
    "include: ",
    "params: ",
    "profiles: ",
    "stages: ",
    "outputs: ",
    "sweep: ",
    "grid: ",
    "zip: ",
    "list: ",
    "random: ",
    "exclude: ",
    "with: ",
    "for_each: ",
    "resources: ",
    "timeout: ",
    "fit: ",
    "params.lr: ",
    "stages.fit.with.steps: ",
    "x.yaml",
    "../pipelines/small.yaml",
    "${params.lr}",
    "${stages.fit.model}",
    "${item}",
    "${",
    "null",
    "1e400",
    "0.5",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "\n",
    "\n  ",
    "- ",
    "\"",
    "'",
    "\u{202e}",
    "\u{1b}[2J",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_input_of_the_corpus_never_panics(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..16, any::<prop::sample::Index>()), 1..6),
    ) {
        let mut inputs = corpus();
        inputs.extend(["valid/sweep.yaml", "valid/sweep_kinds.yaml", "valid/extends.yaml", "valid/profiles.yaml", "pipelines/small.yaml", "stages/fit/stage.yaml"]
            .map(|name| (name.to_owned(), fs::read(fixtures().join(name)).unwrap())));
        let mut bytes = which.get(&inputs).1.clone();
        for (place, length, word) in edits {
            let start = place.index(bytes.len() + 1);
            let end = (start + length).min(bytes.len());
            bytes.splice(start..end, word.get(&WORDS).bytes());
        }
        let bench = Bench::new();
        bench.put(&bytes);
        for text in bench.load() {
            prop_assert!(is_harmless(&text), "{:?}", text);
        }
    }

    #[test]
    fn a_spec_of_random_words_never_panics(words in prop::collection::vec(any::<prop::sample::Index>(), 0..60)) {
        let text: String = words.iter().map(|word| *word.get(&WORDS)).collect();
        let bench = Bench::new();
        bench.put(text.as_bytes());
        for text in bench.load() {
            prop_assert!(is_harmless(&text), "{:?}", text);
        }
    }
}
