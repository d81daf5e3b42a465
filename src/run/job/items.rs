//! List items of a stage: [`Job`] commits items while the stage runs, recovers those of earlier
//! attempts, and hands them to the next attempt.
//!
//! Invariant: the items handed to an attempt are always a prefix of the list that an uninterrupted
//! run would make. If an item is lost, it and all later items leave the list. The stage's private
//! state is discarded too, since it may be ahead of the lost item. The stage then makes the lost
//! items again.

use std::collections::BTreeMap;

use olmo_base::seal::{Seal, Unsound};
use olmo_base::{ArtifactId, failpoint, journal};
use olmo_stage::{Event, InputItem};

use crate::exec::ExecError;
use crate::exec::attempt::{Attempt, Work, check_folders};
use crate::exec::item_list::{ItemRecord, Items};
use crate::run::job::message::JobEvent;
use crate::run::job::stopped::{Stopped, damaged, failed};
use crate::run::job::task::Job;
use crate::store::{Handover, ListItem, StoreError};

/// The reason why an item cannot be used.
type Lost = String;

/// The list items of unfinished work, and the journal that records them.
#[derive(Default)]
pub(super) struct ItemLog {
    items: Items,
    /// Opened with the first record, since opening it reads the whole journal.
    journal: Option<journal::Writer<ItemRecord>>,
}

impl std::ops::Deref for ItemLog {
    type Target = Items;

    fn deref(&self) -> &Items {
        &self.items
    }
}

impl Job {
    /// Recovers the items of earlier attempts: those recorded in `items.jsonl`, and those that the
    /// last attempt reported but no engine committed.
    pub(super) fn recover(&self, work: &Work) -> Result<ItemLog, Stopped> {
        let has_lists = self.contract().outputs.values().any(|port| port.list);
        if self.is_command() || !has_lists {
            // A command always makes all of its items again.
            work.discard_items()?;
            return Ok(ItemLog::default());
        }
        let recorded = work.item_records()?;
        let mut items = ItemLog::default();
        recorded.records.iter().for_each(|record| items.items.apply(record));
        let lost = match recorded.damage {
            Some(damage) => {
                let kept = self.store.set_aside(&work.items_path(), &format!("{}.items.jsonl", self.key))?;
                work.write_items(&recorded.records)?;
                let kept = kept.map_or_else(String::new, |kept| format!(" (kept as {})", kept.display()));
                Some(format!("items.jsonl of the unfinished work, {damage}{kept}"))
            }
            None => self.replay(work, &recorded.records, &mut items)?,
        };
        if let Some(why) = lost {
            self.report_loss(work, &items, &why)?;
        }
        Ok(items)
    }

    /// Commits the items that the last attempt reported but no engine committed. Stops at the first
    /// report that cannot be applied, and returns why.
    fn replay(&self, work: &Work, recorded: &[ItemRecord], items: &mut ItemLog) -> Result<Option<Lost>, Stopped> {
        let Some(last) = work.attempts().pop() else { return Ok(None) };
        let done = recorded.iter().filter(|record| record.attempt() == last.number).count();
        let events = journal::read_prefix::<Event>(&last.events()).map_err(ExecError::io("read", &last.events()))?;
        let is_about_items = |e: &&Event| matches!(e, Event::Item { .. } | Event::Resumed { .. });
        let reported: Vec<&Event> = events.records.iter().filter(is_about_items).collect();
        for event in reported.iter().skip(done) {
            if let Some(lost) = self.apply_event(work, &last, items, event)? {
                return Ok(Some(lost));
            }
        }
        let place = || format!("events.jsonl of attempt {}", last.number);
        Ok(match events.damage {
            Some(damage) => Some(format!("{}, {damage}", place())),
            None if reported.len() < done => Some(format!("{} has lost lines", place())),
            None => None,
        })
    }

