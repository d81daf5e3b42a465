//! Reads an experiment file and those that it extends, and merges what they say.
//!
//! `docs/experiments.md` has the rules: `uses`, `default_profile` and `sweep` of a later file replace
//! those of an earlier one; `params` are replaced one by one, and `profiles` are merged by name, then
//! param by param. `stages` and `outputs` change those of the pipeline, file after file
//! ([`crate::compose::layers`]). `experiment` belongs to each file.

use std::path::{Path, PathBuf};

use olmo_base::text::{quoted, with_article};

use crate::document::check::{Subject, check};
use crate::document::strict;
use crate::read::node::{Content, Entry, Node};
use crate::read::ordered::OrderedMap;
use crate::read::source::{Problem, Session, beside, tidy};
use crate::read::yaml;

/// Maximum length of a chain of files that extend each other.
const MAX_FILES: usize = 32;

/// Reads the experiment in source `number`, whose file is `path`, and the files that it extends,
/// weakest first. `None` if one of them cannot be used, which is reported.
pub(crate) fn read(session: &mut Session, number: u32, path: &Path) -> Option<Vec<Node>> {
    let (mut number, mut path) = (number, path.to_owned());
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut files: Vec<Node> = Vec::new();
    loop {
        let node = yaml::read(session, number)?;
        if not_an_experiment(session, &node) {
            return None;
        }
        check(session, strict::experiment(), &node, Subject { path: "", params_of: None });
        seen.push(path.clone());
        let base = node.get("extends").and_then(|base| Some((base.as_str()?.to_owned(), base.span)));
        files.push(node);
        let Some((base, span)) = base else { break };
        path = tidy(&path.parent().unwrap_or(Path::new("/")).join(&base));
        if seen.contains(&path) {
            let message = format!("{} extends itself, by way of the files that it extends", quoted(&base));
            session.report(Problem::new("spec::extends_itself", span, message));
            return None;
        }
        if seen.len() == MAX_FILES {
            let message = format!("more than {MAX_FILES} files extend each other");
            session.report(Problem::new("spec::extends_itself", span, message));
            return None;
        }
        let shown = beside(&session.source(span.source)?.shown, &base);
        number = session.read(&path, shown, Some(span))?;
    }
    files.reverse();
    Some(files)
}

/// Merges `files` into one experiment, except `stages` and `outputs`.
pub(crate) fn merged(files: &[Node]) -> Node {
    let mut all: OrderedMap<Entry> = OrderedMap::default();
    for entry in files.iter().flat_map(Node::entries) {
        let depth = match entry.key.as_str() {
            "params" => 1,
            "profiles" => 2,
            _ => 0,
        };
        let value = match all.get(&entry.key) {
            Some(known) => over(&known.value, &entry.value, depth),
            None => entry.value.clone(),
        };
        all.insert(entry.key.clone(), Entry { value, ..entry.clone() });
    }
    // The name is that of the last file.
    let span = files.last().map_or(crate::read::source::Span::DEFAULT, |file| file.span);
    Node::new(span, Content::Object(all.values().cloned().collect()))
}

/// `new` laid over `old`, key by key down to `depth`.
fn over(old: &Node, new: &Node, depth: usize) -> Node {
    if depth == 0 || !matches!((&old.content, &new.content), (Content::Object(_), Content::Object(_))) {
        return new.clone();
    }
    let own = old.entries().iter();
    let mut all: OrderedMap<Entry> = own.map(|entry| (entry.key.clone(), entry.clone())).collect();
    for entry in new.entries() {
        let value = match all.get(&entry.key) {
            Some(known) => over(&known.value, &entry.value, depth - 1),
            None => entry.value.clone(),
        };
        all.insert(entry.key.clone(), Entry { value, ..entry.clone() });
    }
    Node::new(new.span, Content::Object(all.values().cloned().collect()))
}

/// Reports a file of another kind, instead of its many unknown keys.
fn not_an_experiment(session: &mut Session, node: &Node) -> bool {
    if node.get("experiment").is_some() {
        return false;
    }
    let Some(other) = ["pipeline", "stage"].into_iter().find_map(|key| node.entry(key)) else { return false };
    let message = format!("an experiment is expected here; this is {}", with_article(&other.key));
    let help = "write an experiment with `experiment: NAME` and `uses:` this pipeline".to_owned();
    let problem = Problem::new("spec::not_an_experiment", other.key_span, message);
    session.report(if other.key == "pipeline" { problem.help(help) } else { problem });
    true
}
