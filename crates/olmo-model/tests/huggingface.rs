//! Models made by `transformers` (tests/fixtures/hf_tiny, made by scripts/goldens/hf_tiny.py): the same logits and answers, there and back.

use std::path::{Path, PathBuf};

use olmo_model::{
    GenerateOptions, LayerNormType, Model, ModelError, Parameters, generate, load, save_huggingface, save_native,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

const CASES: [&str; 4] = ["olmo", "olmo2", "olmo2_gqa", "olmo3"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf_tiny").join(name)
}

fn case(name: &str) -> Value {
    let document: Value =
        serde_json::from_slice(&std::fs::read(fixture("cases.json")).expect("the fixture is there")).expect("JSON");
    document["cases"][name].clone()
}

fn ids(value: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(value.clone()).expect("rows of ids")
}

fn bytes(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            (path.file_name().expect("a name").to_string_lossy().into_owned(), std::fs::read(&path).expect("a file"))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn logits_are_those_of_transformers() {
    for name in CASES {
        let (config, parameters) = load(&fixture(name)).expect("a model");
        let (case, model) = (case(name), Model::new(&config, &parameters, false).expect("a model"));
        let prompts = ids(&case["input_ids"]);
        let logits = model.logits(&prompts.concat(), prompts.len(), prompts[0].len()).expect("logits");
        let want: Vec<f64> =
            serde_json::from_value::<Vec<Vec<Vec<f64>>>>(case["logits"].clone()).expect("logits").concat().concat();
        assert_eq!(logits.len(), want.len());
        let most = logits.iter().zip(&want).fold(0.0f64, |most, (got, want)| most.max((f64::from(*got) - want).abs()));
        assert!(most <= 1e-5, "{name}: {most}");
    }
}

#[test]
fn greedy_answers_are_those_of_transformers_alone_or_in_company_and_on_any_number_of_threads() {
    for name in CASES {
        let (config, parameters) = load(&fixture(name)).expect("a model");
        let (case, model) = (case(name), Model::new(&config, &parameters, false).expect("a model"));
        let (prompts, want) = (ids(&case["input_ids"]), ids(&case["greedy"]));
        let options = GenerateOptions { max_new_tokens: want[0].len(), eos_token_ids: vec![] };
        assert_eq!(generate(&model, &prompts, &options).expect("answers"), want, "{name}");
        assert_eq!(generate(&model, &prompts[1..], &options).expect("answers"), want[1..], "{name}");
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            assert_eq!(pool.install(|| generate(&model, &prompts, &options)).expect("answers"), want, "{name}");
        }
        // An answer ends before the first of its eos ids, whichever that is.
        let position = |eos: u32| want[0].iter().position(|id| *id == eos).expect("it is there");
        for eos in [vec![want[0][5]], vec![want[0][5], want[0][3]], vec![want[0][3], want[0][5]]] {
            let end = eos.iter().map(|id| position(*id)).min().expect("an id");
            let options = GenerateOptions { eos_token_ids: eos, ..options.clone() };
            let stopped = generate(&model, &prompts[..1], &options).expect("answers");
            assert_eq!(stopped, [want[0][..end].to_vec()], "{name}");
        }
    }
}

#[test]
fn an_export_loads_as_the_same_model_and_equal_models_give_equal_bytes() {
    for name in CASES {
        let (config, parameters) = load(&fixture(name)).expect("a model");
        let folder = tempfile::tempdir().expect("a folder");
        let [huggingface, native, again] = ["hf", "native", "again"].map(|part| folder.path().join(part));
        save_huggingface(&huggingface, &config, &parameters).expect("written");
        assert_eq!(load(&huggingface).expect("loaded"), (config.clone(), parameters.clone()), "{name}");
        save_native(&native, &config, &parameters).expect("written");
        assert_eq!(load(&native).expect("loaded"), (config.clone(), parameters.clone()), "{name}");
        save_huggingface(&again, &config, &parameters).expect("written");
        assert_eq!(bytes(&huggingface), bytes(&again), "{name}");
        save_native(&again, &config, &parameters).expect("written");
        assert_eq!(
            bytes(&again).iter().find(|(name, _)| name == "model.safetensors"),
            bytes(&native).iter().find(|(name, _)| name == "model.safetensors")
        );
    }
}

#[test]
fn several_eos_ids_are_read_from_both_files_and_written_as_a_list() {
    let read = |own: Value, generation: Value| -> Result<Vec<u32>, String> {
        let folder = changed("olmo2", |config| config["eos_token_id"] = own.clone());
        std::fs::write(folder.path().join("generation_config.json"), json!({"eos_token_id": generation}).to_string())
            .expect("written");
        let (config, parameters) = load(folder.path()).map_err(|error| error.to_string())?;
        assert_eq!(config.eos_token_id(), config.eos_token_ids.first().copied());
        let out = tempfile::tempdir().expect("a folder");
        let [huggingface, native] = ["hf", "native"].map(|part| out.path().join(part));
        save_huggingface(&huggingface, &config, &parameters).expect("written");
        save_native(&native, &config, &parameters).expect("written");
        for folder in [&huggingface, &native] {
            assert_eq!(load(folder).expect("loaded").0, config);
        }
        let [own, generation] = ["config.json", "generation_config.json"].map(|file| {
            let text = std::fs::read(huggingface.join(file)).expect("read");
            serde_json::from_slice::<Value>(&text).expect("JSON")["eos_token_id"].clone()
        });
        assert_eq!(own, json!(config.eos_token_id()));
        let ids = &config.eos_token_ids;
        assert_eq!(generation, if ids.len() == 1 { json!(ids[0]) } else { json!(ids) });
        Ok(config.eos_token_ids)
    };
    // OLMo 3 has one id in its config and both in the other file; Llama 3.1 has the list in both.
    assert_eq!(read(json!(5), json!([7, 5])).unwrap(), [5, 7]);
    assert_eq!(read(json!([5, 6, 7]), json!([5, 6, 7])).unwrap(), [5, 6, 7]);
    assert_eq!(read(json!([5, 5]), Value::Null).unwrap(), [5]);
    assert_eq!(read(Value::Null, json!(9)).unwrap(), [9]);
    assert!(read(json!(-1), Value::Null).unwrap_err().contains("config.json: `eos_token_id` is -1"));
    let error = read(json!(1), json!(["<|end|>"])).unwrap_err();
    assert!(error.contains("generation_config.json: `eos_token_id` is [\"<|end|>\"]"), "{error}");
    assert!(read(json!([5, 96]), Value::Null).unwrap_err().contains("`eos_token_id` (96)"));
}

#[test]
fn rows_beyond_the_vocabulary_survive_the_export_and_are_never_generated() {
    let (mut config, _) = load(&fixture("olmo2")).expect("a model");
    config.vocab_size = 40;
    config.embedding_size = Some(64);
    let mut parameters = Parameters::init(&config, 3).expect("weights");
    // The head's padding rows answer loudest.
    let width = config.d_model;
    parameters.tensor_mut("transformer.ff_out.weight").expect("a head")[40 * width..]
        .iter_mut()
        .for_each(|weight| *weight *= 1000.0);
    let folder = tempfile::tempdir().expect("a folder");
    save_huggingface(folder.path(), &config, &parameters).expect("written");
    let (config, parameters) = load(folder.path()).expect("loaded");
    assert_eq!((config.vocab_size, config.embedding_size), (40, Some(64)));
    let model = Model::new(&config, &parameters, false).expect("a model");
    let prompts: Vec<Vec<u32>> = (0..8).map(|first| vec![first, first + 1]).collect();
    let answers =
        generate(&model, &prompts, &GenerateOptions { max_new_tokens: 10, eos_token_ids: vec![] }).expect("answers");
    assert!(answers.concat().iter().all(|id| *id < 40), "{answers:?}");
}

#[test]
fn a_config_that_transformers_cannot_compute_is_not_exported() {
    let folder = tempfile::tempdir().expect("a folder");
    let (olmo2, _) = load(&fixture("olmo2")).expect("a model");
    let mut before = olmo2.clone();
    before.norm_after = false;
    let mut clamped = olmo2.clone();
    clamped.clip_qkv = Some(8.0);
    let (mut eps, _) = load(&fixture("olmo")).expect("a model");
    eps.layer_norm_eps = 1e-6;
    for (config, word) in [(before, "norm_after"), (clamped, "clip_qkv"), (eps, "layer_norm_eps")] {
        let parameters = Parameters::zeros(&config).expect("weights");
        let error = save_huggingface(folder.path(), &config, &parameters).expect_err("refused");
        assert!(matches!(error, ModelError::NotExportable(_)) && error.to_string().contains(word), "{error}");
        assert!(bytes(folder.path()).is_empty(), "nothing is left behind");
    }
}

/// A copy of a fixture with its config changed.
fn changed(name: &str, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (file, content) in bytes(&fixture(name)) {
        std::fs::write(folder.path().join(file), content).expect("written");
    }
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    change(&mut config);
    std::fs::write(path, config.to_string()).expect("written");
    folder
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &[&str]); 10] = [
        ("olmo2", |config| config["model_type"] = "llama".into(), &["model_type", "llama"]),
        (
            "olmo2",
            |config| config["num_hidden_layers"] = 1.into(),
            &["model.layers.1.mlp.down_proj.weight", "no place"],
        ),
        (
            "olmo2",
            |config| config["num_hidden_layers"] = 3.into(),
            &["model.layers.2.self_attn.q_proj.weight", "missing"],
        ),
        (
            "olmo2",
            |config| config["intermediate_size"] = 20.into(),
            &["model.layers.0.mlp.up_proj.weight", "[40, 32]", "[20, 32]"],
        ),
        ("olmo2", |config| config["hidden_act"] = "gelu".into(), &["gelu"]),
        ("olmo2", |config| config["rope_parameters"]["rope_type"] = "yarn".into(), &["yarn"]),
        // The trap of the original converters: norm weights that the other architecture does not have.
        ("olmo2", |config| config["model_type"] = "olmo".into(), &["post_attention_layernorm", "no place"]),
        ("olmo", |config| config["num_attention_heads"] = 5.into(), &["n_heads"]),
        // Sizes that no memory holds are an error too, and an early one.
        ("olmo", |config| config["hidden_size"] = (1 << 20).into(), &["model.embed_tokens.weight", "1048576"]),
        ("olmo", |config| config["hidden_size"] = u64::MAX.into(), &["d_model"]),
    ];
    for (name, change, words) in cases {
        let folder = changed(name, change);
        let error = load(folder.path()).expect_err("refused").to_string();
        for word in words {
            assert!(error.contains(word), "{word} is not in: {error}");
        }
    }
}

