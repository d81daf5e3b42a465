//! The params of an experiment: the default of the pipeline, then the values of the experiment, the
//! profiles and `--set`. Each is checked at the place where it was written.

use std::collections::HashSet;

use olmo_base::nearest;
use olmo_base::text::quoted;
use olmo_stage::contract::ParamType;

use crate::compose::pipeline::Declared;
use crate::compose::setting::{self, Setting};
use crate::document::check::{Checker, Subject};
use crate::document::prepare::prepare;
use crate::read::node::{Content, Entry, Node};
use crate::read::reference::{Piece, Reference, environment, has_reference, pieces, variable_in_value};
use crate::read::source::{Problem, Session, Span};

/// The effective values, in the pipeline's order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(Vec<(String, Node)>);

impl Params {
    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, node)| node)
    }

    /// Replaces the value of the param at `place`.
    pub(crate) fn set(&mut self, place: usize, value: Node) {
        if let Some((_, known)) = self.0.get_mut(place) {
            *known = value;
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(name, node)| (name.as_str(), node))
    }
}

/// Where values come from, weakest first.
pub(crate) struct Layers<'a> {
    pub experiment: &'a Node,
    /// The active profiles.
    pub profiles: Vec<String>,
    pub settings: &'a [Setting],
    /// The place that uses the pipeline.
    pub uses: Span,
}

/// The sources of the params.
pub(crate) struct ParamSources<'a> {
    pub declared: &'a [Declared],
    layers: Layers<'a>,
    /// The schema of each param, if it is valid.
    checkers: Vec<Option<Checker>>,
    /// Places of invalid values, which must not be reported again wherever they are used.
    wrong: HashSet<Span>,
}

impl<'a> ParamSources<'a> {
    /// Checks the values in files, including those of inactive profiles.
    pub(crate) fn new(session: &mut Session, declared: &'a [Declared], layers: Layers<'a>) -> Self {
        let checkers = declared.iter().map(|param| Some(Checker::new(param.spec.as_ref()?.schema()))).collect();
        let mut sources = Self { declared, layers, checkers, wrong: HashSet::new() };
        let profiles = sources.layers.experiment.get("profiles").map_or(&[][..], Node::entries);
        let layers = sources.layers.experiment.get("params").into_iter().chain(profiles.iter().map(|e| &e.value));
        for entry in layers.flat_map(Node::entries) {
            if !sources.check_value(session, entry) {
                sources.wrong.insert(entry.value.span);
            }
        }
        for setting in sources.layers.settings.iter().filter(|s| s.path[0].0 == "params") {
            let (name, span) = &setting.path[1];
            if sources.place(name).is_none() {
                unknown(session, declared, name, *span);
            }
        }
        sources
    }

    /// Activates a profile, weaker than the others.
    pub(crate) fn use_profile(&mut self, name: String) {
        self.layers.profiles.insert(0, name);
    }

    /// The active profiles, weakest first.
    pub(crate) fn profiles(&self) -> &[String] {
        &self.layers.profiles
    }

