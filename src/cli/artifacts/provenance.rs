//! `olmo-pipe artifacts provenance`: how an artifact was made.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use olmo_base::units::{bytes, duration, utc};
use serde_json::json;

use crate::artifacts::{self, Execution};
use crate::cli::artifacts::argument::{ARTIFACT, find};
use crate::store::Store;
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

/// Format of the provenance.
#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// Text for people.
    Text,
    /// JSON with every detail.
    Json,
    /// OpenLineage events of all stages back to the sources, one JSON object per line.
    Openlineage,
    /// Unsigned in-toto statement with SLSA provenance.
    InToto,
}

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts provenance latest:model --as in-toto")]
pub(crate) struct Provenance {
    #[arg(help = ARTIFACT)]
    artifact: String,
    /// Output format.
    #[arg(long = "as", value_enum, value_name = "FORM", default_value = "text")]
    form: Form,
}

impl Provenance {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let artifact = find(store, &self.artifact)?;
        if let Form::Openlineage = self.form {
            for event in artifacts::events(store, artifact)? {
                answer(&format!("{event}\n"));
            }
            return Ok(Exit::Success);
        }
        let provenance = artifacts::Provenance::read(store, artifact)?;
        match self.form {
            Form::Json => answer_json(&json!({"format": 1, "provenance": provenance})),
            Form::InToto => answer_json(&artifacts::statement(store, &provenance)?),
            Form::Text | Form::Openlineage => answer(&text(&provenance)),
        }
        Ok(Exit::Success)
    }
}

fn text(provenance: &artifacts::Provenance) -> String {
    let mut text = format!("artifact  {}\n", provenance.artifact);
    let _ = writeln!(text, "type      {}, {}", provenance.artifact_type, bytes(provenance.bytes));
    if provenance.makers.is_empty() {
        text.push_str("made by   no stage here: a source, part of another artifact, or from another store\n");
    }
    for maker in &provenance.makers {
        let record = &maker.record;
        let label = maker.label.as_ref().map(|l| format!("[{}]", escape_control(l))).unwrap_or_default();
        let (stage, port) = (escape_control(&record.stage), escape_control(&maker.port));
        let _ = writeln!(text, "made by   {stage} (version {}), output {port}{label}", record.version);
        let _ = writeln!(text, "key       {}", maker.key);
        for (name, value) in [("backend", &record.backend), ("precision", &record.precision)] {
            if let Some(value) = value {
                let _ = writeln!(text, "{name:<9} {}", escape_control(value));
            }
        }
        for (name, value) in &record.params {
            let _ = writeln!(text, "  param   {} = {}", escape_control(name), escape_control(&value.to_string()));
        }
        for (port, inputs) in &record.inputs {
            for input in inputs {
                let label = input.label.as_ref().map(|l| format!("[{}]", escape_control(l))).unwrap_or_default();
                let _ = writeln!(text, "  input   {}{label} = {}", escape_control(port), input.digest);
            }
        }
        if let Some(command) = &record.command {
            let argv = command.argv.join(" ");
            let _ = writeln!(text, "  command {}", escape_control(&argv));
            for (path, digest) in &command.files {
                let _ = writeln!(text, "  file    {} = {digest}", escape_control(path));
            }
        }
        for making in &maker.makings {
            describe(&mut text, making);
        }
    }
    text
}

fn describe(text: &mut String, making: &Execution) {
    let place = making.place.to_string();
    let took = making.started_ms.map(|start| {
        let span = std::time::Duration::from_millis(making.finished_ms.saturating_sub(start));
        format!(" in {}", duration(span))
    });
    let _ = writeln!(
        text,
        "run       {}, {}, ended {}{}",
        making.run,
        escape_control(&place),
        utc(making.finished_ms / 1000),
        took.unwrap_or_default()
    );
    let Some(environment) = &making.environment else { return };
    let host = &environment.host;
    let line = [
        host.name.as_deref(),
        Some(host.os.as_str()),
        host.kernel.as_deref(),
        Some(host.arch.as_str()),
        host.cpu.as_deref(),
    ];
    let line = line.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let _ = writeln!(text, "  host    {}", escape_control(&line));
    let _ = writeln!(text, "  engine  {}", escape_control(&environment.engine));
    if let Some(worker) = &environment.worker {
        let digest = worker.digest.map(|d| format!(", program {}", d.short())).unwrap_or_default();
        let backends = worker.backends.values().map(|b| format!(", {b}")).collect::<String>();
        let _ = writeln!(text, "  worker  {}{}{digest}", escape_control(&worker.build), escape_control(&backends));
    }
    if let Some(git) = &environment.git {
        let branch = git.branch.as_ref().map(|b| format!(" on {b}")).unwrap_or_default();
        let state = if git.dirty { ", with uncommitted changes" } else { "" };
        let _ = writeln!(text, "  commit  {}{}{state}", escape_control(&git.commit), escape_control(&branch));
    }
}