#[test]
fn shards_in_bf16_load_as_the_rounded_model() {
    let whole = std::fs::read(fixture("olmo2_gqa").join("model.safetensors")).expect("read");
    let file = SafeTensors::deserialize(&whole).expect("a safetensors file");
    let folder = changed("olmo2_gqa", |_| {});
    std::fs::remove_file(folder.path().join("model.safetensors")).expect("removed");
    let mut shards = [Vec::new(), Vec::new()];
    let mut map = serde_json::Map::new();
    for (index, (name, tensor)) in file.tensors().into_iter().enumerate() {
        let halves: Vec<u8> = tensor.data().chunks_exact(4).flat_map(|bytes| [bytes[2], bytes[3]]).collect();
        map.insert(name.clone(), format!("part-{}.safetensors", index % 2).into());
        shards[index % 2].push((name, tensor.shape().to_vec(), halves));
    }
    for (index, shard) in shards.iter().enumerate() {
        let views = shard
            .iter()
            .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).expect("a view")));
        safetensors::serialize_to_file(views, None, &folder.path().join(format!("part-{index}.safetensors")))
            .expect("written");
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).expect("written");
    let (config, got) = load(folder.path()).expect("a model");
    let (same, want) = load(&fixture("olmo2_gqa")).expect("a model");
    assert_eq!(config, same);
    let truncated: Vec<f32> = want.flat().iter().map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)).collect();
    assert_eq!(got.flat(), truncated);
}

