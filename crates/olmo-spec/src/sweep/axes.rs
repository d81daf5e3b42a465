//! The trials that `sweep:` defines, and the values that each of them sets ([`Sweep`]).
//! [`crate::sweep::trials`] makes their stages.

use std::collections::{HashMap, HashSet};

use olmo_base::nearest;
use olmo_base::text::quoted;
use serde_json::Value;

use crate::compose::layers::{Stages, check_target};
use crate::compose::params::{self, ParamSources};
use crate::compose::setting::Setting;
use crate::read::node::{Content, Entry, Node};
use crate::read::reference::is_name;
use crate::read::source::{Problem, Session, Span};
use crate::sweep::draw;
use crate::sweep::label;
use crate::sweep::value::canonical;

/// Maximum number of trials.
const MAX_TRIALS: usize = 100_000;
/// Maximum number of excludes: each is compared with each trial.
const MAX_EXCLUDES: usize = 1_000;
/// Maximum number of axes: a trial has a number for each.
const MAX_AXES: usize = 100;
/// Marks that a trial does not set an axis.
const UNSET: u32 = u32::MAX;

/// A path and its values in the trials.
#[derive(Debug)]
pub(crate) struct Axis {
    pub path: Vec<(String, Span)>,
    /// The path as text.
    pub shown: String,
    /// All different.
    pub values: Vec<Node>,
    /// The place in `values` of each value's canonical text.
    known: HashMap<String, u32>,
}

/// The trials of an experiment. Never empty.
#[derive(Debug)]
pub(crate) struct Sweep {
    pub axes: Vec<Axis>,
    /// For each trial the value's place for each axis, or [`UNSET`].
    rows: Vec<u32>,
    pub span: Span,
}

/// One factor of the product: a list of choices, each a set of (axis, value).
type Part = Vec<Vec<(usize, u32)>>;

impl Sweep {
    /// Number of trials.
    pub(crate) fn trials(&self) -> usize {
        // Without an axis all trials would be the same one.
        self.rows.len().checked_div(self.axes.len()).unwrap_or(1)
    }

    /// The places of the values of `trial`, by axis.
    pub(crate) fn row(&self, trial: usize) -> &[u32] {
        let width = self.axes.len();
        &self.rows[trial * width..(trial + 1) * width]
    }

    /// The settings of `trial` for `axes`.
    pub(crate) fn settings(&self, trial: usize, axes: impl IntoIterator<Item = usize>) -> Vec<Setting> {
        let row = self.row(trial);
        axes.into_iter()
            .filter(|&axis| row[axis] != UNSET)
            .map(|axis| Setting {
                path: self.axes[axis].path.clone(),
                value: self.axes[axis].values[row[axis] as usize].clone(),
            })
            .collect()
    }

    /// The values of `trial` by path.
    pub(crate) fn values(&self, trial: usize) -> serde_json::Map<String, Value> {
        let set = self.axes.iter().zip(self.row(trial)).filter(|(_, value)| **value != UNSET);
        set.map(|(axis, &value)| (axis.shown.clone(), axis.values[value as usize].to_json())).collect()
    }

    /// Whether it changes the param `name`, or a part of it.
    pub(crate) fn changes_param(&self, name: &str) -> bool {
        self.axes.iter().any(|axis| axis.path[0].0 == "params" && axis.path[1].0 == name)
    }

    /// The axes whose values differ between trials.
    pub(crate) fn differing(&self) -> Vec<bool> {
        let first = self.row(0);
        let mut differing = vec![false; self.axes.len()];
        for trial in 1..self.trials() {
            for (axis, value) in self.row(trial).iter().enumerate() {
                differing[axis] |= *value != first[axis];
            }
        }
        differing
    }

    /// The words that distinguish values in names, by axis and value; empty if unset.
    pub(crate) fn labels(&self) -> label::Labels {
        let paths: Vec<&str> = self.axes.iter().map(|axis| axis.shown.as_str()).collect();
        let values = self.axes.iter().map(|axis| axis.values.iter().map(Node::to_json).collect()).collect();
        label::Labels::new(&paths, values)
    }
}

