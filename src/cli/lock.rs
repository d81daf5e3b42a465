//! `olmo-pipe lock`: records the exact versions of remote sources.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use clap::Args;

use crate::cli::common::{Common, ExperimentFile, current_folder};
use crate::run as engine;
use crate::ui::{Display, Exit, Problem, Stream, Terminal, answer, escape_control};

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe lock experiments/finetune-tulu.yaml --update")]
pub(super) struct Lock {
    #[command(flatten)]
    experiment: ExperimentFile,
    /// Check locked sources for changes, and lock their current versions.
    #[arg(long)]
    update: bool,
}

impl Lock {
    pub(super) fn run(self, common: &Common) -> Result<Exit, Problem> {
        let resolved = &self.experiment.load()?.resolved;
        let store = common.open_store_of(&resolved.root)?;
        let sourcing = self.experiment.sourcing(false, false)?;
        let bars = std::io::stderr().is_terminal();
        let terminal = Terminal::new(Box::new(Stream::Error), bars, &current_folder()?);
        let mut display = Display::start(terminal)?;
        let changed = engine::lock(&store, resolved, self.update, &sourcing, &mut display)?;
        let file = sourcing.lock.unwrap_or_default();
        let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut text = String::new();
        for source in &changed {
            let _ = writeln!(text, "  locked {}", escape_control(source));
        }
        match changed.len() {
            0 => text.push_str("nothing to lock: every remote source is already locked, or there are none\n"),
            count => {
                let _ = writeln!(
                    text,
                    "{count} {} in {file}",
                    if count == 1 { "source is new" } else { "sources are new" }
                );
            }
        }
        display.close(None, move |_| answer(&text));
        Ok(Exit::Success)
    }
}
