//! Finds a run by what a user types.

use crate::run::api::RunId;
use crate::run::error::RunError;
use crate::run::record::folder::all;
use crate::run::record::state::show;
use crate::store::Store;

/// Finds the run that `text` refers to: `latest`, the start of an ID, or an experiment's name for
/// its newest run.
pub fn find(store: &Store, text: &str) -> Result<RunId, RunError> {
    let unknown = || RunError::UnknownRun { text: text.to_owned() };
    if text == "latest" {
        return newest_run(store, |_| true)?.ok_or_else(unknown);
    }
    match find_by_id(store, text) {
        Err(RunError::UnknownRun { .. }) => newest_run(store, |experiment| experiment == text)?.ok_or_else(unknown),
        found => found,
    }
}

/// Finds the only run whose ID starts with `text`.
pub fn find_by_id(store: &Store, text: &str) -> Result<RunId, RunError> {
    let mut found: Vec<RunId> = all(store)?.into_iter().filter(|id| id.as_str().starts_with(text)).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        _ if found.is_empty() || text.is_empty() => Err(RunError::UnknownRun { text: text.to_owned() }),
        _ => {
            let candidates = found.iter().map(ToString::to_string).collect();
            Err(RunError::AmbiguousRun { text: text.to_owned(), candidates })
        }
    }
}

/// Finds the newest run of an experiment that is `wanted`. Ignores a run whose engine has not
/// recorded anything yet. A run dated in the future counts only if there is no other.
fn newest_run(store: &Store, wanted: impl Fn(&str) -> bool) -> Result<Option<RunId>, RunError> {
    let mut ids = all(store)?;
    let horizon = Horizon::now();
    ids.sort_by_key(|id| (!horizon.is_beyond(id), id.clone()));
    for id in ids.into_iter().rev() {
        let state = show(store, &id)?;
        if !state.experiment.is_empty() && wanted(&state.experiment) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// Finds the runs dated in the future. They were started while a clock was wrong.
pub fn dated_in_the_future(store: &Store) -> Result<Vec<RunId>, RunError> {
    let horizon = Horizon::now();
    Ok(all(store)?.into_iter().filter(|id| horizon.is_beyond(id)).collect())
}

/// The latest plausible start time of a run, in the format of run IDs.
pub(crate) struct Horizon(String);

impl Horizon {
    /// Tolerated difference between the clocks of machines, in seconds.
    const TOLERANCE: u64 = 3600;

    pub(crate) fn now() -> Self {
        let digits = olmo_base::units::utc(olmo_base::units::now_ms() / 1000 + Self::TOLERANCE);
        let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
        Self(digits)
    }

    /// Whether run `id` claims to be from after this time.
    pub(crate) fn is_beyond(&self, id: &RunId) -> bool {
        let made: String = id.as_str().chars().filter(char::is_ascii_digit).take(14).collect();
        made.get(..14) > self.0.get(..14)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_run_is_found_by_the_beginning_of_its_name_if_only_one_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for id in ["20260131-235959-0f3a", "20260131-235959-0f3b", "20260201-000000-0f3a"] {
            fs::create_dir(store.runs_dir().join(id)).unwrap();
        }
        fs::create_dir(store.runs_dir().join("something else")).unwrap();
        assert_eq!(all(&store).unwrap().len(), 3);
        assert_eq!(find_by_id(&store, "202602").unwrap().as_str(), "20260201-000000-0f3a");
        assert!(
            matches!(find_by_id(&store, "202601"), Err(RunError::AmbiguousRun { candidates, .. }) if candidates.len() == 2)
        );
        assert!(matches!(find_by_id(&store, "1999"), Err(RunError::UnknownRun { .. })));
        assert!(matches!(find_by_id(&store, ""), Err(RunError::UnknownRun { .. })));
    }
}
