//! [`Sink`]: counts, filters and writes parsed records, in order.

use std::collections::{BTreeMap, HashSet};

use olmo_data::Conversation;
use olmo_data::dataset::{DatasetManifest, DatasetWriter, Kind, Record};
use olmo_stage::{Context, StageError};
use serde_json::Value;

use crate::format::Format;
use crate::params::{FetchParams, Filter, OnError};
use crate::record::{BadRecord, Layout, Notes, Read};

/// Maximum number of bad records in a message; the rest is counted.
const SHOWN: usize = 20;

/// A record that may be filtered.
pub(crate) trait Item: Record + Clone + Send {
    /// Its id, if it has its own.
    fn id(&self) -> Option<&str>;
    /// Sets its id to `number` if it has none.
    fn number(&mut self, number: u64);
    /// Digest of its content, regardless of its origin.
    fn digest(&self) -> blake3::Hash;
    fn keeps(&self, filter: &Filter) -> bool;
    /// Parses the record in a line; `None` if the line is blank.
    fn of_line(layout: &Layout, line: &[u8]) -> Read<Self>;
    /// Parses the record in a JSON value.
    fn of_value(layout: &Layout, value: &Value) -> Read<Self>;
}

impl Item for Conversation {
    fn id(&self) -> Option<&str> {
        Some(self.id.as_str()).filter(|id| !id.is_empty())
    }

    fn number(&mut self, number: u64) {
        if self.id.is_empty() {
            self.id = number.to_string();
        }
    }

    fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let mut update = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        for message in &self.messages {
            update(message.role.as_str());
            update(message.text());
            update(&serde_json::to_string(&message.fields).unwrap_or_default());
        }
        for value in [&self.tools, &self.documents] {
            update(&value.as_ref().map(Value::to_string).unwrap_or_default());
        }
        hasher.finalize()
    }

    fn of_line(layout: &Layout, line: &[u8]) -> Read<Self> {
        layout.conversation_line(line)
    }

    fn of_value(layout: &Layout, value: &Value) -> Read<Self> {
        layout.conversation(value)
    }

    fn keeps(&self, filter: &Filter) -> bool {
        let messages = self.messages.len() as u64;
        let chars = || self.messages.iter().map(|m| m.text().chars().count() as u64).sum::<u64>();
        (filter.datasets.is_empty() || filter.datasets.contains(&self.dataset))
            && messages >= filter.min_messages
            && (filter.max_messages == 0 || messages <= filter.max_messages)
            && (filter.max_chars == 0 || chars() <= filter.max_chars)
    }
}

impl Item for String {
    fn id(&self) -> Option<&str> {
        None
    }

    fn number(&mut self, _: u64) {}

    fn digest(&self) -> blake3::Hash {
        blake3::hash(self.as_bytes())
    }

    fn keeps(&self, filter: &Filter) -> bool {
        filter.max_chars == 0 || self.chars().count() as u64 <= filter.max_chars
    }

    fn of_line(layout: &Layout, line: &[u8]) -> Read<Self> {
        layout.document_line(line)
    }

    fn of_value(layout: &Layout, value: &Value) -> Read<Self> {
        layout.document(value)
    }
}

/// An event that happened to records: how often, and where first.
#[derive(Default)]
struct Tally {
    count: u64,
    first: Option<String>,
}

impl Tally {
    fn add(&mut self, count: u64, place: impl Fn() -> String) {
        self.count += count;
        if count > 0 && self.first.is_none() {
            self.first = Some(place().trim_end_matches(':').to_owned());
        }
    }

    /// For example `3 turns are …; the first is in some.jsonl:7`; `None` if it never happened.
    fn report(self, one: &str, many: &str) -> Option<String> {
        let what = if self.count == 1 { one } else { many };
        Some(format!("{} {what}; the first is in {}", self.count, self.first?))
    }
}

