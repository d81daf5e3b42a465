//! [`Catalog`]: the contracts that stages can use.
//!
//! Contracts of built-in stages are JSON texts embedded in the engine. Command stages are folders
//! `stages/NAME` with a `stage.yaml`, next to the experiment or pipeline and upwards to the project
//! root.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use olmo_base::nearest;
use olmo_base::text::quoted;
use olmo_stage::{Contract, Description};

use crate::document::check::{Checker, Subject, check};
use crate::document::strict;
use crate::read::diagnostic::{Diagnostic, Diagnostics};
use crate::read::node::Node;
use crate::read::reference::is_name;
use crate::read::source::{Problem, Session, Span, tidy};
use crate::read::yaml;

/// The file of a command stage's contract.
const STAGE_FILE: &str = "stage.yaml";
/// A file or folder of either name marks a project's root.
const ROOT_MARKS: [&str; 2] = [".olmo-pipe", "olmo-pipe.yaml"];
/// Maximum number of folders to search on the way up.
const MAX_LEVELS: usize = 64;

/// The stages that can be used, by name.
#[derive(Debug, Default)]
pub struct Catalog {
    builtin: BTreeMap<String, Arc<Description>>,
    /// Folders of command stages by stage name, nearest first.
    folders: BTreeMap<String, Vec<PathBuf>>,
    /// The contracts read so far; `None` if one is unusable, which is reported.
    read: BTreeMap<String, Option<Found>>,
}

/// A contract and the folder of its `stage.yaml`, if it is a command stage's.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Shared by all stages that use it.
    pub description: Arc<Description>,
    /// The schema of its params.
    pub params: Arc<Checker>,
    pub folder: Option<PathBuf>,
}

impl Found {
    fn new(description: Arc<Description>, folder: Option<PathBuf>) -> Self {
        let params = Checker::new(description.params.clone());
        Self { description, params: Arc::new(params), folder }
    }
}

impl Catalog {
    /// A catalog of the built-in stages: pairs of name and JSON text of a [`Description`].
    ///
    /// # Errors
    /// A text is not a description, or describes another stage.
    pub fn builtin(texts: &[(&str, &str)]) -> Result<Self, Diagnostics> {
        let mut catalog = Self::default();
        let mut faults = Vec::new();
        for (name, text) in texts {
            match serde_json::from_str::<Description>(text) {
                Ok(description) if description.contract.stage == *name => {
                    catalog.builtin.insert((*name).to_owned(), Arc::new(description));
                }
                Ok(other) => faults.push(format!("it describes `{}`", other.contract.stage)),
                Err(e) => faults.push(e.to_string()),
            }
            if let Some(fault) = faults.pop() {
                let message = format!("the built-in description of stage `{name}` is damaged: {fault}");
                let help = Some("write schemas/ anew with `olmo-pipe schema`".to_owned());
                return Err(Diagnostics::new(vec![Diagnostic {
                    help,
                    ..Diagnostic::plain("spec::bad_contract", message)
                }]));
            }
        }
        Ok(catalog)
    }

    /// Adds the command stages of the folders from `folder` (absolute) up to `root`.
    pub(crate) fn look_up(&mut self, folder: &Path, root: &Path) {
        for folder in folder.ancestors().take(MAX_LEVELS) {
            self.look_into(&folder.join("stages"));
            // Do not search above the root, or outside the project.
            if folder == root || !folder.starts_with(root) {
                break;
            }
        }
    }

    fn look_into(&mut self, stages: &Path) {
        for entry in std::fs::read_dir(stages).into_iter().flatten().flatten() {
            let folder = entry.path();
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !is_name(&name) || !folder.join(STAGE_FILE).is_file() {
                continue;
            }
            let known = self.folders.entry(name).or_default();
            if !known.contains(&folder) {
                known.push(folder);
            }
        }
    }

    /// The names that `uses` may have, sorted.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.builtin.keys().chain(self.folders.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The stage `name`, which is used at `at`. Reports an unknown stage and an invalid contract.
    pub(crate) fn find(&mut self, session: &mut Session, name: &str, at: Span, cwd: &Path) -> Option<Found> {
        if let Some(found) = self.read.get(name) {
            if let Some(found) = found {
                return Some(found.clone());
            }
            // An unknown stage is reported wherever it is used; an invalid one only once.
            if self.folders.contains_key(name) {
                return None;
            }
        }
        let found = self.read_stage(session, name, at, cwd);
        self.read.insert(name.to_owned(), found.clone());
        found
    }

