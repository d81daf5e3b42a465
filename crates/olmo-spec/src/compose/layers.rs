//! The stages and outputs of the pipeline, as changed by the experiment and `--set`.

use std::collections::HashMap;
use std::path::Path;

use olmo_base::nearest;
use olmo_base::text::quoted;
use serde_json::Value;

use crate::compose::setting::{self, Setting};
use crate::document::catalog::{Catalog, Found};
use crate::read::node::{Content, Entry, Node};
use crate::read::ordered::OrderedMap;
use crate::read::source::{Problem, Session, Span};

/// A stage before its references are resolved.
#[derive(Clone, Debug)]
pub(crate) struct StageSource {
    pub name: String,
    pub name_span: Span,
    pub uses: String,
    /// None if there is no sound contract, which is reported.
    pub found: Option<Found>,
    pub with: Vec<Entry>,
    /// The stage is left out unless this holds.
    pub when: Option<Node>,
    pub for_each: Option<Node>,
    pub every: Option<Node>,
    pub resources: Vec<Entry>,
    pub timeout: Option<Node>,
    pub stall: Option<Node>,
    pub retry: Option<Node>,
    pub share: Option<Node>,
}

/// All stages in order, and the names that the experiment removed, with the places of the removals.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    pub all: Vec<StageSource>,
    pub removed: HashMap<String, Span>,
    /// The stages whose `when` does not hold: the place of the condition, and the reason.
    pub left_out: HashMap<String, (Span, String)>,
    places: HashMap<String, usize>,
}

impl Stages {
    pub(crate) fn get(&self, name: &str) -> Option<&StageSource> {
        self.place(name).map(|place| &self.all[place])
    }

    /// The index of stage `name`.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|stage| stage.name.as_str())
    }

    /// Removes the stages whose condition does not hold.
    pub(crate) fn leave_out(&mut self, left_out: HashMap<String, (Span, String)>) {
        self.all.retain(|stage| !left_out.contains_key(&stage.name));
        self.places = self.all.iter().enumerate().map(|(place, stage)| (stage.name.clone(), place)).collect();
        self.left_out = left_out;
    }

    fn push(&mut self, stage: StageSource) {
        self.places.insert(stage.name.clone(), self.all.len());
        self.all.push(stage);
    }
}