/// Writes and counts records.
pub(crate) struct Sink<'p, T: Item> {
    params: &'p FetchParams,
    writer: DatasetWriter<T>,
    /// Number of records seen, including bad ones.
    seen: u64,
    bad: u64,
    shown: Vec<String>,
    /// Number of bad records that have the keys of another format.
    looks_like: BTreeMap<Format, u64>,
    unknown_role: Option<String>,
    empty_system: Tally,
    empty_answers: Tally,
    cut: Tally,
    filtered: u64,
    repeated: u64,
    /// Truncated digests of contents, and of ids.
    said: HashSet<[u8; 16]>,
    ids: HashSet<[u8; 8]>,
    same_id: u64,
    first_same_id: Option<String>,
    source: usize,
    kept_of_source: u64,
    seen_of_source: u64,
}

impl<'p, T: Item> Sink<'p, T> {
    pub(crate) fn create(params: &'p FetchParams, context: &Context) -> Result<Self, StageError> {
        let writer = DatasetWriter::create(&context.output("dataset")?)?;
        let writer = if context.request.threads > 1 { writer.beside()? } else { writer };
        Ok(Self {
            params,
            writer,
            seen: 0,
            bad: 0,
            shown: Vec::new(),
            looks_like: BTreeMap::new(),
            unknown_role: None,
            empty_system: Tally::default(),
            empty_answers: Tally::default(),
            cut: Tally::default(),
            filtered: 0,
            repeated: 0,
            said: HashSet::new(),
            ids: HashSet::new(),
            same_id: 0,
            first_same_id: None,
            source: 0,
            kept_of_source: 0,
            seen_of_source: 0,
        })
    }

    /// Starts source `source`, counted from 0.
    pub(crate) fn begin(&mut self, source: usize) {
        (self.source, self.kept_of_source, self.seen_of_source) = (source, 0, 0);
    }

    /// Whether the limit of this source is reached.
    pub(crate) fn full(&self) -> bool {
        self.params.limit > 0 && self.kept_of_source >= self.params.limit
    }

    /// Takes a record; `place` describes it in messages.
    pub(crate) fn push(
        &mut self,
        record: Result<(T, Notes), BadRecord>,
        place: impl Fn() -> String,
    ) -> Result<(), StageError> {
        self.seen += 1;
        self.seen_of_source += 1;
        let mut record = match record {
            Ok((record, notes)) => {
                self.empty_system.add(notes.system, &place);
                self.empty_answers.add(notes.answers, &place);
                self.cut.add(notes.cut, &place);
                record
            }
            Err(reason) => {
                self.bad += 1;
                match &reason {
                    BadRecord::Missing { looks_like: Some(format), .. } => {
                        *self.looks_like.entry(*format).or_default() += 1;
                    }
                    BadRecord::UnknownRole(_, role) if self.unknown_role.is_none() => {
                        self.unknown_role = Some(role.0.clone());
                    }
                    _ => {}
                }
                if self.shown.len() < SHOWN {
                    self.shown.push(format!("{} {reason}", place()));
                }
                return Ok(());
            }
        };
        if let Some(id) = record.id() {
            let digest = blake3::hash(id.as_bytes());
            if !self.ids.insert(digest.as_bytes()[..8].try_into().unwrap_or_default()) {
                self.same_id += 1;
                self.first_same_id.get_or_insert_with(|| format!("{} has the id `{}`", place(), id.escape_debug()));
            }
        }
        record.number(self.seen);
        if !record.keeps(&self.params.filter) {
            self.filtered += 1;
            return Ok(());
        }
        if self.params.dedup && !self.said.insert(record.digest().as_bytes()[..16].try_into().unwrap_or_default()) {
            self.repeated += 1;
            return Ok(());
        }
        let copies = self.copies();
        for _ in 1..copies {
            self.write(record.clone())?;
        }
        if copies > 0 { self.write(record) } else { Ok(()) }
    }

