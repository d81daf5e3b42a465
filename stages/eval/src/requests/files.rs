//! Reads the files of port `requests`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use olmo_base::Diagnose as _;
use olmo_eval::{Formulation, Instance};
use olmo_stage::{Context, StageError};

use crate::params::Params;

/// Maximum number of bytes of a file, decompressed.
const LARGEST: u64 = 4 << 30;

/// The instances of a task, in the order of their file.
pub(crate) struct Task {
    pub name: String,
    pub formulation: Formulation,
    /// The name of the file, or of the memmap.
    pub file: String,
    pub instances: Vec<Instance>,
}

/// The tasks in the files of port `requests`, by name.
///
/// # Errors
/// A file is unreadable or has bad lines (all of them are listed), two files have the same task, or
/// a task asks for likelihoods in some lines and for answers in others.
pub(crate) fn read(params: &Params, context: &mut Context) -> Result<Vec<Task>, StageError> {
    let mut tasks: BTreeMap<String, Task> = BTreeMap::new();
    let mut bad: Vec<String> = Vec::new();
    let mut hint = None;
    for path in context.input_files("requests")? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let default = params.task.clone().unwrap_or_else(|| task_of(&file));
        let input = open(&path).map_err(|e| StageError::io(&path, e))?;
        let requests = match olmo_eval::read(input, &file, &default) {
            Ok(requests) => requests,
            Err(error) => {
                hint = error.hint();
                bad.push(error.to_string());
                continue;
            }
        };
        if requests.unconditional > 0 {
            context.message(format!(
                "{file}: {} choices without their question (`doc_id` from 1000000 on) are not scored",
                requests.unconditional
            ));
        }
        for instance in requests.instances {
            let task = tasks.entry(instance.task.clone()).or_insert_with(|| Task {
                name: instance.task.clone(),
                formulation: instance.formulation(),
                file: file.clone(),
                instances: Vec::new(),
            });
            if task.file != file {
                let what = format!("{file} and {} both have requests of the task `{}`", task.file, task.name);
                return Err(StageError::fail("eval::task", what)
                    .hint("give each file a name of its own, or each line a `task_name`"));
            }
            let formulation = instance.formulation();
            if task.formulation != formulation {
                task.formulation = joined(task.formulation, formulation).ok_or_else(|| {
                    let what = format!(
                        "{file}:{}: the request asks for another kind of result than the other requests of the task `{}`",
                        instance.line, task.name
                    );
                    StageError::fail("eval::task", what).hint("give each kind a `task_name` of its own")
                })?;
            }
            task.instances.push(instance);
        }
    }
    if !bad.is_empty() {
        let error = StageError::fail("eval::requests", bad.join("\n"));
        return Err(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        });
    }
    if let Some(limit) = params.limit {
        for task in tasks.values_mut() {
            task.instances.truncate(limit);
        }
    }
    Ok(tasks.into_values().collect())
}

/// The formulation of a task that has both: a question may have a single choice among others with
/// several.
fn joined(a: Formulation, b: Formulation) -> Option<Formulation> {
    use Formulation::{Loglikelihood, MultipleChoice};
    let choose = |formulation| matches!(formulation, Loglikelihood | MultipleChoice);
    (choose(a) && choose(b)).then_some(MultipleChoice)
}

/// The name of a file without its endings, and without what lm-eval adds (`samples_TASK_TIME`).
fn task_of(file: &str) -> String {
    let name = file.strip_suffix(".gz").unwrap_or(file);
    let name = name.rsplit_once('.').map_or(name, |(name, _)| name);
    let Some(sample) = name.strip_prefix("samples_") else { return name.to_owned() };
    let is_time = |end: &str| end.len() >= 10 && end.starts_with("20") && end.chars().nth(10).is_none_or(|c| c == 'T');
    match sample.rsplit_once('_') {
        Some((task, time)) if is_time(time) => task.to_owned(),
        _ => sample.to_owned(),
    }
}

/// The lines of a file, decompressed if its content is gzip.
fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(2).read_to_end(&mut head)?;
    file.rewind()?;
    let file = BufReader::new(file);
    if head == b"\x1f\x8b" {
        return Ok(Box::new(BufReader::new(Limited { input: MultiGzDecoder::new(file), room: LARGEST })));
    }
    Ok(Box::new(file))
}

/// An input that fails after a number of bytes.
struct Limited<R> {
    input: R,
    room: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.room = self.room.checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(format!("it has more than {} GiB decompressed; split it", LARGEST >> 30))
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_named_after_its_file() {
        for (file, task) in [
            ("arc_easy.jsonl", "arc_easy"),
            ("requests.jsonl.gz", "requests"),
            ("samples_tiny_mc_2026-11-30T10-00-00.123.jsonl", "tiny_mc"),
            ("samples_tiny_mc.jsonl", "tiny_mc"),
            ("plain", "plain"),
        ] {
            assert_eq!(task_of(file), task);
        }
    }
}