    fn read_stage(&self, session: &mut Session, name: &str, at: Span, cwd: &Path) -> Option<Found> {
        let mut commands = Vec::new();
        for folder in self.folders.get(name).into_iter().flatten() {
            let shown = folder.strip_prefix(cwd).unwrap_or(folder).join(STAGE_FILE);
            let number = session.read(&folder.join(STAGE_FILE), shown.to_string_lossy().into_owned(), Some(at))?;
            let node = yaml::read(session, number)?;
            // The contract of a built-in stage, in a checkout of this project.
            if self.builtin.contains_key(name) && node.get("command").is_none() {
                continue;
            }
            commands.push((folder, node));
        }
        match (self.builtin.get(name), commands.as_slice()) {
            (Some(_), [(_, node), ..]) => {
                let message = format!("stage `{name}` is built in and cannot be replaced");
                session.report(
                    Problem::new("spec::shadowed_stage", at, message)
                        .note_at("another stage of this name is described", Some(first_key(node)))
                        .help(format!("give that stage another name: rename its folder and change `stage: {name}`")),
                );
                None
            }
            (Some(description), []) => Some(Found::new(description.clone(), None)),
            (None, []) => {
                let message = format!("there is no stage contract {}", quoted(name));
                session
                    .report(Problem::new("spec::unknown_stage", at, message).help(nearest::help(name, self.names())));
                None
            }
            (None, [(folder, node)]) => contract(session, name, folder, node),
            (None, [(_, first), (_, second), ..]) => {
                let message = format!("there are two stages {}", quoted(name));
                session.report(
                    Problem::new("spec::shadowed_stage", at, message)
                        .note_at("one is described", Some(first_key(first)))
                        .note_at("the other is described", Some(first_key(second)))
                        .help("rename one of the two folders and its `stage:`".to_owned()),
                );
                None
            }
        }
    }
}

fn first_key(node: &Node) -> Span {
    node.entry("stage").or(node.entries().first()).map_or(node.span, |entry| entry.key_span)
}

/// The command stage described by `node`, which was read from `folder`.
fn contract(session: &mut Session, name: &str, folder: &Path, node: &Node) -> Option<Found> {
    let before = session.errors();
    if !check(session, strict::stage(), node, Subject { path: "", params_of: None }) {
        return None;
    }
    let contract: Contract = match serde_json::from_value(node.to_json()) {
        Ok(contract) => contract,
        Err(e) => {
            session.report(Problem::new(
                "spec::bad_contract",
                first_key(node),
                format!("this contract cannot be read: {e}"),
            ));
            return None;
        }
    };
    let at = |key: &str| node.get(key).map_or(node.span, |node| node.span);
    if contract.stage != name {
        let message = format!("the folder is named {} and the stage {}", quoted(name), quoted(&contract.stage));
        session.report(Problem::new("spec::bad_contract", at("stage"), message).help(format!("write `stage: {name}`")));
    }
    for port in contract.inputs.keys().filter(|port| contract.params.as_ref().is_some_and(|p| p.contains_key(*port))) {
        let message = format!("{} is both an input and a param", quoted(port));
        session.report(Problem::new("spec::bad_contract", at("params"), message).help("rename one of them".to_owned()));
    }
    match &contract.command {
        None => session.report(
            Problem::new("spec::bad_contract", first_key(node), format!("stage `{name}` has nothing to run"))
                .help("add `command: {argv: [PROGRAM, …]}`: only built-in stages have none".to_owned()),
        ),
        Some(_) => check_command(session, &contract, folder, node),
    }
    check_defaults(session, &contract, node);
    (session.errors() == before)
        .then(|| Found::new(Arc::new(Description::of_command(contract)), Some(folder.to_owned())))
}

