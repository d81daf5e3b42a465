//! `--set PATH=VALUE`: a value from the command line, which overrides all files.

use std::path::Path;

use olmo_base::nearest;
use olmo_base::text::quoted;

use crate::read::node::{Content, Entry, Node};
use crate::read::reference::is_name;
use crate::read::source::{Problem, SET, Session, Span};
use crate::read::yaml;

/// A value from the command line.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// The names of the path, at least two: `params` or `stages` or `outputs` first.
    pub path: Vec<(String, Span)>,
    pub value: Node,
}

/// The roots of the path grammar that can be set.
const ROOTS: [&str; 3] = ["params", "stages", "outputs"];

/// Reads `text`, the argument of `--set`. Paths in the value are relative to `cwd`.
pub(crate) fn read(session: &mut Session, text: &str, cwd: &Path) -> Option<Setting> {
    read_argument(session, SET, text, cwd)
}

fn read_argument(session: &mut Session, option: &str, text: &str, cwd: &Path) -> Option<Setting> {
    let source = session.add(option.to_owned(), text.to_owned(), cwd.to_owned());
    let span = |start: usize, end: usize| Span { source, start: start as u32, end: end as u32 };
    let Some((path, value)) = text.split_once('=') else {
        let help = format!("write {option} PATH=VALUE, e.g. {option} params.seed=7");
        session.report(
            Problem::new("spec::bad_set", span(0, text.len()), format!("{} has no `=`", quoted(text))).help(help),
        );
        return None;
    };
    let mut names = Vec::new();
    let mut at = 0;
    for name in path.split('.') {
        let here = span(at, at + name.len());
        at += name.len() + 1;
        if !is_name(name) {
            let message = format!("{} is no path", quoted(path));
            let help = "names of letters, digits, `_` and `-`, joined by dots: params.seed".to_owned();
            session.report(Problem::new("spec::bad_set", here, message).help(help));
            return None;
        }
        names.push((name.to_owned(), here));
    }
    let root = names.first().map_or("", |(name, _)| name.as_str());
    if !ROOTS.contains(&root) || names.len() < 2 {
        let help = match nearest::nearest(root, &ROOTS).first() {
            Some(near) if names.len() > 1 => format!("did you mean {}?", quoted(&path.replacen(root, near, 1))),
            _ if names.len() == 1 && !ROOTS.contains(&root) => format!("a param is set by `params.{path}=…`"),
            _ => "a path begins with `params.NAME`, `stages.NAME.with.NAME` or `outputs.NAME`".to_owned(),
        };
        let message = format!("{} names nothing that can be set", quoted(path));
        session.report(Problem::new("spec::bad_set", span(0, path.len()), message).help(help));
        return None;
    }
    let start = path.len() + 1;
    if value.trim().is_empty() {
        let help = "write '' or null for an empty value".to_owned();
        session
            .report(Problem::new("spec::bad_set", span(0, text.len()), "there is no value behind the `=`").help(help));
        return None;
    }
    let value_node = yaml::read_from(session, source, start)?;
    let begin = start + (value.len() - value.trim_start().len());
    let end = begin + value.trim().len();
    let block =
        matches!(value_node.content, Content::Array(_) | Content::Object(_)) && !value.trim().starts_with(['[', '{']);
    // ` #` would silently begin a comment.
    if block || (value_node.span.end as usize) < end {
        let message = format!("{} is more than one plain value", quoted(value.trim()));
        let help = format!("put quotes around a text: {option} {path}='\"…\"'; a list is [a, b], a map {{a: 1}}");
        session.report(Problem::new("spec::bad_set", span(begin, end), message).help(help));
        return None;
    }
    Some(Setting { path: names, value: value_node })
}

/// Reads `text`, the argument of `--sweep`: a path and a list of values for it.
pub(crate) fn read_list(session: &mut Session, text: &str, cwd: &Path) -> Option<Setting> {
    let setting = read_argument(session, "--sweep", text, cwd)?;
    let list = matches!(&setting.value.content, Content::Array(items) if !items.is_empty());
    if !list || setting.path[0].0 == "outputs" {
        let help = "write --sweep PATH=[VALUE, VALUE], e.g. --sweep params.lr=[1e-4, 2e-4]".to_owned();
        let message = format!("{} is no path with a list of values", quoted(text));
        session.report(Problem::new("spec::bad_sweep", setting.value.span, message).help(help));
        return None;
    }
    Some(setting)
}

/// Puts `value` at `path` below the map `entries`, which is called `shown`.
pub(crate) fn put(session: &mut Session, entries: &mut Vec<Entry>, path: &[(String, Span)], value: Node, shown: &str) {
    let Some(((name, span), rest)) = path.split_first() else { return };
    let entry = match entries.iter().position(|entry| entry.key == *name) {
        Some(found) => &mut entries[found],
        None => {
            // Unknown keys are reported by the check against the contract.
            let value = Node::new(*span, Content::Object(Vec::new()));
            entries.push(Entry { key: name.clone(), key_span: *span, value });
            let last = entries.len() - 1;
            &mut entries[last]
        }
    };
    put_into(session, entry, rest, value, &format!("{shown}.{name}"));
}

/// Puts `value` at `path` below `entry`.
fn put_into(session: &mut Session, entry: &mut Entry, path: &[(String, Span)], value: Node, shown: &str) {
    let Some(((name, span), rest)) = path.split_first() else {
        entry.value = value;
        return;
    };
    let refused = match &mut entry.value.content {
        Content::Object(entries) => return put(session, entries, path, value, shown),
        Content::Array(items) => {
            let count = items.len();
            match name.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                Some(item) => {
                    let mut part = Entry { key: name.clone(), key_span: *span, value: item.clone() };
                    put_into(session, &mut part, rest, value, &format!("{shown}.{name}"));
                    *item = part.value;
                    return;
                }
                None => format!("`{shown}` has {count} items, numbered from 0; there is no {}", quoted(name)),
            }
        }
        Content::Unknown => return,
        Content::Null => {
            entry.value.content = Content::Object(Vec::new());
            return put_into(session, entry, path, value, shown);
        }
        _ => format!("`{shown}` is {}; it has no part {}", entry.value.described(), quoted(name)),
    };
    session.report(Problem::new("spec::bad_set", *span, refused).help(format!("set `{shown}` as a whole")));
}