/// Reads `node`, the experiment's `sweep`, and the lists of `--sweep`. `None` if there is nothing to
/// sweep, or if there are errors, which are reported. Paths in `settings` are not swept.
pub(crate) fn read(
    session: &mut Session,
    node: Option<&Node>,
    lists: &[Setting],
    settings: &[Setting],
) -> Option<Sweep> {
    let before = session.errors();
    let mut reader = Reader { session, axes: Vec::new(), parts: Vec::new(), lists };
    let node = node.filter(|node| !node.is_null());
    let (mut excludes, mut includes): (&[Node], Option<&Node>) = (&[], None);
    for part in node.map_or(&[][..], Node::entries) {
        match part.key.as_str() {
            "grid" => part.value.entries().iter().for_each(|entry| reader.grid(entry)),
            "zip" => reader.zip(part.value.entries()),
            "list" => reader.list(&part.value),
            "random" => reader.random(&part.value),
            // They may name paths that the other parts sweep.
            "include" => includes = Some(&part.value),
            "exclude" => excludes = items(&part.value),
            // Reported with the file's form.
            _ => {}
        }
    }
    for list in lists {
        reader.add_list(list);
    }
    let span = node.map_or_else(|| lists.first().map_or(Span::DEFAULT, |list| list.value.span), |node| node.span);
    let include = includes.map_or_else(Vec::new, |node| reader.rows(node));
    let Reader { session, axes, parts, .. } = reader;
    let mut sweep = Sweep { axes, rows: Vec::new(), span };
    if session.errors() > before || sweep.axes.is_empty() {
        return None;
    }
    sweep.multiply(session, &parts, include.len())?;
    for row in &include {
        sweep.push(row);
    }
    // Other values from the command line may leave nothing to exclude.
    sweep.exclude(session, excludes, lists.is_empty())?;
    sweep.drop_set(settings);
    (!sweep.axes.is_empty() && !sweep.rows.is_empty()).then_some(sweep)
}

impl Sweep {
    /// Makes all combinations of `parts`. `more` trials will be added later.
    fn multiply(&mut self, session: &mut Session, parts: &[Part], more: usize) -> Option<()> {
        if parts.is_empty() {
            return Some(());
        }
        let count = parts.iter().try_fold(1usize, |count, part| count.checked_mul(part.len()));
        let Some(count) = count.filter(|count| count.saturating_add(more) <= MAX_TRIALS) else {
            let message = format!("this sweep has more than {MAX_TRIALS} trials");
            let help = "draw some of them: `random: {seed: 1, trials: 100, values: {…}}`".to_owned();
            session.report(Problem::new("spec::too_many_trials", self.span, message).help(help));
            return None;
        };
        self.rows.reserve(count * self.axes.len());
        let mut row = Vec::new();
        for trial in 0..count {
            row.clear();
            let (mut rest, mut size) = (trial, count);
            for part in parts {
                size /= part.len();
                row.extend_from_slice(&part[rest / size]);
                rest %= size;
            }
            self.push(&row);
        }
        Some(())
    }

    fn push(&mut self, row: &[(usize, u32)]) {
        let start = self.rows.len();
        self.rows.resize(start + self.axes.len(), UNSET);
        for &(axis, value) in row {
            self.rows[start + axis] = value;
        }
    }

    /// Removes the trials that match `excludes`.
    fn exclude(&mut self, session: &mut Session, excludes: &[Node], strict: bool) -> Option<()> {
        if excludes.len() > MAX_EXCLUDES {
            let message = format!("more than {MAX_EXCLUDES} entries of `exclude`");
            session.report(Problem::new("spec::too_many_trials", excludes[MAX_EXCLUDES].span, message));
            return None;
        }
        let mut wanted: Vec<Vec<(usize, u32)>> = Vec::new();
        let before = session.errors();
        for node in excludes {
            let pairs: Option<Vec<_>> = node.entries().iter().map(|entry| self.find(session, entry, strict)).collect();
            wanted.extend(pairs);
        }
        if session.errors() > before {
            return None;
        }
        let out = |row: &[u32]| wanted.iter().any(|pairs| pairs.iter().all(|&(axis, value)| row[axis] == value));
        self.retain(|row| !out(row));
        if self.rows.is_empty() && !excludes.is_empty() {
            session.report(Problem::new("spec::no_trials", self.span, "this sweep has no trial: all are excluded"));
            return None;
        }
        Some(())
    }

    fn find(&self, session: &mut Session, entry: &Entry, strict: bool) -> Option<(usize, u32)> {
        let Some(axis) = self.axes.iter().position(|axis| axis.shown == entry.key) else {
            let message = format!("{} is not swept", quoted(&entry.key));
            let help = nearest::help(&entry.key, self.axes.iter().map(|axis| axis.shown.as_str()));
            session.report(Problem::new("spec::bad_sweep", entry.key_span, message).help(help));
            return None;
        };
        let place = self.axes[axis].known.get(&canonical(&entry.value.to_json()));
        if place.is_none() && strict {
            let message = format!("no trial has {} for {}", entry.value.described(), quoted(&entry.key));
            session.report(Problem::new("spec::bad_sweep", entry.value.span, message));
        }
        Some((axis, *place?))
    }

