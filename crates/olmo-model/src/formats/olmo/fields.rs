//! Reads a config key by key, and reports every key that was not read.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The name of the class that OLMo-core adds to each object of a config.
const CLASS: &str = "_CLASS_";

/// An object of a config, its place, and what is wrong with it.
pub(super) struct Fields<'a> {
    place: String,
    map: &'a Map<String, Value>,
    read: BTreeSet<&'a str>,
    pub problems: Vec<String>,
}

impl<'a> Fields<'a> {
    /// The outermost object.
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self { place: String::new(), map, read: BTreeSet::new(), problems: Vec::new() }
    }

    /// The full name of a key.
    fn name(&self, key: &str) -> String {
        format!("`{}{key}`", self.place)
    }

    /// Adds a problem with a key.
    pub(super) fn problem(&mut self, key: &str, what: &str) {
        let name = self.name(key);
        self.problems.push(format!("{name} {what}"));
    }

    /// The value of `key`; null counts as absent.
    pub(super) fn value(&mut self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.map.get_key_value(key)?;
        self.read.insert(key);
        Some(value).filter(|value| !value.is_null())
    }

    /// Whether `key` is there, even with null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The class that OLMo-core writes beside the fields.
    pub(super) fn class(&self) -> Option<&'a str> {
        self.map.get(CLASS).and_then(Value::as_str)
    }

    /// All keys.
    pub(super) fn keys(&self) -> Vec<&'a str> {
        self.map.keys().map(String::as_str).collect()
    }

    /// An object. Its problems must come back through [`finish`](Self::finish).
    pub(super) fn object(&mut self, key: &str) -> Option<Fields<'a>> {
        match self.value(key)? {
            Value::Object(map) => {
                let place = format!("{}{key}.", self.place);
                Some(Fields { place, map, read: BTreeSet::new(), problems: Vec::new() })
            }
            _ => {
                self.problem(key, "is not an object");
                None
            }
        }
    }

    fn typed<T>(&mut self, key: &str, kind: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.value(key)?;
        let read = read(value);
        if read.is_none() {
            self.problem(key, &format!("is {value}, not {kind}"));
        }
        read
    }

    pub(super) fn size(&mut self, key: &str) -> Option<usize> {
        self.typed(key, "a size", |value| usize::try_from(value.as_u64()?).ok())
    }

    pub(super) fn id(&mut self, key: &str) -> Option<u32> {
        self.typed(key, "a token id", |value| u32::try_from(value.as_u64()?).ok())
    }

    pub(super) fn number(&mut self, key: &str) -> Option<f64> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn text(&mut self, key: &str) -> Option<&'a str> {
        let value = self.value(key)?;
        if !value.is_string() {
            self.problem(key, &format!("is {value}, not a string"));
        }
        value.as_str()
    }

    /// A value that must be there; `T`'s default if it is not.
    pub(super) fn required<T: Default>(&mut self, key: &str, read: impl FnOnce(&mut Self, &str) -> Option<T>) -> T {
        let before = self.problems.len();
        let value = read(self, key);
        if value.is_none() && self.problems.len() == before {
            self.problem(key, "is missing");
        }
        value.unwrap_or_default()
    }

    /// Requires that `key` is absent or has one of the `allowed` values.
    pub(super) fn only(&mut self, key: &str, allowed: &[Value]) {
        let Some(value) = self.value(key) else { return };
        let same = |allowed: &Value| allowed == value || (allowed.is_number() && allowed.as_f64() == value.as_f64());
        if !allowed.iter().any(same) {
            let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
            self.problem(key, &format!("is {value}; this program knows only {}", allowed.join(" or ")));
        }
    }

    /// Marks keys whose values do not change the logits.
    pub(super) fn harmless(&mut self, keys: &[&str]) {
        for key in keys {
            self.value(key);
        }
    }

    /// Gives the problems, and one for each key that was not read, to `outer`.
    pub(super) fn finish(mut self, outer: &mut Vec<String>) {
        let unread = self
            .map
            .iter()
            .filter(|(key, value)| !self.read.contains(key.as_str()) && !value.is_null() && key.as_str() != CLASS);
        let unread: Vec<&str> = unread.map(|(key, _)| key.as_str()).collect();
        for key in unread {
            self.problem(key, "is not supported");
        }
        outer.append(&mut self.problems);
    }
}
