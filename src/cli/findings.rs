//! Findings of the stages' own rules before a run, placed where the values were written.

use std::path::Path;

use olmo_stage::rules::Level;

use crate::cli::common::ExperimentFile;
use crate::run::StageFinding;
use crate::spec::{Diagnostic, Diagnostics, Location};
use crate::ui::Problem;

/// Errors and warnings, each with its place in a file.
#[derive(Default)]
pub(super) struct PlacedFindings {
    pub errors: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
}

/// Places `findings` in the files of `experiment`.
pub(super) fn place_findings(
    experiment: &ExperimentFile,
    findings: Vec<StageFinding>,
) -> Result<PlacedFindings, Problem> {
    let mut placed = PlacedFindings::default();
    if findings.is_empty() {
        return Ok(placed);
    }
    let options = experiment.options(true)?;
    let loaded = crate::spec::load(&experiment.file, &options, &crate::builtin::STAGES)?;
    for StageFinding { stage, finding } in findings {
        if finding.level == Level::Note {
            continue; // `plan` prints notes.
        }
        // A finding about no single param is placed at its stage.
        let path = match finding.param.is_empty() {
            true => format!("stages.{stage}"),
            false => format!("stages.{stage}.with.{}", finding.param),
        };
        let origin = origin(&loaded.origins, &path);
        let mut notes = vec![format!("reported by stage `{stage}`")];
        if !finding.param.is_empty() && origin.is_some_and(|origin| origin.starts_with("default of")) {
            notes.push(format!("`{path}` has its default value"));
        }
        if origin.is_some_and(|origin| origin.starts_with("--")) {
            notes.push(format!("`{path}` comes from the command line"));
        }
        let diagnostic = Diagnostic {
            code: finding.code,
            message: finding.message,
            span: origin.and_then(|origin| location(origin, &options.cwd)),
            label: None,
            notes,
            help: finding.hint,
        };
        match finding.level {
            Level::Error => placed.errors.push(diagnostic),
            Level::Warning | Level::Note => placed.warnings.push(diagnostic),
        }
    }
    for list in [&mut placed.errors, &mut placed.warnings] {
        let place = |d: &Diagnostic| d.span.as_ref().map(|s| (s.file.clone(), s.line, s.column));
        list.sort_by_key(place);
    }
    Ok(placed)
}

impl PlacedFindings {
    /// Fails with all errors as one problem, if there are any.
    pub(super) fn into_result(self) -> Result<(), Problem> {
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(Diagnostics::new(self.errors).into()),
        }
    }
}

/// Where the value at `path`, or the innermost value around it, was written.
fn origin<'o>(origins: &'o std::collections::BTreeMap<String, String>, path: &str) -> Option<&'o String> {
    let mut path = path.trim_end_matches('.');
    loop {
        // A map has no place of its own, so it takes the place of its first value.
        let inside = || origins.range(format!("{path}.")..).next().filter(|(p, _)| p.starts_with(&format!("{path}.")));
        if let Some(found) = origins.get(path).or_else(|| inside().map(|(_, origin)| origin)) {
            return Some(found);
        }
        path = path.rsplit_once('.').filter(|(rest, _)| rest.contains('.'))?.0;
    }
}

/// Parses `file:line:column` and reads that line; `None` if the origin is not in a file.
fn location(origin: &str, cwd: &Path) -> Option<Location> {
    let (rest, column) = origin.rsplit_once(':')?;
    let (file, line) = rest.rsplit_once(':')?;
    let (line, column): (u32, u32) = (line.parse().ok()?, column.parse().ok()?);
    let source = std::fs::read_to_string(cwd.join(file)).ok()?;
    let text = source.lines().nth(line.checked_sub(1)? as usize)?.to_owned();
    let from: String = text.chars().skip(column.saturating_sub(1) as usize).collect();
    let end = match from.chars().next() {
        Some(quote @ ('"' | '\'')) => from[1..].find(quote).map_or(from.len(), |at| at + 2),
        Some('[') => from.find(']').map_or(from.len(), |at| at + 1),
        _ => from.find([',', '}', ']', '#']).unwrap_or(from.len()),
    };
    let width = from.get(..end).unwrap_or(&from).trim_end().chars().count().max(1) as u32;
    Some(Location {
        file: file.to_owned(),
        line,
        column,
        end_line: line,
        end_column: column + width,
        text,
        text_column: 1,
    })
}
