//! [`RunMade`]: which artifacts a run made or used, piece of work by piece of work, from its
//! events.

use std::collections::BTreeMap;

use olmo_base::Digest;

use crate::run::{self, Place, Record, RunError, RunEvent, RunId, RunState, Used};
use crate::store::{ListItem, Output, Store};

/// What a run made or used so far.
#[derive(Clone, Debug, PartialEq)]
pub struct RunMade {
    pub state: RunState,
    /// In the order of their first event.
    pub pieces: Vec<Made>,
}

/// What one piece of work made.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    pub place: Place,
    pub key: Option<Digest>,
    /// All of it, once the piece is done.
    pub outputs: BTreeMap<String, Output>,
    /// By list port, what was reported so far.
    pub items: BTreeMap<String, Vec<ListItem>>,
    /// What its process used, if it ran in this run and is done.
    pub used: Option<Used>,
    /// Milliseconds since 1970, of its latest start in this run.
    pub started_ms: Option<u64>,
    /// Milliseconds since 1970, of its end, if it ran in this run and is done.
    pub finished_ms: Option<u64>,
    /// The number of its latest attempt.
    pub attempt: Option<u32>,
}

impl RunMade {
    /// Reads what run `id` made so far.
    pub fn of(store: &Store, id: &RunId) -> Result<Self, RunError> {
        let state = run::show(store, id)?;
        let records = run::read_events(&run::folder(store, id))?.records;
        Ok(Self { state, pieces: fold(&records) })
    }

    /// Of all runs in the store, the oldest first.
    pub fn all(store: &Store) -> Result<Vec<Self>, RunError> {
        run::all(store)?.iter().map(|id| Self::of(store, id)).collect()
    }

    /// Every artifact that it made, used from the cache, or reported, each once.
    pub fn artifacts(&self) -> std::collections::BTreeSet<Digest> {
        self.pieces.iter().flat_map(Made::artifacts).collect()
    }
}

impl Made {
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

    /// Its ports: what they hold, or what was reported for them so far.
    pub fn port(&self, port: &str) -> Option<Output> {
        let reported = || self.items.get(port).map(|items| Output::List(items.clone()));
        self.outputs.get(port).cloned().or_else(reported)
    }

    /// The names of [`Made::port`], sorted.
    pub fn ports(&self) -> Vec<&str> {
        let mut ports: Vec<&str> = self.outputs.keys().chain(self.items.keys()).map(String::as_str).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Every artifact in its outputs and reported items.
    pub fn artifacts(&self) -> impl Iterator<Item = Digest> + '_ {
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

fn fold(records: &[Record]) -> Vec<Made> {
    let mut pieces: Vec<Made> = Vec::new();
    let mut at: BTreeMap<Place, usize> = BTreeMap::new();
    for record in records {
        let Some(place) = record.event.place() else { continue };
        let index = *at.entry(place.clone()).or_insert_with(|| {
            pieces.push(Made::new(place));
            pieces.len() - 1
        });
        pieces[index].apply(record);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_count_before_their_stage_is_done_and_leave_with_a_resume() {
        let place = Place { stage: "train".into(), item: None };
        let item = |label: &str, text: &str| RunEvent::Item {
            place: place.clone(),
            port: "checkpoints".into(),
            label: label.into(),
            artifact: Digest::of(text.as_bytes()),
        };
        let resumed =
            RunEvent::Resumed { place: place.clone(), step: 1, port: "checkpoints".into(), keep: vec!["s1".into()] };
        let events = [item("s1", "1"), item("s2", "2"), resumed, item("s2", "other")];
        let records: Vec<Record> = events.into_iter().map(|event| Record { at: 1, event }).collect();
        let pieces = fold(&records);
        let items = &pieces[0].items["checkpoints"];
        assert_eq!(items.iter().map(|i| i.label.as_str()).collect::<Vec<_>>(), ["s1", "s2"]);
        assert_eq!(items[1].digest, Digest::of(b"other"));
        assert_eq!(pieces[0].ports(), ["checkpoints"]);
    }

    use proptest::prelude::*;

    use crate::mutations::{corpus, mutated};

    /// A line of a journal with a checksum that holds.
    fn line(body: &str) -> String {
        format!("{{\"c\":\"{}\",\"e\":{body}}}\n", &Digest::of(body.as_bytes()).hex()[..8])
    }

    fn lines() -> Vec<String> {
        corpus("events").into_iter().flat_map(|(_, text)| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_journal_of_a_run_is_read_as_far_as_it_is_sound(
            bodies in prop::collection::vec(mutated(lines()), 0..12),
            garbage in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut bytes: Vec<u8> = bodies.iter().flat_map(|body| line(body).into_bytes()).collect();
            bytes.extend(garbage);
            std::fs::write(dir.path().join("events.jsonl"), bytes).unwrap();
            // Lines that say nothing to this build are an error or the end, never a panic.
            if let Ok(records) = run::read_events(dir.path()).map(|events| events.records) {
                prop_assert!(records.len() <= bodies.len() + 1);
                let _ = fold(&records);
                let id = RunId::parse("20260131-235959-0f3a").unwrap();
                let _ = (RunState::fold(id.clone(), &records, true), RunState::fold(id, &records, false));
            }
        }
    }

    #[test]
    fn the_sample_of_a_runs_journal_is_read_to_its_end() {
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
