//! Resolves every reference of the stages and checks the results: values against the schemas of the
//! params, artifacts against the types of the ports ([`crate::resolve::ports`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use olmo_base::nearest;
use olmo_base::text::quoted;
use serde_json::Value;

use crate::compose::layers::{StageSource, Stages};
use crate::compose::params::Params;
use crate::document::check::{self, Checker, Subject};
use crate::document::documents::{RetryRule, seconds};
use crate::document::prepare::prepare;
use crate::document::retry::Retry;
use crate::document::strict;
use crate::read::node::{Content, Entry, Node};
use crate::read::reference::{Piece, PortRef, Reference, environment, has_reference, pieces, variable_in_value};
use crate::read::source::{Problem, Session, Span};
use crate::resolve::resolved::ResolvedStage;
use olmo_stage::FailureClass;

/// Resolves references, and collects edges and origins.
pub(crate) struct Resolver<'a> {
    pub session: &'a mut Session,
    pub params: Params,
    pub stages: &'a Stages,
    /// (producing stage, consuming stage, place of the reference).
    pub edges: Vec<(usize, usize, Span)>,
    /// Path of a value → where it was written; `None` if not requested.
    pub origins: Option<BTreeMap<String, String>>,
}

impl Resolver<'_> {
    /// Resolves a stage; `None` if its contract is not known.
    pub(crate) fn stage(&mut self, stage: &StageSource) -> Option<ResolvedStage> {
        let found = stage.found.as_ref()?;
        let contract = &found.description.contract;
        let path = format!("stages.{}", stage.name);
        let item = stage.for_each.as_ref().and_then(|node| self.for_each(stage, node));
        let mut given = Vec::new();
        let mut inputs = BTreeMap::new();
        let mut item_is_used = false;
        for entry in &stage.with {
            if let Some(port) = contract.inputs.get(&entry.key) {
                let bound = self.bind(stage, entry, port, item.as_ref(), &mut item_is_used);
                if let Some(bound) = bound.filter(|bound| !bound.is_empty()) {
                    inputs.insert(entry.key.clone(), bound);
                }
            } else if has_property(&found.description.params, &entry.key) {
                given.push(Entry { value: self.value(&entry.value, &entry.key), ..entry.clone() });
            } else {
                self.unknown_with(stage, entry, &found.description.params);
            }
        }
        for (name, port) in &contract.inputs {
            if !port.optional && !stage.with.iter().any(|entry| entry.key == *name) {
                self.missing_port(stage, name, port);
            }
        }
        if let (Some(node), Some(_), false) = (&stage.for_each, &item, item_is_used) {
            let message = format!("stage `{}` runs for each item but takes no `${{item}}`", stage.name);
            let help = "give \"${item}\" to one of its inputs, or leave out `for_each`".to_owned();
            self.session.report(Problem::new("spec::unused_item", node.span, message).help(help));
        }
        let with = Node::new(stage.name_span, Content::Object(given));
        let subject_path = format!("{path}.with");
        let subject = Subject { path: &subject_path, params_of: Some(&stage.name) };
        found.params.check(self.session, &with, subject);
        let params = prepare(self.session, &with, found.params.schema(), found.folder.as_deref());
        if !params.entries().is_empty() {
            self.origin(&subject_path, &params, Some(&stage.uses));
        }
        Some(ResolvedStage {
            uses: stage.uses.clone(),
            description: found.description.clone(),
            stage_dir: found.folder.clone(),
            every: stage.every.as_ref().and_then(|node| self.every(stage, node)),
            for_each: item.map(|(port, _)| port),
            inputs,
            params: params.to_json(),
            resources: self.resources(stage, contract),
            timeout_s: stage.timeout.as_ref().and_then(|node| self.time(stage, node, "timeout")),
            stall_s: stage.stall.as_ref().and_then(|node| self.time(stage, node, "stall")),
            retry: stage.retry.as_ref().and_then(|node| self.retry(stage, node)),
            share: stage.share.as_ref().and_then(|node| self.share(stage, node)),
        })
    }

    fn unknown_with(&mut self, stage: &StageSource, entry: &Entry, params: &Value) {
        let ports = stage.found.as_ref().map(|found| &found.description.contract.inputs);
        let known: Vec<&str> =
            ports.into_iter().flat_map(|p| p.keys().map(String::as_str)).chain(check::properties(params)).collect();
        let message = format!(
            "stage `{}` (uses {}) has no input or param {}",
            stage.name,
            quoted(&stage.uses),
            quoted(&entry.key)
        );
        let outputs =
            stage.found.as_ref().is_some_and(|found| found.description.contract.outputs.contains_key(&entry.key));
        let free: Vec<&str> = known.iter().copied().filter(|k| !stage.with.iter().any(|e| e.key == *k)).collect();
        let help = if outputs {
            Some(format!(
                "{} is an output: others read it as \"${{stages.{}.{}}}\"",
                quoted(&entry.key),
                stage.name,
                entry.key
            ))
        } else if nearest::nearest(&entry.key, &free).is_empty() {
            nearest::help(&entry.key, known)
        } else {
            nearest::help(&entry.key, free)
        };
        self.session.report(Problem::new("spec::unknown_key", entry.key_span, message).help(help));
    }

    fn resources(&mut self, stage: &StageSource, contract: &olmo_stage::Contract) -> olmo_stage::contract::Resources {
        let (own, can_have_ranks) = (contract.resources, contract.ranks);
        if stage.resources.is_empty() && self.origins.is_none() {
            return own;
        }
        let before = self.session.errors();
        let path = format!("stages.{}.resources", stage.name);
        let given: Vec<Entry> = stage
            .resources
            .iter()
            .map(|entry| Entry { value: self.value(&entry.value, &entry.key), ..entry.clone() })
            .collect();
        let node = Node::new(stage.name_span, Content::Object(given));
        static RESOURCES: LazyLock<Checker> = LazyLock::new(|| Checker::new(strict::resources()));
        RESOURCES.check(self.session, &node, Subject { path: &path, params_of: None });
        let node = prepare(self.session, &node, RESOURCES.schema(), None);
        let number = |key: &str| node.get(key).and_then(|node| node.to_json().as_u64());
        let resources = olmo_stage::contract::Resources {
            cpus: number("cpus").and_then(|n| u32::try_from(n).ok()).unwrap_or(own.cpus),
            gpus: number("gpus").and_then(|n| u32::try_from(n).ok()).unwrap_or(own.gpus),
            memory_mib: number("memory_mib").unwrap_or(own.memory_mib),
            ranks: number("ranks").and_then(|n| u32::try_from(n).ok()).unwrap_or(own.ranks),
        };
        if let (Some(node), true) = (node.get("ranks"), self.session.errors() == before) {
            self.check_ranks(stage, node, resources, can_have_ranks);
        }
        if self.session.errors() == before {
            let all = serde_json::to_value(resources).unwrap_or_default();
            for key in all.as_object().into_iter().flat_map(|map| map.keys()) {
                match node.get(key) {
                    Some(node) => self.origin(&format!("{path}.{key}"), node, None),
                    None => self.default_origin(format!("{path}.{key}"), &stage.uses),
                }
            }
        }
        resources
    }

    /// Checks the number of ranks that `node` sets for `stage`.
    fn check_ranks(
        &mut self,
        stage: &StageSource,
        node: &Node,
        resources: olmo_stage::contract::Resources,
        can_have_ranks: bool,
    ) {
        let (ranks, gpus) = (resources.ranks, resources.gpus);
        let (message, help) = if ranks > 1 && !can_have_ranks {
            let message = format!("stage `{}` (uses {}) runs as one process", stage.name, quoted(&stage.uses));
            (message, "remove `ranks`; only stages that train can have several".to_owned())
        } else if ranks > 0 && ranks < gpus {
            let message = format!("{ranks} of {gpus} GPUs would be used: each rank computes on one");
            (message, format!("set `ranks: {gpus}`, or leave it out: a stage has one rank per GPU"))
        } else {
            return;
        };
        self.session.report(Problem::new("spec::ranks", node.span, message).help(help));
    }

    /// The number in `every`, which needs `for_each`.
    fn every(&mut self, stage: &StageSource, node: &Node) -> Option<u64> {
        let value = self.value(node, "every");
        if value.content == Content::Unknown || value.is_null() {
            return None;
        }
        let path = format!("stages.{}.every", stage.name);
        self.origin(&path, &value, None);
        let number = value.to_json().as_u64().filter(|number| *number > 0);
        let problem = if stage.for_each.as_ref().is_none_or(Node::is_null) {
            let message = format!("`{path}` has no effect without `for_each`");
            Some((message, "add `for_each: \"${stages.STAGE.PORT}\"`, or remove it".to_owned()))
        } else if number.is_none() {
            let message = format!("`{path}` must be a whole number of at least 1, not {}", value.described());
            Some((message, "write `every: 1000` for step1000, step2000 and so on".to_owned()))
        } else {
            None
        };
        if let Some((message, help)) = problem.filter(|_| !self.session.is_reported(value.span)) {
            self.session.report(Problem::new("spec::bad_value", value.span, message).help(help));
        }
        number
    }

    fn time(&mut self, stage: &StageSource, node: &Node, key: &str) -> Option<u64> {
        let path = format!("stages.{}.{key}", stage.name);
        let value = self.value(node, key);
        if value.content == Content::Unknown || value.is_null() {
            return None;
        }
        self.origin(&path, &value, None);
        let text = value.as_str().unwrap_or("");
        let seconds = seconds(text).filter(|&s| s > 0);
        if seconds.is_none() && !self.session.is_reported(value.span) {
            let expected = "a time like `90s`, `30m`, `12h` or `2d`";
            let message = format!("`{path}` must be {expected}, not {}", value.described());
            let problem = Problem::new("spec::bad_value", value.span, message);
            self.session.report(problem.label(format!("expected {expected}")));
        }
        seconds
    }

    fn retry(&mut self, stage: &StageSource, node: &Node) -> Option<Retry> {
        let path = format!("stages.{}.retry", stage.name);
        let value = self.value(node, "retry");
        if value.has_unknown() || value.is_null() {
            return None;
        }
        let before = self.session.errors();
        static RETRY: LazyLock<Checker> = LazyLock::new(|| Checker::new(strict::retry()));
        // A value in a file without a reference was checked, and reported, with the file.
        let written = self.session.source(node.span.source).is_some_and(|s| s.shown == "--set");
        if before == 0 || written || node.to_json().to_string().contains("${") {
            RETRY.check(self.session, &value, Subject { path: &path, params_of: None });
        }
        let rule: RetryRule = serde_json::from_value(value.to_json()).ok()?;
        if self.session.errors() > before {
            return None;
        }
        self.origin(&path, &value, None);
        Some(Retry {
            max: rule.max,
            on: rule.on.unwrap_or_else(|| FailureClass::ALL.to_vec()),
            backoff_s: rule.backoff.and_then(|text| seconds(&text)).unwrap_or(Retry::BACKOFF_S),
        })
    }

    /// The name of the stage whose GPUs and CPUs `stage` may share.
    fn share(&mut self, stage: &StageSource, node: &Node) -> Option<String> {
        let value = self.value(node, "share");
        if value.content == Content::Unknown {
            return None;
        }
        let name = value.as_str().unwrap_or_default().to_owned();
        if name != stage.name && self.stages.get(&name).is_some() {
            self.origin(&format!("stages.{}.share", stage.name), &value, None);
            return Some(name);
        }
        let message = match name == stage.name {
            true => format!("stage `{name}` cannot share resources with itself"),
            false => format!("there is no stage {} whose resources `{}` could share", quoted(&name), stage.name),
        };
        let names: Vec<&str> = self.stages.names().filter(|name| *name != stage.name).collect();
        let help = nearest::help(&name, names);
        self.session.report(Problem::new("spec::unknown_stage", value.span, message).help(help));
        None
    }

    /// `node` with its references to params resolved. `name` is the param that takes the value.
    fn value(&mut self, node: &Node, name: &str) -> Node {
        match &node.content {
            Content::String(text) if has_reference(text) => match self.pieces(node, text) {
                Some(pieces) => self.text(node, &pieces, name, false),
                None => Node::unknown(node.span),
            },
            Content::Array(items) => {
                let items = items.iter().map(|item| self.value(item, name)).collect();
                Node { content: Content::Array(items), ..node.clone() }
            }
            Content::Object(entries) => {
                let entries =
                    entries.iter().map(|e| Entry { value: self.value(&e.value, name), ..e.clone() }).collect();
                Node { content: Content::Object(entries), ..node.clone() }
            }
            _ => node.clone(),
        }
    }

    /// The parts of a text with references. An invalid reference is reported.
    pub(crate) fn pieces(&mut self, node: &Node, text: &str) -> Option<Vec<Piece>> {
        match pieces(text) {
            Ok(pieces) => Some(pieces),
            Err(bad) => {
                let span = self.part(node, bad.range);
                self.session.report(Problem::new("spec::bad_reference", span, bad.message).help(bad.help));
                None
            }
        }
    }

    /// A value, or a text with params in it. A path may also contain environment variables.
    pub(crate) fn text(&mut self, node: &Node, pieces: &[Piece], name: &str, is_path: bool) -> Node {
        let whole = pieces.len() == 1;
        let mut text = String::new();
        let mut sound = true;
        for piece in pieces {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Reference(Reference::Param(names), range) => {
                    let span = self.part(node, range.clone());
                    let value = self.param(names, span);
                    if !is_path && value.as_str().is_some_and(|text| self.session.from_environment.contains(text)) {
                        let shown = format!("params.{}", names.join("."));
                        self.session.report(variable_in_value(span, &shown, name));
                        sound = false;
                        continue;
                    }
                    if whole {
                        return Node { used: Some(span), ..value };
                    }
                    match &value.content {
                        Content::String(part) => text.push_str(part),
                        Content::Number(number) => text.push_str(&number.to_string()),
                        Content::Bool(value) => text.push_str(&value.to_string()),
                        Content::Unknown => sound = false,
                        Content::Null | Content::Array(_) | Content::Object(_) => {
                            let shown = format!("params.{}", names.join("."));
                            let message = format!("`{shown}` is {} and cannot be a part of a text", value.described());
                            self.session.report(Problem::new("spec::bad_reference", span, message));
                            sound = false;
                        }
                    }
                }
                Piece::Reference(Reference::Environment(variable), range) => {
                    let span = self.part(node, range.clone());
                    match environment(variable) {
                        Ok(value) if is_path => {
                            text.push_str(&value);
                            self.session.variables.insert(variable.clone(), value);
                        }
                        Ok(_) => {
                            self.session.report(variable_in_value(span, &format!("env.{variable}"), name));
                            sound = false;
                        }
                        Err(fault) => {
                            let help = format!("set it and try again: export {variable}=…");
                            self.session.report(Problem::new("spec::unset_variable", span, fault).help(help));
                            sound = false;
                        }
                    }
                }
                Piece::Reference(other, range) => {
                    let span = self.part(node, range.clone());
                    let shown = match other {
                        Reference::Port(port) => format!("${{{port}}}"),
                        _ => "${item}".to_owned(),
                    };
                    let message = if whole {
                        format!("`{name}` is a param: it takes a value, and {} is an artifact", quoted(&shown))
                    } else {
                        format!("{} is an artifact and cannot be a part of a text", quoted(&shown))
                    };
                    self.session.report(
                        Problem::new("spec::bad_reference", span, message)
                            .help("artifacts go into input ports, by themselves: \"${stages.STAGE.PORT}\"".to_owned()),
                    );
                    sound = false;
                }
            }
        }
        Node::new(node.span, if sound { Content::String(text) } else { Content::Unknown })
    }

    /// The value at `names` below the params.
    pub(crate) fn param(&mut self, names: &[String], span: Span) -> Node {
        let Some((first, rest)) = names.split_first() else { return Node::unknown(span) };
        let Some(mut value) = self.params.get(first) else {
            let message = format!("there is no param {}", quoted(first));
            let help = nearest::help(first, self.params.names());
            self.session.report(Problem::new("spec::unknown_param", span, message).help(help));
            return Node::unknown(span);
        };
        let mut path = format!("params.{first}");
        for name in rest {
            let part = match &value.content {
                Content::Unknown => return Node::unknown(span),
                Content::Object(_) => value.get(name),
                Content::Array(items) => name.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            let Some(part) = part else {
                let message = format!("`{path}` is {} without a part {}", value.described(), quoted(name));
                let help = nearest::help(name, value.entries().iter().map(|entry| entry.key.as_str()));
                self.session.report(
                    Problem::new("spec::unknown_param", span, message)
                        .note_at("its value is written", Some(value.span))
                        .help(help),
                );
                return Node::unknown(span);
            };
            path = format!("{path}.{name}");
            value = part;
        }
        value.clone()
    }

    /// The place in the source of the bytes `range` of the text of `node`; all of `node` if escapes or
    /// folded lines make the text differ from the source.
    pub(crate) fn part(&self, node: &Node, range: Range<usize>) -> Span {
        let Some(text) = node.as_str() else { return node.span };
        let shown = self.session.text(node.span);
        let inner =
            shown.strip_prefix(['"', '\'']).map_or(shown, |inner| inner.strip_suffix(['"', '\'']).unwrap_or(inner));
        let offset = if inner.len() == shown.len() { 0 } else { 1 };
        if inner != text {
            return node.span;
        }
        let start = node.span.start + offset;
        Span { start: start + range.start as u32, end: start + range.end as u32, ..node.span }
    }

    /// Records where the leaves of `node` were written. A leaf without a place is a default of the stage
    /// `uses`.
    pub(crate) fn origin(&mut self, path: &str, node: &Node, uses: Option<&str>) {
        if self.origins.is_none() {
            return;
        }
        match &node.content {
            Content::Object(entries) if !entries.is_empty() => {
                for entry in entries {
                    self.origin(&format!("{path}.{}", entry.key), &entry.value, uses);
                }
            }
            _ if node.span.is_default() => self.default_origin(path.to_owned(), uses.unwrap_or("?")),
            _ => {
                let place = self.session.place(node.span);
                self.origins.get_or_insert_default().insert(path.to_owned(), place);
            }
        }
    }

    fn default_origin(&mut self, path: String, uses: &str) {
        if let Some(origins) = &mut self.origins {
            origins.insert(path, format!("default of stage {uses}"));
        }
    }

    /// Records that `stage` reads `port`.
    pub(crate) fn edge(&mut self, port: &PortRef, stage: &StageSource, span: Span) {
        if let (Some(from), Some(to)) = (self.stages.place(&port.stage), self.stages.place(&stage.name)) {
            self.edges.push((from, to, span));
        }
    }

    /// The type of a referenced port, and whether it is a list. An unknown stage or port is reported.
    pub(crate) fn output(&mut self, port: &PortRef, span: Span) -> Option<(olmo_stage::PortType, bool)> {
        let Some(stage) = self.stages.get(&port.stage) else {
            if self.stages.left_out.contains_key(&port.stage) {
                self.report_left_out(&port.stage, span);
                return None;
            }
            let removed = self.stages.removed.get(&port.stage).copied();
            let message = format!("there is no stage {}", quoted(&port.stage));
            let problem = Problem::new("spec::unknown_stage", span, message);
            self.session.report(match removed {
                Some(at) => problem
                    .note_at("the experiment removes it", Some(at))
                    .help("change or remove what reads it as well".to_owned()),
                None => problem.help(nearest::help(&port.stage, self.stages.names())),
            });
            return None;
        };
        // The unknown contract is already reported.
        let contract = &stage.found.as_ref()?.description.contract;
        let Some(output) = contract.outputs.get(&port.port) else {
            let message =
                format!("stage `{}` (uses {}) has no output {}", stage.name, quoted(&stage.uses), quoted(&port.port));
            let help = if contract.inputs.contains_key(&port.port) {
                Some(format!("{} is one of its inputs; outputs: {}", quoted(&port.port), output_names(contract)))
            } else {
                nearest::help(&port.port, contract.outputs.keys().map(String::as_str))
            };
            self.session.report(Problem::new("spec::unknown_port", span, message).help(help));
            return None;
        };
        Some((output.port_type, output.list || stage.for_each.is_some()))
    }
}

fn output_names(contract: &olmo_stage::Contract) -> String {
    nearest::listed(&contract.outputs.keys().map(String::as_str).collect::<Vec<_>>(), "and")
}

fn has_property(schema: &Value, name: &str) -> bool {
    check::properties(schema).any(|known| known == name)
}
