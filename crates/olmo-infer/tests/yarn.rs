//! OLMo 3 with YaRN and a head width of its own, as `transformers` computes it
//! (tests/fixtures/hf_yarn, made by scripts/goldens/yarn.py).

use std::fs;
use std::path::{Path, PathBuf};

use olmo_infer::{GenerateOptions, generate, of_parameters};
use olmo_model::{ModelConfig, Parameters, RopeScaling, WeightType, load, save_huggingface, save_native, weights};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

/// Tokens before the greedy ones.
const PROMPT: usize = 20;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf_yarn")
}

/// The bytes of a tensor of the golden file, in words of four.
fn golden(name: &str) -> Vec<[u8; 4]> {
    let bytes = fs::read(fixture().join("golden.safetensors")).expect("the fixture is there");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let data = file.tensor(name).expect(name).data().to_vec();
    data.chunks_exact(4).map(|word| word.try_into().expect("four bytes")).collect()
}

fn ids(name: &str) -> Vec<u32> {
    golden(name).into_iter().map(u32::from_le_bytes).collect()
}

/// A copy of the fixture with its config changed.
fn changed(change: impl FnOnce(&mut Map<String, Value>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(fixture().join("model.safetensors"), folder.path().join("model.safetensors")).expect("copied");
    let text = fs::read(fixture().join("config.json")).expect("the fixture is there");
    let mut config: Value = serde_json::from_slice(&text).expect("JSON");
    change(config.as_object_mut().expect("an object"));
    fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    folder
}

/// The rotary parameters of full attention.
fn full() -> Value {
    let text = fs::read(fixture().join("config.json")).expect("the fixture is there");
    let config: Value = serde_json::from_slice(&text).expect("JSON");
    config["rope_parameters"]["full_attention"].clone()
}

/// Moves the rotary parameters to where version 4 of `transformers` has them.
fn flatten(config: &mut Map<String, Value>) {
    let mut scaling = full();
    let theta = scaling.as_object_mut().and_then(|scaling| scaling.remove("rope_theta")).expect("a base");
    config.remove("rope_parameters");
    config.insert("rope_theta".into(), theta);
    config.insert("rope_scaling".into(), scaling);
}

/// The largest difference from the logits `name` of the golden.
fn difference(config: &ModelConfig, parameters: &Parameters, name: &str) -> f32 {
    let model = of_parameters(config, parameters).expect("a model");
    let tokens = ids("input_ids");
    let logits = model.logits(&tokens, 1, tokens.len()).expect("logits");
    let want: Vec<f32> = golden(name).into_iter().map(f32::from_le_bytes).collect();
    assert_eq!(logits.len(), want.len());
    logits.iter().zip(want).fold(0.0, |most, (got, want)| most.max((got - want).abs()))
}

#[test]
fn logits_and_greedy_tokens_beyond_the_original_context_are_those_of_transformers() {
    for folder in [changed(|_| {}), changed(flatten)] {
        let (config, parameters) = load(folder.path()).expect("a model");
        assert_eq!((config.head_dim, config.query_width(), config.kv_width()), (Some(12), 24, 12));
        let most = difference(&config, &parameters, "logits");
        assert!(most <= 5e-5, "{most}");
        let greedy = ids("greedy");
        let model = of_parameters(&config, &parameters).expect("a model");
        let options = GenerateOptions { max_new_tokens: greedy.len() - PROMPT, ..GenerateOptions::default() };
        let answers = generate(&*model, &[greedy[..PROMPT].to_vec()], &options).expect("answers");
        assert_eq!(answers, [greedy[PROMPT..].to_vec()]);
        // The golden notices what it should.
        let plain = ModelConfig { rope_scaling: None, ..config.clone() };
        let scaling = config.rope_scaling.expect("YaRN");
        let scores = RopeScaling { attention_factor: Some(1.0), ..scaling };
        for wrong in [plain, ModelConfig { rope_scaling: Some(scores), ..config }] {
            assert!(difference(&wrong, &parameters, "logits") > 0.1);
        }
    }
}

/// The same weights with other windows, and with another base in them.
fn mixed(config: &mut Map<String, Value>) {
    let kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"];
    config.insert("layer_types".into(), json!(kinds));
    config.insert("sliding_window".into(), json!(16));
    config["rope_parameters"]["full_attention"]["rope_theta"] = json!(20_000.0);
    config["rope_parameters"]["sliding_attention"]["rope_theta"] = json!(10_000.0);
}

#[test]
fn any_blocks_may_have_windows_and_those_their_own_base() {
    let folder = changed(mixed);
    let (config, parameters) = load(folder.path()).expect("a model");
    assert_eq!((config.rope_theta, config.sliding_rope_theta), (20_000.0, Some(10_000.0)));
    assert_eq!((&config.full_attention_layers, config.full_attention_every), (&Some(vec![0, 3]), None));
    let most = difference(&config, &parameters, "mixed_logits");
    assert!(most <= 5e-5, "{most}");
    let one_base = ModelConfig { sliding_rope_theta: None, ..config.clone() };
    assert!(difference(&one_base, &parameters, "mixed_logits") > 0.01);
    let out = tempfile::tempdir().expect("a folder");
    save_huggingface(out.path(), &config, &parameters, WeightType::Float32, None).expect("written");
    assert_eq!(load(out.path()).expect("loaded"), (config, parameters));
    let text = fs::read(out.path().join("config.json")).expect("read");
    let written: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(written["rope_theta"], Value::Null, "version 4 must not compute with one base");
}

#[test]
fn only_blocks_with_full_attention_are_scaled() {
    let (config, _) = load(&fixture()).expect("a model");
    assert_eq!(config.rope_scaling.map(|scaling| scaling.attention_factor()), Some(1.138_629_436_111_989));
    let derived = RopeScaling { attention_factor: None, factor: 8.0, ..RopeScaling::default() };
    assert_eq!(derived.attention_factor(), 1.207_944_154_167_983_6);
    // Without windows, every block is scaled: then the golden, whose first blocks are not, is missed.
    let (config, parameters) = load(&fixture()).expect("a model");
    let wide = ModelConfig { sliding_window: Some(4096), ..config.clone() };
    let full = ModelConfig { sliding_window: None, full_attention_every: None, ..config };
    let tokens = ids("input_ids");
    let logits = |config: &ModelConfig| {
        let model = of_parameters(config, &parameters).expect("a model");
        model.logits(&tokens, 1, tokens.len()).expect("logits")
    };
    assert_ne!(logits(&wide), logits(&full), "a window that holds everything is not scaled");
}

#[test]
fn an_export_says_it_in_both_spellings_and_loads_as_the_same_model() {
    let (olmo3, parameters) = load(&fixture()).expect("a model");
    let olmo2 = ModelConfig { sliding_window: None, full_attention_every: None, ..olmo3.clone() };
    let derived = RopeScaling { attention_factor: None, ..olmo3.rope_scaling.expect("YaRN") };
    let derived = ModelConfig { rope_scaling: Some(derived), ..olmo3.clone() };
    for config in [olmo3, olmo2, derived] {
        let out = tempfile::tempdir().expect("a folder");
        let [huggingface, native] = ["hf", "native"].map(|part| out.path().join(part));
        save_huggingface(&huggingface, &config, &parameters, WeightType::Float32, None).expect("written");
        save_native(&native, &config, &parameters).expect("written");
        for folder in [&huggingface, &native] {
            assert_eq!(load(folder).expect("loaded"), (config.clone(), parameters.clone()));
        }
        let text = fs::read(huggingface.join("config.json")).expect("read");
        let written: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!((&written["head_dim"], &written["rope_theta"]), (&json!(12), &json!(500_000.0)));
        let mut scaling = written["rope_scaling"].clone();
        assert_eq!(scaling["rope_type"], json!("yarn"));
        scaling["rope_theta"] = json!(500_000.0);
        let of_version_5 = &written["rope_parameters"];
        if config.sliding_window.is_some() {
            let plain = json!({"rope_type": "default", "rope_theta": 500_000.0});
            assert_eq!(of_version_5, &json!({"full_attention": scaling, "sliding_attention": plain}));
        } else {
            assert_eq!(of_version_5, &scaling);
        }
    }
}

#[test]
fn what_transformers_leaves_out_has_its_defaults() {
    let scaling = |change: &dyn Fn(&mut Value)| {
        let mut part = full();
        change(&mut part);
        let folder = changed(|config| config["rope_parameters"]["full_attention"] = part);
        load(folder.path()).map(|(config, _)| config.rope_scaling.expect("YaRN")).map_err(|error| error.to_string())
    };
    let without = |names: &'static [&'static str]| {
        scaling(&move |part| names.iter().for_each(|name| part[*name] = Value::Null)).expect("a model")
    };
    let plain = scaling(&|_| {}).expect("a model");
    assert_eq!(plain.old_context_len, 32);
    assert_eq!(without(&["beta_fast", "beta_slow"]), RopeScaling { beta_fast: 32.0, beta_slow: 1.0, ..plain });
    assert_eq!(without(&["original_max_position_embeddings"]), RopeScaling { old_context_len: 128, ..plain });
    assert_eq!(without(&["attention_factor"]).attention_factor(), plain.attention_factor());
    let mscale = scaling(&|part| {
        part["attention_factor"] = Value::Null;
        part["factor"] = json!(40.0);
        part["mscale"] = json!(1.0);
        part["mscale_all_dim"] = json!(0.707);
    });
    let attention_factor = mscale.expect("a model").attention_factor();
    assert!((attention_factor - 1.085_726_399_256_135_5).abs() <= 1e-12, "{attention_factor}");
}

