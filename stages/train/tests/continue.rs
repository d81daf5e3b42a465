//! Runs that go on from the checkpoints of OLMo and OLMo-core: with their optimizer and at their place
//! in the data they end with the bits of an unbroken run.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use common::{Attempt, data, events, item, metrics, params, weights, with};
use olmo_model::{ModelConfig, Parameters, WeightType};
use olmo_pickle::archive::ArchiveWriter;
use olmo_pickle::distributed::{Checkpoint, CheckpointWriter, MODEL_AND_OPTIM, Writer};
use olmo_pickle::pickle::Item;
use olmo_pickle::{DType, Ranges};
use olmo_stage::Event;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A run of eight steps and its state after four, which is one step into the second epoch.
struct Unbroken {
    dir: TempDir,
    data: PathBuf,
    config: ModelConfig,
    parameters: Parameters,
    /// `exp_avg` and `exp_avg_sq`.
    moments: [Parameters; 2],
}

impl Unbroken {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path());
        let whole = Attempt::new(&dir.path().join("whole"), &data, params());
        whole.run().unwrap();
        let state = item(&whole.dir, "step4");
        let (config, parameters) = olmo_model::load_native(&state.join("model")).unwrap();
        let bytes = fs::read(state.join("optim/optim.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let moments = ["exp_avg", "exp_avg_sq"].map(|kind| {
            let mut moments = Parameters::zeros(&config).unwrap();
            for name in parameters.names() {
                let values = file.tensor(&format!("{kind}.{name}")).unwrap();
                let values = values.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                moments.tensor_mut(name).unwrap().iter_mut().zip(values).for_each(|(to, value)| *to = value);
            }
            moments
        });
        Self { dir, data, config, parameters, moments }
    }

    /// An attempt that starts from the weights in `init`.
    fn from(&self, name: &str, init: &Path, changes: Value) -> Attempt {
        let params = with(with(params(), json!({"model": null})), changes);
        Attempt::new(&self.dir.path().join(name), &self.data, params).input("init", init)
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.dir.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// An unsharded checkpoint as OLMo writes it without FSDP: the state has numbers for names.
    fn checkpoint_of_olmo(&self, train: Item) -> PathBuf {
        let folder = self.folder("olmo");
        olmo_model::save_olmo(&folder, &self.config, &self.parameters, WeightType::Float32).unwrap();
        let names: Vec<&str> = self.parameters.names().collect();
        let mut storages = Vec::new();
        let mut tensor = |values: &[f32], shape: &[usize]| {
            storages.push(bytes_of(values));
            let shape = shape.iter().map(|size| *size as u64).collect();
            Item::Tensor { dtype: DType::Float32, shape, storage: storages.len() - 1 }
        };
        let of_weight = |(number, name): (usize, &&str)| {
            let shape = self.parameters.shape(name).unwrap();
            let [exp_avg, exp_avg_sq] =
                self.moments.each_ref().map(|moments| tensor(moments.tensor(name).unwrap(), shape));
            let state = Item::dict([("step", tensor(&[4.0], &[])), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)]);
            (Item::Int(number as i64), state)
        };
        let state = Item::Dict(names.iter().enumerate().map(of_weight).collect());
        let ids = Item::List((0..names.len()).map(|number| Item::Int(number as i64)).collect());
        let names = Item::List(names.iter().map(|name| Item::text(&format!("module.{name}"))).collect());
        let groups = Item::List(vec![Item::dict([("params", ids), ("param_names", names), ("lr", Item::Float(0.1))])]);
        save(&folder.join("optim.pt"), &Item::dict([("state", state), ("param_groups", groups)]), &storages);
        save(&folder.join("train.pt"), &train, &[]);
        folder
    }

    /// A step of OLMo-core's trainer, with the optimizer's state unless `weights_alone`.
    fn step_of_olmo_core(&self, name: &str, train: Item, weights_alone: bool) -> PathBuf {
        let folder = self.folder(name);
        let tensors = |part: &str, values: &Parameters| {
            let folder = self.folder(part);
            olmo_model::save_olmo_core(&folder, &self.config, values, WeightType::Float32).unwrap();
            let checkpoint = Checkpoint::open_folder(&folder.join(MODEL_AND_OPTIM)).unwrap();
            let tensor = |(name, entry): (&str, &olmo_pickle::distributed::TensorEntry)| {
                (name.to_owned(), entry.shape.clone(), checkpoint.read_tensor(name).unwrap())
            };
            checkpoint.tensors().map(tensor).collect::<Vec<_>>()
        };
        let model = tensors(&format!("{name}-model"), &self.parameters);
        fs::copy(self.dir.path().join(format!("{name}-model/config.json")), folder.join("config.json")).unwrap();
        fs::create_dir_all(folder.join(MODEL_AND_OPTIM)).unwrap();
        let mut writer = CheckpointWriter::create(&folder.join(MODEL_AND_OPTIM), Writer::OlmoCore).unwrap();
        for (name, shape, bytes) in &model {
            writer.tensor(name, DType::Float32, shape, bytes).unwrap();
        }
        for (kind, values) in ["exp_avg", "exp_avg_sq"].iter().zip(&self.moments).filter(|_| !weights_alone) {
            for (name, shape, bytes) in tensors(&format!("{name}-{kind}"), values) {
                let name = name.strip_prefix("model.").unwrap();
                writer.tensor(&format!("optim.state.{name}.{kind}"), DType::Float32, &shape, &bytes).unwrap();
                if *kind == "exp_avg" {
                    writer.tensor(&format!("optim.state.{name}.step"), DType::Float32, &[], &bytes_of(&[4.0])).unwrap();
                }
            }
        }
        writer.finish().unwrap();
        fs::create_dir_all(folder.join("train")).unwrap();
        save(&folder.join("train/rank0.pt"), &train, &[]);
        folder
    }

    /// Runs from `init` with all of its state, twice: to the end, and from the first checkpoint.
    fn goes_on(&self, name: &str, init: &Path, changes: Value) {
        let all = with(json!({"load_optim_state": true, "load_trainer_state": true}), changes);
        let whole = self.dir.path().join("whole");
        let run = self.from(name, init, all.clone());
        run.run().unwrap();
        assert_eq!(common::items(&run.dir), ["step6", "step8"]);
        let again = self.from(&format!("{name}-again"), init, all).item(&run.dir, "step6");
        again.run().unwrap();
        assert_eq!(common::resumed_after(&again.dir), "step6");
        for attempt in [&run, &again] {
            assert_eq!(weights(&attempt.dir), weights(&whole), "{name}");
            assert_eq!(metrics(&attempt.dir), metrics(&whole)[4..], "{name}");
            let said = said(&attempt.dir);
            assert!(said.contains("the optimizer's state after 4 updates; the run continues after step 4"), "{said}");
        }
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Writes a file of `torch.save`.
fn save(path: &Path, root: &Item, storages: &[Vec<u8>]) {
    let mut archive = ArchiveWriter::new(File::create(path).unwrap(), "archive", root).unwrap();
    for bytes in storages {
        archive.storage(bytes).unwrap();
    }
    archive.finish().unwrap();
}

fn said(attempt: &Path) -> String {
    let text = |event| match event {
        Event::Message { text, .. } => Some(text),
        _ => None,
    };
    events(attempt).into_iter().filter_map(text).collect::<Vec<_>>().join("\n")
}

/// `train.pt` of OLMo after `step` steps, `rows` rows into epoch `epoch`.
fn train_of_olmo(step: i64, epoch: i64, rows: i64) -> Item {
    Item::dict([
        ("epoch", Item::Int(epoch)),
        ("global_step", Item::Int(step)),
        ("global_train_examples_seen_this_epoch", Item::Int(rows)),
    ])
}

/// `rank0.pt` of OLMo-core after four steps, one batch into its second epoch.
fn train_of_olmo_core(seed: i64) -> Item {
    let loader = Item::dict([("epoch", Item::Int(2)), ("batches_processed", Item::Int(1)), ("seed", Item::Int(seed))]);
    Item::dict([("global_step", Item::Int(4)), ("data_loader", loader)])
}

#[test]
fn a_run_that_goes_on_from_a_checkpoint_of_either_trainer_ends_with_the_bits_of_an_unbroken_one() {
    let unbroken = Unbroken::new();
    unbroken.goes_on("from-olmo", &unbroken.checkpoint_of_olmo(train_of_olmo(4, 1, 3)), json!({}));
    // OLMo-core's first epoch is 1, so its seed 2 has the order of our seed 3.
    let step = unbroken.step_of_olmo_core("core", train_of_olmo_core(2), false);
    unbroken.goes_on("from-core", &step, json!({}));
}

#[test]
fn without_a_request_only_the_weights_are_taken() {
    let unbroken = Unbroken::new();
    let init = unbroken.checkpoint_of_olmo(train_of_olmo(4, 1, 3));
    let weights_alone = unbroken.from("weights", &init, json!({}));
    weights_alone.run().unwrap();
    assert_eq!(metrics(&weights_alone.dir)[0]["step"], 1);
    assert!(said(&weights_alone.dir).contains("the weights, with a new optimizer; the run begins at step 0"));
    let optimizer = unbroken.from("optimizer", &init, json!({"load_optim_state": true}));
    optimizer.run().unwrap();
    assert_eq!(metrics(&optimizer.dir)[0]["step"], 1);
    // The moments change the first update, which the second loss shows.
    let loss = |attempt: &Attempt, step: usize| metrics(&attempt.dir)[step]["loss"].clone();
    assert_eq!(loss(&weights_alone, 0), loss(&optimizer, 0));
    assert_ne!(loss(&weights_alone, 1), loss(&optimizer, 1));
    assert!(!said(&optimizer.dir).contains("had no labels"), "{}", said(&optimizer.dir));
}

#[test]
fn a_step_of_which_only_the_bytes_of_the_weights_are_here_gives_those_and_nothing_else() {
    let unbroken = Unbroken::new();
    let whole = unbroken.step_of_olmo_core("core", train_of_olmo_core(2), false);
    let partial = unbroken.folder("partial");
    fs::create_dir_all(partial.join(MODEL_AND_OPTIM)).unwrap();
    for name in ["config.json".to_owned(), format!("{MODEL_AND_OPTIM}/.metadata")] {
        fs::copy(whole.join(&name), partial.join(&name)).unwrap();
    }
    let checkpoint = Checkpoint::open_folder(&whole).unwrap();
    for (shard, ranges) in checkpoint.ranges(|name| name.starts_with("model.")) {
        let bytes = fs::read(whole.join(MODEL_AND_OPTIM).join(shard)).unwrap();
        let parts: Vec<u8> =
            ranges.iter().flat_map(|(start, end)| bytes[*start as usize..*end as usize].to_vec()).collect();
        assert!(parts.len() * 2 < bytes.len(), "the weights are less than half of the shard");
        let list = Ranges::new(bytes.len() as u64, &ranges).unwrap().to_json();
        for (name, content) in Ranges::file_names(shard).iter().zip([parts, list]) {
            fs::write(partial.join(MODEL_AND_OPTIM).join(name), content).unwrap();
        }
    }
    let of = |name: &str, init: &Path| {
        let run = unbroken.from(name, init, json!({}));
        run.run().unwrap();
        weights(&run.dir)
    };
    assert_eq!(of("from-partial", &partial), of("from-whole", &whole));
    for param in ["load_optim_state", "load_trainer_state"] {
        let (_, message) = unbroken.from(param, &partial, json!({param: true})).failure();
        assert!(message.contains("`#optim`"), "{param}: {message}");
    }
}

#[test]
fn a_place_that_this_run_does_not_have_and_a_state_that_is_missing_are_refused() {
    let unbroken = Unbroken::new();
    let refused = |init: &Path, changes: Value| {
        let run = unbroken.from("refused", init, with(json!({"load_trainer_state": true}), changes));
        run.failure()
    };
    let position = |train: Item, changes: Value| refused(&unbroken.checkpoint_of_olmo(train), changes);
    let (code, message) = position(train_of_olmo(4, 1, 3), json!({"global_train_batch_size": 2}));
    assert_eq!(code, "train::position");
    assert!(message.contains("3 rows into epoch 1, but this run would be 8 rows into epoch 0"), "{message}");
    let (code, _) = position(train_of_olmo(8, 2, 6), json!({}));
    assert_eq!(code, "train::max_duration");
    let core = unbroken.step_of_olmo_core("seed", train_of_olmo_core(7), true);
    let (code, message) = refused(&core, json!({}));
    assert_eq!(code, "train::position");
    assert!(message.contains("`seed: 8`"), "{message}");
    let (_, message) = refused(&core, json!({"seed": 8, "load_optim_state": true}));
    assert!(message.contains("without the optimizer's state"), "{message}");
    let native = unbroken.folder("native");
    olmo_model::save_native(&native, &unbroken.config, &unbroken.parameters).unwrap();
    let (_, message) = refused(&native, json!({}));
    assert!(message.contains("has weights alone"), "{message}");
    let no_init = with(params(), json!({"load_optim_state": true}));
    let (code, message) = Attempt::new(&unbroken.dir.path().join("none"), &unbroken.data, no_init).failure();
    assert_eq!(code, "train::init");
    assert!(message.contains("there are no initial weights"), "{message}");
}

#[test]
fn a_longer_context_is_part_of_the_model_and_said() {
    let unbroken = Unbroken::new();
    let init = unbroken.checkpoint_of_olmo(train_of_olmo(4, 1, 3));
    let extension =
        json!({"max_sequence_length": 48, "rope_theta": 1e6, "rope_scaling": {"factor": 4.0, "old_context_len": 12}});
    let run = unbroken.from("longer", &init, json!({"context_extension": extension}));
    run.run().unwrap();
    let (config, _) = olmo_model::load(&run.dir.join("out/model")).unwrap();
    assert_eq!((config.max_sequence_length, config.rope_theta), (48, 1e6));
    assert_eq!(config.rope_scaling.unwrap().factor, 4.0);
    let said = said(&run.dir);
    assert!(
        said.contains("max_sequence_length 12 to 48, rope_theta 500000 to 1000000, no scaling to YaRN of factor 4"),
        "{said}"
    );
}
