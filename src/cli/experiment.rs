//! `olmo-pipe validate|show|graph`: looking at an experiment without running it.

use std::fmt::Write as _;

use clap::Args;

use super::{Exit, ExperimentFile, Problem, answer, answer_json};
use crate::report::escape_control;

#[derive(Args)]
pub struct Validate {
    #[command(flatten)]
    experiment: ExperimentFile,
    /// Errors as JSON on standard output.
    #[arg(long)]
    json: bool,
}

impl Validate {
    pub fn run(self) -> Result<Exit, Problem> {
        if self.json {
            let options = self.experiment.options(false)?;
            let errors = crate::spec::load(&self.experiment.file, &options, &crate::builtin::STAGES).err();
            let exit = if errors.is_some() { Exit::BadInput } else { Exit::Success };
            let errors = errors.map_or_else(|| serde_json::json!([]), |e| serde_json::json!(e));
            answer_json(&serde_json::json!({"format": 1, "errors": errors}));
            return Ok(exit);
        }
        let loaded = self.experiment.load()?;
        let resolved = &loaded.resolved;
        let profile = resolved.profile.as_ref().map(|p| format!(", profile {p}")).unwrap_or_default();
        let trials = match resolved.trials.len() {
            0 => String::new(),
            count => format!(" in {count} trials"),
        };
        answer(&format!("{}: {} stages{trials}{profile}: no errors\n", resolved.experiment, resolved.stages.len()));
        Ok(Exit::Success)
    }
}

#[derive(Args)]
pub struct Show {
    #[command(flatten)]
    experiment: ExperimentFile,
    /// With every default, reference and override worked out (the only form so far).
    #[arg(long)]
    resolved: bool,
    /// With the place where each value was written.
    #[arg(long)]
    origin: bool,
}

impl Show {
    pub fn run(self) -> Result<Exit, Problem> {
        let options = self.experiment.options(self.origin)?;
        let loaded = crate::spec::load(&self.experiment.file, &options, &crate::builtin::STAGES)?;
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
        let text = serde_yaml::to_string(&loaded.resolved)
            .map_err(|e| Problem::new(Exit::Internal, "show::yaml", &e.to_string(), None))?;
        answer(&text);
        Ok(Exit::Success)
    }
}

#[derive(Args)]
pub struct Graph {
    #[command(flatten)]
    experiment: ExperimentFile,
}

impl Graph {
    pub fn run(self) -> Result<Exit, Problem> {
        let loaded = self.experiment.load()?;
        let graph = crate::graph::Graph::new(&loaded.resolved)
            .map_err(|e| Problem::new(Exit::BadInput, "graph::cycle", &e.to_string(), None))?;
        answer(&graph.to_dot());
        Ok(Exit::Success)
    }
}
