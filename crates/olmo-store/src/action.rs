//! [`Action`]: what a finished stage made, under its key.
//!
//! An entry lies in `actions-v1/` as sealed JSON ([`crate::disk::seal`]) with the body
//! `{"format":1,"key":{…},"outputs":{"PORT":{"single":"…"}}}`, and is written last of all. It
//! holds the whole key record, so that two keys can be compared field by field.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use olmo_base::{ActionKey, ArtifactId, Digest, PathError};
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::disk::seal;
use crate::disk::{self, Seen, Small, age};
use crate::error::StoreError;
use crate::key::{Encoder, KeyRecord};

const FORMAT: u32 = 1;
const KIND: &str = "action";

/// A stage that succeeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    format: u32,
    /// The fields that make up its key.
    pub key: KeyRecord,
    /// Its outputs, by port.
    pub outputs: BTreeMap<String, Output>,
}

/// The content of an output port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    Single(ArtifactId),
    /// In the order of reporting.
    List(Vec<ListItem>),
}

/// An item of a list port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListItem {
    pub label: String,
    pub digest: ArtifactId,
}

impl Output {
    /// The digest of the whole output. The digest of a list covers the (label, digest) of its items
    /// in order.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Single(artifact) => artifact.digest(),
            Self::List(items) => {
                let mut encoder = Encoder::new("olmo-pipe.list");
                encoder.list(items.len());
                for item in items {
                    encoder.text(&item.label);
                    encoder.artifact(item.digest);
                }
                encoder.finish()
            }
        }
    }

    /// Its artifacts, in order.
    pub fn artifacts(&self) -> impl Iterator<Item = ArtifactId> + '_ {
        let (single, list) = match self {
            Self::Single(artifact) => (Some(*artifact), None),
            Self::List(items) => (None, Some(items.iter().map(|i| i.digest))),
        };
        single.into_iter().chain(list.into_iter().flatten())
    }
}

/// Checks that the items of a list can be folders of one folder on every file system.
fn check_labels(output: &Output) -> Result<(), String> {
    let Output::List(items) = output else { return Ok(()) };
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for item in items {
        if let Some(other) = seen.insert(item.label.to_lowercase(), &item.label) {
            return Err(match other == item.label {
                true => format!("the label `{other}` is there twice"),
                false => format!("the labels `{other}` and `{}` differ only in upper and lower case", item.label),
            });
        }
    }
    Ok(())
}

impl Action {
    pub fn new(key: KeyRecord, outputs: BTreeMap<String, Output>) -> Self {
        Self { format: FORMAT, key, outputs }
    }

    /// Parses the file of the action with key `key`; `None` if it is sound but written by a newer
    /// build. The error says what is wrong with it.
    pub fn parse(key: ActionKey, text: &[u8]) -> Result<Option<Self>, &'static str> {
        let body = seal::open(KIND, &key.hex(), text)?;
        Ok(serde_json::from_str::<Action>(body).ok().filter(|a| a.format == FORMAT))
    }
}

/// What the store knows about a key.
#[derive(Clone, Debug, PartialEq)]
pub enum ActionState {
    /// Finished, and every output is complete.
    Hit(Action),
    /// Never finished here.
    Absent,
    /// Finished once, but this artifact is no longer complete.
    Incomplete { action: Action, artifact: ArtifactId },
    /// Its entry was damaged and has been moved to `quarantine/`.
    Damaged { why: String },
}

/// Why an entry cannot be read.
pub(crate) enum Unread {
    Absent,
    Damaged(String, Seen),
    Io(StoreError),
}

impl Store {
    /// The finished action with key `key`, if there is one and all its outputs are complete. A
    /// damaged entry is moved to `quarantine/` and counts as absent.
    pub fn action(&self, key: ActionKey) -> Result<Option<Action>, StoreError> {
        Ok(match self.action_state(key)? {
            ActionState::Hit(action) => Some(action),
            _ => None,
        })
    }

    /// As [`Store::action`], with the reason of a miss.
    pub fn action_state(&self, key: ActionKey) -> Result<ActionState, StoreError> {
        let action = match self.read_action(key) {
            Ok(action) => action,
            Err(Unread::Absent) => return Ok(ActionState::Absent),
            Err(Unread::Io(e)) => return Err(e),
            Err(Unread::Damaged(why, seen)) => {
                self.quarantine(&self.sharded(key), &format!("{key}.action.json"), seen)?;
                return Ok(ActionState::Damaged { why });
            }
        };
        let broken = action.outputs.values().flat_map(Output::artifacts).find(|artifact| !self.is_whole(*artifact));
        Ok(match broken {
            // If it cannot be touched, it was collected a moment ago.
            None if !self.use_action(key)? => ActionState::Absent,
            None => ActionState::Hit(action),
            Some(artifact) => ActionState::Incomplete { action, artifact },
        })
    }

