//! Attempts of stage train in temporary folders, with data of a few rows and a model of a few weights.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use olmo_base::{Digest, journal};
use olmo_data::{Layout, MemmapWriter};
use olmo_stage::Compute;
use olmo_stage::compute::Precision;
use olmo_stage::protocol::PROTOCOL_VERSION;
use olmo_stage::{Context, Event, InputItem, Request, Stage as _, StageError};
use olmo_stage_train::Train;
use serde_json::{Value, json};

pub(crate) const VOCABULARY: u32 = 32;
pub(crate) const SEQUENCE: usize = 12;

/// A memmap of `rows` rows; `labelled` says which tokens of a row are targets.
pub(crate) fn memmap(dir: &Path, rows: u32, labelled: impl Fn(u32, usize) -> bool) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let mut writer = writer(dir);
    for row in 0..rows {
        writer.begin_document();
        // Counting up by a step of its own: easy to learn.
        let ids: Vec<u32> =
            (0..SEQUENCE as u32).map(|t| 2 + (row * 5 + t * (1 + row % 3)) % (VOCABULARY - 2)).collect();
        let mask: Vec<bool> = (0..SEQUENCE).map(|t| labelled(row, t)).collect();
        writer.append(&ids, &mask).unwrap();
    }
    writer.finish(0, 0).unwrap();
    dir.to_owned()
}

/// A writer of rows into the folder `dir`, which exists.
pub(crate) fn writer(dir: &Path) -> MemmapWriter {
    let layout = Layout {
        sequence_length: SEQUENCE,
        vocab_size: VOCABULARY,
        tokenizer: Digest::of(b"tokenizer"),
        eos_token_id: 0,
        pad_token_id: 1,
    };
    MemmapWriter::create(dir, layout).unwrap()
}

/// Ten rows with different numbers of labels.
pub(crate) fn data(dir: &Path) -> PathBuf {
    memmap(&dir.join("data"), 10, |row, t| t > row as usize % 5)
}

/// OLMo 2 in the given sizes, with weights that are not truncated.
pub(crate) fn model_of(sizes: Value) -> Value {
    with(json!({"preset": "olmo2", "init_cutoff_factor": null}), sizes)
}

pub(crate) fn optimizer(learning_rate: f64) -> Value {
    json!({"learning_rate": learning_rate, "weight_decay": 0.1, "eps": 1e-8})
}

pub(crate) fn model() -> Value {
    model_of(json!({"d_model": 16, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 32}))
}

/// Two epochs of three steps, and two more.
pub(crate) fn params() -> Value {
    json!({
        "seed": 3, "model": model(), "max_duration": "8steps", "global_train_batch_size": 3, "device_train_microbatch_size": 2,
        "optimizer": optimizer(1e-2), "scheduler": {"t_warmup": 2}, "max_grad_norm": 1.0, "save_interval": 2
    })
}

/// `params` with the members of `changes` put in.
pub(crate) fn with(mut params: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        params[key] = value.clone();
    }
    params
}

/// What one attempt is given.
pub(crate) struct Attempt {
    pub dir: PathBuf,
    pub params: Value,
    pub inputs: BTreeMap<String, Vec<InputItem>>,
    pub state_dir: PathBuf,
    pub items: Vec<InputItem>,
    pub ranks: u32,
    pub compute: Compute,
}

impl Attempt {
    pub(crate) fn new(dir: &Path, data: &Path, params: Value) -> Self {
        let inputs = BTreeMap::from([("data".to_owned(), vec![InputItem { label: None, path: data.to_owned() }])]);
        Self {
            dir: dir.to_owned(),
            params,
            inputs,
            state_dir: dir.join("state"),
            items: Vec::new(),
            ranks: 1,
            compute: Compute::FLEX,
        }
    }

    /// Computed elsewhere; on a GPU in the precision of the params, as the engine resolves it.
    pub(crate) fn on(self, mut compute: Compute) -> Self {
        if self.params["precision"] == "fp32" {
            compute.precision = Precision::Fp32;
        }
        Self { compute, ..self }
    }

    pub(crate) fn input(mut self, port: &str, path: &Path) -> Self {
        self.inputs.insert(port.into(), vec![InputItem { label: None, path: path.to_owned() }]);
        self
    }

    /// Adds the item `label` of an earlier attempt in folder `from`.
    pub(crate) fn item(mut self, from: &Path, label: &str) -> Self {
        self.items.push(InputItem { label: Some(label.into()), path: item(from, label) });
        self
    }

    /// Goes on after the items `labels` of an earlier attempt in folder `from`.
    pub(crate) fn after(self, from: &Path, labels: &[String]) -> Self {
        labels.iter().fold(self, |attempt, label| attempt.item(from, label))
    }

    pub(crate) fn write(&self) {
        fs::create_dir_all(&self.dir).unwrap();
        let request = Request {
            protocol: PROTOCOL_VERSION,
            stage: "train".into(),
            version: 2,
            params: self.params.clone(),
            inputs: self.inputs.clone(),
            outputs: ["checkpoints", "model", "metrics"].map(String::from).into(),
            state_dir: self.state_dir.clone(),
            items: BTreeMap::from([("checkpoints".to_owned(), self.items.clone())]),
            threads: 2,
            ranks: self.ranks,
            compute: self.compute,
        };
        fs::write(self.dir.join("request.json"), serde_json::to_vec(&request).unwrap()).unwrap();
    }

    pub(crate) fn run(&self) -> Result<(), StageError> {
        self.write();
        let mut context = Context::open(&self.dir).unwrap();
        let params = serde_json::from_value(self.params.clone()).unwrap();
        Train::run(params, &mut context)
    }

    /// The code and message of the failure that must come.
    pub(crate) fn failure(&self) -> (String, String) {
        match self.run() {
            Err(StageError::Failed(failure)) => (failure.code, failure.message),
            other => panic!("a failure is expected, not {other:?}"),
        }
    }
}

/// The saved states in a state folder.
pub(crate) fn states(state_dir: &Path) -> Vec<String> {
    let names = fs::read_dir(state_dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

pub(crate) fn item(attempt: &Path, label: &str) -> PathBuf {
    attempt.join("items/checkpoints").join(label)
}

pub(crate) fn events(attempt: &Path) -> Vec<Event> {
    journal::read(&attempt.join("events.jsonl")).unwrap()
}

/// The labels of the items that were reported, in order.
pub(crate) fn items(attempt: &Path) -> Vec<String> {
    let label = |event: Event| match event {
        Event::Item { label, .. } => Some(label),
        _ => None,
    };
    events(attempt).into_iter().filter_map(label).collect()
}

/// The label of the checkpoint after which the attempt in `dir` went on.
pub(crate) fn resumed_after(dir: &Path) -> String {
    let step = events(dir).into_iter().find_map(|event| match event {
        Event::Resumed { step, .. } => Some(step),
        _ => None,
    });
    format!("step{}", step.expect("it was resumed"))
}

/// The lines of the metrics.
pub(crate) fn metrics(attempt: &Path) -> Vec<Value> {
    let text = fs::read_to_string(attempt.join("out/metrics/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn weights(attempt: &Path) -> Vec<u8> {
    fs::read(attempt.join("out/model/model.safetensors")).unwrap()
}

/// Every file under `dir` by its path in it.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    files
}
