//! Reads a pipeline file: its document and the params it declares.

use std::path::Path;

use olmo_stage::ParamSpec;
use serde_json::Value;

use super::catalog::{Catalog, check_default, root_of};
use super::check::{Subject, check};
use super::node::Node;
use super::source::{Problem, Session, Span, tidy};
use super::{schema, yaml};

/// A pipeline as read. Faults of its form are reported; what is sound can be used.
pub(crate) struct Read {
    pub node: Node,
    /// In the file's order.
    pub params: Vec<Declared>,
}

/// A declared param.
pub(crate) struct Declared {
    pub name: String,
    pub name_span: Span,
    /// None if it is not sound, which is reported.
    pub spec: Option<ParamSpec>,
    pub default: Option<Node>,
}

/// Reads the pipeline in `file` (relative to `cwd`, or absolute), which is named at `at`, and
/// adds the stages beside it to `catalog`.
pub(crate) fn read(
    session: &mut Session,
    catalog: &mut Catalog,
    file: &Path,
    cwd: &Path,
    at: Option<Span>,
) -> Option<Read> {
    let path = tidy(&cwd.join(file));
    let number = session.read(&path, tidy(file).to_string_lossy().into_owned(), at)?;
    let node = yaml::read(session, number)?;
    if node.get("pipeline").is_none()
        && let Some(other) = ["experiment", "stage"].into_iter().find_map(|key| node.entry(key))
    {
        let message = format!("a pipeline is expected here; this is {}", with_article(&other.key));
        session.report(Problem::new("spec::not_a_pipeline", other.key_span, message));
        return None;
    }
    check(session, &schema::pipeline(), &node, Subject { path: "", params_of: None });
    let folder = path.parent().unwrap_or(Path::new("/"));
    catalog.look_up(folder, &root_of(folder, cwd));
    let mut params = Vec::new();
    for entry in node.get("params").map_or(&[][..], Node::entries) {
        let spec = spec(&entry.value);
        let default = entry.value.get("default");
        let sound = spec.as_ref().is_some_and(|spec| check_default(session, &entry.key, spec, default));
        let default = default.map(|node| if sound { node.clone() } else { Node::unknown(node.span) });
        params.push(Declared { name: entry.key.clone(), name_span: entry.key_span, spec, default });
    }
    Some(Read { node, params })
}

fn spec(node: &Node) -> Option<ParamSpec> {
    let value: Value = node.to_json();
    serde_json::from_value(value).ok()
}

/// "an experiment".
pub(crate) fn with_article(word: &str) -> String {
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {word}", if vowel { "an" } else { "a" })
}
