//! The table of stages, and what the worker answers about them and about this build.

use std::path::Path;
use std::process::ExitCode;

use olmo_stage::rules::Question;
use olmo_stage::worker::{Entry, main_run, read_request};
use olmo_stage::{Description, protocol, ranks};
use serde_json::{Map, Value, json};

/// Every built-in stage by name, sorted.
pub const STAGES: [(&str, Entry); 11] = [
    ("checkpoint", Entry::of::<olmo_stage_checkpoint::Checkpoint>()),
    ("convert", Entry::of::<olmo_stage_convert::Convert>()),
    ("eval", Entry::of::<olmo_stage_eval::Eval>()),
    ("fetch", Entry::of::<olmo_stage_fetch::Fetch>()),
    ("generate", Entry::of::<olmo_stage_generate::Generate>()),
    ("memmap", Entry::of::<olmo_stage_memmap::Memmap>()),
    ("split", Entry::of::<olmo_stage_split::Split>()),
    ("tasks", Entry::of::<olmo_stage_tasks::Tasks>()),
    ("tokenize", Entry::of::<olmo_stage_tokenize::Tokenize>()),
    ("tokenizer", Entry::of::<olmo_stage_tokenizer::Tokenizer>()),
    ("train", Entry::of::<olmo_stage_train::Train>()),
];

/// Runs the attempt in folder `attempt` with the number of threads that its request allows.
pub fn run(attempt: &Path) -> ExitCode {
    // If the request cannot be read, `main_run` reports why.
    let threads = read_request(attempt).map_or(0, |request| ranks::threads(&request));
    if let Err(e) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        eprintln!("cannot start {threads} threads: {e}; raise the limit on processes and threads (ulimit -u)");
        // EX_TEMPFAIL of sysexits.h: it may work later.
        return ExitCode::from(75);
    }
    main_run(attempt, |name| STAGES.into_iter().find(|(stage, _)| *stage == name).map(|(_, entry)| entry))
}

/// Answers a JSON list of [`Question`]s with a list of their findings, in the same order.
///
/// # Errors
/// If `input` is not such a list, or names a stage that is not built in.
pub fn check(input: &str) -> Result<String, String> {
    let questions: Vec<Question> = serde_json::from_str(input).map_err(|e| format!("not a list of questions: {e}"))?;
    let mut answers = Vec::with_capacity(questions.len());
    for question in &questions {
        let entry = STAGES.into_iter().find(|(name, _)| *name == question.stage).map(|(_, entry)| entry);
        let entry = entry.ok_or_else(|| format!("there is no built-in stage `{}`", question.stage))?;
        answers.push((entry.check)(question));
    }
    serde_json::to_string(&answers).map_err(|e| e.to_string())
}

/// A stage's contract and params schema.
pub fn description(entry: &Entry) -> Description {
    let mut description = (entry.describe)();
    crate::choices::as_enums(&mut description.params);
    description
}

/// Library and version of each backend, for the record of a run.
const BACKENDS: &[(&str, &str)] = &[
    ("flex", "burn-flex 0.22.1"),
    #[cfg(feature = "libtorch")]
    ("libtorch", "libtorch 2.11.0 by tch 0.22.0"),
];

/// The backends and devices that this build can use here:
/// `{"backends": {NAME: library}, "cuda": {"built", "devices", "kernels"} or null}`.
/// `kernels` names the `compiler` (null, with `why`, if there is none), the `folder` of precompiled
/// kernels if one is set, and the `cache`.
pub fn devices() -> Value {
    let backends: Map<String, Value> =
        BACKENDS.iter().map(|(name, library)| ((*name).into(), (*library).into())).collect();
    #[cfg(feature = "libtorch")]
    let cuda = {
        let found = olmo_torch::cuda();
        let (folders, compiler) = (olmo_torch::KernelFolders::from_environment(), olmo_torch::compiler());
        let why = compiler.as_ref().err().map(ToString::to_string);
        let kernels = json!({"compiler": compiler.ok(), "why": why, "folder": folders.trial, "cache": folders.cache});
        json!({"built": found.built, "devices": found.devices, "kernels": kernels})
    };
    #[cfg(not(feature = "libtorch"))]
    let cuda = Value::Null;
    json!({"backends": backends, "cuda": cuda})
}