    /// Reports lost work, and discards the stage's private state, which may be ahead of it.
    fn report_loss(&self, work: &Work, items: &Items, why: &str) -> Result<(), Stopped> {
        work.discard_state()?;
        let kept = match items.len() {
            0 => "the stage starts over".to_owned(),
            1 => "the stage continues after 1 list item".to_owned(),
            n => format!("the stage continues after {n} list items"),
        };
        let text = format!("work of an earlier attempt is lost ({why}); {kept}");
        self.scheduler.send(JobEvent::Stage(Event::Message { level: olmo_stage::MessageLevel::Warning, text }));
        Ok(())
    }

    /// Applies a reported event and records it for later attempts: commits the item, or removes
    /// items from their list. If an item is lost, records nothing and returns why.
    pub(super) fn apply_event(
        &self,
        work: &Work,
        attempt: &Attempt,
        items: &mut ItemLog,
        event: &Event,
    ) -> Result<Option<Lost>, Stopped> {
        let (record, step) = match event {
            Event::Item { port, label } => {
                let artifact = match self.commit_item(attempt, items, port, label)? {
                    Ok(artifact) => artifact,
                    Err(lost) => return Ok(Some(lost)),
                };
                (ItemRecord::Added { attempt: attempt.number, port: port.clone(), label: label.clone(), artifact }, 0)
            }
            Event::Resumed { step, port, keep } => {
                if let Some(unknown) = keep.iter().find(|label| items.get(port, label).is_none()) {
                    return Ok(Some(format!(
                        "item {unknown} of `{port}`, which a later attempt continued from, is gone"
                    )));
                }
                (ItemRecord::Kept { attempt: attempt.number, port: port.clone(), keep: keep.clone() }, *step)
            }
            _ => return Ok(None),
        };
        self.record_item(work, attempt, items, &record)?;
        if matches!(record, ItemRecord::Added { .. }) {
            failpoint("run.item_committed");
        }
        self.scheduler.send(JobEvent::Item { record, step });
        Ok(None)
    }

    /// Commits a sealed item to the store. The inner error says why the item is lost.
    fn commit_item(
        &self,
        attempt: &Attempt,
        items: &Items,
        port: &str,
        label: &str,
    ) -> Result<Result<ArtifactId, Lost>, Stopped> {
        let Some(declared) = self.contract().outputs.get(port).filter(|o| o.list) else {
            let message = format!("it reported an item of `{port}`, which is not one of its list ports");
            return Err(failed("stage::unknown_port", message, None));
        };
        items.check_label(port, label).map_err(|why| failed("stage::label", why, None))?;
        let folder = attempt.item(port, label);
        let lost = |why: &dyn std::fmt::Display| Ok(Err(format!("item {label} of `{port}`: {why}")));
        if let Err(why) = check_folders(&attempt.folder, &folder) {
            return lost(&why);
        }
        let seal = match Seal::read(&folder) {
            Ok(seal) => seal,
            Err(why) => return lost(&why),
        };
        let artifact = match self.store.commit_tree(declared.port_type, &folder) {
            Ok(artifact) => artifact,
            Err(error) if is_loss(&error) => return lost(&error),
            Err(error) => return Err(error.into()),
        };
        match self.compare(&seal, artifact)? {
            Ok(()) => Ok(Ok(artifact)),
            Err(why) => lost(&why),
        }
    }

    /// Checks that `artifact` holds what its maker sealed.
    fn compare(&self, seal: &Seal, artifact: ArtifactId) -> Result<Result<(), Unsound>, Stopped> {
        let manifest = self.store.manifest(artifact)?;
        let found: BTreeMap<_, _> =
            manifest.files.iter().map(|(path, entry)| (path.clone(), (entry.size, entry.digest))).collect();
        Ok(seal.compare(&found))
    }

    fn record_item(
        &self,
        work: &Work,
        attempt: &Attempt,
        items: &mut ItemLog,
        record: &ItemRecord,
    ) -> Result<(), Stopped> {
        let journal = match &mut items.journal {
            Some(journal) => journal,
            None => items.journal.insert(work.item_writer()?),
        };
        journal.append(record).map_err(ExecError::io("write", &attempt.folder))?;
        items.items.apply(record);
        Ok(())
    }

