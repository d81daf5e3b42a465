//! Stages that are left out: `when` names a param, and the stage exists only if the param is set.
//!
//! Conditions are evaluated before any reference is resolved, so later steps see only the remaining
//! stages. A condition cannot use a param that a sweep changes: all trials have the same stages.

use std::collections::{BTreeMap, HashMap};

use olmo_base::text::quoted;

use crate::compose::layers::Stages;
use crate::compose::params::Params;
use crate::read::node::{Content, Node};
use crate::read::reference::{Piece, Reference, pieces};
use crate::read::source::{Problem, Session, Span};
use crate::resolve::resolver::Resolver;

/// The stages of `stages` whose condition does not hold, with the place of the condition and the
/// reason. `is_swept` says whether a sweep changes a param.
pub(crate) fn left_out(
    session: &mut Session,
    params: &Params,
    stages: &Stages,
    is_swept: &dyn Fn(&str) -> bool,
) -> HashMap<String, (Span, String)> {
    let mut resolver = Resolver { session, params: params.clone(), stages, edges: Vec::new(), origins: None };
    let mut left_out = HashMap::new();
    for stage in &stages.all {
        let Some(node) = &stage.when else { continue };
        if let Some(reason) = resolver.reason(node, is_swept) {
            left_out.insert(stage.name.clone(), (node.span, reason));
        }
    }
    left_out
}

/// Whether the condition `node`, which is not a stage's, holds. An invalid one is reported and does
/// not hold.
pub(crate) fn holds(session: &mut Session, params: &Params, node: &Node, is_swept: &dyn Fn(&str) -> bool) -> bool {
    let stages = Stages::default();
    let before = session.errors();
    let mut resolver = Resolver { session, params: params.clone(), stages: &stages, edges: Vec::new(), origins: None };
    let reason = resolver.reason(node, is_swept);
    reason.is_none() && session.errors() == before
}

/// The reasons by stage, for messages.
pub(crate) fn reasons(stages: &Stages) -> BTreeMap<String, String> {
    stages.left_out.iter().map(|(name, (_, reason))| (name.clone(), reason.clone())).collect()
}

impl Resolver<'_> {
    /// Why the condition `node` does not hold; `None` if it holds, or if it is invalid, which is
    /// reported.
    fn reason(&mut self, node: &Node, is_swept: &dyn Fn(&str) -> bool) -> Option<String> {
        let text = match &node.content {
            Content::Bool(holds) => return (!holds).then(|| "`when` is false".to_owned()),
            Content::String(text) => text.as_str(),
            _ => return self.bad_condition(node),
        };
        let (negated, rest) = match text.strip_prefix("not ") {
            Some(rest) => (true, rest.trim_start()),
            None => (false, text),
        };
        let pieces = match pieces(rest) {
            Ok(pieces) => pieces,
            Err(bad) => {
                self.session.report(Problem::new("spec::bad_reference", node.span, bad.message).help(bad.help));
                return None;
            }
        };
        let [Piece::Reference(Reference::Param(names), _)] = pieces.as_slice() else {
            return self.bad_condition(node);
        };
        let path = format!("params.{}", names.join("."));
        if names.first().is_some_and(|name| is_swept(name)) {
            let message = format!("`{path}` decides what the pipeline consists of, so a sweep cannot change it");
            let help = "write an experiment for each value, or sweep another param".to_owned();
            self.session.report(Problem::new("spec::swept_condition", node.span, message).help(help));
            return None;
        }
        let value = self.param(names, node.span);
        if value.content == Content::Unknown {
            return None;
        }
        match (is_set(&value), negated) {
            (true, true) => Some(format!("`{path}` is set")),
            (false, false) => Some(format!("`{path}` is not set")),
            _ => None,
        }
    }

    fn bad_condition(&mut self, node: &Node) -> Option<String> {
        // A file's form was checked with the file.
        if self.session.source(node.span.source).is_some_and(|source| source.shown == "--set") {
            let message = format!("`when` takes a condition, not {}", node.described());
            let help = "write \"${params.NAME}\" or \"not ${params.NAME}\"".to_owned();
            self.session.report(Problem::new("spec::bad_value", node.span, message).help(help));
        }
        None
    }

    /// Reports a reference to a stage that is left out.
    pub(crate) fn report_left_out(&mut self, stage: &str, span: Span) {
        let Some((when, reason)) = self.stages.left_out.get(stage) else { return };
        let message = format!("stage {} is left out: {reason}", quoted(stage));
        let help = format!(
            "name another source as well: `first: [\"${{stages.{stage}.PORT}}\", …]` takes the first one that is there; \
             or give this stage the same `when`"
        );
        let problem = Problem::new("spec::left_out", span, message);
        self.session.report(problem.note_at("its condition", Some(*when)).help(help));
    }
}

/// Whether a value is set: not null, not false, and not an empty text, list or map.
pub(crate) fn is_set(value: &Node) -> bool {
    match &value.content {
        Content::Null | Content::Bool(false) => false,
        Content::String(text) => !text.is_empty(),
        Content::Array(items) => !items.is_empty(),
        Content::Object(entries) => !entries.is_empty(),
        Content::Bool(true) | Content::Number(_) | Content::Unknown => true,
    }
}