    /// Marks the action as used. Returns `false` if it is gone.
    fn use_action(&self, key: ActionKey) -> Result<bool, StoreError> {
        let path = self.sharded(key);
        if self.is_read_only() || age::used_lately(&path) {
            return Ok(true);
        }
        let _using = self.using()?;
        self.renew(&path)
    }

    /// Reads without moving anything.
    pub(crate) fn read_action(&self, key: ActionKey) -> Result<Action, Unread> {
        let path = self.sharded(key);
        let (text, seen) = match disk::read_small(&path, disk::LARGEST) {
            Ok(Small::Bytes(text, seen)) => (text, seen),
            Ok(Small::Absent) => return Err(Unread::Absent),
            Ok(Small::Misplaced(why, seen)) => return Err(Unread::Damaged(why, seen)),
            Err(e) => return Err(Unread::Io(PathError::during("read the action", &path, e).into())),
        };
        let action = Action::parse(key, &text).map_err(|why| Unread::Damaged(why.to_owned(), seen))?;
        // Sound, but written by a newer build: leave it alone.
        action.ok_or(Unread::Absent)
    }

    /// Records that the stage with key `key` succeeded. Durable on return. Call it after all of
    /// its outputs were committed; an output that is not whole is refused.
    pub fn commit_action(&self, key: ActionKey, action: &Action) -> Result<(), StoreError> {
        let record = action.key.digest();
        if record != key {
            return Err(StoreError::WrongKey { key, record });
        }
        for (port, output) in &action.outputs {
            check_labels(output)
                .map_err(|why| StoreError::refused(&self.work(key), format!("output `{port}`: {why}")))?;
        }
        let _using = self.using()?;
        for artifact in action.outputs.values().flat_map(Output::artifacts) {
            if !self.is_whole(artifact) {
                return Err(self.why_not_whole(artifact));
            }
        }
        let path = self.sharded(key);
        let body = serde_json::to_string(action).map_err(|e| PathError::during("write", &path, e.into()))?;
        let text = seal::seal(KIND, &key.hex(), &body);
        let points = ["store.action_temp_written", "store.action_renamed"];
        self.write_durable(&path, text.as_bytes(), 0o444, Some(points))
    }

    fn why_not_whole(&self, artifact: ArtifactId) -> StoreError {
        let manifest = match self.manifest(artifact) {
            Ok(manifest) => manifest,
            Err(e) => return e,
        };
        let there = |path: &Path, size: u64| fs::metadata(path).is_ok_and(|m| m.len() == size);
        for entry in manifest.files.values() {
            match &entry.source {
                Some(path) if !there(path, entry.size) => {
                    let source = std::io::Error::other("it is gone or has another size");
                    return StoreError::SourceMissing { path: path.clone(), artifact, source };
                }
                None if !there(&self.object_path(entry.object()), entry.size) => {
                    return StoreError::MissingObject { object: entry.object(), artifact };
                }
                _ => {}
            }
        }
        StoreError::NoArtifact { artifact }
    }

    /// The keys of all finished actions, sorted.
    pub fn action_keys(&self) -> Result<Vec<ActionKey>, StoreError> {
        self.names("")
    }

