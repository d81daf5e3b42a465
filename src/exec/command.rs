//! The arguments and the environment of a command stage: references in the arguments are replaced,
//! and only declared variables are passed on. It starts no process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use olmo_base::Digest;
use olmo_stage::contract::Contract;
use serde_json::Value;

use crate::exec::error::ExecError;
use crate::exec::supervise::redact;

/// A piece of an argument.
enum Piece<'a> {
    Text(&'a str),
    /// The text inside `${…}`.
    Reference(&'a str),
}

fn parse_argument<'a>(stage: &str, argument: &'a str) -> Result<Vec<Piece<'a>>, ExecError> {
    let mut pieces = Vec::new();
    let mut rest = argument;
    while let Some((text, tail)) = rest.split_once("${") {
        let Some((reference, after)) = tail.split_once('}') else {
            return Err(ExecError::OpenReference { stage: stage.into(), argument: argument.into() });
        };
        pieces.extend([Piece::Text(text), Piece::Reference(reference)]);
        rest = after;
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

/// The arguments of `contract`'s command with every `${…}` replaced. Inputs and outputs are
/// relative to the working folder (`in/PORT`, `out/PORT`), so that a program that writes its
/// arguments into its output makes the same bytes everywhere. An optional input that is absent
/// becomes an empty string.
pub fn arguments(
    contract: &Contract,
    params: &Value,
    present: &dyn Fn(&str) -> bool,
    stage_dir: &Path,
) -> Result<Vec<OsString>, ExecError> {
    let argv = contract.command.as_ref().map_or(&[][..], |c| &c.argv);
    let fill = |(index, argument): (usize, &String)| {
        let mut filled = OsString::new();
        for piece in parse_argument(&contract.stage, argument)? {
            match piece {
                Piece::Text(text) => filled.push(text),
                Piece::Reference("stage.dir") => filled.push(stage_dir),
                Piece::Reference(reference) => {
                    let text = resolve_reference(contract, params, present, reference);
                    filled.push(text.ok_or_else(|| ExecError::UnknownReference {
                        stage: contract.stage.clone(),
                        place: format!("argument {index}"),
                        reference: reference.into(),
                    })?);
                }
            }
        }
        Ok(filled)
    };
    argv.iter().enumerate().map(fill).collect()
}

fn resolve_reference(
    contract: &Contract,
    params: &Value,
    present: &dyn Fn(&str) -> bool,
    reference: &str,
) -> Option<String> {
    let (kind, name) = reference.split_once('.')?;
    match kind {
        "inputs" => contract.inputs.contains_key(name).then(|| match present(name) {
            true => format!("in/{name}"),
            false => String::new(),
        }),
        "outputs" => contract.outputs.contains_key(name).then(|| format!("out/{name}")),
        "params" => params.get(name).map(|value| match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }),
        _ => None,
    }
}

/// The declared environment variables that are set, with the digests of their values. They are part
/// of the key.
pub fn declared_environment(contract: &Contract) -> BTreeMap<String, Digest> {
    let names = contract.command.iter().flat_map(|c| &c.environment);
    names.filter_map(|n| Some((n.clone(), Digest::of(std::env::var_os(n)?.as_encoded_bytes())))).collect()
}

/// The program of `contract`'s command, unless it is found through PATH.
pub fn program(contract: &Contract, stage_dir: &Path) -> Option<PathBuf> {
    let first = contract.command.as_ref()?.argv.first()?;
    let path = PathBuf::from(first.replace("${stage.dir}", stage_dir.to_str()?));
    path.is_absolute().then_some(path)
}

/// The reference to the stage's folder in an argument.
const STAGE_DIR: &str = "${stage.dir}";
/// The contract's file, which is left out because the key holds the contract field by field.
const CONTRACT: &str = "stage.yaml";

/// The files and folders in the stage's folder that arguments name as `${stage.dir}/…`, by their
/// path below it. An argument that names the whole folder means all of its files, unless the
/// contract declares files.
pub fn named_paths(contract: &Contract, stage_dir: &Path) -> BTreeMap<String, PathBuf> {
    let Some(command) = &contract.command else { return BTreeMap::new() };
    let mut named = BTreeMap::new();
    for argument in &command.argv {
        for (start, _) in argument.match_indices(STAGE_DIR) {
            match existing_path(stage_dir, &argument[start + STAGE_DIR.len()..]) {
                Some(below) => drop(named.insert(below.to_owned(), stage_dir.join(below))),
                None if command.files.is_empty() && names_folder(&argument[start + STAGE_DIR.len()..]) => {
                    let entries = std::fs::read_dir(stage_dir).into_iter().flatten().flatten();
                    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
                    named
                        .extend(names.filter(|name| name != CONTRACT).map(|name| (name.clone(), stage_dir.join(name))));
                }
                None => {}
            }
        }
    }
    named
}

/// The path of an existing file or folder at the start of `rest`, the text after a `${stage.dir}`.
/// The path reaches to the end of the argument, or to the first character that ends a word in a
/// shell.
fn existing_path<'a>(stage_dir: &Path, rest: &'a str) -> Option<&'a str> {
    let rest = rest.strip_prefix('/')?;
    let word = rest.split(|c: char| c.is_whitespace() || "'\"`;:,|&<>()$".contains(c)).next().unwrap_or(rest);
    let is_below = |below: &str| Path::new(below).components().all(|part| matches!(part, Component::Normal(_)));
    let exists =
        |below: &&str| !below.is_empty() && *below != CONTRACT && is_below(below) && stage_dir.join(below).exists();
    [rest, word].map(|below| below.trim_end_matches('/')).into_iter().find(exists)
}

