//! Reads a pipeline file: its document and the params it declares.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use olmo_base::text::{quoted, with_article};
use olmo_stage::ParamSpec;
use serde_json::Value;

use crate::document::catalog::{Catalog, check_default, root_of};
use crate::document::check::{Subject, check};
use crate::document::strict;
use crate::read::node::{Content, Entry, Node};
use crate::read::ordered::OrderedMap;
use crate::read::source::{Problem, Session, Span, beside, tidy};
use crate::read::yaml;

/// A pipeline. Errors in its form are reported; the valid parts can be used.
pub(crate) struct Read {
    pub node: Node,
    /// In the file's order.
    pub params: Vec<Declared>,
}

/// A declared param.
pub(crate) struct Declared {
    pub name: String,
    pub name_span: Span,
    /// `None` if it is invalid, which is reported.
    pub spec: Option<ParamSpec>,
    pub default: Option<Node>,
}

/// Maximum number of included files.
const MAX_FILES: usize = 100;

/// Reads the pipeline in `file` (relative to `cwd`, or absolute), which is named at `at`, and the
/// files that it includes, and adds the stages next to them to `catalog`.
pub(crate) fn read(
    session: &mut Session,
    catalog: &mut Catalog,
    file: &Path,
    cwd: &Path,
    at: Option<Span>,
) -> Option<Read> {
    let shown = tidy(file).to_string_lossy().into_owned();
    let mut files = Files { session, catalog, cwd, open: Vec::new(), done: HashSet::new(), read: Vec::new() };
    files.add(&tidy(&cwd.join(file)), shown, at)?;
    let read = files.read;
    let node = merged(read);
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

/// The state of reading a pipeline and the files that it includes.
struct Files<'s> {
    session: &'s mut Session,
    catalog: &'s mut Catalog,
    cwd: &'s Path,
    /// From the first file to the current one.
    open: Vec<PathBuf>,
    done: HashSet<PathBuf>,
    /// Included files before the files that include them.
    read: Vec<Node>,
}

impl Files<'_> {
    /// Reads the file at `path`, after the files that it includes. `MAX_FILES` bounds the depth of
    /// the recursion.
    fn add(&mut self, path: &Path, shown: String, at: Option<Span>) -> Option<()> {
        if self.open.iter().any(|open| open == path) {
            let message = format!("{} includes itself, by way of the files that it includes", quoted(&shown));
            self.session.report(Problem::new("spec::includes_itself", at, message));
            return None;
        }
        // A file that is included twice is read once.
        if !self.done.insert(path.to_owned()) {
            return Some(());
        }
        if self.done.len() > MAX_FILES {
            let message = format!("this pipeline includes more than {MAX_FILES} files");
            self.session.report(Problem::new("spec::includes_itself", at, message));
            return None;
        }
        let number = self.session.read(path, shown.clone(), at)?;
        let node = yaml::read(self.session, number)?;
        if node.get("pipeline").is_none()
            && let Some(other) = ["experiment", "stage"].into_iter().find_map(|key| node.entry(key))
        {
            let message = format!("a pipeline is expected here; this is {}", with_article(&other.key));
            self.session.report(Problem::new("spec::not_a_pipeline", other.key_span, message));
            return None;
        }
        check(self.session, strict::pipeline(), &node, Subject { path: "", params_of: None });
        let folder = path.parent().unwrap_or(Path::new("/"));
        self.catalog.look_up(folder, &root_of(folder, self.cwd));
        self.open.push(path.to_owned());
        if let Some(Content::Array(items)) = node.get("include").map(|include| &include.content) {
            for item in items {
                let Some(file) = item.as_str() else { continue };
                self.add(&tidy(&folder.join(file)), beside(&shown, file), Some(item.span))?;
            }
        }
        self.open.pop();
        self.read.push(node);
        Some(())
    }
}

/// Merges `files` into one pipeline: the last param, stage or output of a name wins, and everything
/// else comes from the last file.
fn merged(mut files: Vec<Node>) -> Node {
    let Some(mut last) = files.pop() else { return Node::unknown(Span::DEFAULT) };
    if files.is_empty() {
        return last;
    }
    let Content::Object(own) = &mut last.content else { return last };
    for key in ["params", "stages", "outputs"] {
        let mut all: OrderedMap<Entry> = OrderedMap::default();
        let mut holder: Option<Entry> = None;
        for part in files.iter().filter_map(|file| file.entry(key)).chain(own.iter().find(|entry| entry.key == key)) {
            for entry in part.value.entries() {
                all.insert(entry.key.clone(), entry.clone());
            }
            holder = Some(part.clone());
        }
        if let Some(mut holder) = holder {
            holder.value.content = Content::Object(all.values().cloned().collect());
            own.retain(|entry| entry.key != key);
            own.push(holder);
        }
    }
    last
}

fn spec(node: &Node) -> Option<ParamSpec> {
    let value: Value = node.to_json();
    serde_json::from_value(value).ok()
}
