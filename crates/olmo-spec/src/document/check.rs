//! Checks a [`Node`] against a JSON Schema and reports errors in plain words, at the place where each
//! value was written.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, ValidationError, Validator};
use olmo_base::nearest;
use olmo_base::text::quoted;
use serde_json::Value;

use crate::document::instance::Yaml;
use crate::read::node::{Content, Entry, Node};
use crate::read::reference::has_reference;
use crate::read::scalar::{self, Plain};
use crate::read::source::{Problem, SET, Session, Span};

/// The schema keyword of a place that may contain `${…}`. It applies to everything below.
pub(crate) const REFERENCES: &str = "x-references";
/// The schema keyword with the words for what is expected ("a name").
pub(crate) const EXPECTED: &str = "x-expected";

/// The subject of a check.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// The path of the checked value in the resolved document (`stages.train.with`), empty for a
    /// whole file.
    pub path: &'a str,
    /// The stage whose params these are.
    pub params_of: Option<&'a str>,
}

/// A compiled schema. Compiling takes longer than checking a value.
#[derive(Debug)]
pub(crate) struct Checker {
    schema: Value,
    /// The validator, or why this is not a JSON Schema.
    validator: Result<Validator<Yaml>, String>,
}

impl Checker {
    pub(crate) fn new(schema: Value) -> Self {
        let validator = compiled(&schema).map_err(|e| e.to_string());
        Self { schema, validator }
    }

    pub(crate) fn schema(&self) -> &Value {
        &self.schema
    }

    /// Reports every error in `node`. Returns whether there is none.
    pub(crate) fn check(&self, session: &mut Session, node: &Node, subject: Subject<'_>) -> bool {
        let before = session.errors();
        match &self.validator {
            Ok(validator) => Check { session, schema: &self.schema, root: node, subject, inside: None }.run(validator),
            Err(e) => {
                let message = format!("the schema for `{}` is no JSON Schema: {e}", subject.path);
                session.report(Problem::new("spec::bad_contract", node.span, message));
            }
        }
        session.errors() == before
    }
}

fn compiled(schema: &Value) -> Result<Validator<Yaml>, ValidationError<'static>> {
    jsonschema::options_for::<Yaml>().with_draft(Draft::Draft202012).build(schema)
}

/// Like [`Checker::check`], for a schema that is used once.
pub(crate) fn check(session: &mut Session, schema: Value, node: &Node, subject: Subject<'_>) -> bool {
    Checker::new(schema).check(session, node, subject)
}

/// The branch of a union that `node` selects, if that is clear: unions are one-key maps, or a type
/// and null.
pub(crate) fn branch<'s>(schema: &'s Value, node: &Node) -> Option<&'s Value> {
    let all = schema.get("oneOf").or_else(|| schema.get("anyOf"))?.as_array()?;
    let fitting: Vec<&Value> = all.iter().filter(|branch| kind_fits(branch, node)).collect();
    if let [one] = fitting.as_slice() {
        return Some(one);
    }
    let [entry] = node.entries() else { return None };
    let with_key: Vec<&Value> = fitting
        .into_iter()
        .filter(|branch| branch.pointer("/properties").and_then(|p| p.get(&entry.key)).is_some())
        .collect();
    if let [one] = with_key.as_slice() { Some(one) } else { None }
}

/// Whether `node` has a type that `schema` names. A schema without a type accepts its constant, or
/// everything if it has none.
fn kind_fits(schema: &Value, node: &Node) -> bool {
    let fits = |kind: &str| kind == node.kind() || kind == "integer" && node.kind() == "number";
    match schema.get("type") {
        Some(Value::String(kind)) => fits(kind),
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).any(fits),
        _ => match schema.get("const") {
            Some(value) => *value == node.to_json(),
            None => true,
        },
    }
}

struct Check<'a> {
    session: &'a mut Session,
    schema: &'a Value,
    root: &'a Node,
    subject: Subject<'a>,
    /// The JSON pointer of `root` within the subject, if it is a part of it.
    inside: Option<String>,
}

