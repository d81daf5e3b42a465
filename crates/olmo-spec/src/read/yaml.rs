//! Reads YAML into [`Node`]s.
//!
//! Accepts the part of YAML that all readers, and people, understand in the same way. Anchors, merge
//! keys, tags, multiple documents and words with another meaning in YAML 1.1 are rejected. Accepted
//! text has the value that `serde_yaml` gives it (a property test compares the two).

use std::borrow::Cow;
use std::collections::HashMap;

use olmo_base::text::quoted;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};

use crate::read::node::{Content, Entry, Node};
use crate::read::scalar::{self, Plain};
use crate::read::source::{Problem, Session, Span};

/// Maximum number of values and keys in a file: each takes some hundred bytes.
const MAX_VALUES: usize = 2_000_000;
/// Maximum depth of nesting. Every later step may recurse this deep.
const MAX_DEPTH: usize = 64;

/// Parses source `number`. Errors in the YAML itself are reported and give `None`.
pub(crate) fn read(session: &mut Session, number: u32) -> Option<Node> {
    read_from(session, number, 0)
}

/// Like [`read`], from byte `start` of the source on.
pub(crate) fn read_from(session: &mut Session, number: u32, start: usize) -> Option<Node> {
    let (node, problems) = {
        let text = session.source(number)?.text.get(start..)?;
        let mark = '\u{feff}'.len_utf8();
        let (text, start) = match text.strip_prefix('\u{feff}') {
            Some(rest) => (rest, start + mark),
            None => (text, start),
        };
        let mut reader =
            Reader { text, number, start, bytes: Offsets::of(text), problems: Vec::new(), open: Vec::new() };
        let node = reader.run();
        (node, reader.problems)
    };
    let sound = problems.is_empty();
    for problem in problems {
        session.report(problem);
    }
    node.filter(|_| sound)
}

/// Byte offsets of characters: the parser counts characters.
enum Offsets {
    Ascii,
    Table(Vec<u32>),
}

impl Offsets {
    fn of(text: &str) -> Self {
        if text.is_ascii() {
            Self::Ascii
        } else {
            let ends = std::iter::once(text.len() as u32);
            Self::Table(text.char_indices().map(|(at, _)| at as u32).chain(ends).collect())
        }
    }

    fn byte(&self, character: usize, length: usize) -> usize {
        match self {
            Self::Ascii => character.min(length),
            Self::Table(table) => table.get(character).map_or(length, |&at| at as usize),
        }
    }
}

/// A collection that is still open.
struct Open {
    span: Span,
    kind: OpenKind,
    /// It is in the place of a key, which is reported, and it is dropped.
    as_key: bool,
}

enum OpenKind {
    Array(Vec<Node>),
    Object { entries: Vec<Entry>, places: HashMap<String, Span>, key: Option<(String, Span)> },
}

struct Reader<'t> {
    text: &'t str,
    number: u32,
    start: usize,
    bytes: Offsets,
    problems: Vec<Problem>,
    open: Vec<Open>,
}

