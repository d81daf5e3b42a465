//! `olmo-pipe artifacts …`: one file for each command.

mod collect;
mod difference;
mod export;
mod import;
mod lineage;
mod list;
mod names;
mod provenance;
mod show;
mod usage;
mod verify;

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use olmo_base::Digest;

use super::{Common, Exit, Problem, answer, answer_json};
use crate::artifacts::{Reference, dated_in_the_future};
use crate::store::Store;

/// How an artifact is named on the command line.
const ARTIFACT: &str = "A tag, the first digits of a digest, RUN:STAGE.PORT, RUN:STAGE.PORT[LABEL] or RUN:RESULT (RUN: an id, `latest` or an experiment)";

#[derive(Subcommand)]
pub enum Artifacts {
    /// Lists artifacts, the newest last.
    List(list::List),
    /// Shows an artifact's files, and the stage that made it from what.
    Show(show::Show),
    /// Shows what an artifact was made of, back to its sources; or what was made of it.
    Lineage(lineage::Lineage),
    /// Shows an artifact's full recipe: params, inputs, code, commit, host, runs.
    Provenance(provenance::Provenance),
    /// Shows in which files two artifacts differ, and in what the stages that made them.
    Diff(difference::Diff),
    /// Shows where the bytes of the store are.
    Du(usage::Du),
    /// Gives an artifact a name, which also keeps it.
    Tag(names::Tag),
    /// Takes names away.
    Untag(names::Untag),
    /// Lists the names.
    Tags(names::Tags),
    /// Keeps artifacts from being collected.
    Pin(names::Pin),
    /// Lets artifacts be collected again.
    Unpin(names::Unpin),
    /// Puts an artifact's files into a new folder, or artifacts into one archive for another store.
    Export(export::Export),
    /// Takes artifacts from an archive of `export`, or makes one of a folder.
    Import(import::Import),
    /// Removes what nothing needs, and what a budget of bytes or age has no room for.
    Gc(collect::Gc),
    /// Reads everything again and compares it with the digests.
    Verify(verify::Verify),
    /// Makes the index anew that answers `list`; it is never needed.
    Reindex(verify::Reindex),
}

impl Artifacts {
    pub fn run(self, common: &Common) -> Result<Exit, Problem> {
        match self {
            Artifacts::List(list) => list.run(&common.read_store()?),
            Artifacts::Show(show) => show.run(&common.read_store()?),
            Artifacts::Lineage(lineage) => lineage.run(&common.read_store()?),
            Artifacts::Provenance(provenance) => provenance.run(&common.read_store()?),
            Artifacts::Diff(diff) => diff.run(&common.read_store()?),
            Artifacts::Du(du) => du.run(&common.read_store()?),
            Artifacts::Tag(tag) => tag.run(&common.open_store()?),
            Artifacts::Untag(untag) => untag.run(&common.open_store()?),
            Artifacts::Tags(tags) => tags.run(&common.read_store()?),
            Artifacts::Pin(pin) => pin.run(&common.open_store()?),
            Artifacts::Unpin(unpin) => unpin.run(&common.open_store()?),
            Artifacts::Export(export) => export.run(&common.read_store()?),
            Artifacts::Import(import) => import.run(&common.open_store()?),
            Artifacts::Gc(gc) if gc.only_says() => gc.run(&common.read_store()?),
            Artifacts::Gc(gc) => gc.run(&common.open_store()?),
            Artifacts::Verify(verify) => verify.run(common),
            Artifacts::Reindex(reindex) => reindex.run(&common.open_store()?),
        }
    }
}

/// The artifact that `text` names. Tells of runs that are dated in the future if one of them might
/// have been meant by the newest run.
fn find(store: &Store, text: &str) -> Result<Digest, Problem> {
    let artifact = Reference::resolve(store, text)?;
    let is_newest =
        text.split_once(':').is_some_and(|(run, _)| run == "latest" || crate::run::find(store, run).is_err());
    for id in if is_newest { dated_in_the_future(store)? } else { Vec::new() } {
        eprintln!(
            "note: run {id} is dated in the future and does not count as the newest; `olmo-pipe runs rm {id}` removes its record"
        );
    }
    Ok(artifact)
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
