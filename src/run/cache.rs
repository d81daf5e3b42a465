//! [`Cache`]: results of finished stages, by key. All lookups of a run go through it, so that
//! another tier, such as a remote cache, could be added here alone.

use std::collections::{BTreeMap, HashMap};

use olmo_base::{ActionKey, ArtifactId};

use crate::store::{Action, ActionState, Output, Store, StoreError};

/// The outputs of a task, by port.
pub(super) type Outputs = BTreeMap<String, Output>;

/// The cache of a run.
#[derive(Clone)]
pub(super) struct Cache {
    store: Store,
    /// Results that were recently found complete in the store.
    verified: HashMap<ActionKey, Outputs>,
}

/// The answer to a lookup.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lookup {
    /// The result exists and is complete.
    Hit(Outputs),
    Absent,
    /// The result exists, but this artifact of it is no longer complete.
    Incomplete {
        artifact: ArtifactId,
    },
    /// The entry was damaged and is now in quarantine.
    Damaged {
        why: String,
    },
}

impl Cache {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone(), verified: HashMap::new() }
    }

    /// Looks up `key`.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn lookup(&self, key: ActionKey) -> Result<Lookup, StoreError> {
        if let Some(outputs) = self.verified.get(&key) {
            return Ok(Lookup::Hit(outputs.clone()));
        }
        Ok(match self.store.action_state(key)? {
            ActionState::Hit(action) => Lookup::Hit(action.outputs),
            ActionState::Absent => Lookup::Absent,
            ActionState::Incomplete { artifact, .. } => Lookup::Incomplete { artifact },
            ActionState::Damaged { why } => Lookup::Damaged { why },
        })
    }

    /// The action with key `key`, even if its outputs are no longer complete.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn action(&self, key: ActionKey) -> Result<Option<Action>, StoreError> {
        Ok(match self.store.action_state(key)? {
            ActionState::Hit(action) | ActionState::Incomplete { action, .. } => Some(action),
            ActionState::Absent | ActionState::Damaged { .. } => None,
        })
    }

    /// Adds results that are known to be complete.
    pub(super) fn with_verified(self, verified: HashMap<ActionKey, Outputs>) -> Self {
        Self { verified, ..self }
    }

    /// Forgets which results were complete, after something turned out to be damaged.
    pub(super) fn distrust(&mut self) {
        self.verified.clear();
    }

    /// The underlying store.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }
}