impl<'t> Reader<'t> {
    fn run(&mut self) -> Option<Node> {
        let mut parser = Parser::new_from_str(self.text);
        let (mut root, mut documents) = (None, 0);
        let mut events = 0;
        while let Some(next) = parser.next_event() {
            events += 1;
            let (event, place) = match next {
                Ok(next) => next,
                Err(e) => {
                    self.syntax(&e);
                    return None;
                }
            };
            let span = self.span(place.start.index(), place.end.index());
            if events > MAX_VALUES {
                let message = format!("this file holds more than {MAX_VALUES} values");
                let help = "keep data in files of their own and name them here".to_owned();
                self.problems.push(Problem::new("yaml::too_large", span, message).help(help));
                return None;
            }
            let done = match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        self.problems.push(
                            Problem::new("yaml::documents", span, "a second document begins here")
                                .help("one file holds one document; remove the `---` or split the file".to_owned()),
                        );
                        return None;
                    }
                    None
                }
                Event::Alias(_) => {
                    self.alias(span);
                    Some(Node::unknown(span))
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.refuse_marks(span, anchor, tag.is_some());
                    self.scalar(text, style, span)
                }
                Event::SequenceStart(anchor, tag) => {
                    self.refuse_marks(span, anchor, tag.is_some());
                    self.open_collection(span, OpenKind::Array(Vec::new()))?;
                    None
                }
                Event::MappingStart(anchor, tag) => {
                    self.refuse_marks(span, anchor, tag.is_some());
                    let kind = OpenKind::Object { entries: Vec::new(), places: HashMap::new(), key: None };
                    self.open_collection(span, kind)?;
                    None
                }
                Event::SequenceEnd | Event::MappingEnd => self.close(span),
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => None,
            };
            if let Some(node) = done {
                match self.open.last_mut() {
                    None => root = Some(node),
                    Some(Open { kind: OpenKind::Array(items), .. }) => items.push(node),
                    Some(Open { kind: OpenKind::Object { entries, key, .. }, .. }) => {
                        if let Some((key, key_span)) = key.take() {
                            entries.push(Entry { key, key_span, value: node });
                        }
                    }
                }
            }
        }
        Some(root.unwrap_or_else(|| Node::new(self.span(0, 0), Content::Null)))
    }

    /// The span of characters `from..to`, without white space at its end.
    fn span(&self, from: usize, to: usize) -> Span {
        let from = self.bytes.byte(from, self.text.len());
        let to = self.bytes.byte(to, self.text.len()).max(from);
        let used = self.text.get(from..to).map_or(0, |text| text.trim_end().len());
        Span { source: self.number, start: (self.start + from) as u32, end: (self.start + from + used) as u32 }
    }

    fn syntax(&mut self, error: &ScanError) {
        let at = error.marker().index();
        let span = self.span(at, at + 1);
        if error.info().contains("unknown anchor") {
            return self.alias(span);
        }
        if error.info().contains("recursion limit") {
            return self.too_deep(span);
        }
        let shown = &self.text[(span.start as usize - self.start)..];
        let help = if shown.starts_with('\t') || error.info().contains("tabs") {
            Some("YAML is indented by spaces, not by tabs".to_owned())
        } else if shown.starts_with(['@', '`', '%', '&', '*']) {
            Some("put quotes around a text that begins with this character".to_owned())
        } else {
            None
        };
        self.problems
            .push(Problem::new("yaml::syntax", span, format!("this is not YAML: {}", error.info())).help(help));
    }

    fn alias(&mut self, span: Span) {
        self.problems.push(
            Problem::new("yaml::alias", span, "aliases (`*name`) are not supported")
                .help("write the value here, or make it a param and write \"${params.NAME}\"".to_owned()),
        );
    }

    fn refuse_marks(&mut self, span: Span, anchor: usize, tagged: bool) {
        // The parser's span of an empty scalar may be before its anchor or tag.
        if anchor > 0 {
            self.problems.push(
                Problem::new("yaml::anchor", self.mark_before(span, '&'), "anchors (`&name`) are not supported")
                    .help("make the value a param and write \"${params.NAME}\" where it is used".to_owned()),
            );
        }
        if tagged {
            self.problems.push(
                Problem::new("yaml::tag", self.mark_before(span, '!'), "tags (`!name`) are not supported")
                    .help("leave it out: the type of a value follows from its contract".to_owned()),
            );
        }
    }

    /// The word that begins with `mark` at or shortly before `span`, else `span`.
    fn mark_before(&self, span: Span, mark: char) -> Span {
        let start = span.start as usize - self.start;
        let rest = self.text.get(start..).unwrap_or("");
        let at = if rest.trim_start().starts_with(mark) {
            start + (rest.len() - rest.trim_start().len())
        } else {
            match self.text.get(..start).and_then(|before| before.rfind(mark)) {
                Some(at) => at,
                None => return span,
            }
        };
        let word = self.text[at..].split([' ', '\n', '\r', '\t', ',', ']', '}']).next().map_or(1, str::len);
        Span { source: self.number, start: (self.start + at) as u32, end: (self.start + at + word) as u32 }
    }

    fn open_collection(&mut self, span: Span, kind: OpenKind) -> Option<()> {
        let as_key = self.refuse_complex_key(span);
        if self.open.len() >= MAX_DEPTH {
            self.too_deep(span);
            return None;
        }
        self.open.push(Open { span, kind, as_key });
        Some(())
    }

    fn too_deep(&mut self, span: Span) {
        let message = format!("this is nested more than {MAX_DEPTH} levels deep");
        self.problems.push(Problem::new("yaml::too_deep", span, message));
    }

    /// Reports a list or map in the place of a key.
    fn refuse_complex_key(&mut self, span: Span) -> bool {
        let is_key = matches!(self.open.last(), Some(Open { kind: OpenKind::Object { key: None, .. }, .. }));
        if is_key {
            self.problems.push(Problem::new("yaml::key", span, "a key is a word, not a list or a map"));
        }
        is_key
    }

    fn close(&mut self, end: Span) -> Option<Node> {
        let Open { mut span, kind, as_key } = self.open.pop()?;
        let flow = self.text[(span.start as usize - self.start)..].starts_with(['[', '{']);
        let (content, last) = match kind {
            OpenKind::Array(items) => {
                let last = items.last().map(|node| node.span.end);
                (Content::Array(items), last)
            }
            OpenKind::Object { entries, .. } => {
                let last = entries.last().map(|entry| entry.value.span.end.max(entry.key_span.end));
                (Content::Object(entries), last)
            }
        };
        span.end = if flow { end.end } else { last.unwrap_or(end.end) }.max(span.start);
        if as_key {
            if let Some(Open { kind: OpenKind::Object { key, .. }, .. }) = self.open.last_mut() {
                *key = Some((String::new(), span));
            }
            return None;
        }
        Some(Node::new(span, content))
    }

    /// Adds a value; `None` for a key, which is kept with its map.
    fn scalar(&mut self, text: Cow<'t, str>, style: ScalarStyle, span: Span) -> Option<Node> {
        let plain = style == ScalarStyle::Plain;
        let mut problems = std::mem::take(&mut self.problems);
        let node = match self.open.last_mut() {
            Some(Open { kind: OpenKind::Object { key: key @ None, places, .. }, .. }) => {
                let text = text.into_owned();
                if plain && text == "<<" {
                    problems.push(
                        Problem::new("yaml::merge_key", span, "merge keys (`<<`) are not supported")
                            .help("write the keys out, or use params and profiles".to_owned()),
                    );
                } else if plain && text.is_empty() {
                    problems.push(Problem::new("yaml::key", span, "a key is missing before the `:`"));
                } else if let Some(&first) = places.get(&text) {
                    problems.push(
                        Problem::new("yaml::duplicate_key", span, format!("the key {} is there twice", quoted(&text)))
                            .note_at("it is first", Some(first)),
                    );
                }
                places.insert(text.clone(), span);
                *key = Some((text, span));
                None
            }
            _ => {
                let content = if plain {
                    match scalar::plain(&text) {
                        Plain::Value(content) => content,
                        Plain::Refused { code, why, help } => {
                            problems.push(Problem::new(code, span, format!("{} {why}", quoted(&text))).help(help));
                            Content::Unknown
                        }
                    }
                } else {
                    Content::String(text.into_owned())
                };
                Some(Node::new(span, content))
            }
        };
        self.problems = problems;
        node
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn read_text(text: &str) -> Result<Value, String> {
        let mut session = Session::default();
        let number = session.add("x.yaml".into(), text.into(), PathBuf::from("/"));
        let node = read(&mut session, number);
        session.finish().map_err(|e| e.render(false))?;
        Ok(node.ok_or("no node and no error")?.to_json())
    }

    /// Values as a person might write them. Words that only we refuse come in quotes.
    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[a-z][a-z0-9_./-]{0,8}",
            "[ -~]{0,12}",
            "\\PC{0,6}",
            Just("yes".to_owned()),
            Just("0777".to_owned()),
            Just("a\nb\n".to_owned()),
            Just("${params.x}: #1".to_owned()),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            let entries = prop::collection::vec((text.clone(), inner.clone()), 0..5);
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(Value::from),
                entries.prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    /// `value` as block or flow YAML, by the bits of `style`.
    fn write(value: &Value, style: u64, depth: usize, out: &mut String) {
        let pad = "  ".repeat(depth);
        let turn = |n: u64| style.rotate_right((depth * 7) as u32 + n as u32);
        match value {
            Value::Object(map) if !map.is_empty() && turn(1) % 3 > 0 => {
                for (key, value) in map {
                    let comment = if turn(2) % 5 == 0 { "  # why" } else { "" };
                    out.push_str(&format!("\n{pad}{}:", serde_json::to_string(key).unwrap()));
                    let before = out.len();
                    write(value, turn(3), depth + 1, out);
                    if !out[before..].starts_with('\n') && !out[before..].contains('\n') {
                        out.insert(before, ' ');
                        out.push_str(comment);
                    }
                }
            }
            Value::Array(items) if !items.is_empty() && turn(1) % 3 > 0 => {
                for item in items {
                    out.push_str(&format!("\n{pad}- "));
                    write(item, turn(5), depth + 1, out);
                }
            }
            // JSON is YAML, and so is what serde_yaml writes.
            Value::String(text) if turn(4) % 2 == 0 && !text.contains(|c: char| c.is_control()) && !text.is_empty() => {
                out.push_str(&format!("'{}'", text.replace('\'', "''")));
            }
            other => out.push_str(&serde_json::to_string(other).unwrap()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_written_document_reads_as_serde_yaml_reads_it(value in value(), style in any::<u64>()) {
            for text in [serde_yaml::to_string(&value).unwrap(), { let mut text = String::new(); write(&value, style, 0, &mut text); text }] {
                let Ok(theirs) = serde_yaml::from_str::<Value>(&text) else { continue };
                match read_text(&text) {
                    Ok(ours) => prop_assert_eq!(ours, theirs, "{}", text),
                    // serde_yaml writes such words without quotes; everything else must be read.
                    Err(error) => prop_assert!(error.contains("error[yaml::ambiguous]"), "{}\n{}", error, text),
                }
            }
        }

        #[test]
        fn any_text_that_both_accept_means_the_same_and_none_panics(text in "[-:a-c0 \n\t'\"\\[\\]{},#&*!|>%@?~.$\u{e9}]{0,40}") {
            // They differ in how strict they are with tabs and the like, never in what a text means.
            if let (Ok(ours), Ok(theirs)) = (read_text(&text), serde_yaml::from_str::<Value>(&text)) {
                prop_assert_eq!(ours, theirs, "{:?}", text);
            }
        }
    }

    #[test]
    fn every_yaml_file_of_the_project_reads_as_serde_yaml_reads_it() {
        let (mut open, mut files) = (vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")], 0);
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(&folder).unwrap().flatten() {
                let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
                if path.is_dir() && !name.starts_with('.') && !["target", "out", "invalid"].contains(&name.as_str()) {
                    open.push(path);
                } else if name.ends_with(".yaml") || name.ends_with(".yml") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let theirs: Value = serde_yaml::from_str(&text).unwrap();
                    assert_eq!(read_text(&text).unwrap(), theirs, "{}", path.display());
                    files += 1;
                }
            }
        }
        assert!(files > 10, "only {files} files");
    }

    #[test]
    fn every_part_knows_its_place() {
        let text = "\u{feff}é: {a: [1, 'x y'], b: >-\n    folded\n    text\n  }\nc:\n  - d: 1\n    e: two words # no\n";
        let text = text.replace("b: >-\n    folded\n    text\n  }", "b: \"q\"}");
        let mut session = Session::default();
        let number = session.add("x".into(), text, PathBuf::from("/"));
        let node = read(&mut session, number).unwrap();
        let shown = |pointer: &str| session.text(node.at(pointer).unwrap().0.span).to_owned();
        assert_eq!(shown("/é"), "{a: [1, 'x y'], b: \"q\"}");
        assert_eq!(shown("/é/a/1"), "'x y'");
        assert_eq!(shown("/c/0/e"), "two words");
        assert_eq!(shown("/c"), "- d: 1\n    e: two words");
        assert_eq!(session.text(node.entry("é").unwrap().key_span), "é");
        assert_eq!(session.place(node.at("/c/0/d").unwrap().0.span), "x:3:8");
    }
}
