//! The params of an experiment: pipeline default, then the experiment's value, the profile's,
//! and `--set`; each checked where it was written.

use serde_json::{Map, Value};

use super::check::{Subject, check};
use super::diagnostic::quoted;
use super::nearest;
use super::node::{Content, Entry, Node};
use super::pipeline::Declared;
use super::prepare::prepare;
use super::reference::{Piece, has_reference, pieces};
use super::setting::{self, Setting};
use super::source::{Problem, Session, Span};

/// The values in force, in the pipeline's order.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, Node)>);

impl Params {
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, node)| node)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(name, node)| (name.as_str(), node))
    }

    pub fn to_json(&self) -> Map<String, Value> {
        self.0.iter().map(|(name, node)| (name.clone(), node.to_json())).collect()
    }
}

/// Where values come from, weakest first.
pub(crate) struct Layers<'a> {
    pub experiment: &'a Node,
    /// The profile in force.
    pub profile: Option<&'a str>,
    pub settings: &'a [Setting],
    /// The place that uses the pipeline.
    pub uses: Span,
}

/// Computes the params. Values of profiles that are not in force are checked as well.
pub(crate) fn compute(session: &mut Session, declared: &[Declared], layers: &Layers<'_>) -> Params {
    let values = layers.experiment.get("params");
    let profiles = layers.experiment.get("profiles");
    // A value that is wrong in itself must not be found wrong again wherever it is used.
    let mut wrong = Vec::new();
    for layer in values.into_iter().chain(profiles.into_iter().flat_map(|p| p.entries().iter().map(|e| &e.value))) {
        for entry in layer.entries() {
            if !check_value(session, declared, entry) {
                wrong.push(entry.value.span);
            }
        }
    }
    let settings: Vec<&Setting> = layers.settings.iter().filter(|s| s.path[0].0 == "params").collect();
    for setting in &settings {
        let (name, span) = &setting.path[1];
        if !declared.iter().any(|d| d.name == *name) {
            unknown(session, declared, name, *span);
        }
    }
    let profile = layers.profile.and_then(|name| profiles?.get(name));
    let mut params = Params::default();
    for param in declared {
        let Some(spec) = &param.spec else {
            params.0.push((param.name.clone(), Node::unknown(param.name_span)));
            continue;
        };
        let schema = spec.schema();
        let written = [profile, values].into_iter().flatten().find_map(|layer| layer.get(&param.name));
        let known = |node: &Node| if wrong.contains(&node.span) { Node::unknown(node.span) } else { node.clone() };
        let start = written.or(param.default.as_ref()).map(known);
        let key = Entry { key: param.name.clone(), key_span: param.name_span, value: Node::unknown(param.name_span) };
        let mut holder: Vec<Entry> = start.map(|value| Entry { value, ..key }).into_iter().collect();
        let mut was_set = false;
        for setting in settings.iter().filter(|s| s.path[1].0 == param.name) {
            setting::put(session, &mut holder, &setting.path[1..], setting.value.clone(), "params");
            was_set = true;
        }
        let value = match holder.pop() {
            Some(entry) => {
                let before = session.errors();
                if was_set && !entry.value.has_unknown() {
                    check(
                        session,
                        &schema,
                        &entry.value,
                        Subject { path: &format!("params.{}", param.name), params_of: None },
                    );
                }
                let plain = plain(session, &entry.value);
                if session.errors() > before {
                    Node::unknown(entry.value.span)
                } else {
                    prepare(session, &plain, &schema, None)
                }
            }
            None => {
                missing(session, param, &spec.summary, layers);
                Node::unknown(layers.uses)
            }
        };
        params.0.push((param.name.clone(), value));
    }
    params
}

fn check_value(session: &mut Session, declared: &[Declared], entry: &Entry) -> bool {
    match declared.iter().find(|d| d.name == entry.key) {
        None => {
            unknown(session, declared, &entry.key, entry.key_span);
            false
        }
        Some(Declared { spec: None, .. }) => false,
        Some(Declared { spec: Some(spec), .. }) => {
            let path = format!("params.{}", entry.key);
            check(session, &spec.schema(), &entry.value, Subject { path: &path, params_of: None })
        }
    }
}

fn unknown(session: &mut Session, declared: &[Declared], name: &str, span: Span) {
    let message = format!("the pipeline has no param {}", quoted(name));
    let help = nearest::help(name, declared.iter().map(|d| d.name.as_str()));
    session.report(Problem::new("spec::unknown_param", span, message).help(help));
}

fn missing(session: &mut Session, param: &Declared, summary: &str, layers: &Layers<'_>) {
    let span = layers.experiment.entry("params").map_or(layers.uses, |entry| entry.key_span);
    let summary = summary.trim_end_matches('.');
    let what = if summary.is_empty() { String::new() } else { format!(" ({summary})") };
    let message = format!("the pipeline's param {}{what} has no default and no value", quoted(&param.name));
    let profiles = layers.experiment.get("profiles").map_or(&[][..], Node::entries);
    let with_it: Vec<&str> =
        profiles.iter().filter(|p| p.value.get(&param.name).is_some()).map(|p| p.key.as_str()).collect();
    let help = if with_it.is_empty() {
        format!("add `{0}: …` to `params`, or --set params.{0}=…", param.name)
    } else {
        format!("choose a profile that sets it ({}), or --set params.{}=…", nearest::listed(&with_it, "or"), param.name)
    };
    session.report(
        Problem::new("spec::missing_param", span, message).note_at("it is declared", Some(param.name_span)).help(help),
    );
}

/// `node` with `$${` written as `${`; a reference in it is an error, since a param is a plain value.
fn plain(session: &mut Session, node: &Node) -> Node {
    let content = match &node.content {
        Content::String(text) if has_reference(text) => match pieces(text).as_deref() {
            Ok([Piece::Text(text)]) => Content::String(text.clone()),
            _ => {
                session.report(
                    Problem::new(
                        "spec::reference_in_param",
                        node.span,
                        "a param is a plain value; it cannot hold `${…}`",
                    )
                    .help(
                        "refer to params in the stages' `with`, or write `$${` for the characters themselves"
                            .to_owned(),
                    ),
                );
                Content::Unknown
            }
        },
        Content::Array(items) => Content::Array(items.iter().map(|item| plain(session, item)).collect()),
        Content::Object(entries) => Content::Object(
            entries.iter().map(|entry| Entry { value: plain(session, &entry.value), ..entry.clone() }).collect(),
        ),
        other => other.clone(),
    };
    Node { content, ..node.clone() }
}
