//! `olmo-pipe validate|show|graph`: inspect an experiment without running it.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use clap::Args;

use crate::cli::common::{Common, ExperimentFile};
use crate::cli::findings::{PlacedFindings, place_findings};
use crate::run as engine;
use crate::spec::Resolved;
use crate::store::Store;
use crate::ui::{Exit, Problem, answer, answer_json, escape_control, say};

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe validate experiments/finetune-tulu.yaml")]
pub(super) struct Validate {
    #[command(flatten)]
    experiment: ExperimentFile,
    /// Print errors and warnings as JSON on standard output.
    #[arg(long)]
    json: bool,
}

impl Validate {
    pub(super) fn run(self, common: &Common) -> Result<Exit, Problem> {
        if self.json {
            let options = self.experiment.options(false)?;
            let (errors, warnings) = match crate::spec::load(&self.experiment.file, &options, &crate::builtin::STAGES) {
                Err(errors) => (serde_json::json!(errors), Vec::new()),
                Ok(loaded) => {
                    let PlacedFindings { errors, warnings } = self.rules(&loaded.resolved, common)?;
                    (serde_json::json!(errors), warnings)
                }
            };
            let sound = errors.as_array().is_some_and(Vec::is_empty);
            answer_json(&serde_json::json!({"format": 1, "errors": errors, "warnings": warnings}));
            return Ok(if sound { Exit::Success } else { Exit::BadInput });
        }
        let loaded = self.experiment.load()?;
        let resolved = &loaded.resolved;
        let found = self.rules(resolved, common)?;
        for warning in &found.warnings {
            say(&warning.render_warning(std::io::stderr().is_terminal()));
        }
        found.into_result()?;
        let profile = resolved.profile.as_ref().map(|p| format!(", profile {p}")).unwrap_or_default();
        let trials = match resolved.trials.len() {
            0 => String::new(),
            count => format!(" in {count} trials"),
        };
        answer(&format!("{}: {} stages{trials}{profile}: no errors\n", resolved.experiment, resolved.stages.len()));
        Ok(Exit::Success)
    }
}

impl Validate {
    /// The findings of the stages' own rules, which may read inputs that are already in the store.
    fn rules(&self, resolved: &Resolved, common: &Common) -> Result<PlacedFindings, Problem> {
        let folder = common.store_folder(&resolved.root);
        // Validating an experiment must not create a store.
        let store = if folder.join("format").exists() { Some(Store::read(&folder)?) } else { None };
        let options = engine::Options { sourcing: self.experiment.sourcing(false, true)?, ..Default::default() };
        let findings = engine::findings(resolved, &[], store.as_ref(), &options)?;
        place_findings(&self.experiment, findings)
    }
}

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe show experiments/finetune-tulu.yaml --origin")]
pub(super) struct Show {
    #[command(flatten)]
    experiment: ExperimentFile,
    /// Print the experiment with defaults, references and overrides resolved (the default).
    #[arg(long)]
    resolved: bool,
    /// Print where each value was set; with --resolved, print the values too.
    #[arg(long)]
    origin: bool,
    /// Print JSON: all values, and with --origin where each was set.
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn run(self) -> Result<Exit, Problem> {
        let options = self.experiment.options(self.origin)?;
        let loaded = crate::spec::load(&self.experiment.file, &options, &crate::builtin::STAGES)?;
        if self.json {
            answer_json(&serde_json::json!({"format": 1, "resolved": loaded.resolved, "origins": loaded.origins}));
            return Ok(Exit::Success);
        }
        if self.origin {
            let mut text = String::new();
            for (path, origin) in &loaded.origins {
                let _ = writeln!(text, "{}  {}", escape_control(path), escape_control(origin));
            }
            answer(&text);
            if !self.resolved {
                return Ok(Exit::Success);
            }
        }
        let text = crate::spec::to_yaml(&loaded.resolved)
            .map_err(|e| Problem::new(Exit::Internal, "show::yaml", &e.to_string(), None))?;
        answer(&text);
        Ok(Exit::Success)
    }
}

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe graph experiments/finetune-tulu.yaml | dot -Tsvg > graph.svg")]
pub(super) struct Graph {
    #[command(flatten)]
    experiment: ExperimentFile,
}

impl Graph {
    pub(super) fn run(self) -> Result<Exit, Problem> {
        let loaded = self.experiment.load()?;
        let graph = crate::graph::Graph::new(&loaded.resolved)
            .map_err(|e| Problem::new(Exit::BadInput, "graph::cycle", &e.to_string(), None))?;
        answer(&graph.to_dot());
        Ok(Exit::Success)
    }
}
