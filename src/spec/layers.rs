//! Stages and outputs as they stand after the experiment and `--set` have changed the pipeline's.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::Value;

use super::catalog::{Catalog, Found};
use super::diagnostic::quoted;
use super::nearest;
use super::node::{Content, Entry, Node};
use super::setting::{self, Setting};
use super::source::{Problem, Session, Span};

/// A stage before its references are followed.
#[derive(Debug)]
pub(crate) struct StageSource {
    pub name: String,
    pub name_span: Span,
    pub uses: String,
    /// None if there is no sound contract, which is reported.
    pub found: Option<Found>,
    pub with: Vec<Entry>,
    pub for_each: Option<Node>,
    pub resources: Vec<Entry>,
    pub timeout: Option<Node>,
}

/// All stages in order, and the names that the experiment took away, with the places that did so.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    pub all: Vec<StageSource>,
    pub removed: Vec<(String, Span)>,
    places: HashMap<String, usize>,
}

impl Stages {
    pub fn get(&self, name: &str) -> Option<&StageSource> {
        self.places.get(name).map(|&place| &self.all[place])
    }

    fn add(&mut self, stage: Option<StageSource>) {
        if let Some(stage) = stage {
            self.places.insert(stage.name.clone(), self.all.len());
            self.all.push(stage);
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|stage| stage.name.as_str())
    }
}

/// Merges the stages of the pipeline, the experiment and the command line.
pub(crate) fn stages(
    session: &mut Session,
    catalog: &mut Catalog,
    pipeline: &Node,
    experiment: &Node,
    settings: &[Setting],
    cwd: &Path,
) -> Stages {
    let own = pipeline.get("stages").map_or(&[][..], Node::entries);
    let changes = experiment.get("stages").map_or(&[][..], Node::entries);
    let change_of: HashMap<&str, &Entry> = changes.iter().map(|change| (change.key.as_str(), change)).collect();
    let own_names: HashSet<&str> = own.iter().map(|entry| entry.key.as_str()).collect();
    let mut stages = Stages::default();
    for entry in own {
        let change = change_of.get(entry.key.as_str()).copied();
        let null_setting = settings.iter().find(|s| removes(s, &entry.key));
        let removed = null_setting.map(|s| s.value.span).or(change.filter(|c| c.value.is_null()).map(|c| c.key_span));
        match removed {
            Some(span) => stages.removed.push((entry.key.clone(), span)),
            None => stages.add(merged(session, catalog, entry, change, settings, cwd)),
        }
    }
    for change in changes.iter().filter(|change| !own_names.contains(change.key.as_str())) {
        if change.value.get("uses").is_some() {
            stages.add(merged(session, catalog, change, None, settings, cwd));
        } else {
            let message = format!("the pipeline has no stage {}", quoted(&change.key));
            let help = nearest::help(&change.key, own.iter().map(|entry| entry.key.as_str()));
            let problem = Problem::new("spec::unknown_stage", change.key_span, message).help(help);
            session.report(problem.note_at("a stage that the experiment adds needs `uses`", None));
        }
    }
    for setting in settings.iter().filter(|s| s.path[0].0 == "stages") {
        check_target(session, &stages, setting);
    }
    stages
}

/// Whether `setting` is `stages.NAME=null`.
fn removes(setting: &Setting, name: &str) -> bool {
    matches!(setting.path.as_slice(), [(root, _), (stage, _)] if root == "stages" && stage == name)
        && setting.value.is_null()
}

/// Reports a `--set stages.…` that names no stage or no part of one.
fn check_target(session: &mut Session, stages: &Stages, setting: &Setting) {
    let [_, (name, name_span), rest @ ..] = setting.path.as_slice() else { return };
    if let Some((_, span)) = stages.removed.iter().find(|(removed, _)| removed == name) {
        if !removes(setting, name) {
            let message = format!("there is no stage {} any more", quoted(name));
            session
                .report(Problem::new("spec::unknown_stage", *name_span, message).note_at("it is removed", Some(*span)));
        }
        return;
    }
    if stages.get(name).is_none() {
        let message = format!("there is no stage {}", quoted(name));
        let help = nearest::help(name, stages.names());
        session.report(Problem::new("spec::unknown_stage", *name_span, message).help(help));
        return;
    }
    let refused = match rest {
        [] => Some((*name_span, format!("a stage is set part by part: `stages.{name}.with.NAME=…`"))),
        [(part, _), _, ..] if part == "with" || part == "resources" => None,
        [(part, _)] if part == "timeout" || part == "for_each" => None,
        [(part, span)] if part == "with" || part == "resources" => {
            Some((*span, format!("set one of its keys: `stages.{name}.{part}.NAME=…`")))
        }
        [(part, _), (_, span), ..] if part == "timeout" || part == "for_each" => {
            Some((*span, format!("set `stages.{name}.{part}` as a whole")))
        }
        [(part, span), ..] => {
            let near = nearest::help(part, ["with", "resources", "timeout", "for_each"]);
            Some((*span, near.unwrap_or_default()))
        }
    };
    if let Some((span, help)) = refused {
        let path: Vec<&str> = setting.path.iter().map(|(name, _)| name.as_str()).collect();
        let message = format!("{} names nothing that can be set", quoted(&path.join(".")));
        session.report(Problem::new("spec::bad_set", span, message).help(help));
    }
}

