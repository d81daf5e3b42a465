//! [`Worker`]: the program that holds the built-in stages, found beside the engine.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use olmo_stage::Description;
use olmo_stage::protocol::PROTOCOL_VERSION;
use serde::Deserialize;
use serde_json::Value;

use crate::exec::error::ExecError;
use crate::exec::supervise::ask;

/// Its file name.
const NAME: &str = "olmo-worker";
/// Overrides where it is.
pub const VARIABLE: &str = "OLMO_PIPE_WORKER";

/// A worker that answers.
#[derive(Clone, Debug)]
pub struct Worker {
    path: PathBuf,
    build: String,
    backends: BTreeMap<String, String>,
    descriptions: BTreeMap<String, Value>,
}

/// What `olmo-worker describe --json` prints.
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
    /// Where the worker should be: what `OLMO_PIPE_WORKER` says, else beside this program.
    pub fn place() -> PathBuf {
        if let Some(path) = std::env::var_os(VARIABLE).filter(|p| !p.is_empty()) {
            // Workers are started in folders of their own.
            return std::path::absolute(&path).unwrap_or_else(|_| path.into());
        }
        let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        beside.unwrap_or_default().join(NAME)
    }

    /// Asks the worker at `path` what it holds.
    pub fn find(path: &Path) -> Result<Self, ExecError> {
        let broken = |why: String| ExecError::WorkerBroken { path: path.to_owned(), why };
        if !path.exists() {
            return Err(ExecError::WorkerMissing(path.to_owned()));
        }
        let argv = vec![path.into(), "describe".into(), "--json".into()];
        let answer = ask(argv, &inherited_environment(), Path::new("/"), &[]);
        let answer = answer.map_err(|why| broken(format!("`describe --json`: {why}")))?;
        Self::of_answer(path, &answer)
    }

    /// The worker at `path`, which describes itself by `answer`.
    fn of_answer(path: &Path, answer: &[u8]) -> Result<Self, ExecError> {
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

    /// Checks that the worker's stage `name` is what the engine takes it for.
    pub fn check(&self, name: &str, description: &Description) -> Result<(), ExecError> {
        let (path, stage) = (self.path.clone(), name.to_owned());
        let Some(held) = self.descriptions.get(name) else { return Err(ExecError::WorkerLacks { path, stage }) };
        // One that does not even parse is of another build, too.
        match Description::deserialize(held) {
            Ok(held) if held.digest() == description.digest() => Ok(()),
            _ => Err(ExecError::WorkerDiffers { path, stage }),
        }
    }

    /// Its stages' descriptions by name, as it gave them.
    pub fn descriptions(&self) -> &BTreeMap<String, Value> {
        &self.descriptions
    }

    /// The program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// By backend, the library behind it and its version, as it says.
    pub fn backends(&self) -> &BTreeMap<String, String> {
        &self.backends
    }

    /// Its build, as it says.
    pub fn build(&self) -> &str {
        &self.build
    }
}

/// This process's own environment, without variables whose names are no Unicode.
pub fn inherited_environment() -> BTreeMap<String, OsString> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_base::Diagnose;

    fn description(version: u32) -> Description {
        let contract = format!("{{stage: a, version: {version}, summary: s, outputs: {{}}}}");
        Description { contract: serde_yaml::from_str(&contract).unwrap(), params: serde_json::json!({}) }
    }

    #[test]
    fn a_missing_worker_is_told_with_the_build_command() {
        let error = Worker::find(Path::new("/nowhere/olmo-worker")).unwrap_err();
        assert!(matches!(error, ExecError::WorkerMissing(_)));
        assert!(error.hint().unwrap().contains("cargo build --release"));
    }

    #[test]
    fn a_worker_is_refused_for_another_protocol_another_contract_and_a_missing_stage() {
        let read = |answer: &str| Worker::of_answer(Path::new("/worker"), answer.as_bytes());
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
