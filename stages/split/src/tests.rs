use std::path::PathBuf;

use olmo_data::{Message, dataset};
use serde_json::{Value, json};

use super::*;

fn conversation(question: &str, answer: &str, number: usize) -> Conversation {
    let messages =
        vec![Message::new(olmo_data::Role::User, question), Message::new(olmo_data::Role::Assistant, answer)];
    Conversation { dataset: "d".into(), id: number.to_string(), messages, ..Conversation::default() }
}

fn write<T: Record>(dir: &Path, records: impl IntoIterator<Item = T>) {
    std::fs::create_dir_all(dir).unwrap();
    let mut writer = DatasetWriter::create(dir).unwrap();
    records.into_iter().for_each(|record| writer.push(record).unwrap());
    writer.finish(0).unwrap();
}

/// Splits the dataset in folder `dataset`; the attempt's folder.
fn run(dir: &Path, params: Value) -> Result<PathBuf, String> {
    let attempt = dir.join(format!("attempt{}", std::fs::read_dir(dir).unwrap().count()));
    std::fs::create_dir_all(&attempt).unwrap();
    let request = json!({
        "protocol": 2, "stage": "split", "version": 1, "params": params,
        "inputs": {"dataset": [{"label": null, "path": dir.join("dataset")}]}, "outputs": ["train", "test"],
        "state_dir": attempt.join("state"), "items": {}, "threads": 1, "compute": olmo_stage::Compute::FLEX
    });
    std::fs::write(attempt.join("request.json"), request.to_string()).unwrap();
    let mut context = Context::open(&attempt).unwrap();
    let params = serde_json::from_value(params).map_err(|e| e.to_string())?;
    match Split::run(params, &mut context) {
        Ok(()) => Ok(attempt.join("out")),
        Err(StageError::Failed(failure) | StageError::OutOfMemory(failure)) => Err(failure.message),
        Err(StageError::Interrupted) => Err("interrupted".into()),
    }
}

fn ids(dir: &Path) -> Vec<usize> {
    dataset::read_messages(dir).unwrap().iter().map(|conversation| conversation.id.parse().unwrap()).collect()
}

#[test]
fn every_record_is_in_one_part_in_its_order_and_equal_questions_stay_together() {
    let dir = tempfile::tempdir().unwrap();
    // Each question is asked three times, and answered differently.
    write(&dir.path().join("dataset"), (0..300).map(|n| conversation(&format!("q{}", n % 100), &format!("a{n}"), n)));
    let out = run(dir.path(), json!({"test_size": 0.1})).unwrap();
    let (train, test) = (ids(&out.join("train")), ids(&out.join("test")));
    assert_eq!((train.len(), test.len()), (270, 30));
    assert!(train.is_sorted() && test.is_sorted());
    assert!(test.iter().all(|id| !train.iter().any(|other| other % 100 == id % 100)), "{test:?}");
    let again = run(dir.path(), json!({"test_size": 30})).unwrap();
    assert_eq!(ids(&again.join("test")), test, "a number and the same share");
    let other = run(dir.path(), json!({"test_size": 30, "seed": 1})).unwrap();
    assert_ne!(ids(&other.join("test")), test);
    let few = run(dir.path(), json!({"test_size": 0.5, "max_test_size": 9})).unwrap();
    assert_eq!(ids(&few.join("test")).len(), 9);
    assert!(ids(&few.join("test")).iter().all(|id| test.contains(id)), "a smaller part is a part of a larger one");
}

#[test]
fn the_order_of_the_records_does_not_decide() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("dataset"), (0..50).map(|n| format!("document {n}")));
    let texts = |out: PathBuf| dataset::read_text(&out.join("test")).unwrap();
    let mut forward = texts(run(dir.path(), json!({"test_size": 5})).unwrap());
    write(&dir.path().join("dataset"), (0..50).rev().map(|n| format!("document {n}")));
    let mut backward = texts(run(dir.path(), json!({"test_size": 5})).unwrap());
    forward.sort();
    backward.sort();
    assert_eq!((forward.len(), &forward), (5, &backward));
}

#[test]
fn one_record_is_held_out_of_two_and_one_alone_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("dataset"), (0..2).map(|n| conversation(&format!("q{n}"), "a", n)));
    for size in [0.001, 0.9, 1.0, 100.0] {
        let out = run(dir.path(), json!({"test_size": size})).unwrap();
        assert_eq!((ids(&out.join("train")).len(), ids(&out.join("test")).len()), (1, 1), "{size}");
    }
    write(&dir.path().join("dataset"), (0..5).map(|n| conversation("the same", "a", n)));
    let message = run(dir.path(), json!({})).unwrap_err();
    assert!(message.contains("5 records with 1 different questions"), "{message}");
    for size in [0.0, -1.0] {
        assert!(run(dir.path(), json!({"test_size": size})).is_err(), "{size}");
    }
}
