//! Binds input ports: references, paths and items, checked against the ports' types.

use std::path::PathBuf;

use olmo_base::nearest;
use olmo_base::text::quoted;
use olmo_remote::{Source, Want, is_remote};
use olmo_stage::PortType;
use olmo_stage::contract::InputPort;

use crate::compose::layers::StageSource;
use crate::document::prepare::absolute;
use crate::read::node::{Content, Entry, Node};
use crate::read::reference::{Piece, PortRef, Reference, has_reference, pieces};
use crate::read::source::{Problem, Span};
use crate::resolve::path_patterns;
use crate::resolve::resolved::Binding;
use crate::resolve::resolver::Resolver;
use crate::resolve::when::is_set;

/// The list of a `for_each` stage and the type of its items.
pub(crate) type Item = (PortRef, Option<PortType>);

/// A value written for a port, with its params resolved.
enum Given {
    Port(PortRef, Span),
    Item(Span),
    List(Vec<Given>, Span),
    /// A plain value; a text is a path.
    Plain(Node),
}

/// The port to bind.
#[derive(Clone, Copy)]
struct Target<'a> {
    stage: &'a StageSource,
    name: &'a str,
    port: &'a InputPort,
    item: Option<&'a Item>,
}

impl Resolver<'_> {
    /// The bindings of port `entry.key`; empty if it is null, `None` if there was an error.
    pub(crate) fn bind(
        &mut self,
        stage: &StageSource,
        entry: &Entry,
        port: &InputPort,
        item: Option<&Item>,
        item_is_used: &mut bool,
    ) -> Option<Vec<Binding>> {
        let target = Target { stage, name: &entry.key, port, item };
        let given = self.given(&entry.value, target);
        // The place of a path is that of the param's value, not that of the reference to the param.
        let written = match &given {
            Some(Given::Plain(node)) => node,
            _ => &entry.value,
        };
        self.origin(&format!("stages.{}.with.{}", stage.name, entry.key), written, None);
        let bound = match given? {
            Given::List(items, span) => {
                if !port.list {
                    let message = format!(
                        "input `{}` of stage `{}` takes {}, not a list",
                        entry.key,
                        stage.name,
                        kind(port.port_type)
                    );
                    self.session.report(
                        Problem::new("spec::wrong_type", span, message).help("write it without `[…]`".to_owned()),
                    );
                    return None;
                }
                if items.is_empty() && !port.optional {
                    let message =
                        format!("input `{}` of stage `{}` needs a list with at least one item", entry.key, stage.name);
                    self.session.report(Problem::new("spec::missing_port", span, message));
                    return None;
                }
                let before = self.session.errors();
                let mut bound: Vec<Binding> = Vec::new();
                for given in items {
                    match self.expanded(&given, target) {
                        Some(files) => bound.extend(files.into_iter().map(Binding::Path)),
                        None => bound.extend(self.one(given, target, true)),
                    }
                }
                if self.session.errors() > before {
                    return None;
                }
                bound
            }
            Given::Plain(node) if node.is_null() => {
                if !port.optional {
                    let message = format!("input `{}` of stage `{}` cannot be null", entry.key, stage.name);
                    let problem = Problem::new("spec::missing_port", node.span, message);
                    self.session.report(problem.note_at_some("it is used", node.used).help(how_to_fill(port)));
                    return None;
                }
                Vec::new()
            }
            given => vec![self.one(given, target, false)?],
        };
        *item_is_used |= bound.contains(&Binding::Item);
        Some(bound)
    }

    /// The list that a stage runs over and the type of its items. An error is reported.
    pub(crate) fn for_each(&mut self, stage: &StageSource, node: &Node) -> Option<Item> {
        let pieces = match node.as_str() {
            Some(text) => self.pieces(node, text)?,
            None => Vec::new(),
        };
        let [Piece::Reference(Reference::Port(port), range)] = pieces.as_slice() else {
            // A reference of another kind in a file was reported with the file's form.
            if self.session.source(node.span.source).is_some_and(|source| source.shown == "--set") {
                let message =
                    format!("`for_each` takes a reference like \"${{stages.STAGE.PORT}}\", not {}", node.described());
                self.session.report(Problem::new("spec::bad_reference", node.span, message));
            }
            return None;
        };
        let lists = stage.found.iter().flat_map(|found| &found.description.contract.outputs).find(|(_, o)| o.list);
        if let Some((name, _)) = lists {
            let message = format!(
                "stage `{}` makes a list itself (`{name}`) and cannot run for each item of another",
                stage.name
            );
            self.session.report(Problem::new("spec::nested_list", node.span, message));
        }
        let span = self.part(node, range.clone());
        self.edge(port, stage, span);
        self.origin(&format!("stages.{}.for_each", stage.name), node, None);
        let output = self.output(port, span);
        if let Some((port_type, false)) = output {
            let message = format!("`for_each` needs a list, and `{port}` is {}", kind(port_type));
            let help = "give it to the input directly and leave out `for_each`".to_owned();
            self.session.report(Problem::new("spec::not_a_list", span, message).help(help));
        }
        Some((port.clone(), output.map(|(port_type, _)| port_type)))
    }

    /// Reports a required port that is missing.
    pub(crate) fn missing_port(&mut self, stage: &StageSource, name: &str, port: &InputPort) {
        let kind = if port.list { format!("a list of {}", port.port_type) } else { port.port_type.to_string() };
        let message =
            format!("stage `{}` (uses {}) needs the input `{name}` ({kind})", stage.name, quoted(&stage.uses));
        // Suggest what could fill it.
        let mut fitting: Vec<String> = Vec::new();
        for other in self.stages.all.iter().filter(|other| other.name != stage.name) {
            for (output_name, output) in other.found.iter().flat_map(|found| &found.description.contract.outputs) {
                let list = output.list || other.for_each.is_some();
                if output.port_type.fits(port.port_type) && list == port.list && port.port_type != PortType::Dir {
                    fitting.push(format!("${{stages.{}.{output_name}}}", other.name));
                }
            }
        }
        fitting.truncate(3);
        let help = if fitting.is_empty() {
            how_to_fill(port)
        } else {
            format!(
                "add `{name}` to `stages.{}.with`; {} would fit",
                stage.name,
                nearest::listed(&fitting.iter().map(String::as_str).collect::<Vec<_>>(), "or")
            )
        };
        self.session.report(Problem::new("spec::missing_port", stage.name_span, message).help(help));
    }

    fn given(&mut self, node: &Node, target: Target<'_>) -> Option<Given> {
        if let Some(nodes) = first_of(node) {
            let chosen = self.first(nodes, node.span, target.name)?;
            return self.given(&chosen, target);
        }
        match &node.content {
            Content::Unknown => None,
            Content::String(text) if has_reference(text) => {
                let pieces = self.pieces(node, text)?;
                match pieces.as_slice() {
                    [Piece::Reference(Reference::Port(port), range)] => {
                        Some(Given::Port(port.clone(), self.part(node, range.clone())))
                    }
                    [Piece::Reference(Reference::Item, range)] => Some(Given::Item(self.part(node, range.clone()))),
                    pieces => literal(self.text(node, pieces, target.name, true)),
                }
            }
            Content::Array(items) => {
                let before = self.session.errors();
                let list: Vec<Given> = items.iter().filter_map(|item| self.given(item, target)).collect();
                (self.session.errors() == before && list.len() == items.len()).then_some(Given::List(list, node.span))
            }
            _ => Some(Given::Plain(node.clone())),
        }
    }

    /// The first available alternative of `nodes`: none of its stages is left out, and all of its
    /// params are set. Null is always available. References to unknown stages are reported in all
    /// alternatives.
    pub(crate) fn first(&mut self, nodes: &[Node], span: Span, name: &str) -> Option<Node> {
        let before = self.session.errors();
        let mut chosen = None;
        for node in nodes {
            if self.is_there(node) && chosen.is_none() {
                chosen = Some(node.clone());
            }
        }
        if self.session.errors() > before {
            return None;
        }
        if chosen.is_none() {
            let message = format!("no alternative of `{name}` is available");
            let mut problem = Problem::new("spec::none_there", span, message);
            for stage in nodes.iter().flat_map(stages_named) {
                if let Some((when, reason)) = self.stages.left_out.get(&stage) {
                    problem = problem.note_at(format!("stage `{stage}` is left out: {reason}"), Some(*when));
                }
            }
            self.session.report(problem.help("add one that is always available, or null for nothing".to_owned()));
        }
        chosen
    }

    /// Whether everything to which `node` refers is available.
    fn is_there(&mut self, node: &Node) -> bool {
        match &node.content {
            // Look at every item, so that all errors are reported.
            Content::Array(items) => items.iter().filter(|item| !self.is_there(item)).count() == 0,
            Content::String(text) if has_reference(text) => {
                let Some(pieces) = self.pieces(node, text) else { return false };
                let mut there = true;
                for piece in &pieces {
                    match piece {
                        Piece::Reference(Reference::Port(port), range) => {
                            if self.stages.left_out.contains_key(&port.stage) {
                                there = false;
                            } else {
                                let span = self.part(node, range.clone());
                                there &= self.output(port, span).is_some();
                            }
                        }
                        Piece::Reference(Reference::Param(names), range) => {
                            let span = self.part(node, range.clone());
                            let value = self.param(names, span);
                            there &= is_set(&value);
                        }
                        _ => {}
                    }
                }
                there
            }
            _ => true,
        }
    }

    /// The binding of a single value; `in_list` if it is an item of a literal list.
    fn one(&mut self, given: Given, target: Target<'_>, in_list: bool) -> Option<Binding> {
        let Target { stage, name, port, item } = target;
        match given {
            Given::Port(reference, span) => {
                let (port_type, list) = self.output(&reference, span)?;
                self.fits(target, &reference, port_type, span)?;
                if let Some(problem) = listness(target, &reference, list, in_list, span) {
                    self.session.report(problem);
                    return None;
                }
                self.edge(&reference, stage, span);
                Some(Binding::Port(reference))
            }
            Given::Item(span) => {
                if stage.for_each.is_none() {
                    let message = format!("`${{item}}` stands in stage `{}`, which has no `for_each`", stage.name);
                    let help = "add `for_each: \"${stages.STAGE.PORT}\"` with a list output to the stage".to_owned();
                    self.session.report(Problem::new("spec::item_outside_for_each", span, message).help(help));
                    return None;
                }
                if port.list && !in_list {
                    let message =
                        format!("input `{name}` of stage `{}` takes a list, and `${{item}}` is one item", stage.name);
                    self.session.report(
                        Problem::new("spec::list_expected", span, message).help("write [\"${item}\"]".to_owned()),
                    );
                    return None;
                }
                // Without a type the list is not known, which is reported.
                if let Some((reference, Some(port_type))) = item {
                    self.fits(target, reference, *port_type, span)?;
                }
                Some(Binding::Item)
            }
            Given::Plain(node) => match &node.content {
                Content::String(text) if port.list && !in_list => {
                    let message = format!("input `{name}` of stage `{}` takes a list, not one path", stage.name);
                    let help = format!("write [{}]", quoted(text).replace('`', "\""));
                    self.session.report(
                        Problem::new("spec::list_expected", node.span, message)
                            .note_at_some("it is used", node.used)
                            .help(help),
                    );
                    None
                }
                Content::String(text) if is_remote(text) => self.remote(target, &node, text).map(Binding::Remote),
                Content::String(text) => self.path(target, &node, text).map(Binding::Path),
                _ => {
                    let message = format!(
                        "input `{name}` of stage `{}` takes a reference or a path, not {}",
                        stage.name,
                        node.described()
                    );
                    let problem =
                        Problem::new("spec::wrong_type", node.span, message).note_at_some("it is used", node.used);
                    self.session.report(problem.help(how_to_fill(port)));
                    None
                }
            },
            Given::List(_, span) => {
                let message =
                    format!("input `{name}` of stage `{}` takes a list of artifacts, not a list of lists", stage.name);
                self.session.report(Problem::new("spec::wrong_type", span, message));
                None
            }
        }
    }

    /// The files of an item of a list of files, if it is a pattern or a folder.
    fn expanded(&mut self, given: &Given, target: Target<'_>) -> Option<Vec<PathBuf>> {
        let Given::Plain(node) = given else { return None };
        let text = node.as_str().filter(|text| !text.trim().is_empty() && !is_remote(text))?;
        if target.port.port_type != PortType::File {
            return None;
        }
        let path = PathBuf::from(absolute(self.session, text, node.span, None));
        let found = path_patterns::expand(&path)?;
        let problem = match found {
            Ok(files) => return Some(files),
            Err(why) => {
                let written = self.written(node, text);
                Problem::new("spec::missing_file", node.span, format!("{}: {why}", quoted(&written)))
            }
        };
        let used = format!("it is used for input `{}` of stage `{}`", target.name, target.stage.name);
        self.session.report(problem.note_at_some(used, node.used));
        Some(Vec::new())
    }

    /// The remote source that a text names, in its canonical form.
    fn remote(&mut self, target: Target<'_>, node: &Node, text: &str) -> Option<String> {
        let Target { stage, name, port, .. } = target;
        let want = want(port);
        let source = Source::parse(text).and_then(|source| match source.misfit(want) {
            None if source.is_by_range() && !port.by_range => {
                Err("this input needs the whole file; write its address without `#by-range`".to_owned())
            }
            None => Ok(source),
            Some(why) => Err(why),
        });
        let why = match source {
            Ok(source) => return Some(source.to_string()),
            Err(why) => why,
        };
        let problem = Problem::new("spec::bad_source", node.span, format!("{}: {why}", quoted(text)));
        self.session.report(
            problem.note_at_some(format!("it is used for input `{name}` of stage `{}`", stage.name), node.used),
        );
        None
    }

    /// A path. One from a param is already absolute.
    fn written(&self, node: &Node, text: &str) -> String {
        let written = self.session.text(node.span).trim_matches(['"', '\'']);
        if written.is_empty() || written.contains('$') { text.to_owned() } else { written.to_owned() }
    }

    /// The file or folder that a text names; it must exist.
    fn path(&mut self, target: Target<'_>, node: &Node, text: &str) -> Option<PathBuf> {
        let Target { stage, name, port, .. } = target;
        let path = PathBuf::from(absolute(self.session, text, node.span, None));
        let wants_file = port.port_type == PortType::File;
        let written = self.written(node, text);
        let problem = match std::fs::metadata(&path) {
            _ if text.trim().is_empty() => Problem::new("spec::missing_file", node.span, "this path is empty"),
            Ok(found) if wants_file == found.is_file() => return Some(path),
            Ok(_) => {
                let (wanted, found) = if wants_file { ("a file", "a folder") } else { ("a folder", "a file") };
                let message = format!(
                    "{} is {found}; input `{name}` of stage `{}` ({}) takes {wanted}",
                    quoted(&written),
                    stage.name,
                    port.port_type
                );
                Problem::new("spec::wrong_type", node.span, message)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let kind = if wants_file { "file" } else { "folder" };
                let base = self.session.source(node.span.source).map(|source| source.shown.clone());
                let relative = match base.as_deref() {
                    Some("--set") => "the path is relative to the current folder".to_owned(),
                    Some(shown) => format!("the path is relative to {}", quoted(shown)),
                    None => String::new(),
                };
                Problem::new("spec::missing_file", node.span, format!("there is no {kind} {}", quoted(&written)))
                    .help((!relative.is_empty()).then_some(relative))
                    .help(near_file(&path).or_else(|| hub_source(&written, port.port_type)))
            }
            Err(e) => Problem::new("spec::unreadable", node.span, format!("cannot look at {}: {e}", quoted(&written))),
        };
        // Report a param once, even if several inputs use it.
        if node.used.is_none() || !self.session.is_reported(node.span) {
            let used = format!("it is used for input `{name}` of stage `{}`", stage.name);
            self.session.report(problem.note_at_some(used, node.used));
        }
        None
    }

    fn fits(&mut self, target: Target<'_>, reference: &PortRef, port_type: PortType, span: Span) -> Option<()> {
        let Target { stage, name, port, .. } = target;
        if port_type.fits(port.port_type) {
            return Some(());
        }
        let uses = self.stages.get(&reference.stage).map_or("?", |producer| producer.uses.as_str());
        let message = format!(
            "input `{name}` of stage `{}` takes {}, but `{reference}` (made by stage `{}`, uses {}) is {}",
            stage.name,
            kind(port.port_type),
            reference.stage,
            quoted(uses),
            kind(port_type)
        );
        let outputs =
            self.stages.get(&reference.stage).and_then(|p| p.found.as_ref()).map(|f| &f.description.contract.outputs);
        let other = outputs.into_iter().flatten().find(|(_, output)| output.port_type.fits(port.port_type));
        let help = other.map(|(other, _)| format!("its output {} is {}", quoted(other), kind(port.port_type)));
        self.session.report(
            Problem::new("spec::wrong_port_type", span, message)
                .label(format!("{}, not {}", kind(port_type), kind(port.port_type)))
                .help(help),
        );
        None
    }
}

