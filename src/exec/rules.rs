//! Puts questions to those who know a stage's rules: the worker, or a command stage's own program.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use olmo_stage::rules::{Finding, Question};

use super::command;
use super::error::ExecError;
use crate::spec::ResolvedStage;

/// The findings for each of `questions`, all of built-in stages, from the worker at `path`.
///
/// # Errors
/// The worker is missing, or does not answer as it should.
pub fn ask_worker(path: &Path, questions: &[Question]) -> Result<Vec<Vec<Finding>>, ExecError> {
    let broken = |why: String| ExecError::WorkerBroken { path: path.to_owned(), why };
    let text = serde_json::to_vec(questions).map_err(|e| broken(e.to_string()))?;
    let answer = match asked(Command::new(path).arg("check"), &text) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(ExecError::WorkerMissing(path.to_owned())),
        answer => answer.map_err(|e| broken(format!("`check`: {e}")))?,
    };
    let answers: Vec<Vec<Finding>> =
        serde_json::from_slice(&answer).map_err(|e| broken(format!("`check` gave no list of findings: {e}")))?;
    match answers.len() == questions.len() {
        true => Ok(answers),
        false => Err(broken(format!("`check` answered {} of {} questions", answers.len(), questions.len()))),
    }
}

/// The findings of the command stage `stage`, by its `command.check`; none if it has no such program.
///
/// # Errors
/// The program cannot be started, fails, or prints something else.
pub fn ask_command(stage: &ResolvedStage, question: &Question) -> Result<Vec<Finding>, ExecError> {
    let contract = &stage.description.contract;
    let (Some(command), Some(folder)) = (&contract.command, &stage.stage_dir) else { return Ok(Vec::new()) };
    let Some(argv) = &command.check else { return Ok(Vec::new()) };
    let broken = |why: String| ExecError::CheckFailed { stage: stage.uses.clone(), why };
    let filled: Vec<String> = argv.iter().map(|word| word.replace("${stage.dir}", &folder.to_string_lossy())).collect();
    let Some((program, arguments)) = filled.split_first() else { return Err(broken("it names no program".into())) };
    let empty = tempfile::tempdir().map_err(|e| broken(e.to_string()))?;
    let mut process = Command::new(program);
    process.args(arguments).current_dir(empty.path()).env_clear();
    process.envs(command::environment(contract, empty.path())?);
    let text = serde_json::to_vec(question).map_err(|e| broken(e.to_string()))?;
    let answer = asked(&mut process, &text).map_err(|e| broken(e.to_string()))?;
    serde_json::from_slice(&answer).map_err(|e| broken(format!("it printed no list of findings: {e}")))
}

/// What `process` prints when it is given `text`; an error if it does not end with 0.
fn asked(process: &mut Command, text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut child = process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // By a thread of its own: a program that answers before it has read all must not wait for us.
    let output = std::thread::scope(|scope| {
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not want to know is no error.
            scope.spawn(move || drop(stdin.write_all(text)));
        }
        child.wait_with_output()
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(std::io::Error::other(format!("it ended with {}: {}", output.status, said.trim())))
}
