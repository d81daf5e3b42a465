//! `olmo-pipe artifacts export`: copies artifacts out of the store.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use olmo_base::ArtifactId;
use olmo_base::units::bytes;
use serde_json::json;

use crate::cli::artifacts::argument::{ARTIFACT, find};
use crate::store::{Handover, Store};
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

/// How files are copied out of the store.
#[derive(Clone, Copy, ValueEnum)]
enum How {
    /// Share blocks where the file system supports it, else copy.
    Auto,
    /// Share blocks, or fail.
    Reflink,
    /// Make read-only hard links into the store, or fail.
    Hardlink,
    /// Copy.
    Copy,
}

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts export latest:model --to model")]
pub(crate) struct Export {
    #[arg(help = ARTIFACT, required = true)]
    artifacts: Vec<String>,
    /// Folder to create, or with --archive the file to create.
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// How to copy files.
    #[arg(long, value_enum, default_value = "auto")]
    how: How,
    /// Write a tar archive for `artifacts import`.
    #[arg(long, conflicts_with = "how")]
    archive: bool,
    /// Include the results of the stages that made the artifacts, so that they are cache hits
    /// in the other store.
    #[arg(long, requires = "archive")]
    actions: bool,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Export {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let artifacts =
            self.artifacts.iter().map(|text| find(store, text)).collect::<Result<Vec<ArtifactId>, Problem>>()?;
        let place = self.to.display().to_string();
        let place = escape_control(&place);
        if self.archive {
            let size = store.export_bundle(&artifacts, self.actions, &self.to)?;
            match self.json {
                true => answer_json(&json!({"format": 1, "to": self.to, "bytes": size, "artifacts": artifacts})),
                false => answer(&format!("{place}: {}\n", bytes(size))),
            }
            return Ok(Exit::Success);
        }
        let [artifact] = artifacts[..] else {
            let message = format!("cannot export {} artifacts to one folder", artifacts.len());
            return Err(Problem::new(
                Exit::BadInput,
                "cli::one_artifact",
                &message,
                Some("export them one by one, or together with --archive"),
            ));
        };
        let how = match self.how {
            How::Auto => Handover::Copy,
            How::Reflink => Handover::Reflink,
            How::Hardlink => Handover::HardLink,
            How::Copy => Handover::Bytes,
        };
        store.materialize(artifact, &self.to, how)?;
        let manifest = store.manifest(artifact)?;
        let files = manifest.files.len();
        let size = manifest.bytes();
        match self.json {
            true => answer_json(&json!({"format": 1, "to": self.to, "bytes": size, "artifacts": artifacts})),
            false => answer(&format!("{place}: {}, {files} files, {}\n", manifest.artifact_type, bytes(size))),
        }
        Ok(Exit::Success)
    }
}