/// The kind of remote source that a port requires.
pub fn want(port: &InputPort) -> Want {
    match (port.port_type, port.list) {
        (PortType::File, true) => Want::Files,
        (PortType::File, false) => Want::File,
        _ => Want::Folder,
    }
}

/// "a dataset", "tokens".
fn kind(port_type: PortType) -> String {
    match port_type {
        PortType::Tokens | PortType::Metrics => port_type.to_string(),
        PortType::Dir => "a folder".to_owned(),
        _ => format!("a {port_type}"),
    }
}

/// The error if a list is given to a single port, or the other way round.
fn listness(target: Target<'_>, reference: &PortRef, list: bool, in_list: bool, span: Span) -> Option<Problem> {
    let Target { stage, name, port, .. } = target;
    match (port.list, list, in_list) {
        (false, true, _) => {
            let message = format!(
                "input `{name}` of stage `{}` takes {}, and `{reference}` is a list",
                stage.name,
                kind(port.port_type)
            );
            let help =
                format!("run the stage for each item: `for_each: \"${{{reference}}}\"` and `{name}: \"${{item}}\"`");
            Some(Problem::new("spec::list_into_single", span, message).help(help))
        }
        (true, false, false) => {
            let message = format!("input `{name}` of stage `{}` takes a list, and `{reference}` is none", stage.name);
            Some(Problem::new("spec::list_expected", span, message).help(format!("write [\"${{{reference}}}\"]")))
        }
        (true, true, true) => {
            let message = format!("`{reference}` is a list itself and cannot be an item of a list");
            Some(Problem::new("spec::nested_list", span, message).help("give it alone, without `[…]`".to_owned()))
        }
        _ => None,
    }
}

