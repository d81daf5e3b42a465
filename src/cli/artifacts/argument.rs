//! Artifacts on the command line.

use std::time::{SystemTime, UNIX_EPOCH};

use olmo_base::ArtifactId;

use crate::artifacts::Reference;
use crate::run::{dated_in_the_future, find_by_id};
use crate::store::Store;
use crate::ui::Problem;

/// Help text for an artifact argument.
pub(super) const ARTIFACT: &str = "Tag, first digits of a digest, RUN:STAGE.PORT, RUN:STAGE.PORT[LABEL] or RUN:RESULT; RUN is `latest`, an id or an experiment";

/// Resolves `text` to an artifact. If `text` refers to the newest run, warns about runs dated in the
/// future, which do not count as the newest.
pub(super) fn find(store: &Store, text: &str) -> Result<ArtifactId, Problem> {
    let artifact = Reference::resolve(store, text)?;
    let is_newest = text.split_once(':').is_some_and(|(run, _)| run == "latest" || find_by_id(store, run).is_err());
    for id in if is_newest { dated_in_the_future(store)? } else { Vec::new() } {
        eprintln!(
            "note: run {id} is dated in the future and does not count as the newest; `olmo-pipe runs rm {id}` removes its record"
        );
    }
    Ok(artifact)
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