    /// Keeps the trials for which `keep` holds, and the first of equal ones.
    fn retain(&mut self, keep: impl Fn(&[u32]) -> bool) {
        let width = self.axes.len();
        let mut seen: HashSet<&[u32]> = HashSet::new();
        let kept: Vec<u32> =
            self.rows.chunks_exact(width).filter(|row| keep(row) && seen.insert(row)).flatten().copied().collect();
        self.rows = kept;
    }

    /// Removes paths that the command line sets: they are equal in all trials.
    fn drop_set(&mut self, settings: &[Setting]) {
        let set = |axis: &Axis| {
            settings.iter().any(|setting| {
                let mut names = setting.path.iter().zip(&axis.path);
                setting.path.len() <= axis.path.len() && names.all(|((a, _), (b, _))| a == b)
            })
        };
        let kept: Vec<usize> = (0..self.axes.len()).filter(|&axis| !set(&self.axes[axis])).collect();
        if kept.len() == self.axes.len() {
            return;
        }
        let rows = self.rows.chunks_exact(self.axes.len());
        self.rows = rows.flat_map(|row| kept.iter().map(|&axis| row[axis])).collect();
        let mut place = 0;
        self.axes.retain(|_| {
            place += 1;
            kept.contains(&(place - 1))
        });
        if !self.axes.is_empty() {
            self.retain(|_| true);
        }
    }
}

struct Reader<'s> {
    session: &'s mut Session,
    axes: Vec<Axis>,
    parts: Vec<Part>,
    /// Lists from the command line, which replace the same paths of a file's grid.
    lists: &'s [Setting],
}