/// The alternatives of `{first: […]}`.
pub(crate) fn first_of(node: &Node) -> Option<&[Node]> {
    match (&node.content, node.entries()) {
        (Content::Object(_), [entry]) if entry.key == "first" => match &entry.value.content {
            Content::Array(items) => Some(items),
            _ => None,
        },
        _ => None,
    }
}

/// The stages to which `node` refers.
fn stages_named(node: &Node) -> Vec<String> {
    match &node.content {
        Content::Array(items) => items.iter().flat_map(stages_named).collect(),
        Content::String(text) => pieces(text)
            .into_iter()
            .flatten()
            .filter_map(|piece| match piece {
                Piece::Reference(Reference::Port(port), _) => Some(port.stage),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// A value from params: its texts are paths, not references.
fn literal(node: Node) -> Option<Given> {
    match &node.content {
        Content::Unknown => None,
        Content::Array(items) => {
            let used = |item: &Node| Node { used: item.used.or(node.used), ..item.clone() };
            let list: Option<Vec<Given>> = items.iter().map(|item| literal(used(item))).collect();
            list.map(|list| Given::List(list, node.span))
        }
        _ => Some(Given::Plain(node)),
    }
}

fn how_to_fill(port: &InputPort) -> String {
    let kind = if port.port_type == PortType::File { "a file" } else { "a folder" };
    if port.list {
        format!("it takes a list: [\"${{stages.STAGE.PORT}}\"] or paths of {kind}")
    } else {
        format!("it takes \"${{stages.STAGE.PORT}}\" or the path of {kind}")
    }
}

/// What to write for a text that looks like a name on the Hugging Face hub: `OWNER/NAME`, with or without an address before it.
fn hub_source(text: &str, port_type: PortType) -> Option<String> {
    let name = text.trim_start_matches("huggingface.co/");
    let name = name.trim_start_matches("datasets/").trim_end_matches('/');
    let part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        part.chars().all(allowed) && part.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    let (owner, repository) = name.split_once('/')?;
    if !part(owner) || !part(repository) {
        return None;
    }
    match port_type {
        PortType::Model => Some(format!("for a model of the Hugging Face hub write `hf:{name}`")),
        // A name with an extension is a file's.
        _ if repository.contains('.') => None,
        _ => Some(format!("for a dataset of the Hugging Face hub write `hf:datasets/{name}`")),
    }
}

/// Suggestions for a missing file.
fn near_file(path: &std::path::Path) -> Option<String> {
    path.parent().filter(|folder| folder.is_dir()).and_then(|_| nearest::files_near(path))
}