impl Check<'_> {
    fn run(&mut self, validator: &Validator<Yaml>) {
        // Collecting errors costs more than finding that there are none.
        if validator.is_valid(self.root) {
            return;
        }
        for error in validator.iter_errors(self.root) {
            if self.session.is_full() {
                return;
            }
            self.explain(&error);
        }
    }

    fn explain(&mut self, error: &ValidationError<'_>) {
        let pointer = error.instance_path().as_str().to_owned();
        let Some((node, entry, used)) = self.root.at(&pointer) else { return };
        if node.content == Content::Unknown || self.may_change(error, node) {
            return;
        }
        let schema_path = error.schema_path().as_str();
        let holder_path = schema_path.rsplit_once('/').map_or("", |(holder, _)| holder);
        let holder = self.schema.pointer(holder_path).unwrap_or(&Value::Null);
        let path = self.path(&pointer);
        let span = node.span;
        let problem = match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                return self.unknown_keys(node, unexpected, holder, &path, used);
            }
            ValidationErrorKind::PropertyNames { error } => return self.bad_key(node, error, holder, &path),
            ValidationErrorKind::Required { property } => {
                self.missing(node, entry, property.as_str().unwrap_or("?"), holder, &path, pointer.is_empty())
            }
            ValidationErrorKind::OneOfNotValid { .. } | ValidationErrorKind::AnyOf { .. } => {
                return self.union(node, holder, &pointer, &path);
            }
            ValidationErrorKind::Type { .. } => {
                let expected = expected(holder);
                let name = if path.is_empty() { "this file".to_owned() } else { format!("`{path}`") };
                let found = match &node.content {
                    Content::Number(_) => format!("the number `{}`", as_written(self.session, node)),
                    _ => node.described(),
                };
                Problem::new("spec::wrong_type", span, format!("{name} must be {expected}, not {found}"))
                    .label(format!("expected {expected}"))
                    .help(type_help(self.session, holder, node))
            }
            ValidationErrorKind::Enum { options } => one_of(node, options.as_array().map_or(&[], Vec::as_slice), &path),
            ValidationErrorKind::Constant { expected_value } => {
                one_of(node, std::slice::from_ref(expected_value), &path)
            }
            ValidationErrorKind::Pattern { pattern } => {
                let expected = match holder.get(EXPECTED).and_then(Value::as_str) {
                    Some(words) => words.to_owned(),
                    None => format!("a text that matches {}", quoted(pattern)),
                };
                Problem::new("spec::bad_value", span, format!("`{path}` must be {expected}, not {}", node.described()))
                    .label(format!("expected {expected}"))
            }
            ValidationErrorKind::Minimum { limit } => {
                limits(node, &path, holder, &format!("at least {}", number(limit)))
            }
            ValidationErrorKind::Maximum { limit } => {
                limits(node, &path, holder, &format!("at most {}", number(limit)))
            }
            ValidationErrorKind::ExclusiveMinimum { limit } => {
                limits(node, &path, holder, &format!("greater than {}", number(limit)))
            }
            ValidationErrorKind::ExclusiveMaximum { limit } => {
                limits(node, &path, holder, &format!("less than {}", number(limit)))
            }
            ValidationErrorKind::MinProperties { limit } => {
                limits(node, &path, holder, &format!("a map with at least {limit} key"))
            }
            ValidationErrorKind::MinItems { limit } => {
                limits(node, &path, holder, &format!("a list of at least {limit}"))
            }
            ValidationErrorKind::MaxItems { limit } => {
                limits(node, &path, holder, &format!("a list of at most {limit}"))
            }
            ValidationErrorKind::MinLength { limit } => {
                limits(node, &path, holder, &format!("a text of at least {limit} characters"))
            }
            ValidationErrorKind::MaxLength { limit } => {
                limits(node, &path, holder, &format!("a text of at most {limit} characters"))
            }
            _ => Problem::new("spec::bad_value", span, format!("`{path}` does not fit: {error}")),
        };
        self.session.report(problem.note_at_some(format!("this value is used for `{path}`"), used));
    }

    /// Whether `node` contains a reference where references are allowed. It is checked once they are
    /// resolved.
    fn may_change(&self, error: &ValidationError<'_>, node: &Node) -> bool {
        if !node.as_str().is_some_and(has_reference) {
            return false;
        }
        let mut schema = self.schema;
        for part in error.schema_path().as_str().split('/').skip(1) {
            if schema.get(REFERENCES).is_some() {
                return true;
            }
            let part = part.replace("~1", "/").replace("~0", "~");
            let next = part.parse::<usize>().ok().and_then(|index| schema.get(index)).or_else(|| schema.get(&part));
            let Some(next) = next else { return false };
            schema = next;
        }
        false
    }

    /// The path of the part at `pointer`, in the path grammar.
    fn path(&self, pointer: &str) -> String {
        let mut path = self.subject.path.to_owned();
        for part in self.inside.as_deref().unwrap_or("").split('/').skip(1).chain(pointer.split('/').skip(1)) {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&part.replace("~1", "/").replace("~0", "~"));
        }
        path
    }

    fn unknown_keys(&mut self, node: &Node, unexpected: &[String], holder: &Value, path: &str, used: Option<Span>) {
        let known: Vec<&str> = properties(holder).collect();
        for key in unexpected {
            if self.session.is_full() {
                return;
            }
            let Some(entry) = node.entry(key) else { continue };
            let place = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
            let free: Vec<&str> = known.iter().copied().filter(|known| node.entry(known).is_none()).collect();
            let near = nearest::nearest(key, &free);
            let help = if entry.value.is_null() && key.contains(' ') {
                // `{summary: one, two}`: part of the text became a key.
                Some("put quotes around a text that holds a comma".to_owned())
            } else if near.is_empty() {
                nearest::help(key, known.iter().copied())
            } else {
                nearest::help(key, free)
            };
            self.session.report(
                Problem::new("spec::unknown_key", entry.key_span, format!("unknown key {}{place}", quoted(key)))
                    .note_at_some(format!("this value is used for `{path}`"), used)
                    .help(help),
            );
        }
    }

    fn bad_key(&mut self, node: &Node, error: &ValidationError<'_>, holder: &Value, path: &str) {
        let key = error.instance().as_str().unwrap_or("?").to_owned();
        let span = node.entry(&key).map_or(node.span, |entry| entry.key_span);
        let names = holder.get("propertyNames").unwrap_or(holder);
        let expected = match error.kind() {
            ValidationErrorKind::MaxLength { limit } => format!("at most {limit} characters long"),
            _ => names.get(EXPECTED).and_then(Value::as_str).unwrap_or("another name").to_owned(),
        };
        let message = format!("{} cannot be a key of `{path}`: it must be {expected}", quoted(&key));
        self.session.report(Problem::new("spec::bad_name", span, message));
    }

    fn missing(
        &self,
        node: &Node,
        entry: Option<&Entry>,
        key: &str,
        holder: &Value,
        path: &str,
        at_root: bool,
    ) -> Problem {
        // Mark the key of a block, not the whole block.
        let span = entry.map_or(node.span, |entry| entry.key_span);
        // A condition (`then`) names a key whose properties are in the enclosing schema.
        let properties = holder.get("properties").or_else(|| self.schema.get("properties").filter(|_| at_root));
        let summary = properties.and_then(|p| p.get(key)).and_then(|p| p.get("description"));
        let label =
            summary.and_then(Value::as_str).and_then(|text| text.lines().next()).unwrap_or("").trim_end_matches('.');
        match self.subject.params_of {
            Some(stage) if at_root && self.inside.is_none() => {
                let wanted = if label.is_empty() { String::new() } else { format!(" ({label})") };
                Problem::new(
                    "spec::missing_param",
                    span,
                    format!("stage `{stage}` needs the param {}{wanted}", quoted(key)),
                )
                .help(format!("add `{key}: …` to `stages.{stage}.with`"))
            }
            _ => {
                let place = if path.is_empty() { "this file".to_owned() } else { format!("`{path}`") };
                let span = if path.is_empty() { Span { end: span.start, ..span } } else { span };
                let problem = Problem::new("spec::missing_key", span, format!("{place} needs the key {}", quoted(key)));
                if label.is_empty() { problem } else { problem.help(format!("`{key}`: {label}")) }
            }
        }
    }

    fn union(&mut self, node: &Node, holder: &Value, pointer: &str, path: &str) {
        if let Some(branch) = branch(holder, node)
            && let Ok(validator) = compiled(branch)
        {
            let inside = format!("{}{pointer}", self.inside.as_deref().unwrap_or(""));
            let subject = self.subject;
            let part = Node { used: self.root.at(pointer).and_then(|(_, _, used)| used), ..node.clone() };
            let mut check = Check { session: self.session, schema: branch, root: &part, subject, inside: Some(inside) };
            return check.run(&validator);
        }
        if node.has_unknown() {
            return;
        }
        let branches = holder.get("oneOf").or_else(|| holder.get("anyOf")).and_then(Value::as_array);
        let branches = branches.map_or(&[][..], Vec::as_slice);
        let words: Vec<Value> = branches
            .iter()
            .flat_map(|branch| match (branch.get("const"), branch.get("enum").and_then(Value::as_array)) {
                (Some(value), _) => vec![value.clone()],
                (None, Some(values)) => values.clone(),
                (None, None) => Vec::new(),
            })
            .collect();
        let keys: Vec<&str> = branches.iter().flat_map(properties).collect();
        let problem = match &node.content {
            Content::Object(entries) if !keys.is_empty() => {
                let known = |entry: &&Entry| keys.contains(&entry.key.as_str());
                match entries.iter().find(|entry| !known(entry)) {
                    Some(entry) => {
                        let message = format!("unknown key {} in `{path}`", quoted(&entry.key));
                        let help = nearest::help(&entry.key, keys.iter().copied());
                        Problem::new("spec::unknown_key", entry.key_span, message).help(help)
                    }
                    None => {
                        let message = format!("`{path}` must have exactly one key, not {}", entries.len());
                        let span = entries.get(1).map_or(node.span, |entry| entry.key_span);
                        Problem::new("spec::bad_value", span, message)
                            .help(format!("one of {}", nearest::listed(&keys, "or")))
                    }
                }
            }
            _ if !words.is_empty() && keys.is_empty() => one_of(node, &words, path),
            _ => {
                let mut kinds: Vec<String> = branches.iter().map(expected).collect();
                match keys.as_slice() {
                    [] => {}
                    [key] => kinds.push(format!("a map with the key {}", quoted(key))),
                    keys => kinds.push(format!("a map with one of the keys {}", nearest::listed(keys, "or"))),
                }
                kinds.retain(|kind| keys.is_empty() || kind != "a map");
                kinds.dedup();
                let expected = kinds.join(" or ");
                Problem::new(
                    "spec::wrong_type",
                    node.span,
                    format!("`{path}` must be {expected}, not {}", node.described()),
                )
                .label(format!("expected {expected}"))
            }
        };
        self.session.report(problem);
    }
}