    /// The action with key `key`, even if its outputs are no longer complete. For listing and
    /// comparing, not for hits.
    pub fn recorded_action(&self, key: ActionKey) -> Option<Action> {
        self.read_action(key).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::key::KeyInput;
    use olmo_base::ObjectId;
    use olmo_stage::PortType;
    use serde_json::json;

    pub(crate) fn record(lr: f64) -> KeyRecord {
        let input = KeyInput { label: None, digest: ArtifactId::new(Digest::of(b"input")) };
        KeyRecord {
            format: 1,
            stage: "train".into(),
            version: 1,
            params: BTreeMap::from([("lr".to_owned(), json!(lr))]),
            inputs: BTreeMap::from([("data".to_owned(), vec![input])]),
            backend: Some("flex".into()),
            precision: Some("f32".into()),
            command: None,
        }
    }

    /// A store with one committed action; its key and artifacts.
    pub(crate) fn store_with_action() -> (tempfile::TempDir, Store, ActionKey, Action) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let commit = |name: &str, text: &str| {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("file"), text).unwrap();
            store.commit_tree(PortType::Dir, &folder).unwrap()
        };
        let model = commit("model", "weights");
        let items = ["step1", "step2"].map(|label| ListItem { label: label.into(), digest: commit(label, label) });
        let outputs = [("model", Output::Single(model)), ("checkpoints", Output::List(items.to_vec()))];
        let action = Action::new(record(0.1), outputs.into_iter().map(|(p, o)| (p.to_owned(), o)).collect());
        let key = action.key.digest();
        store.commit_action(key, &action).unwrap();
        (dir, store, key, action)
    }

    #[test]
    fn a_committed_action_is_a_hit_for_its_key_alone() {
        let (_dir, store, key, action) = store_with_action();
        assert_eq!(store.action(key).unwrap(), Some(action.clone()));
        assert_eq!(store.action_state(ActionKey::new(Digest::of(b"other"))).unwrap(), ActionState::Absent);
        assert_eq!(store.action_keys().unwrap(), [key]);
        let error = store.commit_action(ActionKey::new(Digest::of(b"other")), &action).unwrap_err();
        assert!(matches!(error, StoreError::WrongKey { .. }), "{error}");
    }

    #[test]
    fn a_missing_or_short_object_makes_it_a_miss() {
        for damage in ["remove", "cut", "grow"] {
            let (_dir, store, key, _) = store_with_action();
            let object = store.object_path(ObjectId::of(b"step2"));
            match damage {
                "remove" => fs::remove_file(&object).unwrap(),
                "cut" => fs::rename(store.object_path(ObjectId::of(b"weights")), &object).unwrap(),
                _ => {
                    fs::remove_file(&object).unwrap();
                    fs::write(&object, "much too long").unwrap();
                }
            }
            assert_eq!(store.action(key).unwrap(), None, "{damage}");
            assert!(matches!(store.action_state(key).unwrap(), ActionState::Incomplete { .. }));
        }
    }

    #[test]
    fn an_action_with_an_output_that_is_not_there_is_refused() {
        let (_dir, store, _, action) = store_with_action();
        let mut other = Action::new(record(0.2), action.outputs.clone());
        fs::remove_file(store.object_path(ObjectId::of(b"weights"))).unwrap();
        let error = store.commit_action(other.key.digest(), &other).unwrap_err();
        assert!(matches!(error, StoreError::MissingObject { .. }), "{error}");
        other.outputs = BTreeMap::from([("x".to_owned(), Output::Single(ArtifactId::new(Digest::of(b"nothing"))))]);
        let error = store.commit_action(other.key.digest(), &other).unwrap_err();
        assert!(matches!(error, StoreError::NoArtifact { .. }), "{error}");
    }

    #[test]
    fn labels_that_differ_only_in_case_are_refused() {
        let (_dir, store, _, action) = store_with_action();
        let Output::Single(model) = action.outputs["model"] else { panic!() };
        for (one, two) in [("a", "A"), ("step1", "step1")] {
            let items = [one, two].map(|label| ListItem { label: label.into(), digest: model });
            let new = Action::new(record(0.3), BTreeMap::from([("x".to_owned(), Output::List(items.to_vec()))]));
            let error = store.commit_action(new.key.digest(), &new).unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        }
    }

    #[test]
    fn whatever_stands_in_the_place_of_an_entry_moves_to_quarantine() {
        for kind in crate::verify::tests::INTRUDERS {
            let (_dir, store, key, action) = store_with_action();
            let place = store.sharded(key);
            crate::verify::tests::intrude(&place, kind);
            assert!(matches!(store.action_state(key).unwrap(), ActionState::Damaged { .. }), "{kind}");
            assert_eq!(store.action_state(key).unwrap(), ActionState::Absent, "{kind}");
            store.commit_action(key, &action).unwrap();
            assert!(store.action(key).unwrap().is_some(), "{kind}");
            crate::verify::tests::intrude(&place, kind);
            store.commit_action(key, &action).unwrap();
            assert!(store.action(key).unwrap().is_some(), "{kind}: a commit needs no look before it");
        }
    }

    #[test]
    fn an_entry_under_another_key_is_damaged() {
        let (_dir, store, key, _) = store_with_action();
        let other = ActionKey::new(Digest::of(b"other"));
        let place = store.sharded(other);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(store.sharded(key), &place).unwrap();
        assert!(matches!(store.action_state(other).unwrap(), ActionState::Damaged { .. }));
        assert!(!place.exists(), "it was moved away");
        assert!(store.action(key).unwrap().is_some());
    }

    #[test]
    fn a_sound_entry_of_a_newer_build_is_a_miss_and_stays_in_place() {
        let (_dir, store, _, action) = store_with_action();
        let key = ActionKey::new(Digest::of(b"newer"));
        let mut newer = serde_json::to_value(&action).unwrap();
        newer["from_the_future"] = json!(true);
        let place = store.sharded(key);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, seal::seal(KIND, &key.hex(), &newer.to_string())).unwrap();
        assert_eq!(store.action_state(key).unwrap(), ActionState::Absent);
        assert!(place.exists());
    }

    #[test]
    fn a_lists_digest_sees_labels_and_order() {
        let item = |label: &str, text: &str| ListItem {
            label: label.into(),
            digest: ArtifactId::new(Digest::of(text.as_bytes())),
        };
        let base = Output::List(vec![item("a", "1"), item("b", "2")]);
        for other in [vec![item("b", "2"), item("a", "1")], vec![item("a", "1")], vec![item("a", "1"), item("c", "2")]]
        {
            assert_ne!(Output::List(other).digest(), base.digest());
        }
    }
}
