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
use olmo_stage::Digest;

use super::{Common, Exit, Problem, answer, answer_json};
use crate::artifacts::Reference;
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
        let store = common.open_store()?;
        match self {
            Artifacts::List(list) => list.run(&store),
            Artifacts::Show(show) => show.run(&store),
            Artifacts::Lineage(lineage) => lineage.run(&store),
            Artifacts::Provenance(provenance) => provenance.run(&store),
            Artifacts::Diff(diff) => diff.run(&store),
            Artifacts::Du(du) => du.run(&store),
            Artifacts::Tag(tag) => tag.run(&store),
            Artifacts::Untag(untag) => untag.run(&store),
            Artifacts::Tags(tags) => tags.run(&store),
            Artifacts::Pin(pin) => pin.run(&store),
            Artifacts::Unpin(unpin) => unpin.run(&store),
            Artifacts::Export(export) => export.run(&store),
            Artifacts::Import(import) => import.run(&store),
            Artifacts::Gc(gc) => gc.run(&store),
            Artifacts::Verify(verify) => verify.run(&store),
            Artifacts::Reindex(reindex) => reindex.run(&store),
        }
    }
}

/// The artifact that `text` names.
fn find(store: &Store, text: &str) -> Result<Digest, Problem> {
    Ok(Reference::resolve(store, text)?)
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