/// The names of an object schema's properties.
pub(crate) fn properties(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("properties").and_then(Value::as_object).into_iter().flat_map(|map| map.keys().map(String::as_str))
}

/// "an integer", "a text or null".
fn expected(schema: &Value) -> String {
    if let Some(words) = schema.get(EXPECTED).and_then(Value::as_str) {
        return words.to_owned();
    }
    let word = |kind: &str| match kind {
        "integer" => "an integer",
        "number" => "a number",
        "string" if schema.get("format").is_some_and(|format| format == "path") => "a path",
        "string" => "a text",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a map",
        "null" => "null",
        _ => "another value",
    };
    match schema.get("type") {
        Some(Value::String(kind)) => word(kind).to_owned(),
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).map(word).collect::<Vec<_>>().join(" or "),
        _ => "another value".to_owned(),
    }
}

/// A hint for common mistakes between types.
fn type_help(session: &Session, schema: &Value, node: &Node) -> Option<String> {
    let wanted: Vec<&str> = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let wants = |kind: &str| wanted.contains(&kind);
    match &node.content {
        Content::String(text) if wants("number") || wants("integer") => {
            number_help(session, text, node, wants("number"))
        }
        Content::String(text) if wants("boolean") => match (scalar::plain(text), is_quoted(session, node)) {
            (Plain::Value(Content::Bool(_)), true) => Some(format!("write {text} without quotes")),
            _ => Some("write `true` or `false`".to_owned()),
        },
        Content::String(_) | Content::Number(_) | Content::Bool(_) if wants("array") => {
            let of_texts = schema.pointer("/items/type").is_some_and(|kind| kind == "string");
            let item = match &node.content {
                Content::String(_) => node.to_json().to_string(),
                _ if of_texts => format!("\"{}\"", as_written(session, node)),
                _ => as_written(session, node),
            };
            Some(format!("write a list: [{}]", quoted(&item).trim_matches('`')))
        }
        Content::Number(_) | Content::Bool(_) if wants("string") => {
            let text = as_written(session, node);
            let help = format!("put it in quotes: \"{text}\"");
            Some(match session.source(node.span.source) {
                // The shell removes one pair of quotes.
                Some(source) if source.shown == SET => {
                    let path = source.text.split('=').next().unwrap_or_default();
                    format!("{help}, and those in quotes for the shell: {SET} {path}='\"{text}\"'")
                }
                _ => help,
            })
        }
        _ => None,
    }
}