#[test]
fn olmo_3_under_its_name_before_the_release_is_read() {
    let folder = changed(|config| {
        config.insert("model_type".into(), "olmo2-retrofit".into());
        config.insert("architectures".into(), json!(["Olmo2RetrofitForCausalLM"]));
    });
    assert_eq!(load(folder.path()).expect("a model"), load(&fixture()).expect("a model"));
}

#[test]
fn rotary_parameters_that_cannot_be_meant_are_refused_with_the_reason() {
    let with = |key: &str, value: Value| {
        let (key, mut part) = (key.to_owned(), full());
        part[&key] = value;
        json!({"rope_parameters": {"full_attention": part, "sliding_attention": {"rope_type": "default", "rope_theta": 500_000.0}}})
    };
    let mut by_type = full();
    by_type["type"] = by_type.as_object_mut().and_then(|part| part.remove("rope_type")).expect("a type");
    let mut flat = Map::new();
    flatten(&mut flat);
    let mut other_theta = flat.clone();
    other_theta.insert("rope_theta".into(), json!(10_000.0));
    let mut both = flat.clone();
    let parts = json!({"full_attention": {"rope_theta": 500_000.0}, "sliding_attention": {"rope_theta": 500_000.0}});
    both.insert("rope_parameters".into(), parts);
    let cases: [(Value, &[&str]); 12] = [
        (
            json!({"rope_parameters": {"full_attention": full(), "sliding_attention": full()}}),
            &["`rope_parameters.sliding_attention` scales", "\"rope_type\": \"default\""],
        ),
        (json!({"rope_parameters": full()}), &["ignores for olmo3", "`rope_parameters.full_attention`"]),
        (
            json!({"rope_parameters": {"full_attention": by_type, "sliding_attention": {"rope_theta": 500_000.0}}}),
            &["`rope_parameters.full_attention.type` is \"yarn\"", "rename it to `rope_type`"],
        ),
        (other_theta.into(), &["`rope_theta` is 10000", "sliding attention"]),
        (both.into(), &["`rope_scaling` and `rope_parameters.full_attention` describe different"]),
        (with("factor", Value::Null), &["`rope_parameters.full_attention.factor` is missing"]),
        (with("factor", json!("4")), &["`rope_parameters.full_attention.factor` is \"4\", not a number"]),
        (with("factor", json!(0.5)), &["`rope_scaling.factor` is 0.5", "at least 1"]),
        (with("beta_fast", json!(0.01)), &["`rope_scaling.beta_fast` is 0.01", "greater than `beta_slow`"]),
        (with("original_max_position_embeddings", json!(-1)), &["`rope_scaling.old_context_len` is 0"]),
        (with("truncate", json!(false)), &["`rope_parameters.full_attention.truncate` is false"]),
        (with("rope_type", json!("longrope")), &["is \"longrope\"", "\"yarn\" are supported"]),
    ];
    for (rope, words) in cases {
        let folder = changed(|config| {
            config.remove("rope_parameters");
            config.extend(rope.as_object().expect("an object").clone());
        });
        let error = load(folder.path()).expect_err("refused").to_string();
        for word in words {
            assert!(error.contains(word), "{rope}: {word} is not in: {error}");
        }
    }
}

