//! Experiment files: every sample under `fixtures/valid` resolves, every one under
//! `fixtures/invalid` is rejected with exactly the text in the file next to it, and an independent
//! JSON Schema validator agrees with the engine.
//!
//! `UPDATE_FIXTURES=1 cargo test` rewrites the expected texts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use olmo_pipe::graph::Graph;
use olmo_pipe::spec::{Binding, Diagnostics, LoadOptions, Loaded, PortRef, Resolved, load, schema};
use proptest::prelude::*;
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The built-in stages that the samples use.
fn builtin() -> Vec<(String, String)> {
    ["tune", "shadow"]
        .map(|name| {
            (name.to_owned(), std::fs::read_to_string(fixtures().join(format!("builtin/{name}.json"))).unwrap())
        })
        .to_vec()
}

fn borrowed(builtin: &[(String, String)]) -> Vec<(&str, &str)> {
    builtin.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect()
}

/// Loads a sample by its path below `fixtures`, with the options in its comments.
fn load_sample(file: &str) -> Result<Loaded, Diagnostics> {
    let text = std::fs::read_to_string(fixtures().join(file)).unwrap();
    let notes = |key: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix(&format!("# {key}: "))).map(str::to_owned).collect()
    };
    let options = LoadOptions {
        profile: notes("profile").pop(),
        sets: notes("set"),
        sweeps: notes("sweep"),
        no_sweep: false,
        origins: true,
        cwd: fixtures(),
    };
    load(Path::new(file), &options, &borrowed(&builtin()))
}

fn load_with(file: &str, profile: Option<&str>, sets: &[&str]) -> Loaded {
    let sets = sets.iter().map(|&set| set.to_owned()).collect();
    let profile = profile.map(str::to_owned);
    let options = LoadOptions { profile, sets, origins: true, cwd: fixtures(), ..LoadOptions::default() };
    load(Path::new(file), &options, &borrowed(&builtin())).unwrap_or_else(|e| panic!("{e}"))
}