/// A hint for the text `text` in the place of a number.
fn number_help(session: &Session, text: &str, node: &Node, fractions: bool) -> Option<String> {
    if is_quoted(session, node) {
        return match scalar::plain(text) {
            Plain::Value(Content::Number(number)) if fractions || number.as_f64().is_some_and(|n| n.fract() == 0.0) => {
                Some(format!("write {text} without quotes"))
            }
            Plain::Refused { code: "yaml::not_finite", .. } => Some("write a finite number".to_owned()),
            _ => None,
        };
    }
    // An unquoted number that is a text does not fit in 64 bits.
    let number: f64 = text.parse().ok()?;
    let digits = text.bytes().any(|byte| byte.is_ascii_digit());
    Some(match digits {
        true if number.is_finite() => return None,
        true => format!("it is too large: numbers end at {:e}", f64::MAX),
        false => "write a finite number".to_owned(),
    })
}

/// Whether the text `node` was written in quotes. A computed text counts as quoted.
fn is_quoted(session: &Session, node: &Node) -> bool {
    node.as_str().is_none_or(|text| session.text(node.span) != text)
}

/// The number or boolean `node` as written: in quotes, `1.10` is not `1.1`.
fn as_written(session: &Session, node: &Node) -> String {
    let written = session.text(node.span);
    match scalar::plain(written) {
        Plain::Value(content) if content == node.content => written.to_owned(),
        _ => node.to_json().to_string(),
    }
}

fn one_of(node: &Node, allowed: &[Value], path: &str) -> Problem {
    let words: Vec<String> =
        allowed.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let message = format!("`{path}` cannot be {}", node.described());
    let near = node.as_str().map(|text| nearest::nearest(text, &words)).unwrap_or_default();
    let help = match near.as_slice() {
        [] => format!("allowed: {}", nearest::listed(&words, "and")),
        near => format!("did you mean {}?", nearest::listed(near, "or")),
    };
    Problem::new("spec::not_allowed", node.span, message).help(help)
}

/// A limit in the usual notation: `1`, not `1.0`.
fn number(limit: &Value) -> String {
    let text = limit.to_string();
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn limits(node: &Node, path: &str, schema: &Value, limit: &str) -> Problem {
    let expected = schema.get(EXPECTED).and_then(Value::as_str).unwrap_or(limit);
    let found = match &node.content {
        Content::Array(items) => format!("one of {}", items.len()),
        Content::Object(entries) => format!("one with {}", entries.len()),
        _ => node.described(),
    };
    Problem::new("spec::out_of_range", node.span, format!("`{path}` must be {expected}, not {found}"))
        .label(format!("expected {expected}"))
}
