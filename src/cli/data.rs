//! `olmo-pipe data …`: looks at data. The worker, which knows what data is, does the looking; here an artifact's digest
//! becomes a folder.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Common, Exit, Problem};
use crate::exec::Worker;
use crate::store::{Handover, Store};

/// Looks at data: what is trained, how much there is, what is wrong with it.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Data {
    /// `preview`, `stats`, `audit` or `inspect`, and its words; `--help` behind one of them lists these.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

impl Data {
    pub fn run(self, common: &Common) -> Result<Exit, Problem> {
        let path = Worker::place();
        let mut command = Command::new(&path);
        command.arg("data").stdin(Stdio::null());
        // Held until the worker has ended.
        let mut folder = None;
        let mut words = self.words.into_iter();
        command.args(words.next());
        for word in words {
            let digits = word.to_str().filter(|word| digits(word) && !Path::new(word).exists()).map(str::to_owned);
            match digits {
                Some(digits) if folder.is_none() => {
                    let store = common.open_store()?;
                    let place = tempfile::tempdir_in(store.root()).map_err(|e| {
                        Problem::new(
                            Exit::Store,
                            "cli::folder",
                            &format!("cannot make a folder in the store: {e}"),
                            None,
                        )
                    })?;
                    command.arg(materialize(&store, &digits, place.path())?);
                    command.arg("--objects").arg(store.objects_dir());
                    folder = Some(place);
                }
                _ => {
                    command.arg(word);
                }
            }
        }
        let status = command.status().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                let hint = Some("build it: cargo build --release");
                Problem::new(
                    Exit::Environment,
                    "exec::worker_missing",
                    &format!("there is no {}", path.display()),
                    hint,
                )
            }
            _ => Problem::new(Exit::Environment, "exec::worker", &format!("{}: {e}", path.display()), None),
        })?;
        Ok(match status.code() {
            Some(0) => Exit::Success,
            Some(2) => Exit::BadInput,
            _ => Exit::CheckFailed,
        })
    }
}

/// Whether `word` may be the start of a digest.
fn digits(word: &str) -> bool {
    (4..=64).contains(&word.len()) && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The artifact whose digest starts with `digits`, as a folder below `folder`.
fn materialize(store: &Store, digits: &str, folder: &Path) -> Result<OsString, Problem> {
    let artifact = store.find_prefix(digits)?;
    let place = folder.join(artifact.short());
    store.materialize(artifact, &place, Handover::Link)?;
    Ok(place.into())
}
