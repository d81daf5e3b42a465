//! `olmo-pipe runs logs`: prints the output of a run's stages, also while they run.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use olmo_base::files::open_regular;
use serde_json::json;

use crate::run as engine;
use crate::run::{LogFile, Place, RunStatus};
use crate::store::Store;
use crate::ui::{Exit, Problem, answer, escape_control};

/// How often log files are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes read from one file before moving on to the next.
const CHUNK: u64 = 1 << 20;

/// How much of one attempt's log has been printed.
#[derive(Default)]
struct LogPosition {
    offset: u64,
    /// An unfinished last line.
    rest: Vec<u8>,
}

/// Prints the logs of the run whose id begins with `prefix`: all stages, each line labelled with
/// its stage, or only `stage`, unchanged. With `follow`, keeps printing until the run ends. With
/// `as_json`, prints each line as a JSON object.
pub(super) fn print(
    store: &Store,
    prefix: &str,
    stage: Option<&str>,
    follow: bool,
    as_json: bool,
) -> Result<Exit, Problem> {
    let id = engine::find(store, prefix)?;
    let chosen = |place: &Place| stage.is_none_or(|name| place.stage == name || place.to_string() == name);
    if let Some(name) = stage {
        let run = engine::show(store, &id)?;
        let stage = name.split_once('[').map_or(name, |(stage, _)| stage);
        if run.stages.get(stage).is_none() {
            let known: Vec<&str> = run.stages.keys().collect();
            let message = format!("run {id} has no stage `{stage}`");
            let hint = format!("there are: {}", known.join(", "));
            return Err(Problem::new(Exit::BadInput, "run::unknown_stage", &message, Some(&hint)));
        }
    }
    let terminal = std::io::stdout().is_terminal();
    let mut printed: BTreeMap<(Place, u32), LogPosition> = BTreeMap::new();
    loop {
        // Read the status before the files, so that output printed before the end is not missed.
        let active = engine::show(store, &id)?.status == RunStatus::Running;
        let mut more = false;
        for LogFile { place, attempt, path } in engine::log_files(store, &id)? {
            if !chosen(&place) {
                continue;
            }
            let form = match as_json {
                true => Form::Json(place.clone(), attempt),
                false if stage.is_some_and(|name| name == place.to_string()) => Form::Bare,
                false => Form::Labelled(place.to_string()),
            };
            let state = printed.entry((place, attempt)).or_default();
            // The file has just been moved; the next round finds it under its new name.
            let Ok(read) = read_chunk(&path, state) else { continue };
            more |= read == CHUNK;
            let last = !active && read < CHUNK;
            print_lines(state, &form, terminal, last);
        }
        let done = !(follow && active);
        if done && !more {
            return Ok(Exit::Success);
        }
        if !more {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Reads the next chunk; returns its length in bytes.
fn read_chunk(path: &std::path::Path, state: &mut LogPosition) -> std::io::Result<u64> {
    let mut file = open_regular(path)?;
    let length = file.metadata()?.len();
    if length < state.offset {
        // The log reached its size limit, and its middle was cut out.
        state.rest.extend_from_slice(b"\n[olmo-pipe: this log has since been shortened; what is left follows]\n");
        state.offset = length;
    }
    file.seek(SeekFrom::Start(state.offset))?;
    let read = file.take(CHUNK).read_to_end(&mut state.rest)? as u64;
    state.offset += read;
    Ok(read)
}

/// How lines are printed.
enum Form {
    Bare,
    Labelled(String),
    /// The place and the number of the attempt.
    Json(Place, u32),
}

/// Prints all complete lines; with `last`, also an unfinished line.
fn print_lines(state: &mut LogPosition, form: &Form, terminal: bool, last: bool) {
    let end = match state.rest.iter().rposition(|b| *b == b'\n') {
        _ if last => state.rest.len(),
        Some(at) => at + 1,
        None => return,
    };
    let text = String::from_utf8_lossy(&state.rest[..end]).into_owned();
    state.rest.drain(..end);
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        match form {
            Form::Bare => {}
            Form::Labelled(label) => {
                out.push_str(&escape_control(label));
                out.push_str(" | ");
            }
            Form::Json(place, attempt) => {
                let line = json!({"format": 1, "place": place, "attempt": attempt, "line": line});
                out.push_str(&line.to_string());
                out.push('\n');
                continue;
            }
        }
        // Control sequences pass through to files and pipes; on a terminal they could do harm.
        match terminal {
            true => out.push_str(&escape_control(line)),
            false => out.push_str(line),
        }
        out.push('\n');
    }
    answer(&out);
}