/// Whether `rest`, the text after a `${stage.dir}`, shows that the argument names the folder
/// itself.
fn names_folder(rest: &str) -> bool {
    !rest.trim_start_matches('/').starts_with(|c: char| c.is_alphanumeric() || "._-".contains(c))
}

/// The whole environment of a command stage: the declared variables, PATH, and fixed values for the
/// variables that nearly every program reads.
pub fn environment(contract: &Contract, temporary: &Path) -> Result<BTreeMap<String, OsString>, ExecError> {
    let environment = check_environment(contract, temporary);
    let secrets = contract.command.as_ref().map_or(&[][..], |c| &c.secrets);
    match secrets.iter().find(|name| !environment.contains_key(*name)) {
        Some(name) => Err(ExecError::SecretMissing { stage: contract.stage.clone(), name: name.clone() }),
        None => Ok(environment),
    }
}

/// Like [`environment`], for the program that checks params. A secret that is not set is left out.
pub fn check_environment(contract: &Contract, temporary: &Path) -> BTreeMap<String, OsString> {
    let mut environment: BTreeMap<String, OsString> = [
        ("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into())),
        ("LANG", "C.UTF-8".into()),
        ("TZ", "UTC".into()),
        ("HOME", temporary.into()),
        ("TMPDIR", temporary.into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for name in contract.command.iter().flat_map(|c| &c.environment) {
        if let Some(value) = std::env::var_os(name) {
            environment.insert(name.clone(), value);
        }
    }
    let secrets = contract.command.as_ref().map_or(&[][..], |c| &c.secrets);
    for name in secrets {
        if let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) {
            environment.insert(name.clone(), value);
        }
    }
    if !secrets.is_empty() {
        // For the supervisor, which removes it from the stage's environment.
        environment.insert(redact::VARIABLE.to_owned(), secrets.join(",").into());
    }
    environment
}

/// Variables that are passed on to a built-in worker if they are set. None changes a result, except
/// for the last two: they select other kernels, and emulate a GPU on the CPU in tests.
const WORKER_ALLOWED: [&str; 20] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "RUST_BACKTRACE",
    "OLMO_PIPE_LOG",
    "OLMO_PIPE_FAILPOINT",
    "LD_LIBRARY_PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "SSL_CERT_FILE",
    "XDG_CACHE_HOME",
    "OLMO_PIPE_KERNEL_CACHE",
    "OLMO_PIPE_KERNELS",
    "OLMO_PIPE_EMULATE_GPU",
    "OLMO_PIPE_INTERFACE",
    "OLMO_PIPE_RANK_JOIN_S",
    "OLMO_PIPE_RANK_DEAD_S",
    "OLMO_PIPE_RANK_LATE_S",
];

/// The whole environment of a built-in worker that may use `threads` threads.
pub fn worker_environment(threads: usize, temporary: &Path) -> BTreeMap<String, OsString> {
    let allowed = WORKER_ALLOWED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?)));
    let mut environment: BTreeMap<String, OsString> = allowed.collect();
    environment.insert("RAYON_NUM_THREADS".into(), threads.to_string().into());
    environment.insert("OLMO_PIPE_ENGINE_PID".into(), std::process::id().to_string().into());
    environment.insert("TMPDIR".into(), temporary.into());
    environment
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn contract(argv: &str) -> Contract {
        let text = format!(
            "{{stage: s, version: 1, summary: s, inputs: {{a: {{type: file}}, b: {{type: file, optional: true}}}}, \
             outputs: {{o: {{type: text}}}}, params: {{}}, command: {{argv: {argv}, environment: [PATH_OF_NOTHING]}}}}"
        );
        serde_yaml::from_str(&text).unwrap()
    }

    fn fill(argv: &str) -> Result<Vec<OsString>, ExecError> {
        let params = json!({"n": 3, "s": "a b", "list": [1, 2]});
        arguments(&contract(argv), &params, &|port| port == "a", Path::new("/stage"))
    }

    #[test]
    fn references_are_replaced_and_arguments_never_split() {
        let argv = fill(
            r#"["${stage.dir}/x", "${inputs.a}/f", "-${params.n}-${params.s}", "${inputs.b}", "${outputs.o}", "${params.list}", "$HOME"]"#,
        );
        assert_eq!(argv.unwrap(), ["/stage/x", "in/a/f", "-3-a b", "", "out/o", "[1,2]", "$HOME"]);
    }

    #[test]
    fn an_unknown_or_open_reference_is_an_error() {
        for argument in ["${inputs.z}", "${params.z}", "${outputs.a}", "${env.HOME}", "${}"] {
            let error = fill(&format!("[\"{argument}\"]")).unwrap_err();
            assert!(matches!(error, ExecError::UnknownReference { .. }), "{argument}: {error}");
        }
        assert!(matches!(fill("[\"${params.n\"]"), Err(ExecError::OpenReference { .. })));
    }

    #[test]
    fn a_program_is_a_path_or_is_found_through_path() {
        let program = |argv| program(&contract(argv), Path::new("/stage"));
        assert_eq!(program(r#"["${stage.dir}/x"]"#), Some("/stage/x".into()));
        assert_eq!(program("[/bin/sh]"), Some("/bin/sh".into()));
        assert_eq!(program("[sh]"), None);
    }

    #[test]
    fn the_environment_has_only_declared_variables() {
        let environment = environment(&contract("[x]"), Path::new("/t")).unwrap();
        let names: Vec<_> = environment.keys().map(String::as_str).collect();
        assert_eq!(names, ["HOME", "LANG", "PATH", "TMPDIR", "TZ"], "the declared variable is not set here");
        assert!(declared_environment(&contract("[x]")).is_empty());
    }
}