impl Reader<'_> {
    fn grid(&mut self, entry: &Entry) {
        if self.lists.iter().any(|list| path_text(&list.path) == entry.key) {
            return;
        }
        if let Some(column) = self.column(entry) {
            self.parts.push(column.map(|pair| vec![pair]).collect());
        }
    }

    fn add_list(&mut self, list: &Setting) {
        let text = path_text(&list.path);
        let key_span = list.path.first().map_or(list.value.span, |(_, span)| *span);
        let entry = Entry { key: text, key_span, value: list.value.clone() };
        if let Some(column) = self.column(&entry) {
            self.parts.push(column.map(|pair| vec![pair]).collect());
        }
    }

    fn zip(&mut self, entries: &[Entry]) {
        let mut columns: Vec<(&Entry, usize, Vec<u32>)> = Vec::new();
        for entry in entries {
            let Some(axis) = self.new_axis(&entry.key, entry.key_span) else { continue };
            let column: Vec<u32> = items(&entry.value).iter().map(|item| self.axes[axis].place(item)).collect();
            if let Some((first, _, values)) = columns.first().filter(|(_, _, values)| values.len() != column.len()) {
                let (one, other) = (quoted(&first.key), quoted(&entry.key));
                let message = format!("{one} has {} values and {other} has {}", values.len(), column.len());
                let help = "the lists in `zip` are equally long; `grid` makes every combination".to_owned();
                self.session.report(Problem::new("spec::bad_sweep", entry.value.span, message).help(help));
                return;
            }
            columns.push((entry, axis, column));
        }
        let count = columns.first().map_or(0, |(_, _, column)| column.len());
        if count > 0 {
            let row = |at: usize| columns.iter().map(|(_, axis, column)| (*axis, column[at])).collect();
            self.parts.push((0..count).map(row).collect());
        }
    }

    fn list(&mut self, node: &Node) {
        let rows = self.rows(node);
        if !rows.is_empty() {
            self.parts.push(rows);
        }
    }

    /// Reads trials that are listed one by one.
    fn rows(&mut self, node: &Node) -> Part {
        let mut rows = Vec::new();
        for trial in items(node) {
            let mut row = Vec::new();
            for entry in trial.entries() {
                if let Some(axis) = self.axis(&entry.key, entry.key_span) {
                    row.push((axis, self.axes[axis].place(&entry.value)));
                }
            }
            rows.push(row);
        }
        rows
    }

    fn random(&mut self, node: &Node) {
        let number = |key: &str| node.get(key).and_then(|node| node.to_json().as_u64());
        let (Some(seed), Some(trials), Some(values)) = (number("seed"), number("trials"), node.get("values")) else {
            return;
        };
        let trials = usize::try_from(trials).unwrap_or(usize::MAX).min(MAX_TRIALS);
        let mut rows: Part = vec![Vec::new(); trials];
        for entry in values.entries() {
            let [kind] = entry.value.entries() else { continue };
            // Reported with the file's form.
            if !draw::KINDS.contains(&kind.key.as_str()) {
                continue;
            }
            let Some(axis) = self.new_axis(&entry.key, entry.key_span) else { continue };
            let drawn = match draw::Distribution::read(&kind.key, &kind.value.to_json()) {
                Ok(distribution) => distribution,
                Err(fault) => {
                    self.session.report(Problem::new("spec::bad_sweep", kind.value.span, fault));
                    continue;
                }
            };
            for (trial, row) in rows.iter_mut().enumerate() {
                let value = match drawn.draw(seed, &entry.key, trial as u64) {
                    draw::Drawn::Number(value) => Node::from_json(&value, kind.value.span),
                    draw::Drawn::Choice(at) => match items(&kind.value).get(at) {
                        Some(item) => item.clone(),
                        None => continue,
                    },
                };
                row.push((axis, self.axes[axis].place(&value)));
            }
        }
        if !values.entries().is_empty() {
            self.parts.push(rows);
        }
    }

    /// The axis of `entry` and each of its values.
    fn column(&mut self, entry: &Entry) -> Option<impl Iterator<Item = (usize, u32)> + use<>> {
        let axis = self.new_axis(&entry.key, entry.key_span)?;
        let places: Vec<u32> = items(&entry.value).iter().map(|item| self.axes[axis].place(item)).collect();
        let mut seen = HashSet::new();
        let different: Vec<u32> = places.into_iter().filter(|place| seen.insert(*place)).collect();
        (!different.is_empty()).then(|| different.into_iter().map(move |place| (axis, place)))
    }

    /// The axis of `path`, which no other part of the sweep may have.
    fn new_axis(&mut self, path: &str, span: Span) -> Option<usize> {
        if let Some(known) = self.axes.iter().find(|axis| axis.shown == path) {
            let message = format!("{} is swept twice", quoted(path));
            let first = known.path.first().map(|(_, span)| *span);
            self.session.report(Problem::new("spec::bad_sweep", span, message).note_at("it is first", first));
            return None;
        }
        self.axis(path, span)
    }

    fn axis(&mut self, path: &str, span: Span) -> Option<usize> {
        if let Some(known) = self.axes.iter().position(|axis| axis.shown == path) {
            return Some(known);
        }
        let names: Vec<(String, Span)> = path.split('.').map(|name| (name.to_owned(), span)).collect();
        let sound = names.len() > 1
            && ["params", "stages"].contains(&names[0].0.as_str())
            && names.iter().all(|(name, _)| is_name(name));
        // Another form is reported with the file's.
        if !sound {
            return None;
        }
        if self.axes.len() >= MAX_AXES {
            let message = format!("this sweep has more than {MAX_AXES} paths");
            self.session.report(Problem::new("spec::too_many_trials", span, message));
            return None;
        }
        self.axes.push(Axis { path: names, shown: path.to_owned(), values: Vec::new(), known: HashMap::new() });
        Some(self.axes.len() - 1)
    }
}

impl Axis {
    /// The index of `value` among the values.
    fn place(&mut self, value: &Node) -> u32 {
        let next = self.values.len() as u32;
        let place = *self.known.entry(canonical(&value.to_json())).or_insert(next);
        if place == next {
            self.values.push(value.clone());
        }
        place
    }
}

/// Reports axes whose path does not exist.
pub(crate) fn check_targets(session: &mut Session, sweep: &Sweep, sources: &ParamSources<'_>, stages: &Stages) {
    for axis in &sweep.axes {
        let Some((name, span)) = axis.path.get(1) else { continue };
        if axis.path[0].0 == "params" {
            if sources.place(name).is_none() {
                params::unknown(session, sources.declared, name, *span);
            }
            continue;
        }
        if axis.path.get(2).is_some_and(|(part, _)| part == "for_each") {
            let message = format!("{} cannot be swept", quoted(&axis.shown));
            let help = "a sweep sets values: `params.NAME` or `stages.NAME.with.NAME`".to_owned();
            session.report(Problem::new("spec::bad_sweep", *span, message).help(help));
            continue;
        }
        let value = axis.values.first().map_or_else(|| Node::unknown(*span), Node::clone);
        check_target(session, stages, &Setting { path: axis.path.clone(), value });
    }
}

fn path_text(path: &[(String, Span)]) -> String {
    path.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".")
}

fn items(node: &Node) -> &[Node] {
    match &node.content {
        Content::Array(items) => items,
        _ => &[],
    }
}
