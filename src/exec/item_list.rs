//! [`Items`]: the list items of a stage's unfinished work, by port. They are a fold over
//! [`ItemRecord`]s. Adding an item takes constant time. It does no I/O.

use std::collections::{BTreeMap, HashMap, HashSet};

use olmo_base::ArtifactId;
use serde::{Deserialize, Serialize};

/// A line of `items.jsonl`: one `Item` or `Resumed` event of an attempt that was applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ItemRecord {
    /// The item is in the store.
    Added { attempt: u32, port: String, label: String, artifact: ArtifactId },
    /// Items of `port` that are not in `keep` left the list.
    Kept { attempt: u32, port: String, keep: Vec<String> },
}

impl ItemRecord {
    /// The attempt that reported the event.
    pub fn attempt(&self) -> u32 {
        match self {
            Self::Added { attempt, .. } | Self::Kept { attempt, .. } => *attempt,
        }
    }
}

/// Items by port, oldest first, each with its label.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Items(BTreeMap<String, ItemList>);

/// The items of one port.
#[derive(Clone, Debug, Default, PartialEq)]
struct ItemList {
    items: Vec<(String, ArtifactId)>,
    /// Position of each label in `items`.
    places: HashMap<String, usize>,
    /// The first label in `items` for each lowercased label.
    folded: HashMap<String, String>,
}

impl ItemList {
    fn put(&mut self, label: &str, artifact: ArtifactId) {
        match self.places.get(label) {
            Some(place) => self.items[*place].1 = artifact,
            None => {
                self.places.insert(label.to_owned(), self.items.len());
                self.folded.entry(label.to_lowercase()).or_insert_with(|| label.to_owned());
                self.items.push((label.to_owned(), artifact));
            }
        }
    }

    fn keep(&mut self, keep: &[String]) {
        let keep: HashSet<&String> = keep.iter().collect();
        let items = std::mem::take(self).items;
        items
            .into_iter()
            .filter(|(label, _)| keep.contains(label))
            .for_each(|(label, digest)| self.put(&label, digest));
    }
}

impl Items {
    /// Applies `record`. An item replaces an earlier one with the same label.
    pub fn apply(&mut self, record: &ItemRecord) {
        match record {
            ItemRecord::Added { port, label, artifact, .. } => match self.0.get_mut(port) {
                Some(list) => list.put(label, *artifact),
                None => self.0.entry(port.clone()).or_default().put(label, *artifact),
            },
            ItemRecord::Kept { port, keep, .. } => {
                if let Some(list) = self.0.get_mut(port) {
                    list.keep(keep);
                }
            }
        }
    }

    /// The items of `port`.
    pub fn in_port(&self, port: &str) -> &[(String, ArtifactId)] {
        self.0.get(port).map_or(&[], |list| list.items.as_slice())
    }

    /// The artifact of the item `label` of `port`.
    pub fn get(&self, port: &str, label: &str) -> Option<ArtifactId> {
        let list = self.0.get(port)?;
        list.places.get(label).map(|place| list.items[*place].1)
    }

    /// Checks that `label` can name another item of `port`. It must be a valid folder name, and
    /// must not differ from another label only in case.
    pub fn check_label(&self, port: &str, label: &str) -> Result<(), String> {
        check_label(label)?;
        match self.0.get(port).and_then(|list| list.folded.get(&label.to_lowercase())) {
            Some(known) if known != label => Err(format!(
                "the labels `{known}` and `{label}` of `{port}` differ only in upper and lower case, so on some file \
                 systems they would be one folder"
            )),
            _ => Ok(()),
        }
    }

    /// Ports with their items.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[(String, ArtifactId)])> {
        self.0.iter().map(|(port, list)| (port.as_str(), list.items.as_slice()))
    }

    /// Number of items in all ports.
    pub fn len(&self) -> usize {
        self.0.values().map(|list| list.items.len()).sum()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Checks that `label` can name an item, and thus a folder.
pub fn check_label(label: &str) -> Result<(), String> {
    let sound = !label.is_empty()
        && label.len() <= 100
        && !label.starts_with('.')
        && label.chars().all(|c| c.is_ascii_alphanumeric() || "._-+=,@".contains(c));
    if sound {
        return Ok(());
    }
    Err(format!(
        "`{}` cannot be the label of a list item: use 1 to 100 letters, digits and ._-+=,@, not starting with a dot",
        label.escape_debug()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_base::Digest;

    fn added(attempt: u32, label: &str) -> ItemRecord {
        ItemRecord::Added {
            attempt,
            port: "p".into(),
            label: label.into(),
            artifact: ArtifactId::new(Digest::of(label.as_bytes())),
        }
    }

    fn labels(items: &Items) -> Vec<&str> {
        items.in_port("p").iter().map(|(label, _)| label.as_str()).collect()
    }

    #[test]
    fn items_that_are_not_kept_leave_and_each_label_occurs_once() {
        let mut items = Items::default();
        for record in [added(1, "step10"), added(1, "step20"), added(1, "step30")] {
            items.apply(&record);
        }
        items.apply(&ItemRecord::Kept { attempt: 2, port: "p".into(), keep: vec!["step10".into(), "step20".into()] });
        items.apply(&added(2, "step20"));
        items.apply(&added(2, "step30"));
        assert_eq!(labels(&items), ["step10", "step20", "step30"]);
        assert_eq!(items.len(), 3);
    }

    #[test]
    fn labels_that_differ_only_in_case_are_rejected() {
        let mut items = Items::default();
        items.apply(&added(1, "step1"));
        assert!(items.check_label("p", "Step1").unwrap_err().contains("`step1` and `Step1`"));
        assert!(items.check_label("p", "step1").is_ok(), "it replaces the first");
        assert!(items.check_label("q", "Step1").is_ok() && items.check_label("p", "step2").is_ok());
    }

    #[test]
    fn a_label_that_is_not_a_folder_name_is_rejected() {
        for label in ["", "..", "a/b", "a b", "a\n", ".x", &"x".repeat(101)] {
            assert!(check_label(label).is_err(), "{label}");
        }
        assert!(check_label("step40").is_ok());
    }
}
