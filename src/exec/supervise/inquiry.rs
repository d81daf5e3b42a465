//! [`ask`]: puts a question to a program that answers at once, such as a stage's checking program.
//!
//! The program runs under a supervisor as a stage does: it has a time limit, leaves no process
//! behind, and does not outlive this process. Question, answer and complaints are files in memory,
//! so nobody waits for a pipe that an orphan holds open.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use olmo_stage::signals;

use crate::exec::error::ExecError;
use crate::exec::supervise::launch::{Ended, Supervised};
use crate::exec::supervise::supervisor::Exit;

/// Overrides how long a program may take to answer, in seconds.
const VARIABLE: &str = "OLMO_PIPE_CHECK_S";
/// How long a program may take to answer.
const WITHIN: Duration = Duration::from_secs(60);
/// A longer answer is refused.
const LONGEST: u64 = 32 << 20;
/// Of what a program complains of, so much is kept.
const COMPLAINTS: u64 = 64 << 10;

/// What the program `argv` prints when it is given `text`. `environment` is all of its environment;
/// it starts in `folder`.
///
/// # Errors
/// It cannot be started, does not answer in time, answers too much, or does not end with 0.
pub fn ask(
    argv: Vec<OsString>,
    environment: &BTreeMap<String, OsString>,
    folder: &Path,
    text: &[u8],
) -> Result<Vec<u8>, String> {
    let within = limit().map_err(|e| e.to_string())?;
    let memory = |e: io::Error| format!("cannot make a file in memory: {e}");
    let (mut question, mut answer, mut said) = (file()?, file()?, file()?);
    question.write_all(text).and_then(|()| question.seek(SeekFrom::Start(0))).map_err(memory)?;
    let files = [&question, &answer, &said];
    // Twice the most: what is longer is shortened, and still too long.
    let mut process =
        Supervised::with_files(argv, environment, folder, files, 2 * LONGEST).map_err(|e| e.to_string())?;
    let since = Instant::now();
    let ended = loop {
        match process.wait(Duration::from_millis(100)).map_err(|e| e.to_string())? {
            Some(ended) => break ended,
            None if since.elapsed() >= within => {
                drop(process);
                let seconds = within.as_secs_f64();
                return Err(format!("it did not answer within {seconds} s (OLMO_PIPE_CHECK_S), and was killed"));
            }
            None => {}
        }
    };
    let exit = match ended {
        Ended::Seen(Exit { error: Some(why), .. }) => return Err(why),
        Ended::Seen(exit) => exit,
        Ended::Unseen => return Err("somebody killed it".into()),
    };
    let complaints = read(&mut said, COMPLAINTS).map_err(memory)?;
    let complaints = String::from_utf8_lossy(&complaints);
    let complaints = complaints.trim();
    match (exit.code, exit.signal) {
        (Some(0), _) => {}
        (Some(code), _) => return Err(format!("it ended with exit code {code}: {complaints}")),
        (None, Some(signal)) => return Err(format!("it was ended by {}: {complaints}", signals::name(signal))),
        (None, None) => return Err(format!("nobody saw how it ended: {complaints}")),
    }
    let answer = read(&mut answer, LONGEST + 1).map_err(memory)?;
    match answer.len() as u64 > LONGEST {
        true => Err(format!("it printed more than {} MiB", LONGEST >> 20)),
        false => Ok(answer),
    }
}

/// How long a program may take to answer.
fn limit() -> Result<Duration, ExecError> {
    let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else { return Ok(WITHIN) };
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

/// An empty file that no folder names.
#[cfg(target_os = "linux")]
fn file() -> Result<File, String> {
    let made = rustix::fs::memfd_create("inquiry", rustix::fs::MemfdFlags::CLOEXEC);
    made.map(File::from).map_err(|e| format!("cannot make a file in memory: {e}"))
}

#[cfg(not(target_os = "linux"))]
fn file() -> Result<File, String> {
    tempfile::tempfile().map_err(|e| format!("cannot make a temporary file: {e}"))
}
