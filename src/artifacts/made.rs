//! [`RunOutputs`]: the artifacts that each task of a run made or used, as a fold over the run's
//! events.

use std::collections::BTreeMap;

use olmo_base::{ActionKey, ArtifactId};

use crate::run::{self, Place, Record, RunError, RunEvent, RunId, RunState, Used};
use crate::store::{ListItem, Output, Store};

/// The artifacts that a run has made or used so far.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOutputs {
    pub state: RunState,
    /// Tasks in the order of their first event.
    pub tasks: Vec<TaskOutputs>,
}

/// The artifacts that one task has made.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskOutputs {
    pub place: Place,
    pub key: Option<ActionKey>,
    /// All outputs, once the task is done.
    pub outputs: BTreeMap<String, Output>,
    /// The items reported so far, by list port.
    pub items: BTreeMap<String, Vec<ListItem>>,
    /// The resources that its process used, if it ran in this run and is done.
    pub used: Option<Used>,
    /// Time of its latest start in this run, in milliseconds since 1970.
    pub started_ms: Option<u64>,
    /// Time of its end in milliseconds since 1970, if it ran in this run and is done.
    pub finished_ms: Option<u64>,
    /// The number of its latest attempt.
    pub attempt: Option<u32>,
}

impl RunOutputs {
    /// Reads what run `id` has made so far.
    pub fn read(store: &Store, id: &RunId) -> Result<Self, RunError> {
        let state = run::show(store, id)?;
        let records = run::read_events(&run::folder(store, id))?.records;
        Ok(Self { state, tasks: fold(&records) })
    }

    /// Reads the outputs of all runs in the store, oldest first.
    pub fn all(store: &Store) -> Result<Vec<Self>, RunError> {
        run::all(store)?.iter().map(|id| Self::read(store, id)).collect()
    }

    /// All artifacts that the run made, used from the cache, or reported.
    pub fn artifacts(&self) -> std::collections::BTreeSet<ArtifactId> {
        self.tasks.iter().flat_map(TaskOutputs::artifacts).collect()
    }
}

impl TaskOutputs {
    fn new(place: &Place) -> Self {
        Self {
            place: place.clone(),
            key: None,
            outputs: BTreeMap::new(),
            items: BTreeMap::new(),
            used: None,
            started_ms: None,
            finished_ms: None,
            attempt: None,
        }
    }

    /// The output in `port`, or the items that were reported for it so far.
    pub fn port(&self, port: &str) -> Option<Output> {
        let reported = || self.items.get(port).map(|items| Output::List(items.clone()));
        self.outputs.get(port).cloned().or_else(reported)
    }

    /// The names of all ports that [`TaskOutputs::port`] knows, sorted.
    pub fn ports(&self) -> Vec<&str> {
        let mut ports: Vec<&str> = self.outputs.keys().chain(self.items.keys()).map(String::as_str).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// All artifacts in its outputs and reported items.
    pub fn artifacts(&self) -> impl Iterator<Item = ArtifactId> + '_ {
        let items = self.items.values().flatten().map(|item| item.digest);
        self.outputs.values().flat_map(Output::artifacts).chain(items)
    }

    fn apply(&mut self, record: &Record) {
        match &record.event {
            RunEvent::Cached { key, outputs, .. } => {
                self.key = Some(*key);
                self.outputs.clone_from(outputs);
            }
            RunEvent::Waiting { key, .. } => self.key = Some(*key),
            RunEvent::Started { key, attempt, .. } => {
                (self.key, self.attempt) = (Some(*key), Some(*attempt));
                (self.started_ms, self.finished_ms) = (Some(record.at), None);
            }
            RunEvent::Resumed { port, keep, .. } => {
                if let Some(items) = self.items.get_mut(port) {
                    items.retain(|item| keep.contains(&item.label));
                }
            }
            RunEvent::Item { port, label, artifact, .. } => {
                let items = self.items.entry(port.clone()).or_default();
                match items.iter_mut().find(|item| item.label == *label) {
                    Some(item) => item.digest = *artifact,
                    None => items.push(ListItem { label: label.clone(), digest: *artifact }),
                }
            }
            RunEvent::Finished { key, outputs, used, shared, .. } => {
                self.key = Some(*key);
                self.outputs.clone_from(outputs);
                if !shared {
                    (self.used, self.finished_ms) = (Some(*used), Some(record.at));
                }
            }
            _ => {}
        }
    }
}