/// Compiles the kernels for a GPU `architecture` (such as `sm_90`) into `folder`, for use with
/// OLMO_PIPE_KERNELS. The GPU need not be in this machine. Returns the names of the files.
///
/// # Errors
/// If NVRTC is missing or does not know the GPU, or if the files cannot be written.
#[cfg(feature = "libtorch")]
pub fn compile_kernels(architecture: &str, folder: &Path) -> Result<Vec<String>, String> {
    use olmo_torch::Element;
    let io = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(io)?;
    let mut names = Vec::new();
    for (element, vector) in [(Element::Bf16, 8), (Element::Bf16, 1), (Element::F32, 8), (Element::F32, 1)] {
        let cubin = olmo_torch::compile(architecture, element, vector).map_err(|error| error.to_string())?;
        let name = olmo_torch::cubin_name(architecture, element, vector);
        std::fs::write(folder.join(&name), cubin).map_err(io)?;
        names.push(name);
    }
    Ok(names)
}

/// Describes this build as pretty JSON: `{"protocol", "build", "backends": {NAME: library},
/// "stages": {NAME: description}}`.
pub fn describe() -> String {
    let stages: Map<String, Value> = STAGES
        .into_iter()
        .map(|(name, entry)| (name.to_owned(), serde_json::to_value(description(&entry)).unwrap_or_default()))
        .collect();
    #[cfg(feature = "libtorch")]
    let on_gpu = olmo_torch::cuda().built || olmo_torch::emulated();
    #[cfg(not(feature = "libtorch"))]
    let on_gpu = false;
    let cuda = BACKENDS.last().filter(|_| on_gpu).map(|(_, library)| ("libtorch-cuda", *library));
    let backends: Map<String, Value> =
        BACKENDS.iter().copied().chain(cuda).map(|(name, library)| (name.into(), library.into())).collect();
    let all = json!({
        "protocol": protocol::PROTOCOL_VERSION, "build": env!("CARGO_PKG_VERSION"), "backends": backends, "stages": stages,
    });
    format!("{all:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contract_is_sound_and_names_its_own_stage() {
        for (name, entry) in STAGES {
            let description = description(&entry);
            assert_eq!(description.contract.stage, name);
            assert!(description.contract.version >= 1, "{name}");
            assert!(!description.contract.outputs.is_empty(), "{name}");
            assert!(description.contract.command.is_none() && description.contract.params.is_none(), "{name}");
        }
        assert!(STAGES.is_sorted_by_key(|(name, _)| *name));
    }

    /// Calls `visit` for every object in `schema` with its path.
    fn walk(at: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Map<String, Value>)) {
        match schema {
            Value::Object(map) => {
                visit(at, map);
                map.iter().for_each(|(key, value)| walk(&format!("{at}/{key}"), value, visit));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(at, item, visit)),
            _ => {}
        }
    }

    #[test]
    fn params_schemas_have_one_place_for_every_error_and_a_text_for_every_param() {
        for (name, entry) in STAGES {
            let params = description(&entry).params;
            walk(name, &params, &mut |at, map| {
                for word in ["anyOf", "oneOf", "allOf", "$ref"] {
                    assert!(!map.contains_key(word), "{at} uses {word}: {map:?}");
                }
                let Some(Value::Object(properties)) = map.get("properties") else { return };
                assert_eq!(map.get("additionalProperties"), Some(&json!(false)), "{at}");
                for (property, schema) in properties {
                    assert!(schema.get("description").is_some(), "{at}/{property} has no description");
                    let required =
                        map.get("required").and_then(Value::as_array).is_some_and(|r| r.contains(&json!(property)));
                    // In a one-key map, the other keys have no value at all.
                    let one_key = map.get("maxProperties") == Some(&json!(1));
                    // A field that is left out has the preset's value.
                    let preset = properties.contains_key("preset");
                    assert!(
                        required || one_key || preset || schema.get("default").is_some(),
                        "{at}/{property} is optional without a default"
                    );
                }
            });
        }
    }

    #[test]
    fn the_backends_are_those_that_were_built() {
        let lock = include_str!("../../../Cargo.lock");
        for (name, library) in BACKENDS {
            // The last two words are a package and version in Cargo.lock.
            let (rest, version) = library.rsplit_once(' ').unwrap();
            let package = rest.rsplit(' ').next().unwrap();
            let entry = format!("name = \"{package}\"\nversion = \"{version}\"\n");
            assert!(lock.contains(&entry), "{name}: Cargo.lock has another {package}");
        }
    }

    #[test]
    fn the_description_is_the_same_every_time() {
        let text = describe();
        assert_eq!(text, describe());
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["protocol"], json!(protocol::PROTOCOL_VERSION));
        assert_eq!(value["stages"].as_object().unwrap().len(), STAGES.len());
    }
}