/// Checks the command of a contract: arguments, variables, and the files that count towards the key.
fn check_command(session: &mut Session, contract: &Contract, folder: &Path, node: &Node) {
    let params = contract.params.as_ref();
    let items = |pointer: &str| match node.at(pointer).map(|(node, ..)| &node.content) {
        Some(crate::read::node::Content::Array(items)) => items.clone(),
        _ => Vec::new(),
    };
    let argv = items("/command/argv");
    if argv.is_empty() {
        let span = node.at("/command").map_or(node.span, |(node, ..)| node.span);
        session.report(Problem::new("spec::bad_contract", span, "`command.argv` names no program"));
    }
    for word in
        argv.iter().chain(&items("/command/check")).filter(|word| word.as_str().is_some_and(|text| text.contains('\0')))
    {
        let message = "an argument cannot hold the character NUL";
        session.report(Problem::new("spec::bad_contract", word.span, message));
    }
    for name in items("/command/environment").iter().chain(&items("/command/secrets")) {
        if name.as_str().is_some_and(|name| name.is_empty() || name.contains(['=', '\0'])) {
            let message = format!("{} cannot be the name of an environment variable", name.described());
            let help = "write the name alone: its value is taken from the environment of olmo-pipe".to_owned();
            session.report(Problem::new("spec::bad_contract", name.span, message).help(Some(help)));
        }
    }
    for word in &argv {
        let Some(text) = word.as_str() else { continue };
        for inside in text.split("${").skip(1) {
            let Some((reference, _)) = inside.split_once('}') else {
                session.report(Problem::new("spec::bad_reference", word.span, "this `${` has no `}`"));
                continue;
            };
            let known: Vec<String> = contract
                .inputs
                .keys()
                .map(|port| format!("inputs.{port}"))
                .chain(contract.outputs.keys().map(|port| format!("outputs.{port}")))
                .chain(params.into_iter().flat_map(|p| p.keys()).map(|param| format!("params.{param}")))
                .chain(std::iter::once("stage.dir".to_owned()))
                .collect();
            if !known.iter().any(|known| known == reference) {
                let message = format!("{} is nothing this stage has", quoted(&format!("${{{reference}}}")));
                let help = nearest::help(reference, known.iter().map(String::as_str));
                session.report(Problem::new("spec::bad_reference", word.span, message).help(help));
            }
        }
    }
    let secrets: Vec<&String> = contract.command.iter().flat_map(|command| &command.secrets).collect();
    for variable in items("/command/environment") {
        if variable.as_str().is_some_and(|name| secrets.iter().any(|secret| *secret == name)) {
            let message = format!("{} is a secret, whose value cannot be in the key", variable.described());
            let help = "leave it out of `environment` or of `secrets`".to_owned();
            session.report(Problem::new("spec::bad_contract", variable.span, message).help(help));
        }
    }
    for file in items("/command/files") {
        let Some(text) = file.as_str() else { continue };
        let path = tidy(&folder.join(text));
        if !path.starts_with(folder) {
            let message = format!("{} lies outside the stage's folder", quoted(text));
            session.report(Problem::new("spec::bad_contract", file.span, message));
        } else if !path.exists() {
            let help = nearest::files_near(&path);
            session.report(
                Problem::new("spec::missing_file", file.span, format!("there is no file {}", quoted(text))).help(help),
            );
        } else if let Some(kind) = other_kind(&path) {
            let message = format!("{} is {kind}, neither a file nor a folder", quoted(text));
            session.report(Problem::new("spec::bad_contract", file.span, message));
        }
    }
}

/// The kind of `path` if it is neither a file nor a folder: reading it might never end.
fn other_kind(path: &Path) -> Option<&'static str> {
    let file_type = path.metadata().ok()?.file_type();
    (!file_type.is_file() && !file_type.is_dir()).then(|| olmo_base::files::kind_name(file_type))
}

/// Checks that defaults have the types of their params.
fn check_defaults(session: &mut Session, contract: &Contract, node: &Node) {
    for (name, spec) in contract.params.iter().flatten() {
        check_default(session, name, spec, node.at(&format!("/params/{name}/default")).map(|(node, ..)| node));
    }
}

/// Reports a default that does not fit its param. Returns whether it fits.
pub(crate) fn check_default(
    session: &mut Session,
    name: &str,
    spec: &olmo_stage::ParamSpec,
    default: Option<&Node>,
) -> bool {
    let Some(default) = default.filter(|default| !default.is_null()) else { return true };
    check(session, spec.schema(), default, Subject { path: &format!("params.{name}.default"), params_of: None })
}

/// The project of `folder` (absolute): its nearest ancestor, or itself, with `.olmo-pipe/` or
/// `olmo-pipe.yaml`; `folder` if there is none.
pub fn project_root(folder: &Path) -> PathBuf {
    marked(folder).unwrap_or_else(|| folder.to_owned())
}

/// The project of a file in `folder`. If there is none, the project of `cwd`; else `folder`.
pub(crate) fn root_of(folder: &Path, cwd: &Path) -> PathBuf {
    marked(folder).or_else(|| marked(cwd)).unwrap_or_else(|| folder.to_owned())
}

fn marked(start: &Path) -> Option<PathBuf> {
    let is_root = |folder: &&Path| ROOT_MARKS.iter().any(|mark| folder.join(mark).exists());
    start.ancestors().take(MAX_LEVELS).find(is_root).map(Path::to_owned)
}