/// One stage of its entry, the experiment's change, and the settings for it. `None` without a
/// `uses`, which the check of the document reports.
fn merged(
    session: &mut Session,
    catalog: &mut Catalog,
    entry: &Entry,
    change: Option<&Entry>,
    settings: &[Setting],
    cwd: &Path,
) -> Option<StageSource> {
    let change = change.map(|change| &change.value);
    let changed = |key: &str| change.and_then(|c| c.get(key)).or(entry.value.get(key));
    let uses = changed("uses")?;
    let name = uses.as_str()?;
    let found = catalog.find(session, name, uses.span, cwd);
    let params = found.as_ref().map_or(&Value::Null, |found| &found.description.params);
    let entries =
        |node: Option<&Node>, key: &str| node.and_then(|n| n.get(key)).map_or(Vec::new(), |n| n.entries().to_vec());
    let mut stage = StageSource {
        name: entry.key.clone(),
        name_span: entry.key_span,
        uses: name.to_owned(),
        with: merge(entries(Some(&entry.value), "with"), &entries(change, "with"), params),
        for_each: changed("for_each").cloned(),
        resources: merge(entries(Some(&entry.value), "resources"), &entries(change, "resources"), &Value::Null),
        timeout: changed("timeout").cloned(),
        found,
    };
    for setting in settings {
        let [(root, _), (name, _), (part, _), rest @ ..] = setting.path.as_slice() else { continue };
        if root != "stages" || *name != stage.name {
            continue;
        }
        let shown = format!("stages.{name}.{part}");
        match (part.as_str(), rest) {
            ("with", [_, ..]) => setting::put(session, &mut stage.with, rest, setting.value.clone(), &shown),
            ("resources", [_, ..]) => setting::put(session, &mut stage.resources, rest, setting.value.clone(), &shown),
            ("timeout", []) => stage.timeout = Some(setting.value.clone()),
            ("for_each", []) => stage.for_each = Some(setting.value.clone()),
            // Reported by `check_target`.
            _ => {}
        }
    }
    // Null takes away what the pipeline says.
    stage.for_each = stage.for_each.filter(|node| !node.is_null());
    stage.timeout = stage.timeout.filter(|node| !node.is_null());
    Some(stage)
}

/// `base` with the entries of `over`. Records (objects whose properties `schema` names) are merged in
/// depth; lists, free maps and one-key unions are replaced, since a half of each means nothing.
fn merge(mut base: Vec<Entry>, over: &[Entry], schema: &Value) -> Vec<Entry> {
    for entry in over {
        let Some(place) = base.iter_mut().find(|known| known.key == entry.key) else {
            base.push(entry.clone());
            continue;
        };
        let property = schema.get("properties").and_then(|p| p.get(&entry.key)).unwrap_or(&Value::Null);
        let value = match (&place.value.content, &entry.value.content) {
            (Content::Object(old), Content::Object(new)) if property.get("properties").is_some() => {
                Node { content: Content::Object(merge(old.clone(), new, property)), ..entry.value.clone() }
            }
            _ => entry.value.clone(),
        };
        *place = Entry { value, ..entry.clone() };
    }
    base
}

/// The outputs of the pipeline with the experiment's and the command line's changes.
pub(crate) fn outputs(session: &mut Session, pipeline: &Node, experiment: &Node, settings: &[Setting]) -> Vec<Entry> {
    let entries = |node: &Node| node.get("outputs").map_or(Vec::new(), |n| n.entries().to_vec());
    let mut outputs = entries(pipeline);
    let mut changes = entries(experiment);
    for setting in settings.iter().filter(|s| s.path[0].0 == "outputs") {
        match setting.path.as_slice() {
            [_, (name, span)] => {
                changes.push(Entry { key: name.clone(), key_span: *span, value: setting.value.clone() });
            }
            [.., (_, span)] => {
                let help = "an output is set as a whole: outputs.NAME=…".to_owned();
                session.report(Problem::new("spec::bad_set", *span, "an output has no parts").help(help));
            }
            [] => {}
        }
    }
    for change in changes {
        let known = outputs.iter().any(|entry| entry.key == change.key);
        if change.value.is_null() && !known {
            let message = format!("there is no output {} to leave out", quoted(&change.key));
            let help = nearest::help(&change.key, outputs.iter().map(|entry| entry.key.as_str()));
            session.report(Problem::new("spec::unknown_output", change.key_span, message).help(help));
        }
        outputs = merge(outputs, &[change], &Value::Null);
    }
    outputs.retain(|entry| !entry.value.is_null());
    outputs
}