fn fold(records: &[Record]) -> Vec<TaskOutputs> {
    let mut tasks: Vec<TaskOutputs> = Vec::new();
    let mut at: BTreeMap<Place, usize> = BTreeMap::new();
    for record in records {
        let Some(place) = record.event.place() else { continue };
        let index = *at.entry(place.clone()).or_insert_with(|| {
            tasks.push(TaskOutputs::new(place));
            tasks.len() - 1
        });
        tasks[index].apply(record);
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_base::Digest;

    #[test]
    fn items_count_before_their_stage_is_done_and_a_resume_may_remove_them() {
        let place = Place { stage: "train".into(), item: None };
        let item = |label: &str, text: &str| RunEvent::Item {
            place: place.clone(),
            port: "checkpoints".into(),
            label: label.into(),
            artifact: ArtifactId::new(Digest::of(text.as_bytes())),
        };
        let resumed =
            RunEvent::Resumed { place: place.clone(), step: 1, port: "checkpoints".into(), keep: vec!["s1".into()] };
        let events = [item("s1", "1"), item("s2", "2"), resumed, item("s2", "other")];
        let records: Vec<Record> = events.into_iter().map(|event| Record { at: 1, event }).collect();
        let tasks = fold(&records);
        let items = &tasks[0].items["checkpoints"];
        assert_eq!(items.iter().map(|i| i.label.as_str()).collect::<Vec<_>>(), ["s1", "s2"]);
        assert_eq!(items[1].digest, ArtifactId::new(Digest::of(b"other")));
        assert_eq!(tasks[0].ports(), ["checkpoints"]);
    }

    use proptest::prelude::*;

    use crate::mutations::{corpus, mutated};

    /// A line of a journal with a valid checksum.
    fn line(body: &str) -> String {
        format!("{{\"c\":\"{}\",\"e\":{body}}}\n", &Digest::of(body.as_bytes()).hex()[..8])
    }

    fn lines() -> Vec<String> {
        corpus("events").into_iter().flat_map(|(_, text)| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_damaged_journal_of_a_run_is_read_up_to_the_damage(
            bodies in prop::collection::vec(mutated(lines()), 0..12),
            garbage in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut bytes: Vec<u8> = bodies.iter().flat_map(|body| line(body).into_bytes()).collect();
            bytes.extend(garbage);
            std::fs::write(dir.path().join("events.jsonl"), bytes).unwrap();
            // Lines that this build does not understand are an error or end the journal, but never
            // panic.
            if let Ok(records) = run::read_events(dir.path()).map(|events| events.records) {
                prop_assert!(records.len() <= bodies.len() + 1);
                let _ = fold(&records);
                let id = RunId::parse("20260131-235959-0f3a").unwrap();
                let _ = (RunState::fold(id.clone(), &records, true), RunState::fold(id, &records, false));
            }
        }
    }

    #[test]
    fn the_sample_journal_of_a_run_is_read_completely() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in corpus("events") {
            let journal: String = text.lines().map(line).collect();
            std::fs::write(dir.path().join("events.jsonl"), journal).unwrap();
            let records = run::read_events(dir.path()).unwrap().records;
            assert_eq!(records.len(), text.lines().count(), "{name}");
            assert!(records.iter().any(|r| r.event == RunEvent::Unknown), "an event of a newer build is skipped");
        }
    }
}
