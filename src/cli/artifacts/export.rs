//! `olmo-pipe artifacts export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use olmo_base::Digest;
use olmo_base::units::bytes;
use serde_json::json;

use super::{ARTIFACT, Exit, Problem, answer, answer_json, find};
use crate::report::escape_control;
use crate::store::{Handover, Store};

/// How files leave the store.
#[derive(Clone, Copy, ValueEnum)]
enum How {
    /// Shared blocks where the file system can, else copies.
    Auto,
    /// Shared blocks, or an error.
    Reflink,
    /// Read-only hard links into the store, or an error.
    Hardlink,
    /// Copies.
    Copy,
}

#[derive(Args)]
pub struct Export {
    #[arg(help = ARTIFACT, required = true)]
    artifacts: Vec<String>,
    /// The new folder; with --archive the new file.
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// How files leave the store.
    #[arg(long, value_enum, default_value = "auto")]
    how: How,
    /// One tar archive that `artifacts import` takes.
    #[arg(long, conflicts_with = "how")]
    archive: bool,
    /// With the finished stages that made the artifacts, and all that those made, so that another store has hits for them.
    #[arg(long, requires = "archive")]
    actions: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Export {
    pub fn run(self, store: &Store) -> Result<Exit, Problem> {
        let artifacts =
            self.artifacts.iter().map(|text| find(store, text)).collect::<Result<Vec<Digest>, Problem>>()?;
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
            let message = format!("{} artifacts do not go into one folder", artifacts.len());
            return Err(Problem::new(
                Exit::BadInput,
                "cli::one_artifact",
                &message,
                Some("export them one by one, or into one --archive"),
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
