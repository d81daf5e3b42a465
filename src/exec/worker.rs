//! [`Worker`]: the program with the built-in stages, which is installed next to the engine. This
//! module only queries it; stages run under [`crate::exec::supervise`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use olmo_stage::Description;
use olmo_stage::protocol::PROTOCOL_VERSION;
use serde::Deserialize;
use serde_json::Value;

use crate::exec::error::ExecError;
use crate::exec::supervise::ask;

/// The file name of the worker.
const NAME: &str = "olmo-worker";
/// Overrides the path of the worker.
pub(super) const VARIABLE: &str = "OLMO_PIPE_WORKER";

/// A worker that was queried successfully.
#[derive(Clone, Debug)]
pub struct Worker {
    path: PathBuf,
    build: String,
    backends: BTreeMap<String, String>,
    descriptions: BTreeMap<String, Value>,
}

/// The output of `olmo-worker describe --json`.
#[derive(Deserialize)]
struct Described {
    protocol: u32,
    #[serde(default)]
    build: String,
    #[serde(default)]
    backends: BTreeMap<String, String>,
    stages: BTreeMap<String, Value>,
}

impl Worker {
    /// The path at which the worker should be: `OLMO_PIPE_WORKER`, or next to this program.
    pub fn default_path() -> PathBuf {
        if let Some(path) = std::env::var_os(VARIABLE).filter(|p| !p.is_empty()) {
            // Workers start in other folders, so a relative path has to be made absolute.
            return std::path::absolute(&path).unwrap_or_else(|_| path.into());
        }
        let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        beside.unwrap_or_default().join(NAME)
    }

    /// Asks the worker at `path` to describe its stages.
    pub fn find(path: &Path) -> Result<Self, ExecError> {
        let broken = |why: String| ExecError::WorkerBroken { path: path.to_owned(), why };
        if !path.exists() {
            return Err(ExecError::WorkerMissing(path.to_owned()));
        }
        let argv = vec![path.into(), "describe".into(), "--json".into()];
        let answer = ask(argv, &inherited_environment(), Path::new("/"), &[]);
        let answer = answer.map_err(|why| broken(format!("`describe --json`: {why}")))?;
        Self::parse_description(path, &answer)
    }

    /// Parses `answer`, the description printed by the worker at `path`.
    fn parse_description(path: &Path, answer: &[u8]) -> Result<Self, ExecError> {
        let broken = |why: String| ExecError::WorkerBroken { path: path.to_owned(), why };
        let described: Described = serde_json::from_slice(answer).map_err(|e| broken(e.to_string()))?;
        if described.protocol != PROTOCOL_VERSION {
            let (found, known) = (described.protocol, PROTOCOL_VERSION);
            return Err(ExecError::WorkerProtocol { path: path.to_owned(), found, known });
        }
        Ok(Self {
            path: path.to_owned(),
            build: described.build,
            backends: described.backends,
            descriptions: described.stages,
        })
    }

    /// Checks that the worker's stage `name` has the description that the engine knows.
    pub fn check(&self, name: &str, description: &Description) -> Result<(), ExecError> {
        let (path, stage) = (self.path.clone(), name.to_owned());
        let Some(held) = self.descriptions.get(name) else { return Err(ExecError::WorkerLacks { path, stage }) };
        // A description that does not parse is from a different build, too.
        match Description::deserialize(held) {
            Ok(held) if held.digest() == description.digest() => Ok(()),
            _ => Err(ExecError::WorkerDiffers { path, stage }),
        }
    }

    /// The descriptions of its stages, by name.
    pub fn descriptions(&self) -> &BTreeMap<String, Value> {
        &self.descriptions
    }

    /// Path of the program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library of each backend, with its version, as the worker reports it.
    pub fn backends(&self) -> &BTreeMap<String, String> {
        &self.backends
    }

    /// The build of the worker, as it reports it.
    pub fn build(&self) -> &str {
        &self.build
    }
}

/// The environment of this process, without variables whose names are not valid Unicode.
pub(super) fn inherited_environment() -> BTreeMap<String, OsString> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_base::Diagnose as _;

    fn description(version: u32) -> Description {
        let contract = format!("{{stage: a, version: {version}, summary: s, outputs: {{}}}}");
        Description { contract: serde_yaml::from_str(&contract).unwrap(), params: serde_json::json!({}) }
    }

    #[test]
    fn the_hint_for_a_missing_worker_is_the_build_command() {
        let error = Worker::find(Path::new("/nowhere/olmo-worker")).unwrap_err();
        assert!(matches!(error, ExecError::WorkerMissing(_)));
        assert!(error.hint().unwrap().contains("cargo build --release"));
    }

    #[test]
    fn a_worker_with_another_protocol_or_contract_or_without_the_stage_is_rejected() {
        let read = |answer: &str| Worker::parse_description(Path::new("/worker"), answer.as_bytes());
        let answer =
            |protocol: u32| serde_json::json!({"protocol": protocol, "build": "b", "stages": {"a": description(1)}});
        let worker = read(&answer(PROTOCOL_VERSION).to_string()).unwrap();
        assert_eq!(worker.build(), "b");
        assert!(worker.check("a", &description(1)).is_ok());
        assert!(matches!(worker.check("a", &description(2)), Err(ExecError::WorkerDiffers { .. })));
        assert!(matches!(worker.check("b", &description(1)), Err(ExecError::WorkerLacks { .. })));
        let other = read(&answer(99).to_string());
        assert!(matches!(other, Err(ExecError::WorkerProtocol { found: 99, .. })));
        let broken = read("what?");
        assert!(matches!(broken, Err(ExecError::WorkerBroken { .. })));
    }
}
