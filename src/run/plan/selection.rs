//! [`Selection`]: which stages of an experiment to run.

use std::collections::BTreeSet;

use crate::graph::Graph;
use crate::run::api::Selection;
use crate::run::error::RunError;
use crate::run::plan::board;
use crate::spec::Resolved;

/// The stages of a selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Names in dependency order, including all dependencies.
    pub names: Vec<String>,
    /// The stages among them that are only read. They must already have results.
    pub only_read: BTreeSet<String>,
}

impl Selection {
    /// Selects only `targets`.
    pub fn only(targets: &[String]) -> Self {
        Self { targets: targets.to_vec(), ..Self::default() }
    }

    /// Resolves the selection to stages of `resolved`.
    pub fn choose(&self, resolved: &Resolved) -> Result<Selected, RunError> {
        let all = |names: &[String]| -> Result<Vec<String>, RunError> {
            let named = names.iter().map(|name| board::stages_named(resolved, name)).collect::<Result<Vec<_>, _>>()?;
            Ok(named.into_iter().flatten().map(str::to_owned).collect())
        };
        let (until, first) = (all(&self.until)?, all(&self.from)?);
        let names = board::order(resolved, &self.targets)?;
        if self.until.is_empty() && self.from.is_empty() {
            return Ok(Selected { names, only_read: BTreeSet::new() });
        }
        let graph = Graph::new(resolved)?;
        let after: BTreeSet<&str> = until.iter().flat_map(|name| graph.all_dependants(name)).collect();
        let mut reached: BTreeSet<&str> = first.iter().flat_map(|name| graph.all_dependants(name)).collect();
        reached.extend(first.iter().map(String::as_str));
        let reached = |name: &str| first.is_empty() || reached.contains(name);
        let chosen: BTreeSet<&str> =
            names.iter().map(String::as_str).filter(|name| !after.contains(name) && reached(name)).collect();
        let needed: BTreeSet<&str> = chosen.iter().flat_map(|name| graph.all_dependencies(name)).collect();
        let only_read = needed.difference(&chosen).map(|name| (*name).to_owned()).collect();
        let names = names.iter().filter(|name| chosen.contains(name.as_str()) || needed.contains(name.as_str()));
        Ok(Selected { names: names.cloned().collect(), only_read })
    }
}

impl Selected {
    /// The error for stage `before`, which is only read but has no result.
    pub fn not_before(&self, before: &str) -> RunError {
        let chosen = self.names.iter().find(|name| !self.only_read.contains(*name));
        RunError::NotBefore { stage: chosen.cloned().unwrap_or_default(), before: before.to_owned() }
    }
}
