//! Checks stages against their own rules, by asking the worker, or the check program of a command
//! stage. It interprets no findings; the caller decides what they mean.

use std::path::Path;

use olmo_stage::rules::{Finding, Question};

use crate::exec::command;
use crate::exec::error::ExecError;
use crate::exec::supervise::ask;
use crate::exec::supervise::redact::Redactor;
use crate::exec::worker::inherited_environment;
use crate::spec::ResolvedStage;

/// Asks the worker at `path` for the findings for each of `questions`, all about built-in stages.
///
/// # Errors
/// The worker is missing, or its answer is invalid.
pub fn ask_worker(path: &Path, questions: &[Question]) -> Result<Vec<Vec<Finding>>, ExecError> {
    let broken = |why: String| ExecError::WorkerBroken { path: path.to_owned(), why };
    let text = serde_json::to_vec(questions).map_err(|e| broken(e.to_string()))?;
    if !path.exists() {
        return Err(ExecError::WorkerMissing(path.to_owned()));
    }
    let argv = vec![path.into(), "check".into()];
    let answer = ask(argv, &inherited_environment(), Path::new("/"), &text);
    let answer = answer.map_err(|e| broken(format!("`check`: {e}")))?;
    let answers: Vec<Vec<Finding>> =
        serde_json::from_slice(&answer).map_err(|e| broken(format!("`check` printed no list of findings: {e}")))?;
    match answers.len() == questions.len() {
        true => Ok(answers),
        false => Err(broken(format!("`check` answered {} of {} questions", answers.len(), questions.len()))),
    }
}

/// Asks the check program (`command.check`) of command stage `stage` for findings. A stage without
/// one has none. The program gets the secrets that are set; a missing secret is not an error here,
/// since only the stage itself needs it. The values of secrets are masked in the findings.
///
/// # Errors
/// The program cannot be started, fails, takes too long, or prints something else.
pub fn ask_command(stage: &ResolvedStage, question: &Question) -> Result<Vec<Finding>, ExecError> {
    let contract = &stage.description.contract;
    let (Some(command), Some(folder)) = (&contract.command, &stage.stage_dir) else { return Ok(Vec::new()) };
    let Some(argv) = &command.check else { return Ok(Vec::new()) };
    let redactor = Redactor::from_variables(command.secrets.iter().map(String::as_str));
    let broken = |why: String| ExecError::CheckFailed { stage: stage.uses.clone(), why: redactor.redact_text(&why) };
    let filled = argv.iter().map(|word| word.replace("${stage.dir}", &folder.to_string_lossy()).into());
    let filled: Vec<_> = filled.collect();
    if filled.is_empty() {
        return Err(broken("it names no program".into()));
    }
    let empty = tempfile::tempdir().map_err(|e| broken(e.to_string()))?;
    let environment = command::check_environment(contract, empty.path());
    let text = serde_json::to_vec(question).map_err(|e| broken(e.to_string()))?;
    let answer = ask(filled, &environment, empty.path(), &text).map_err(broken)?;
    let findings: Vec<Finding> =
        serde_json::from_slice(&answer).map_err(|e| broken(format!("it printed no list of findings: {e}")))?;
    // The supervisor masked secrets in the JSON text. Mask them in the decoded strings as well.
    let masked = |text: String| redactor.redact_text(&text);
    let mask = |finding: Finding| Finding {
        level: finding.level,
        code: masked(finding.code),
        param: masked(finding.param),
        message: masked(finding.message),
        hint: finding.hint.map(masked),
    };
    Ok(findings.into_iter().map(mask).collect())
}