/// Paths below `fixtures` of the samples in `folder`, sorted.
fn samples(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(fixtures().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter(|name| name.ends_with(".yaml")).map(|name| format!("{folder}/{name}")).collect();
    names.sort();
    names
}

fn updating() -> bool {
    std::env::var_os("UPDATE_FIXTURES").is_some()
}

#[test]
fn every_invalid_sample_is_refused_with_the_text_beside_it() {
    let mut wrong = Vec::new();
    for sample in samples("invalid") {
        let text = match load_sample(&sample) {
            Ok(_) => panic!("{sample} was accepted"),
            Err(diagnostics) => diagnostics.render(false),
        };
        let path = fixtures().join(&sample).with_extension("txt");
        if updating() {
            std::fs::write(&path, &text).unwrap();
        } else if std::fs::read_to_string(&path).unwrap_or_default() != text {
            wrong.push(format!("{sample}:\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "these read otherwise than expected:\n{}", wrong.join("\n"));
}

#[test]
fn every_error_has_a_stable_code_and_a_place() {
    for sample in samples("invalid") {
        for diagnostic in load_sample(&sample).unwrap_err().iter() {
            let (area, reason) = diagnostic.code.split_once("::").unwrap();
            assert!(matches!(area, "spec" | "yaml") && !reason.is_empty(), "{sample}: {}", diagnostic.code);
            let span = diagnostic.span.as_ref().unwrap_or_else(|| panic!("{sample}: {} has no place", diagnostic.code));
            assert!(span.line >= 1 && span.column >= 1, "{sample}: {span:?}");
        }
    }
}

#[test]
fn every_valid_sample_resolves_and_comes_back_from_yaml() {
    for sample in samples("valid") {
        let loaded = load_sample(&sample).unwrap_or_else(|e| panic!("{sample}:\n{e}"));
        let text = olmo_pipe::spec::to_yaml(&loaded.resolved).unwrap();
        assert_eq!(serde_yaml::from_str::<Resolved>(&text).unwrap(), loaded.resolved, "{sample}");
        let order = Graph::new(&loaded.resolved).unwrap().order().len();
        assert_eq!(order, loaded.resolved.stages.len(), "{sample}");
    }
}

#[test]
fn values_reach_the_stages_with_their_types_and_defaults() {
    let resolved = load_sample("valid/plain.yaml").unwrap().resolved;
    assert_eq!(resolved.experiment, "plain");
    assert_eq!(resolved.root, fixtures());
    assert_eq!(resolved.stages.keys().collect::<Vec<_>>(), ["data", "encode", "fit", "score", "best"]);
    let fit = resolved.stages.get("fit").unwrap();
    assert_eq!(
        fit.params,
        json!({"betas": [0.9, 0.95], "learning_rate": 0.001, "limit": null, "shuffle": true, "steps": 100, "tag": "run-1"})
    );
    assert_eq!((fit.resources.cpus, fit.resources.memory_mib, fit.timeout_s), (2, 256, Some(43_200)));
    let port = |stage: &str, port: &str| PortRef { stage: stage.into(), port: port.into() };
    assert_eq!(fit.inputs, BTreeMap::from([("data".to_owned(), vec![Binding::Port(port("encode", "tokens"))])]));
    let score = resolved.stages.get("score").unwrap();
    assert_eq!(score.for_each, Some(port("fit", "checkpoints")));
    assert_eq!(score.inputs["model"], [Binding::Item]);
    assert_eq!(resolved.stages.get("data").unwrap().inputs["files"], [Binding::Path(fixtures().join("data/a.txt"))]);
    assert_eq!(resolved.outputs["scores"], port("score", "metrics"));
    assert!(resolved.is_list(&port("score", "metrics")) && !resolved.is_list(&port("fit", "model")));
    // A default path is relative to the stage that declares it.
    let vocabulary = &resolved.stages.get("encode").unwrap().params["vocabulary"];
    assert_eq!(vocabulary, &json!(fixtures().join("stages/encode/words.txt")));
}

#[test]
fn command_line_beats_profile_beats_experiment_beats_pipeline() {
    let seed = |loaded: Loaded| (loaded.resolved.params["seed"].clone(), loaded.resolved.params["lr"].clone());
    let file = "valid/profiles.yaml";
    assert_eq!(seed(load_with(file, None, &[])), (json!(7), json!(0.0001)));
    assert_eq!(seed(load_with(file, Some("high"), &[])), (json!(7), json!(0.1)));
    assert_eq!(seed(load_with(file, Some("high"), &["params.lr=0.5", "params.lr=0.25"])), (json!(7), json!(0.25)));
    assert_eq!(load_with("valid/plain.yaml", None, &[]).resolved.params["seed"], json!(1));
}

#[test]
fn a_path_is_relative_to_the_place_where_it_is_written() {
    let files = |sets: &[&str]| load_with("valid/plain.yaml", None, sets).resolved.params["files"].clone();
    assert_eq!(files(&[]), json!([fixtures().join("data/a.txt")]));
    // A path in `--set` is relative to the current folder, which is `fixtures`.
    assert_eq!(files(&["params.files=[data/b.txt]"]), json!([fixtures().join("data/b.txt")]));
    let loaded = load_with("valid/plain.yaml", None, &["stages.fit.with.init=data/model"]);
    let fit = loaded.resolved.stages.get("fit").unwrap();
    assert_eq!(fit.inputs["init"], [Binding::Path(fixtures().join("data/model"))]);
}

#[test]
fn settings_reach_every_part_of_a_stage() {
    let sets = [
        "params.base.size=9",
        "stages.fit.with.steps=${params.base.size}",
        "stages.fit.with.betas.1=0.5",
        "stages.fit.resources.gpus=1",
        "stages.fit.timeout=90s",
        "stages.best=null",
        "outputs.model=${stages.fit.model}",
    ];
    let resolved =
        load_with("valid/plain.yaml", None, &[&sets[..], &["stages.fit.with.betas=[0.1, 0.2]"]].concat()).resolved;
    let fit = resolved.stages.get("fit").unwrap();
    assert_eq!((&fit.params["steps"], &fit.params["betas"]), (&json!(9), &json!([0.1, 0.2])));
    assert_eq!((fit.resources.gpus, fit.resources.cpus, fit.timeout_s), (1, 2, Some(90)));
    assert!(!resolved.stages.contains_key("best"));
    assert_eq!(resolved.params["base"], json!({"kind": "tiny", "size": 9}));
    let again = load_with("valid/changes.yaml", None, &["stages.fit.with.betas.1=0.7"]).resolved;
    assert_eq!(again.stages.get("fit").unwrap().params["betas"], json!([0.5, 0.7]));
}

#[test]
fn an_experiment_merges_removes_and_adds_stages() {
    let resolved = load_sample("valid/changes.yaml").unwrap().resolved;
    assert_eq!(resolved.stages.keys().collect::<Vec<_>>(), ["data", "encode", "fit", "score", "again"]);
    let fit = resolved.stages.get("fit").unwrap();
    assert_eq!(fit.params["learning_rate"], json!(0.01));
    assert_eq!((fit.resources.cpus, fit.resources.memory_mib, fit.timeout_s), (1, 256, None));
    assert_eq!(resolved.stages.get("again").unwrap().timeout_s, Some(1_800));
    assert_eq!(resolved.stages.get("score").unwrap().for_each, None);
    assert_eq!(resolved.outputs.keys().collect::<Vec<_>>(), ["extra", "model", "scores"]);
}

#[test]
fn a_record_is_merged_in_depth_and_a_union_is_replaced() {
    let resolved = load_sample("valid/tuned.yaml").unwrap().resolved;
    assert_eq!(
        resolved.stages.get("tune").unwrap().params,
        json!({
            "stop": 10, "optimizer": {"lr": 0.5, "betas": [0.8, 0.9]}, "schedule": {"constant": {}},
            "precision": "bfloat16", "clip": {"norm": 1},
        })
    );
    let set = load_with("valid/tuned.yaml", None, &["stages.tune.with.schedule={cosine: {alpha: 0.2}}"]).resolved;
    assert_eq!(set.stages.get("tune").unwrap().params["schedule"], json!({"cosine": {"alpha": 0.2, "warmup": 0}}));
}

#[test]
fn a_reference_keeps_the_type_and_a_text_is_put_together() {
    let resolved = load_sample("valid/references.yaml").unwrap().resolved;
    let fit = resolved.stages.get("fit").unwrap();
    assert_eq!((&fit.params["steps"], &fit.params["tag"]), (&json!(4), &json!("big/0.5")));
    assert_eq!(fit.resources.cpus, 4);
    let lists = load_sample("valid/lists.yaml").unwrap().resolved;
    assert_eq!(lists.params["name"], json!("cost ${5}"));
    assert_eq!(lists.stages.get("fit").unwrap().params["tag"], json!("cost ${5}-1"));
    assert_eq!(lists.stages.get("best").unwrap().inputs["scores"].len(), 2);
}

#[test]
fn origins_name_the_place_where_each_value_was_written() {
    let origins = load_with("valid/profiles.yaml", Some("high"), &["params.seed=3"]).origins;
    for (path, origin) in [
        ("params.lr", "valid/profiles.yaml:7:14"),
        ("params.seed", "--set"),
        ("params.name", "pipelines/small.yaml:7:33"),
        ("params.base.kind", "pipelines/small.yaml:9:40"),
        // Through a reference, the error points to the value itself.
        ("stages.fit.with.learning_rate", "valid/profiles.yaml:7:14"),
        ("stages.fit.with.steps", "default of stage fit"),
        ("stages.fit.with.data", "pipelines/small.yaml:18:13"),
        ("stages.fit.timeout", "pipelines/small.yaml:21:14"),
        ("stages.fit.resources.cpus", "default of stage fit"),
        ("outputs.model", "pipelines/small.yaml:27:10"),
    ] {
        assert_eq!(origins.get(path).map(String::as_str), Some(origin), "{path}");
    }
}

#[test]
fn every_leaf_of_the_resolved_stages_has_an_origin() {
    fn leaves(path: &str, value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                map.iter().for_each(|(k, v)| leaves(&format!("{path}.{k}"), v, out));
            }
            _ => out.push(path.to_owned()),
        }
    }
    for sample in samples("valid") {
        let Loaded { resolved, origins } = load_sample(&sample).unwrap();
        let mut paths = Vec::new();
        for (name, value) in &resolved.params {
            leaves(&format!("params.{name}"), value, &mut paths);
        }
        for (name, stage) in resolved.stages.iter() {
            if stage.params != json!({}) {
                leaves(&format!("stages.{name}.with"), &stage.params, &mut paths);
            }
            paths.extend(stage.inputs.keys().map(|port| format!("stages.{name}.with.{port}")));
        }
        for path in paths {
            assert!(origins.contains_key(&path), "{sample}: {path} has no origin");
        }
    }
}

#[test]
fn the_graph_of_a_sample_reads_as_text() {
    let resolved = load_sample("valid/plain.yaml").unwrap().resolved;
    let graph = Graph::new(&resolved).unwrap();
    assert_eq!(graph.order(), ["data", "encode", "fit", "score", "best"]);
    assert_eq!(graph.dependants("fit"), ["score", "best"]);
    insta::assert_snapshot!(graph.to_dot(), @r#"
    digraph pipeline {
      rankdir=LR;
      node [shape=box];
      "data";
      "encode";
      "fit";
      "score";
      "best";
      "data" -> "encode" [label="dataset"];
      "encode" -> "fit" [label="tokens"];
      "fit" -> "score" [label="checkpoints"];
      "fit" -> "best" [label="checkpoints"];
      "score" -> "best" [label="metrics"];
    }
    "#);
}

// --- Schemas, checked by a validator that the engine does not use. ---

/// Whether boon accepts `value`.
fn boon_accepts(schema: &Value, value: &Value) -> bool {
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.add_resource("schema.json", schema.clone()).unwrap();
    let index = compiler.compile("schema.json", &mut schemas).unwrap_or_else(|e| panic!("{e:#}\n{schema:#}"));
    schemas.validate(value, index).is_ok()
}

fn read_yaml(path: &Path) -> Value {
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The strict schema for the experiments of the pipeline that `experiment` uses.
fn schema_for(experiment: &Value, folder: &Path) -> Option<Value> {
    let Some(uses) = experiment.get("uses") else {
        let base = folder.join(experiment.get("extends")?.as_str()?);
        let value = read_yaml(&base);
        // Two experiments that extend each other have no schema.
        return value.get("uses").and_then(|_| schema_for(&value, base.parent()?));
    };
    let pipeline = folder.join(uses.as_str()?);
    schema::experiment_for(&pipeline, &fixtures(), &borrowed(&builtin())).ok()
}

#[test]
fn an_independent_validator_accepts_every_valid_sample() {
    for sample in samples("valid") {
        let path = fixtures().join(&sample);
        let value = read_yaml(&path);
        assert!(boon_accepts(&schema::authoring(&schema::experiment()), &value), "{sample}");
        let typed = schema_for(&value, path.parent().unwrap()).unwrap_or_else(|| panic!("{sample}"));
        assert!(boon_accepts(&schema::authoring(&typed), &value), "{sample} by the schema of its pipeline");
    }
    for pipeline in samples("pipelines") {
        assert!(
            boon_accepts(&schema::authoring(&schema::pipeline()), &read_yaml(&fixtures().join(&pipeline))),
            "{pipeline}"
        );
    }
    for stage in ["gather", "encode", "fit", "score", "pick", "split"] {
        let value = read_yaml(&fixtures().join(format!("stages/{stage}/stage.yaml")));
        assert!(boon_accepts(&schema::authoring(&schema::stage()), &value), "{stage}");
    }
}

/// The first line of an invalid sample says what finds its error: `yaml` (the reader), `form` (the
/// schema of experiments, or of pipelines for the pipeline next to it), `typed` (the schema for
/// experiments of its pipeline), or `meaning` (only the engine).
#[test]
fn an_independent_validator_refuses_the_invalid_samples_whose_form_is_wrong() {
    let mut seen = BTreeMap::new();
    for sample in samples("invalid") {
        let path = fixtures().join(&sample);
        let text = std::fs::read_to_string(&path).unwrap();
        let kind =
            text.lines().next().and_then(|line| line.strip_prefix("# kind: ")).unwrap_or_else(|| panic!("{sample}"));
        *seen.entry(kind.to_owned()).or_insert(0) += 1;
        if kind == "yaml" {
            continue;
        }
        let value = read_yaml(&path);
        let folder = path.parent().unwrap();
        let mut form = boon_accepts(&schema::authoring(&schema::experiment()), &value);
        let pipeline = value.get("uses").and_then(Value::as_str).map(|uses| folder.join(uses));
        if let Some(pipeline) = pipeline.filter(|p| p.starts_with(folder.join("pipelines")) && p.exists()) {
            form &= boon_accepts(&schema::authoring(&schema::pipeline()), &read_yaml(&pipeline));
        }
        let typed = schema_for(&value, folder).map(|strict| boon_accepts(&schema::authoring(&strict), &value));
        let found = match (form, typed) {
            (false, _) => "form",
            (true, Some(false)) => "typed",
            (true, _) => "meaning",
        };
        assert_eq!(found, kind, "{sample}");
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["form", "meaning", "typed", "yaml"]);
}

/// A document without `${` is valid for both schemas or for neither.
#[test]
fn strict_and_authoring_schemas_agree_on_documents_without_references() {
    let strict = schema::experiment();
    let authoring = schema::authoring(&strict);
    let (mut agreed, mut refused) = (0, 0);
    for sample in [samples("valid"), samples("invalid")].concat() {
        let path = fixtures().join(&sample);
        let text = std::fs::read_to_string(&path).unwrap();
        let Ok(value) = serde_yaml::from_str::<Value>(&text) else { continue };
        if text.contains("${") {
            continue;
        }
        let verdict = boon_accepts(&strict, &value);
        assert_eq!(verdict, boon_accepts(&authoring, &value), "{sample}");
        if let Some(typed) = schema_for(&value, path.parent().unwrap()) {
            assert_eq!(boon_accepts(&typed, &value), boon_accepts(&schema::authoring(&typed), &value), "{sample}");
        }
        agreed += 1;
        refused += usize::from(!verdict);
    }
    assert!(agreed >= 15 && refused >= 3, "too few samples without references: {agreed}, {refused} refused");
}

#[test]
fn the_authoring_schema_takes_a_reference_where_the_strict_one_wants_a_number() {
    let strict = schema::experiment_for(Path::new("pipelines/tuned.yaml"), &fixtures(), &borrowed(&builtin())).unwrap();
    let authoring = schema::authoring(&strict);
    let with = |with: Value| json!({"experiment": "x", "uses": "y", "stages": {"tune": {"with": with}}});
    for (value, strictly, loosely) in [
        (with(json!({"stop": 3})), true, true),
        (with(json!({"stop": "${params.steps}"})), false, true),
        (with(json!({"stop": "three"})), false, false),
        (with(json!({"optimizer": {"lr": "${params.lr}"}})), false, true),
        (with(json!({"optimizer": "${params.optimizer}"})), false, true),
        (with(json!({"schedule": {"cosine": {"alpha": "${params.a}"}}})), false, true),
        (with(json!({"schedule": {"cosine": {"beta": "${params.a}"}}})), false, false),
        (with(json!({"precision": "${params.p}"})), false, true),
        (with(json!({"precision": "float16"})), false, false),
        (with(json!({"nothing": "${params.p}"})), false, false),
        (json!({"experiment": "${params.x}", "uses": "y"}), false, false),
        (json!({"experiment": "x", "uses": "y", "params": {"steps": "${params.x}"}}), false, false),
    ] {
        assert_eq!(boon_accepts(&strict, &value), strictly, "strict: {value}");
        assert_eq!(boon_accepts(&authoring, &value), loosely, "authoring: {value}");
    }
}

#[test]
fn the_schema_files_are_the_same_text_every_time() {
    let builtin = builtin();
    let files = || schema::files(&fixtures().join("pipelines"), &borrowed(&builtin)).unwrap();
    let first = files();
    assert_eq!(first, files());
    assert_eq!(
        first.keys().collect::<Vec<_>>(),
        [
            "experiment.made_of_others.schema.json",
            "experiment.schema.json",
            "experiment.small.schema.json",
            "experiment.tuned.schema.json",
            "pipeline.schema.json",
            "stage.schema.json"
        ]
    );
    for (name, text) in &first {
        assert!(
            text.ends_with("}\n") && text.contains("json-schema.org/draft/2020-12") && !text.contains("x-references"),
            "{name}"
        );
    }
}

/// Checks the keys that the loader reads by name. A key that is added to a type must be read as
/// well.
#[test]
fn every_key_of_the_document_types_is_one_that_the_loader_reads() {
    let keys = |schema: &Value, pointer: &str| -> Vec<String> {
        schema
            .pointer(pointer)
            .and_then(Value::as_object)
            .unwrap_or_else(|| panic!("{pointer}"))
            .keys()
            .cloned()
            .collect()
    };
    let (experiment, pipeline) = (schema::experiment(), schema::pipeline());
    assert_eq!(
        keys(&experiment, "/properties"),
        ["experiment", "extends", "uses", "params", "profiles", "default_profile", "stages", "outputs", "sweep"]
    );
    assert_eq!(keys(&pipeline, "/properties"), ["pipeline", "summary", "include", "params", "stages", "outputs"]);
    let stage = ["uses", "with", "when", "for_each", "every", "resources", "timeout", "stall", "retry", "share"];
    assert_eq!(keys(&pipeline, "/properties/stages/additionalProperties/properties"), stage);
    assert_eq!(keys(&experiment, "/properties/stages/additionalProperties/properties"), stage);
}

#[test]
fn a_file_that_is_not_utf8_or_not_there_is_an_error_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let options = LoadOptions { cwd: folder.path().to_owned(), ..LoadOptions::default() };
    let text = load(Path::new("gone.yaml"), &options, &[]).unwrap_err().render(false);
    assert!(text.contains("error[spec::missing_file]: there is no file `gone.yaml`"), "{text}");
    std::fs::write(folder.path().join("x.yaml"), b"experiment: \xe9\n").unwrap();
    let text = load(Path::new("x.yaml"), &options, &[]).unwrap_err().render(false);
    assert!(text.contains("byte 0xe9 at offset 12") && text.contains("--> x.yaml:1:13"), "{text}");
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
    let folder = tempfile::tempdir().unwrap();
    let options = LoadOptions { cwd: folder.path().to_owned(), ..LoadOptions::default() };
    for text in
        ["[".repeat(200_000), "{a: ".repeat(100_000), (0..400).map(|i| format!("{}a:\n", " ".repeat(i))).collect()]
    {
        std::fs::write(folder.path().join("deep.yaml"), text).unwrap();
        let error = load(Path::new("deep.yaml"), &options, &[]).unwrap_err();
        assert!(error.iter().any(|d| d.code == "yaml::too_deep"), "{error}");
    }
}

/// Copies a folder of samples.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_experiment_or_pipeline_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, any::<prop::sample::Index>(), any::<bool>()), 1..4),
        in_pipeline in any::<bool>(),
    ) {
        let pieces = ["", "${", "${params.lr}", "${stages.fit.model}", "null", "[", "{}", ": ", "\n", "é", "'", "- ", "1e400", "${item}", "x", "${stages.best.model}"];
        let folder = tempfile::tempdir().unwrap();
        for part in ["valid", "pipelines", "stages", "data"] {
            copy_folder(&fixtures().join(part), &folder.path().join(part));
        }
        let damaged = folder.path().join(if in_pipeline { "pipelines/small.yaml" } else { "valid/changes.yaml" });
        let mut text: Vec<char> = std::fs::read_to_string(&damaged).unwrap().chars().collect();
        for (place, length, piece, keep) in edits {
            let start = place.index(text.len());
            let end = if keep { start } else { (start + length).min(text.len()) };
            text.splice(start..end, piece.get(&pieces).chars());
        }
        std::fs::write(&damaged, text.iter().collect::<String>()).unwrap();
        let options = LoadOptions { cwd: folder.path().to_owned(), ..LoadOptions::default() };
        match load(Path::new("valid/changes.yaml"), &options, &borrowed(&builtin())) {
            Ok(loaded) => prop_assert!(Graph::new(&loaded.resolved).is_ok()),
            Err(errors) => {
                let text = errors.render(true);
                prop_assert!(errors.iter().all(|e| e.span.is_some()), "{}", text);
            }
        }
    }
}

#[test]
fn a_damaged_built_in_description_is_named() {
    let error = load(Path::new("x.yaml"), &LoadOptions::default(), &[("train", "{}")]).unwrap_err();
    assert!(error.render(false).contains("built-in description of stage `train` is damaged"), "{error}");
}
