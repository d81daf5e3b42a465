//! `olmo-pipe artifacts …`, one file per command.

mod argument;
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

use clap::Subcommand;

use crate::cli::common::Common;
use crate::ui::{Exit, Problem};

#[derive(Subcommand)]
pub(super) enum Artifacts {
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
    pub(super) fn run(self, common: &Common) -> Result<Exit, Problem> {
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