    /// Writes a record, unless the limit is reached.
    fn write(&mut self, record: T) -> Result<(), StageError> {
        if !self.full() {
            self.kept_of_source += 1;
            self.writer.push(record)?;
        }
        Ok(())
    }

    /// Number of copies to write of the current record.
    fn copies(&self) -> u64 {
        let Some(weight) = self.params.weights.get(self.source) else { return 1 };
        let mut hasher = blake3::Hasher::new();
        for number in [self.params.seed, self.source as u64, self.seen_of_source] {
            hasher.update(&number.to_le_bytes());
        }
        let draw = u32::from_le_bytes(hasher.finalize().as_bytes()[..4].try_into().unwrap_or_default());
        weight.floor() as u64 + u64::from(f64::from(draw) < weight.fract() * 4_294_967_296.0)
    }

    /// The format that every record looks like, if it differs from the given one.
    fn other_format(&self) -> Option<&'static str> {
        let mut formats = self.looks_like.iter();
        let (format, count) = formats.next()?;
        (*count == self.seen && self.seen == self.bad).then(|| format.as_str())
    }

    /// How to fix the bad records.
    fn hint(&self) -> String {
        if let Some(format) = self.other_format() {
            return format!("every record looks like format `{format}`: set `format: {format}`, or `format: auto`");
        }
        let mend = "fix these lines, or drop them with `on_error: skip`";
        match &self.unknown_role {
            Some(role) => {
                format!("map the role `{0}`, as in `roles: {{{0}: assistant}}`; or {mend}", role.escape_debug())
            }
            None => mend.to_owned(),
        }
    }

    /// Completes the dataset, or reports why there is none.
    pub(crate) fn finish(self, sources: &[String], context: &mut Context) -> Result<DatasetManifest, StageError> {
        let (records, are) = if self.bad == 1 { ("line", "is") } else { ("lines", "are") };
        let more = match self.bad - self.shown.len() as u64 {
            0 => String::new(),
            more => format!("\n… and {more} more"),
        };
        let list = format!("{}{more}", self.shown.join("\n"));
        if self.bad > 0 && self.params.on_error == OnError::Fail {
            return Err(StageError::fail("fetch::bad_lines", format!("{} {records} {are} bad:\n{list}", self.bad))
                .hint(self.hint()));
        }
        if self.bad > 0 {
            context.warning(format!("{} {records} {are} skipped:\n{list}", self.bad));
        }
        if self.writer.records() == 0 {
            let what = if T::KIND == Kind::Text { "document" } else { "conversation" };
            let left_out = self.bad + self.filtered + self.repeated;
            let message = format!("there is no {what} in {} ({left_out} records dropped)", sources.join(", "));
            let hint =
                if self.other_format().is_some() { self.hint() } else { "check `files`, `format` and `filter`".into() };
            return Err(StageError::fail("fetch::empty", message).hint(hint));
        }
        let system = self.empty_system.report("empty system turn is dropped", "empty system turns are dropped");
        let answers = self.empty_answers.report(
            "empty answer at the end of a conversation is dropped",
            "empty answers at the end of conversations are dropped",
        );
        let cut = self
            .cut
            .report("conversation is cut before an empty answer", "conversations are cut before an empty answer");
        if let Some(text) = system {
            context.message(text);
        }
        answers.into_iter().chain(cut).for_each(|text| context.warning(text));
        if self.filtered > 0 {
            context.message(format!("{} of {} records are dropped by `filter`", self.filtered, self.seen));
        }
        if self.repeated > 0 {
            context.message(format!("{} of {} records are dropped as duplicates", self.repeated, self.seen));
        }
        if let Some(first) = self.first_same_id {
            context.warning(format!("{} records have the id of an earlier record; {first}", self.same_id));
        }
        let manifest = self.writer.finish(self.bad)?;
        context.message(format!("{} {}", manifest.records, manifest.kind.as_str()));
        Ok(manifest)
    }
}