#[test]
fn a_config_whose_heads_or_scaling_make_no_sense_is_refused() {
    let (config, _) = load(&fixture()).expect("a model");
    let problem = |config: ModelConfig| config.problems().join("; ");
    assert_eq!(problem(config.clone()), "");
    assert!(problem(ModelConfig { head_dim: Some(5), ..config.clone() }).contains("`head_dim` (5) must be even"));
    assert!(problem(ModelConfig { head_dim: Some(0), ..config.clone() }).contains("`head_dim` (0)"));
    let huge = ModelConfig { head_dim: Some(usize::MAX - 1), ..config.clone() };
    assert!(problem(huge).contains("times the width of a head"));
    // A width of its own frees `d_model` from being a multiple of `n_heads`.
    assert_eq!(problem(ModelConfig { d_model: 33, ..config.clone() }), "");
    assert!(problem(ModelConfig { d_model: 33, head_dim: None, ..config.clone() }).contains("unless `head_dim`"));
    let windows = ModelConfig { full_attention_every: Some(5), ..config.clone() };
    assert!(problem(windows).contains("no block has full attention"));
    let beyond = ModelConfig { full_attention_layers: Some(vec![1, 4]), ..config.clone() };
    assert!(problem(beyond).contains("names block 4"));
    let without = ModelConfig { sliding_window: None, sliding_rope_theta: Some(1.0), ..config.clone() };
    assert!(problem(without).contains("`sliding_rope_theta` says nothing without `sliding_window`"));
    assert!(problem(ModelConfig { rope_theta: 1.0, ..config.clone() }).contains("greater than 1"));
    let narrow = weights(&ModelConfig { head_dim: Some(4), ..config.clone() });
    // 8 columns of each of the 2 + 1 + 1 heads, their outputs, and 2 + 1 norms, in 4 blocks.
    assert_eq!(weights(&config) - narrow, 4 * (8 * 32 * 4 + 32 * 8 * 2 + 8 * 3));
}