    /// Hands the items of earlier attempts to `attempt`, by port, after checking every byte. The
    /// first lost item and all later ones leave the list.
    pub(super) fn hand_items(
        &self,
        work: &Work,
        attempt: &Attempt,
        items: &mut ItemLog,
    ) -> Result<BTreeMap<String, Vec<InputItem>>, Stopped> {
        let mut handed: BTreeMap<String, Vec<InputItem>> = BTreeMap::new();
        let mut lost: Option<(String, Lost)> = None;
        'ports: for (port, list) in items.iter() {
            for (label, digest) in list {
                let path = attempt.earlier_item(port, label);
                match self.store.materialize(*digest, &path, Handover::Link).map_err(|e| damaged(*digest, e)) {
                    Ok(()) => {
                        let item = InputItem { label: Some(label.clone()), path };
                        handed.entry(port.to_owned()).or_default().push(item);
                    }
                    Err(Stopped::Damaged(_, error)) => {
                        lost = Some((port.to_owned(), format!("item {label}: {error}")));
                        break 'ports;
                    }
                    Err(other) => return Err(other),
                }
            }
        }
        if let Some((at, why)) = lost {
            // Items of other ports may be later than the lost one.
            handed.retain(|port, _| *port == at);
            let ports: Vec<String> = items.iter().map(|(port, _)| port.to_owned()).collect();
            for port in ports {
                let kept = handed.get(&port).into_iter().flatten();
                let keep = kept.filter_map(|item| item.label.clone()).collect();
                self.record_item(work, attempt, items, &ItemRecord::Kept { attempt: 0, port, keep })?;
            }
            self.report_loss(work, items, &why)?;
        }
        self.scheduler.send(JobEvent::Items(items.items.clone()));
        Ok(handed)
    }

    /// Commits the remaining items of list port `port` after the stage has succeeded: every folder
    /// that a command made, and items of a worker whose report was lost.
    pub(super) fn commit_list(
        &self,
        work: &Work,
        attempt: &Attempt,
        items: &mut ItemLog,
        port: &str,
    ) -> Result<Vec<ListItem>, Stopped> {
        let Some(declared) = self.contract().outputs.get(port) else { return Ok(Vec::new()) };
        let command = self.is_command();
        for (label, folder) in attempt.item_folders(command, port)? {
            if items.get(port, &label).is_some() {
                continue;
            }
            let artifact = if command {
                items.check_label(port, &label).map_err(|why| failed("stage::label", why, None))?;
                self.store.commit_tree(declared.port_type, &folder)?
            } else {
                match self.commit_item(attempt, items, port, &label)? {
                    Ok(artifact) => artifact,
                    Err(lost) => return Err(item_damaged(&lost)),
                }
            };
            let record = ItemRecord::Added { attempt: attempt.number, port: port.to_owned(), label, artifact };
            self.record_item(work, attempt, items, &record)?;
            self.scheduler.send(JobEvent::Item { record, step: 0 });
        }
        if command && items.in_port(port).is_empty() {
            let message = format!("it succeeded, but made no items for its list output `{port}`");
            let hint = format!("make one folder for each item below out/{port}/; the folder's name is its label");
            return Err(failed("stage::no_output", message, Some(&hint)));
        }
        let list = items.in_port(port).iter();
        Ok(list.map(|(label, digest)| ListItem { label: label.clone(), digest: *digest }).collect())
    }
}

/// The failure of a stage whose reported item differs from what it sealed.
pub(super) fn item_damaged(lost: &str) -> Stopped {
    let hint = Some("run the same command again; if it happens again, check the disk and its file system");
    failed("stage::item_damaged", format!("{lost}; the files changed before they reached the store"), hint)
}

/// Whether `error` means that an item of an earlier attempt can no longer be committed.
fn is_loss(error: &StoreError) -> bool {
    match error {
        StoreError::NoFiles { .. } | StoreError::Refused { .. } => true,
        error if error.is_missing_file() => true,
        other => other.is_damage(),
    }
}