    /// The index of the param `name` in the pipeline's order.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.declared.iter().position(|declared| declared.name == name)
    }

    /// All params. The settings of a trial apply before those of the command line.
    pub(crate) fn all(&self, session: &mut Session, trial: &[Setting]) -> Params {
        let values = self.declared.iter().enumerate();
        Params(values.map(|(place, param)| (param.name.clone(), self.value(session, place, trial))).collect())
    }

    /// Whether the experiment, an active profile or the command line sets the param `name`.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        let profiles = self.layers.experiment.get("profiles");
        let profiles = self.layers.profiles.iter().filter_map(|profile| profiles?.get(profile));
        let mut layers = profiles.chain(self.layers.experiment.get("params"));
        let settings = self.layers.settings;
        layers.any(|layer| layer.get(name).is_some())
            || settings.iter().any(|s| s.path[0].0 == "params" && s.path.get(1).is_some_and(|(set, _)| set == name))
    }

    /// The param at `place`. The settings of a trial apply before those of the command line.
    pub(crate) fn value(&self, session: &mut Session, place: usize, trial: &[Setting]) -> Node {
        let param = &self.declared[place];
        let (Some(spec), Some(checker)) = (&param.spec, &self.checkers[place]) else {
            return Node::unknown(param.name_span);
        };
        let values = self.layers.experiment.get("params");
        let profiles = self.layers.experiment.get("profiles");
        let profiles = self.layers.profiles.iter().rev().filter_map(|name| profiles?.get(name));
        let written = profiles.chain(values).find_map(|layer| layer.get(&param.name));
        let known = |node: &Node| if self.wrong.contains(&node.span) { Node::unknown(node.span) } else { node.clone() };
        let start = written.or(param.default.as_ref()).map(known);
        let key = Entry { key: param.name.clone(), key_span: param.name_span, value: Node::unknown(param.name_span) };
        let mut holder: Vec<Entry> = start.map(|value| Entry { value, ..key }).into_iter().collect();
        let mut was_set = false;
        let settings = trial.iter().chain(self.layers.settings);
        for setting in settings.filter(|s| s.path[0].0 == "params" && s.path[1].0 == param.name) {
            setting::put(session, &mut holder, &setting.path[1..], setting.value.clone(), "params");
            was_set = true;
        }
        let Some(entry) = holder.pop() else {
            missing(session, param, &spec.summary, &self.layers);
            return Node::unknown(self.layers.uses);
        };
        let before = session.errors();
        if was_set && !entry.value.has_unknown() {
            let path = format!("params.{}", param.name);
            checker.check(session, &entry.value, Subject { path: &path, params_of: None });
        }
        let is_path = spec.param_type == ParamType::Path || spec.items == Some(ParamType::Path);
        let plain = plain(session, &entry.value, &param.name, is_path);
        if session.errors() > before {
            return Node::unknown(entry.value.span);
        }
        let prepared = prepare(session, &plain, checker.schema(), None);
        // Reading a path changes only environment variables in it.
        if is_path && plain.content != entry.value.content {
            let texts = match &prepared.content {
                Content::Array(items) => items.iter().filter_map(Node::as_str).collect(),
                _ => prepared.as_str().into_iter().collect::<Vec<_>>(),
            };
            session.from_environment.extend(texts.into_iter().map(str::to_owned));
        }
        prepared
    }

    fn check_value(&self, session: &mut Session, entry: &Entry) -> bool {
        let Some(place) = self.place(&entry.key) else {
            unknown(session, self.declared, &entry.key, entry.key_span);
            return false;
        };
        let path = format!("params.{}", entry.key);
        let subject = Subject { path: &path, params_of: None };
        self.checkers[place].as_ref().is_some_and(|checker| checker.check(session, &entry.value, subject))
    }
}

/// Reports an undeclared param.
pub(crate) fn unknown(session: &mut Session, declared: &[Declared], name: &str, span: Span) {
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

/// `node` with `${` for `$${` and, in a path, the values of environment variables. Any other
/// reference is an error, since a param is a plain value.
fn plain(session: &mut Session, node: &Node, name: &str, is_path: bool) -> Node {
    let content = match &node.content {
        Content::String(text) if has_reference(text) => plain_text(session, node, text, name, is_path),
        Content::Array(items) => Content::Array(items.iter().map(|item| plain(session, item, name, is_path)).collect()),
        Content::Object(entries) => {
            let part = |entry: &Entry, session: &mut Session| plain(session, &entry.value, name, is_path);
            Content::Object(
                entries.iter().map(|entry| Entry { value: part(entry, session), ..entry.clone() }).collect(),
            )
        }
        other => other.clone(),
    };
    Node { content, ..node.clone() }
}

fn plain_text(session: &mut Session, node: &Node, text: &str, name: &str, is_path: bool) -> Content {
    let mut plain = String::new();
    for piece in pieces(text).unwrap_or_else(|_| vec![Piece::Reference(Reference::Item, 0..0)]) {
        let problem = match piece {
            Piece::Text(part) => {
                plain.push_str(&part);
                continue;
            }
            Piece::Reference(Reference::Environment(variable), _) if !is_path => {
                variable_in_value(node.span, &format!("env.{variable}"), name)
            }
            Piece::Reference(Reference::Environment(variable), _) => match environment(&variable) {
                Ok(value) => {
                    plain.push_str(&value);
                    session.variables.insert(variable, value);
                    continue;
                }
                Err(fault) => Problem::new("spec::unset_variable", node.span, fault)
                    .help(format!("set it and try again: export {variable}=…")),
            },
            Piece::Reference(..) => {
                let message = "a param is a plain value; it cannot hold `${…}`";
                let help = "refer to params in the stages' `with`, or write `$${` for the characters themselves";
                Problem::new("spec::reference_in_param", node.span, message).help(help.to_owned())
            }
        };
        session.report(problem);
        return Content::Unknown;
    }
    Content::String(plain)
}
