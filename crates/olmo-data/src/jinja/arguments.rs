//! [`Args`]: the arguments of a call.

use crate::jinja::error::{Error, Result};
use crate::jinja::value::Value;

/// The evaluated arguments of a call.
#[derive(Default)]
pub(super) struct Args {
    pub positional: Vec<Value>,
    pub named: Vec<(String, Value)>,
}

impl Args {
    /// The argument at position `index` or with this name.
    pub(super) fn get(&mut self, index: usize, name: &str) -> Option<Value> {
        let named = self.named.iter().position(|(n, _)| n == name).map(|at| self.named.remove(at).1);
        self.positional.get(index).cloned().or(named)
    }

    /// Like [`Args::get`], but an error if it is missing.
    pub(super) fn require(&mut self, index: usize, name: &str) -> Result<Value> {
        self.get(index, name).ok_or_else(|| Error::type_error(format!("missing required argument: '{name}'")))
    }

    /// Rejects unread arguments: more than `most` positional ones, or unknown names.
    pub(super) fn finish(&self, what: &str, most: usize) -> Result<()> {
        if self.positional.len() > most {
            let given = self.positional.len();
            return Err(Error::type_error(format!("{what} takes at most {most} arguments ({given} given)")));
        }
        match self.named.first() {
            Some((name, _)) => Err(Error::type_error(format!("{what} got an unexpected keyword argument '{name}'"))),
            None => Ok(()),
        }
    }
}
