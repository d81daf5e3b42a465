//! `olmo-pipe artifacts …`, one file per command.

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

use crate::artifacts::{Reference, dated_in_the_future};
use crate::cli::common::Common;
use crate::store::Store;
use crate::ui::{Exit, Problem, answer, answer_json};

/// Help text for an artifact argument.
const ARTIFACT: &str = "Tag, first digits of a digest, RUN:STAGE.PORT, RUN:STAGE.PORT[LABEL] or RUN:RESULT; RUN is `latest`, an id or an experiment";

#[derive(Subcommand)]
pub enum Artifacts {
    /// List artifacts, newest last.
    List(list::List),
    /// Show an artifact's files, and the stage and inputs that made it.
    Show(show::Show),
    /// Trace an artifact back to its sources, or forward to what was made from it.
    Lineage(lineage::Lineage),
    /// Show how an artifact was made: params, inputs, code, commit, host and runs.
    Provenance(provenance::Provenance),
    /// Compare the files of two artifacts and the stages that made them.
    Diff(difference::Diff),
    /// Show what takes up space in the store.
    Du(usage::Du),
    /// Name an artifact, which also keeps it from being collected.
    Tag(names::Tag),
    /// Remove names from artifacts.
    Untag(names::Untag),
    /// List tags and pins.
    Tags(names::Tags),
    /// Keep artifacts from being collected.
    Pin(names::Pin),
    /// Allow pinned artifacts to be collected again.
    Unpin(names::Unpin),
    /// Copy an artifact to a folder, or artifacts to an archive for another store.
    Export(export::Export),
    /// Import artifacts from an archive, or a folder as an artifact.
    Import(import::Import),
    /// Remove artifacts that nothing needs, or that exceed a size or age limit.
    Gc(collect::Gc),
    /// Check every file in the store against its digest.
    Verify(verify::Verify),
    /// Rebuild the index that speeds up `list`; never necessary.
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
            Artifacts::Gc(gc) if gc.is_dry_run() => gc.run(&common.read_store()?),
            Artifacts::Gc(gc) => gc.run(&common.open_store()?),
            Artifacts::Verify(verify) => verify.run(common),
            Artifacts::Reindex(reindex) => reindex.run(&common.open_store()?),
        }
    }
}

/// Resolves `text` to an artifact. If `text` refers to the newest run, warns about runs dated in the
/// future, which do not count as the newest.
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
