//! Chooses the held-out records.

use std::collections::{BTreeMap, BTreeSet};

use olmo_data::{Conversation, Role};

/// A record's question: records with the same question stay together.
pub(crate) trait Question {
    /// Feeds the question to `hasher`.
    fn hash_question(&self, hasher: &mut blake3::Hasher);
}

impl Question for String {
    fn hash_question(&self, hasher: &mut blake3::Hasher) {
        hasher.update(self.as_bytes());
    }
}

impl Question for Conversation {
    /// The turns before the first answer; the whole conversation if it starts with an answer or has
    /// none.
    fn hash_question(&self, hasher: &mut blake3::Hasher) {
        let answer = self.messages.iter().position(|message| message.role == Role::Assistant).filter(|at| *at > 0);
        for message in &self.messages[..answer.unwrap_or(self.messages.len())] {
            // Hash the lengths too, so that two turns differ from one with the same text.
            for text in [message.role.as_str(), message.text()] {
                hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            }
        }
    }
}

/// A pseudo-random number derived from the seed and a record's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key([u8; 16]);

impl Key {
    /// The key of `record`: the first 16 bytes of BLAKE3 over the seed (8 bytes, little-endian) and
    /// the question.
    pub(crate) fn of(seed: u64, record: &impl Question) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        record.hash_question(&mut hasher);
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        Self(key)
    }
}

/// The number of distinct keys.
pub(crate) fn distinct(keys: &[Key]) -> usize {
    keys.iter().collect::<BTreeSet<_>>().len()
}

/// The smallest keys that cover at least `wanted` records, but never all keys.
pub(crate) fn held_out(keys: &[Key], wanted: u64) -> BTreeSet<Key> {
    let mut counts: BTreeMap<Key, u64> = BTreeMap::new();
    for key in keys {
        *counts.entry(*key).or_default() += 1;
    }
    let most = counts.len().saturating_sub(1);
    let mut records = 0;
    counts
        .into_iter()
        .take(most)
        .take_while(|(_, count)| {
            let more = records < wanted;
            records += count;
            more
        })
        .map(|(key, _)| key)
        .collect()
}
