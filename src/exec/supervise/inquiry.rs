//! [`ask`]: runs a program that answers a question quickly, such as the check program of a stage.
//!
//! The program runs under a supervisor like a stage: it has a time limit, leaves no processes
//! behind, and does not outlive this process. Standard input, output and error are files in memory,
//! so the engine never waits for a pipe that an orphan holds open.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use olmo_stage::signals;

use crate::exec::error::ExecError;
use crate::exec::supervise::launch::{Ended, Supervised};
use crate::exec::supervise::supervisor::Exit;

/// Overrides how long a program may take to answer, in seconds.
const VARIABLE: &str = "OLMO_PIPE_CHECK_S";
/// How long a program may take to answer by default.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer in bytes that is accepted.
const LONGEST: u64 = 32 << 20;
/// How many bytes of standard error are kept.
const ERROR_BYTES: u64 = 64 << 10;

/// Runs the program `argv` in `folder` with `text` as its input, and returns its output.
/// `environment` is its whole environment.
///
/// # Errors
/// The program cannot be started, does not answer in time, prints too much, or exits with a code
/// other than 0.
pub(crate) fn ask(
    argv: Vec<OsString>,
    environment: &BTreeMap<String, OsString>,
    folder: &Path,
    text: &[u8],
) -> Result<Vec<u8>, String> {
    let timeout = limit().map_err(|e| e.to_string())?;
    let memory = |e: io::Error| format!("cannot make a file in memory: {e}");
    let (mut question, mut answer, mut stderr) = (unnamed_file()?, unnamed_file()?, unnamed_file()?);
    question.write_all(text).and_then(|()| question.seek(SeekFrom::Start(0))).map_err(memory)?;
    let files = [&question, &answer, &stderr];
    // The limit is twice the longest answer, so that a shortened output is still recognized as too
    // long.
    let mut process =
        Supervised::with_files(argv, environment, folder, files, 2 * LONGEST).map_err(|e| e.to_string())?;
    let since = Instant::now();
    let ended = loop {
        match process.wait(Duration::from_millis(100)).map_err(|e| e.to_string())? {
            Some(ended) => break ended,
            None if since.elapsed() >= timeout => {
                drop(process);
                let seconds = timeout.as_secs_f64();
                return Err(format!("it did not answer within {seconds} s (OLMO_PIPE_CHECK_S) and was killed"));
            }
            None => {}
        }
    };
    let exit = match ended {
        Ended::Exited(Exit { error: Some(why), .. }) => return Err(why),
        Ended::Exited(exit) => exit,
        Ended::SupervisorKilled => return Err("its supervisor was killed".into()),
    };
    let errors = read(&mut stderr, ERROR_BYTES).map_err(memory)?;
    let errors = String::from_utf8_lossy(&errors);
    let errors = errors.trim();
    match (exit.code, exit.signal) {
        (Some(0), _) => {}
        (Some(code), _) => return Err(format!("it ended with exit code {code}: {errors}")),
        (None, Some(signal)) => return Err(format!("it was killed by {}: {errors}", signals::name(signal))),
        (None, None) => return Err(format!("it ended, and its exit status was lost: {errors}")),
    }
    let answer = read(&mut answer, LONGEST + 1).map_err(memory)?;
    match answer.len() as u64 > LONGEST {
        true => Err(format!("it printed more than {} MiB", LONGEST >> 20)),
        false => Ok(answer),
    }
}

/// How long a program may take to answer.
fn limit() -> Result<Duration, ExecError> {
    let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else { return Ok(TIMEOUT) };
    let seconds = text.to_str().and_then(|text| text.parse::<f64>().ok());
    let seconds = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|span| !span.is_zero());
    let wrong = || ExecError::Variable { name: VARIABLE, value: text.to_string_lossy().into(), expected: "seconds" };
    seconds.ok_or_else(wrong)
}

fn read(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(most).read_to_end(&mut text)?;
    Ok(text)
}

/// Creates an empty file without a name.
#[cfg(target_os = "linux")]
fn unnamed_file() -> Result<File, String> {
    let made = rustix::fs::memfd_create("inquiry", rustix::fs::MemfdFlags::CLOEXEC);
    made.map(File::from).map_err(|e| format!("cannot make a file in memory: {e}"))
}

#[cfg(not(target_os = "linux"))]
fn unnamed_file() -> Result<File, String> {
    tempfile::tempfile().map_err(|e| format!("cannot make a temporary file: {e}"))
}