/// Merges the stages of the pipeline, of the experiments `layers` (weakest first) and of the
/// command line.
pub(crate) fn stages(
    session: &mut Session,
    catalog: &mut Catalog,
    pipeline: &Node,
    layers: &[Node],
    settings: &[Setting],
    cwd: &Path,
) -> Stages {
    let own = pipeline.get("stages").map_or(&[][..], Node::entries);
    let mut drafts: OrderedMap<Vec<&Entry>> = own.iter().map(|entry| (entry.key.clone(), vec![entry])).collect();
    let mut removed: HashMap<String, Span> = HashMap::new();
    for change in layers.iter().flat_map(|layer| layer.get("stages").map_or(&[][..], Node::entries)) {
        if session.is_full() {
            break;
        }
        let gone = removed.contains_key(&change.key);
        match drafts.get_mut(&change.key) {
            Some(_) if change.value.is_null() && !gone => {
                removed.insert(change.key.clone(), change.key_span);
            }
            Some(draft) if !gone => draft.push(change),
            _ if change.value.get("uses").is_some() => {
                removed.remove(&change.key);
                drafts.insert(change.key.clone(), vec![change]);
            }
            _ => {
                let message = format!("the pipeline has no stage {}", quoted(&change.key));
                let help = nearest::help(&change.key, own.iter().map(|entry| entry.key.as_str()));
                let problem = Problem::new("spec::unknown_stage", change.key_span, message).help(help);
                session.report(problem.note_at("a stage that the experiment adds needs `uses`", None));
            }
        }
    }
    for setting in settings {
        if let Some(name) = drafts.keys().find(|name| removes(setting, name)) {
            removed.insert(name.to_owned(), setting.value.span);
        }
    }
    let mut stages = Stages { removed, ..Stages::default() };
    for draft in drafts.values() {
        if stages.removed.contains_key(&draft[0].key) {
            continue;
        }
        if let Some(mut stage) = merged(session, catalog, draft, cwd) {
            set(session, &mut stage, settings.iter());
            stages.push(stage);
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

/// Parts of a stage that are set as a whole.
const WHOLE: [&str; 7] = ["timeout", "when", "for_each", "every", "stall", "retry", "share"];

/// Reports a `--set stages.…` that names no stage or no part of one.
pub(crate) fn check_target(session: &mut Session, stages: &Stages, setting: &Setting) {
    let [_, (name, name_span), rest @ ..] = setting.path.as_slice() else { return };
    if let Some(span) = stages.removed.get(name) {
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
        [(part, _)] if WHOLE.contains(&part.as_str()) => None,
        [(part, span)] if part == "with" || part == "resources" => {
            Some((*span, format!("set one of its keys: `stages.{name}.{part}.NAME=…`")))
        }
        [(part, _), (_, span), ..] if WHOLE.contains(&part.as_str()) => {
            Some((*span, format!("set `stages.{name}.{part}` as a whole")))
        }
        [(part, span), ..] => {
            let near = nearest::help(part, ["with", "resources"].into_iter().chain(WHOLE));
            Some((*span, near.unwrap_or_default()))
        }
    };
    if let Some((span, help)) = refused {
        let path: Vec<&str> = setting.path.iter().map(|(name, _)| name.as_str()).collect();
        let message = format!("{} names nothing that can be set", quoted(&path.join(".")));
        session.report(Problem::new("spec::bad_set", span, message).help(help));
    }
}

/// Merges the entries of a stage, weakest first. `None` without a `uses`, which the check of the
/// document reports.
fn merged(session: &mut Session, catalog: &mut Catalog, entries: &[&Entry], cwd: &Path) -> Option<StageSource> {
    let last = |key: &str| entries.iter().rev().find_map(|entry| entry.value.get(key));
    let uses = last("uses")?;
    let name = uses.as_str()?;
    let found = catalog.find(session, name, uses.span, cwd);
    let all = |key: &str, schema: &Value| {
        let parts = entries.iter().filter_map(|entry| entry.value.get(key));
        parts.fold(Vec::new(), |merged, part| merge(merged, part.entries(), schema))
    };
    let params = found.as_ref().map_or(&Value::Null, |found| found.params.schema());
    // Null removes the value of a weaker layer.
    let plain = |key: &str| last(key).filter(|node| !node.is_null()).cloned();
    Some(StageSource {
        name: entries[0].key.clone(),
        name_span: entries[0].key_span,
        uses: name.to_owned(),
        with: all("with", params),
        when: plain("when"),
        for_each: plain("for_each"),
        every: plain("every"),
        resources: all("resources", &Value::Null),
        timeout: plain("timeout"),
        stall: plain("stall"),
        retry: plain("retry"),
        share: plain("share"),
        found,
    })
}

/// Applies the `settings` for `stage`.
pub(crate) fn set<'s>(session: &mut Session, stage: &mut StageSource, settings: impl Iterator<Item = &'s Setting>) {
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
            ("stall", []) => stage.stall = Some(setting.value.clone()),
            ("retry", []) => stage.retry = Some(setting.value.clone()),
            ("share", []) => stage.share = Some(setting.value.clone()),
            ("when", []) => stage.when = Some(setting.value.clone()),
            ("for_each", []) => stage.for_each = Some(setting.value.clone()),
            ("every", []) => stage.every = Some(setting.value.clone()),
            // Reported by `check_target`.
            _ => {}
        }
    }
    let StageSource { when, for_each, every, timeout, stall, retry, share, .. } = stage;
    for node in [when, for_each, every, timeout, stall, retry, share] {
        node.take_if(|node| node.is_null());
    }
}

/// `base` with the entries of `over`. Records (objects whose properties `schema` names) are merged in
/// depth; lists, free maps and one-key unions are replaced, since a part of one has no meaning.
fn merge(mut base: Vec<Entry>, over: &[Entry], schema: &Value) -> Vec<Entry> {
    if base.is_empty() {
        return over.to_vec();
    }
    let places: HashMap<String, usize> = base.iter().enumerate().map(|(at, entry)| (entry.key.clone(), at)).collect();
    for entry in over {
        // The keys of a map differ, so a pushed entry is not found again.
        let Some(&at) = places.get(&entry.key) else {
            base.push(entry.clone());
            continue;
        };
        let place = &mut base[at];
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
pub(crate) fn outputs(session: &mut Session, pipeline: &Node, layers: &[Node], settings: &[Setting]) -> Vec<Entry> {
    let entries = |node: &Node| node.get("outputs").map_or(Vec::new(), |n| n.entries().to_vec());
    let own = entries(pipeline).into_iter();
    let mut outputs: OrderedMap<Entry> = own.map(|entry| (entry.key.clone(), entry)).collect();
    let mut changes: Vec<Entry> = layers.iter().flat_map(entries).collect();
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
        if change.value.is_null() && !outputs.contains_key(&change.key) {
            let message = format!("there is no output {} to leave out", quoted(&change.key));
            let help = nearest::help(&change.key, outputs.keys());
            session.report(Problem::new("spec::unknown_output", change.key_span, message).help(help));
        }
        outputs.insert(change.key.clone(), change);
    }
    outputs.values().filter(|entry| !entry.value.is_null()).cloned().collect()
}
