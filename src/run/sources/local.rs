//! [`Sources`]: what a run reads from outside the store: data by path, and the files of command
//! stages. It holds their digests as they were when the run started, and never the content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use olmo_base::{ArtifactId, Digest};
use olmo_remote::Locked;
use olmo_stage::contract::{InputPort, PortType};
use serde::{Deserialize, Serialize};

use crate::exec::command;
use crate::key::CommandKey;
use crate::run::api::SourceChange;
use crate::run::error::RunError;
use crate::run::sources::remote;
use crate::spec::{Binding, Resolved, ResolvedStage};
use crate::store::Store;

/// Everything that a run reads from outside the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// Files and folders bound to input ports, as reference artifacts.
    #[serde(with = "as_list")]
    data: BTreeMap<(PathBuf, PortType), ArtifactId>,
    /// The parts of each command that are in its key, by contract.
    commands: BTreeMap<String, CommandKey>,
    /// The exact versions of remote sources, as far as they are locked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    remote: BTreeMap<String, Locked>,
}

/// Serializes [`Sources::data`] as a list of [`Data`].
mod as_list {
    use super::{ArtifactId, BTreeMap, Data, PathBuf, PortType};
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    type Map = BTreeMap<(PathBuf, PortType), ArtifactId>;

    pub(super) fn serialize<S: Serializer>(data: &Map, serializer: S) -> Result<S::Ok, S::Error> {
        let item = |((path, port_type), artifact): (&(PathBuf, PortType), &ArtifactId)| Data {
            path: path.clone(),
            port_type: *port_type,
            artifact: *artifact,
        };
        data.iter().map(item).collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map, D::Error> {
        let list = Vec::<Data>::deserialize(deserializer)?;
        Ok(list.into_iter().map(|d| ((d.path, d.port_type), d.artifact)).collect())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    path: PathBuf,
    #[serde(rename = "type")]
    port_type: PortType,
    artifact: ArtifactId,
}

impl Sources {
    /// Reads what the stages named `stages` take from outside the store, and creates reference
    /// artifacts for the data. Remote sources are taken from `locked` without fetching anything.
    pub fn read(
        resolved: &Resolved,
        stages: &[String],
        store: &Store,
        locked: &BTreeMap<String, Locked>,
    ) -> Result<Self, RunError> {
        let mut sources = Self::default();
        for source in remote::uses(resolved, stages).into_keys() {
            if let Some(known) = locked.get(&source) {
                sources.remote.insert(source, known.clone());
            }
        }
        for name in stages {
            let Some(stage) = resolved.stages.get(name) else { continue };
            for (port, bindings) in &stage.inputs {
                let Some(input) = stage.description.contract.inputs.get(port) else { continue };
                for binding in bindings {
                    let Binding::Path(path) = binding else { continue };
                    if sources.artifact(path, input.port_type).is_some() {
                        continue;
                    }
                    if let Err(source) = std::fs::metadata(path) {
                        let (stage, port, path) = (name.clone(), port.clone(), path.clone());
                        return Err(RunError::SourceMissing { stage, port, path, source });
                    }
                    let artifact = store.commit_reference(input.port_type, path)?;
                    sources.data.insert((path.clone(), input.port_type), artifact);
                }
            }
            if stage.description.contract.command.is_some()
                && !sources.commands.contains_key(&stage.uses)
                && let Some(key) = command_key(name, stage, &resolved.root)?
            {
                sources.commands.insert(stage.uses.clone(), key);
            }
        }
        Ok(sources)
    }

    /// The reference artifacts of all local data.
    pub fn artifacts(&self) -> impl Iterator<Item = ArtifactId> + '_ {
        self.data.values().copied()
    }

    /// The artifacts of the remote sources that stages of `resolved` read, as far as they are
    /// locked.
    pub fn remote_artifacts(&self, resolved: &Resolved) -> BTreeSet<ArtifactId> {
        let mut found = BTreeSet::new();
        for (_, stage) in resolved.stages.iter() {
            for (port, bindings) in &stage.inputs {
                let Some(input) = stage.description.contract.inputs.get(port) else { continue };
                let remote = bindings.iter().filter_map(|binding| match binding {
                    Binding::Remote(source) => self.locked_artifacts(source, input),
                    _ => None,
                });
                found.extend(remote.flatten());
            }
        }
        found
    }

    /// The artifact of the file or folder `path` for a port of type `port_type`.
    pub fn artifact(&self, path: &Path, port_type: PortType) -> Option<ArtifactId> {
        self.data.get(&(path.to_owned(), port_type)).copied()
    }

    /// The artifacts of the remote source `source` for port `input`. Returns `None` if the source
    /// is not locked yet.
    pub fn locked_artifacts(&self, source: &str, input: &InputPort) -> Option<Vec<ArtifactId>> {
        self.remote.get(source).map(|locked| remote::artifacts(source, locked, input))
    }

    /// The exact versions of remote sources, as far as they are locked.
    pub fn remote(&self) -> &BTreeMap<String, Locked> {
        &self.remote
    }

    /// The locked remote sources, to add to them.
    pub fn remote_mut(&mut self) -> &mut BTreeMap<String, Locked> {
        &mut self.remote
    }

    /// The key of the command of contract `uses`. `None` for a built-in stage.
    pub fn command(&self, uses: &str) -> Option<&CommandKey> {
        self.commands.get(uses)
    }

    /// Converts sources from a record of format 1, which held the commands by stage.
    pub fn upgrade_format_1(self, resolved: &Resolved) -> Self {
        let uses = |stage: String| resolved.stages.get(&stage).map_or(stage, |s| s.uses.clone());
        let commands = self.commands.into_iter().map(|(stage, key)| (uses(stage), key)).collect();
        Self { commands, ..self }
    }

    /// How `now` differs from `self`, the recorded sources. Lists single files if `store` still has
    /// both manifests.
    pub fn changes(&self, now: &Sources, store: &Store) -> Vec<SourceChange> {
        let mut changes = Vec::new();
        for (source, old) in &self.data {
            match now.data.get(source) {
                Some(new) if new == old => {}
                new => changes.extend(file_changes(store, &source.0, *old, new.copied())),
            }
        }
        for (uses, old) in &self.commands {
            let empty = CommandKey { argv: old.argv.clone(), files: BTreeMap::new(), environment: BTreeMap::new() };
            let new = now.commands.get(uses).unwrap_or(&empty);
            changes.extend(map_changes(&format!("stage {uses}: file"), &old.files, &new.files));
            changes.extend(map_changes(&format!("stage {uses}: variable"), &old.environment, &new.environment));
        }
        changes
    }
}

/// The names of the files in which the artifacts `old` and `new` differ. Empty if `store` lacks a
/// manifest. A source file is named by its path.
pub(crate) fn changed_files(store: &Store, old: ArtifactId, new: ArtifactId) -> Vec<String> {
    let (Ok(old), Ok(new)) = (store.manifest(old), store.manifest(new)) else { return Vec::new() };
    let differs = |name: &&String| old.files.get(*name).map(|e| e.digest) != new.files.get(*name).map(|e| e.digest);
    let names: BTreeSet<&String> = old.files.keys().chain(new.files.keys()).collect();
    let shown = |name: &String| {
        let entry = new.files.get(name).or_else(|| old.files.get(name));
        let source = entry.and_then(|entry| entry.source.as_ref());
        source.map_or_else(|| name.clone(), |path| path.display().to_string())
    };
    names.into_iter().filter(differs).map(shown).collect()
}

/// The files in which the artifacts `old` and `new` of the source `path` differ.
fn file_changes(store: &Store, path: &Path, old: ArtifactId, new: Option<ArtifactId>) -> Vec<SourceChange> {
    // If it is unknown which files differ, the change shows the artifacts instead of files.
    let whole = SourceChange {
        what: path.display().to_string(),
        old: Some(old.digest()),
        new: new.as_ref().map(ArtifactId::digest),
    };
    let (Ok(before), Some(Ok(after))) = (store.manifest(old), new.map(|n| store.manifest(n))) else {
        return vec![whole];
    };
    let digests = |m: &crate::store::Manifest| m.files.iter().map(|(name, e)| (name.clone(), e.digest)).collect();
    let (before, after): (BTreeMap<String, Digest>, BTreeMap<String, Digest>) = (digests(&before), digests(&after));
    match (before.len(), after.len()) {
        // A single file needs no name besides its path.
        (1, 1) => vec![SourceChange { old: before.into_values().next(), new: after.into_values().next(), ..whole }],
        _ => {
            let changes = map_changes(&path.display().to_string(), &before, &after);
            if changes.is_empty() { vec![whole] } else { changes }
        }
    }
}

fn map_changes(what: &str, old: &BTreeMap<String, Digest>, new: &BTreeMap<String, Digest>) -> Vec<SourceChange> {
    let added = new.keys().filter(|name| !old.contains_key(*name));
    let names = old.keys().chain(added);
    let change = |name: &String| {
        let (old, new) = (old.get(name).copied(), new.get(name).copied());
        (old != new).then(|| SourceChange { what: format!("{what} {name}"), old, new })
    };
    names.filter_map(change).collect()
}

/// The key of the command of stage `name`: argv, declared files, files of the stage's folder that
/// argv names, the program if it is in the project, and the declared environment. `None` for a
/// built-in stage.
pub(crate) fn command_key(name: &str, stage: &ResolvedStage, root: &Path) -> Result<Option<CommandKey>, RunError> {
    let contract = &stage.description.contract;
    let Some(command) = &contract.command else { return Ok(None) };
    let mut files = BTreeMap::new();
    for (shown, path) in command_files(name, stage, root)? {
        let unread = |source| RunError::StageFile { stage: name.to_owned(), path: path.clone(), source };
        files.insert(shown, Digest::of_file(&path).map_err(unread)?.0);
    }
    let environment = command::declared_environment(contract);
    Ok(Some(CommandKey { argv: command.argv.clone(), files, environment }))
}

/// The files of the command of stage `name`, by their names in its key.
pub(crate) fn command_files(
    name: &str,
    stage: &ResolvedStage,
    root: &Path,
) -> Result<BTreeMap<String, PathBuf>, RunError> {
    let contract = &stage.description.contract;
    let mut files = BTreeMap::new();
    let (Some(command), Some(folder)) = (&contract.command, &stage.stage_dir) else { return Ok(files) };
    let mut add = |shown: String, path: &Path| -> Result<(), RunError> {
        let unread = |source| RunError::StageFile { stage: name.to_owned(), path: path.to_owned(), source };
        for (below, full) in files_at(path).map_err(unread)? {
            let shown = if below.is_empty() { shown.clone() } else { format!("{shown}/{below}") };
            files.insert(shown, full);
        }
        Ok(())
    };
    for file in &command.files {
        add(file.trim_end_matches('/').to_owned(), &folder.join(file))?;
    }
    if let Some(program) = command::program(contract, folder) {
        // Programs outside the project are not part of the key. `stage.yaml` is in the key field by
        // field.
        let shown = match (program.strip_prefix(folder), program.strip_prefix(root)) {
            (Ok(inside), _) => Some(inside.display().to_string()),
            (_, Ok(inside)) => Some(format!("//{}", inside.display())),
            _ => None,
        };
        if let Some(shown) = shown {
            add(shown, &program)?;
        }
    }
    for (shown, path) in command::named_paths(contract, folder) {
        add(shown, &path)?;
    }
    Ok(files)
}

/// All files below the folder `path`. If `path` is a file, only that file, with an empty name.
fn files_at(path: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_file() {
        return Ok(vec![(String::new(), path.to_owned())]);
    }
    if !metadata.is_dir() {
        let kind = olmo_base::files::kind_name(metadata.file_type());
        return Err(std::io::Error::other(format!("it is {kind}; a stage may have only files and folders")));
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() && std::fs::metadata(entry.path())?.is_dir() {
            return Err(std::io::Error::other(format!("it contains `{}`, a link to a folder", entry.path().display())));
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        for (below, full) in files_at(&entry.path())? {
            found.push((if below.is_empty() { name.clone() } else { format!("{name}/{below}") }, full));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn stage(folder: &Path, argv: &str, files: &str) -> ResolvedStage {
        let contract = format!(
            "{{stage: s, version: 1, summary: s, outputs: {{o: {{type: text}}}}, \
             command: {{argv: {argv}, files: {files}}}}}"
        );
        ResolvedStage {
            uses: "s".into(),
            description: std::sync::Arc::new(olmo_stage::Description::of_command(
                serde_yaml::from_str(&contract).unwrap(),
            )),
            stage_dir: Some(folder.to_owned()),
            for_each: None,
            inputs: BTreeMap::new(),
            params: serde_json::json!({}),
            resources: Default::default(),
            timeout_s: None,
            stall_s: None,
            retry: None,
            share: None,
            every: None,
        }
    }

    #[test]
    fn the_key_of_a_command_has_its_declared_files_and_its_program_in_the_project() {
        let dir = tempfile::tempdir().unwrap();
        let (root, folder) = (dir.path(), dir.path().join("stages/s"));
        fs::create_dir_all(folder.join("lib")).unwrap();
        fs::create_dir_all(root.join("bin")).unwrap();
        for file in ["stages/s/run.sh", "stages/s/lib/a", "stages/s/lib/b", "stages/s/undeclared", "bin/tool"] {
            fs::write(root.join(file), file).unwrap();
        }
        let names = |argv: &str, files: &str| -> Vec<String> {
            let key = command_key("s", &stage(&folder, argv, files), root).unwrap().unwrap();
            key.files.into_keys().collect()
        };
        assert_eq!(names("[\"${stage.dir}/run.sh\"]", "[lib/]"), ["lib/a", "lib/b", "run.sh"]);
        assert_eq!(names("[\"${stage.dir}/../../bin/tool\"]", "[]"), ["../../bin/tool"]);
        assert_eq!(names(&format!("[{}/bin/tool]", root.display()), "[]"), ["//bin/tool"]);
        assert!(names("[/bin/sh]", "[]").is_empty(), "a program of the system");
        // A script that argv names counts whether or not it is declared.
        assert_eq!(names("[sh, \"${stage.dir}/undeclared\"]", "[lib/a]"), ["lib/a", "undeclared"]);
        assert_eq!(names("[sh, \"${stage.dir}/lib\", x]", "[]"), ["lib/a", "lib/b"]);
        assert_eq!(names("[sh, \"--with=${stage.dir}/lib/b\"]", "[]"), ["lib/b"]);
        assert_eq!(names("[sh, -c, \". ${stage.dir}/lib/a; echo '${stage.dir}/run.sh'\"]", "[]"), ["lib/a", "run.sh"]);
        assert!(names("[sh, \"${stage.dir}/made-later\"]", "[]").is_empty(), "no such file");
        // The folder as a whole means the declared files, or all files if none are declared.
        assert_eq!(names("[sh, -c, \"cd ${stage.dir} && ./run.sh\"]", "[run.sh]"), ["run.sh"]);
        let all = ["lib/a", "lib/b", "run.sh", "undeclared"];
        assert_eq!(names("[sh, -c, \"cd ${stage.dir} && ./run.sh\"]", "[]"), all);
        let missing = command_key("s", &stage(&folder, "[sh]", "[gone.sh]"), root).unwrap_err();
        assert!(missing.to_string().contains("gone.sh"), "{missing}");
    }

    #[test]
    fn a_changed_file_is_named_with_both_digests() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let folder = dir.path().join("data");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("same"), "s").unwrap();
        fs::write(folder.join("other"), "before").unwrap();
        let read = |path: &Path| Sources {
            data: BTreeMap::from([(
                (path.to_owned(), PortType::Dir),
                store.commit_reference(PortType::Dir, path).unwrap(),
            )]),
            ..Sources::default()
        };
        let before = read(&folder);
        assert!(before.changes(&read(&folder), &store).is_empty());
        fs::write(folder.join("other"), "after").unwrap();
        let changes = before.changes(&read(&folder), &store);
        assert_eq!(changes.len(), 1);
        assert!(changes[0].what.ends_with("data other"), "{}", changes[0].what);
        assert_eq!(changes[0].old, Some(Digest::of(b"before")));
        assert_eq!(changes[0].new, Some(Digest::of(b"after")));
    }
}