#[test]
fn damaged_files_are_errors() {
    let folder = changed("olmo2", |_| {});
    let weights = folder.path().join("model.safetensors");
    let whole = std::fs::read(&weights).expect("read");
    for length in [0, 7, 100, whole.len() - 1] {
        std::fs::write(&weights, &whole[..length]).expect("written");
        assert!(load(folder.path()).is_err(), "{length} bytes");
    }
    std::fs::remove_file(&weights).expect("removed");
    assert!(load(folder.path()).expect_err("refused").to_string().contains("model.safetensors"));
    std::fs::write(folder.path().join("config.json"), "[]").expect("written");
    assert!(load(folder.path()).expect_err("refused").to_string().contains("config.json"));
}

#[test]
fn a_norm_is_part_of_the_architecture() {
    let (config, _) = load(&fixture("olmo")).expect("a model");
    assert_eq!(
        (config.layer_norm_type, config.norm_after, config.clip_qkv, config.weight_tying),
        (LayerNormType::Default, false, Some(0.6), true)
    );
    let (config, _) = load(&fixture("olmo2_gqa")).expect("a model");
    assert_eq!(
        (config.layer_norm_type, config.norm_after, config.n_kv_heads, config.rope_theta),
        (LayerNormType::Rms, true, Some(2), 500_000.0)
    );
}
