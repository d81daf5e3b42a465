//! Models made by `transformers` (tests/fixtures/hf_tiny, made by scripts/goldens/hf_tiny.py): the same logits and answers, there and back.

use std::path::{Path, PathBuf};

use olmo_model::{
    LayerNormType, ModelError, Parameters, WeightType, compare_weights, load, save_huggingface, save_native,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

const CASES: [&str; 4] = ["olmo", "olmo2", "olmo2_gqa", "olmo3"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf_tiny").join(name)
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
fn an_export_loads_as_the_same_model_and_equal_models_give_equal_bytes() {
    for name in CASES {
        let (config, parameters) = load(&fixture(name)).expect("a model");
        let folder = tempfile::tempdir().expect("a folder");
        let [huggingface, native, again] = ["hf", "native", "again"].map(|part| folder.path().join(part));
        save_huggingface(&huggingface, &config, &parameters, WeightType::Float32, None).expect("written");
        assert_eq!(load(&huggingface).expect("loaded"), (config.clone(), parameters.clone()), "{name}");
        save_native(&native, &config, &parameters).expect("written");
        assert_eq!(load(&native).expect("loaded"), (config.clone(), parameters.clone()), "{name}");
        save_huggingface(&again, &config, &parameters, WeightType::Float32, None).expect("written");
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
        save_huggingface(&huggingface, &config, &parameters, WeightType::Float32, None).expect("written");
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
        let error =
            save_huggingface(folder.path(), &config, &parameters, WeightType::Float32, None).expect_err("refused");
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
    let cases: [(&str, Change, &[&str]); 11] = [
        ("olmo2", |config| config["model_type"] = "gpt2".into(), &["model_type", "gpt2"]),
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
        (
            "olmo2",
            |config| config["head_dim"] = 16.into(),
            &["model.layers.0.self_attn.q_proj.weight", "[32, 32]", "[64, 32]"],
        ),
        ("olmo2", |config| config["hidden_act"] = "gelu".into(), &["gelu"]),
        ("olmo2", |config| config["rope_parameters"]["rope_type"] = "yarn".into(), &["yarn"]),
        // The trap of the original converters: norm weights that the other architecture does not have.
        (
            "olmo2",
            |config| {
                config["model_type"] = "olmo".into();
                config["architectures"] = json!(["OlmoForCausalLM"]);
                config["rms_norm_eps"] = Value::Null;
            },
            &["post_attention_layernorm", "no place"],
        ),
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

/// One tensor as a test writes it.
type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

fn f32_tensor(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    (name.into(), Dtype::F32, shape.to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// Writes the weights of `folder` again, with changes.
fn change_weights(folder: &Path, change: impl FnOnce(&mut Vec<Tensor>)) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).expect("read");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let mut tensors: Vec<Tensor> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).expect("a view")));
    safetensors::serialize_to_file(views, None, &path).expect("written");
}

fn refusal(folder: &Path) -> String {
    load(folder).expect_err("refused").to_string()
}

#[test]
fn a_head_beside_a_tied_embedding_has_to_be_the_embedding() {
    let embedding =
        |tensors: &[Tensor]| tensors.iter().find(|t| t.0 == "model.embed_tokens.weight").expect("there").clone();
    let want = load(&fixture("olmo")).expect("a model");
    // The same values, in the same type and in another that holds them.
    let folder = changed("olmo", |_| {});
    change_weights(folder.path(), |tensors| {
        let (_, dtype, shape, bytes) = embedding(tensors);
        tensors.push(("lm_head.weight".into(), dtype, shape, bytes));
    });
    assert_eq!(load(folder.path()).expect("a model"), want);
    let folder = changed("olmo", |_| {});
    change_weights(folder.path(), |tensors| {
        let at = tensors.iter().position(|t| t.0 == "model.embed_tokens.weight").expect("there");
        let halves: Vec<u8> = tensors[at].3.chunks_exact(4).flat_map(|bytes| [bytes[2], bytes[3]]).collect();
        tensors[at].3 = halves.chunks_exact(2).flat_map(|half| [0, 0, half[0], half[1]]).collect();
        let shape = tensors[at].2.clone();
        tensors.push(("lm_head.weight".into(), Dtype::BF16, shape, halves));
    });
    load(folder.path()).expect("a model");
    // One other value in the last row.
    let folder = changed("olmo", |_| {});
    change_weights(folder.path(), |tensors| {
        let (_, dtype, shape, mut bytes) = embedding(tensors);
        let last = bytes.len() - 1;
        bytes[last] ^= 0x40;
        tensors.push(("lm_head.weight".into(), dtype, shape, bytes));
    });
    let error = refusal(folder.path());
    for word in
        ["`lm_head.weight` in model.safetensors", "`model.embed_tokens.weight`", "row 95", "tie_word_embeddings"]
    {
        assert!(error.contains(word), "{word} is not in: {error}");
    }
    // The way out that the message names: the same files without the tie are a model with that head.
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    config["tie_word_embeddings"] = false.into();
    std::fs::write(&path, config.to_string()).expect("written");
    let (config, parameters) = load(folder.path()).expect("a model");
    assert!(!config.weight_tying && parameters.tensor("transformer.ff_out.weight").is_some());
    // Without the head, the message says what may be meant.
    change_weights(folder.path(), |tensors| tensors.retain(|t| t.0 != "lm_head.weight"));
    let error = refusal(folder.path());
    assert!(error.contains("`lm_head.weight` is missing (if the embedding is the head"), "{error}");
}

#[test]
fn tensors_that_no_part_of_the_model_takes_are_refused_with_the_reason() {
    let cases: [(&str, &[usize], &str); 7] = [
        ("model.layers.0.self_attn.q_proj.bias", &[32], "is a bias"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", &[4, 32], "adapter"),
        ("base_model.model.model.layers.0.mlp.up_proj.weight", &[4, 32], "adapter"),
        ("model.layers.0.mlp.up_proj.weight_scale", &[40, 1], "quantized"),
        ("model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4", &[8], "quantized"),
        ("model.layers.0.self_attn.sinks", &[4], "no place in this architecture"),
        // Not every name that ends like a known one is that one.
        ("draft.lm_head.weight", &[96, 32], "no place in this architecture"),
    ];
    for (name, shape, word) in cases {
        for fixture in ["olmo", "olmo2"] {
            let folder = changed(fixture, |_| {});
            let values = vec![0.0; shape.iter().product()];
            change_weights(folder.path(), |tensors| tensors.push(f32_tensor(name, shape, &values)));
            let error = refusal(folder.path());
            assert!(error.contains(&format!("`{name}` in model.safetensors")) && error.contains(word), "{error}");
        }
    }
    // OLMo 1 has no norms of queries and keys.
    let folder = changed("olmo", |_| {});
    change_weights(folder.path(), |t| t.push(f32_tensor("model.layers.1.self_attn.q_norm.weight", &[32], &[1.0; 32])));
    assert!(
        refusal(folder.path()).contains("`model.layers.1.self_attn.q_norm.weight` in model.safetensors has no place")
    );
}

#[test]
fn a_stored_rotary_table_has_to_be_that_of_the_config() {
    // Heads of 8, base 10000.
    let table = [1.0f32, 0.1, 0.01, 0.001];
    let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    let folder = changed("olmo2", |_| {});
    change_weights(folder.path(), |tensors| tensors.push(f32_tensor(name, &[4], &table)));
    assert_eq!(load(folder.path()).expect("a model"), load(&fixture("olmo2")).expect("a model"));
    // A table of scaled positions: config.json has lost what the model was trained with.
    let folder = changed("olmo2", |_| {});
    change_weights(folder.path(), |tensors| tensors.push(f32_tensor(name, &[4], &table.map(|x| x / 8.0))));
    let error = refusal(folder.path());
    assert!(error.contains(name) && error.contains("`rope_theta` 10000"), "{error}");
}

#[test]
fn every_key_of_a_config_is_understood_harmless_or_refused_by_name() {
    let outcome = |name: &str, change: &dyn Fn(&mut Value)| {
        let folder = changed(name, change);
        load(folder.path()).map(|(config, _)| config).map_err(|error| error.to_string())
    };
    // What other versions of `transformers`, fine-tuning tools and other architectures write and what changes nothing.
    let neutral = json!({
        "transformers_version": "4.47.1", "torch_dtype": "bfloat16", "use_cache": false, "_name_or_path": "a/b",
        "attention_dropout": 0.1, "bos_token_id": 3, "id2label": {"0": "a"}, "max_length": 20, "temperature": 0.7,
        "head_dim": 8, "hidden_act": "swish", "pretraining_tp": 1, "mlp_bias": false, "final_logit_softcapping": null,
        "quantization_config": null, "some_key_of_tomorrow": null, "logit_scale": 1, "partial_rotary_factor": 1.0,
        "unsloth_version": "2025.1", "pruned_heads": {}, "rope_scaling": {"type": "default"}
    });
    for name in ["olmo", "olmo2", "olmo2_gqa", "olmo3"] {
        let plain = outcome(name, &|_| {}).expect("a model");
        let config = outcome(name, &|config| {
            let fields = config.as_object_mut().expect("an object");
            fields.extend(neutral.as_object().expect("an object").clone());
        });
        assert_eq!(config.expect("a model"), plain, "{name}");
    }
    let one_kind = ["full_attention", "full_attention"];
    let neutral = outcome("olmo2", &|config| {
        config["layer_types"] = json!(one_kind);
        config["use_sliding_window"] = false.into();
    });
    neutral.expect("a model");

    // (fixture, key, value, a word of the message beside the key)
    let refused: [(&str, &str, Value, &str); 32] = [
        ("olmo2", "attention_bias", json!(true), "biases"),
        ("olmo2", "attention_bias", json!("no"), "true or false"),
        ("olmo2", "mlp_bias", json!(true), "only with false"),
        ("olmo2", "hidden_act", json!("gelu_new"), "silu"),
        ("olmo2", "clip_qkv", json!(8.0), "no clamp"),
        ("olmo2", "sliding_window", json!(16), "only olmo3"),
        ("olmo2", "use_sliding_window", json!(true), "only with false"),
        ("olmo3", "sliding_window", Value::Null, "null"),
        ("olmo3", "use_sliding_window", json!(false), "only with true"),
        ("olmo2", "layer_types", json!(["sliding_attention", "full_attention"]), "full attention only"),
        ("olmo3", "layer_types", json!(["full_attention", "sliding_attention"]), "a list of 4 times"),
        ("olmo2", "rope_scaling", json!({"type": "linear", "factor": 2.0}), "\"linear\""),
        ("olmo2", "rope_scaling", json!({"rope_type": "dynamic", "factor": 2.0}), "\"dynamic\""),
        ("olmo2", "rope_scaling", json!({"factor": 2.0}), "`rope_scaling.factor` is 2.0"),
        ("olmo2", "rope_scaling", json!([1]), "not an object"),
        (
            "olmo3",
            "layer_types",
            json!(["full_attention", "chunked_attention", "full_attention", null]),
            "a list of 4 times",
        ),
        ("olmo2", "rope_theta", json!(500000.0), "one rotary base"),
        ("olmo2", "rope_theta", json!("10000"), "not a number"),
        (
            "olmo",
            "rope_parameters",
            json!({"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}),
            "0.5",
        ),
        ("olmo2", "partial_rotary_factor", json!(0.5), "only with 1"),
        ("olmo2", "logit_scale", json!(0.0625), "only with 1"),
        ("olmo2", "final_logit_softcapping", json!(30.0), "does not know"),
        ("olmo2", "quantization_config", json!({"quant_method": "gptq", "bits": 4}), "quantized (gptq)"),
        ("olmo2", "architectures", json!(["Olmo2ForSequenceClassification"]), "only as Olmo2ForCausalLM"),
        ("olmo2", "architectures", json!("Olmo2ForCausalLM"), "architectures"),
        ("olmo2", "auto_map", json!({"AutoModelForCausalLM": "modeling.Mine"}), "only with {}"),
        ("olmo2", "per_layer_config", json!({"0": {"num_attention_heads": 2}}), "only with {}"),
        ("olmo2", "tie_word_embeddings", json!("true"), "true or false"),
        ("olmo", "rms_norm_eps", json!(1e-6), "only with 0.00001"),
        ("olmo2", "rms_norm_eps", Value::Null, "null"),
        ("olmo2", "layer_norm_eps", json!(1e-5), "does not know"),
        ("olmo2", "eos_token_id", json!("</s>"), "not a token id"),
    ];
    for (name, key, value, word) in refused {
        let error = outcome(name, &|config| config[key] = value.clone()).expect_err(key);
        assert!(error.contains(key) && error.contains(word), "{key}: {word} is not in: {error}");
        assert!(error.contains("config.json: "), "{error}");
    }
    // All of them at once.
    let error = outcome("olmo2", &|config| {
        config["clip_qkv"] = 8.into();
        config["made_up"] = json!({"a": [1, 2]});
        config.as_object_mut().expect("an object").remove("hidden_size");
    });
    let error = error.expect_err("refused");
    for word in ["`clip_qkv` is 8", "`made_up` is {\"a\":[1,2]}", "`hidden_size` is missing"] {
        assert!(error.contains(word), "{word} is not in: {error}");
    }
}

#[test]
fn the_rotary_base_of_olmo_3_is_where_transformers_looks_for_it() {
    let theta = |rope: Value| -> Result<(f64, Option<f64>), String> {
        let folder = changed("olmo3", |config| {
            let fields = config.as_object_mut().expect("an object");
            fields.remove("rope_parameters");
            fields.extend(rope.as_object().expect("an object").clone());
        });
        let loaded = load(folder.path()).map_err(|error| error.to_string());
        loaded.map(|(config, _)| (config.rope_theta, config.sliding_rope_theta))
    };
    let kinds = |full: Value, sliding: Value| json!({"full_attention": full, "sliding_attention": sliding});
    let part = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
    assert_eq!(theta(json!({"rope_theta": 20000, "rope_scaling": null})), Ok((20000.0, None)));
    assert_eq!(theta(json!({"rope_parameters": kinds(part(20000.0), part(20000.0))})), Ok((20000.0, None)));
    // Version 5 takes 500000 for a kind without a base of its own.
    assert_eq!(theta(json!({"rope_parameters": kinds(part(500000.0), Value::Null)})), Ok((500000.0, None)));
    assert_eq!(theta(json!({"rope_parameters": kinds(part(20000.0), Value::Null)})), Ok((20000.0, Some(500000.0))));
    assert_eq!(theta(json!({"rope_parameters": kinds(part(20000.0), part(500.0))})), Ok((20000.0, Some(500.0))));
    for rope in [
        json!({"rope_parameters": kinds(part(20000.0), part(20000.0)), "rope_theta": 500000}),
        // It does not read a base beside the kinds.
        json!({"rope_parameters": {"rope_theta": 20000.0, "rope_type": "default"}}),
    ] {
        let error = theta(rope.clone()).expect_err("refused");
        assert!(error.contains("one rotary base"), "{rope}: {error}");
    }
    assert!(theta(json!({})).unwrap_err().contains("`rope_theta` is missing"));
    // An export has the base in both places.
    let (mut config, parameters) = load(&fixture("olmo3")).expect("a model");
    config.rope_theta = 20000.0;
    let folder = tempfile::tempdir().expect("a folder");
    save_huggingface(folder.path(), &config, &parameters, WeightType::Float32, None).expect("written");
    let text = std::fs::read(folder.path().join("config.json")).expect("read");
    let written: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(written["rope_parameters"], kinds(part(20000.0), part(20000.0)));
    assert_eq!((&written["rope_theta"], load(folder.path()).expect("a model").0), (&json!(20000.0), config));
}

#[test]
fn the_comparison_of_files_finds_what_loading_lost() {
    let out = tempfile::tempdir().expect("a folder");
    let export = |source: &Path, name: &str| {
        let (config, parameters) = load(source).expect("a model");
        let folder = out.path().join(name);
        save_huggingface(&folder, &config, &parameters, WeightType::Float32, None).expect("written");
        folder
    };
    for name in CASES {
        let source = fixture(name);
        let folder = export(&source, name);
        let found = compare_weights(&source, &folder, WeightType::Float32, usize::MAX).expect("compared");
        assert!(found.differences.is_empty() && found.tensors > 10, "{name}: {found:?}");
        // From our own format, whose projections are fused.
        let (config, parameters) = load(&source).expect("a model");
        let native = out.path().join(format!("{name}_native"));
        save_native(&native, &config, &parameters).expect("written");
        let found = compare_weights(&native, &folder, WeightType::Float32, usize::MAX).expect("compared");
        assert!(found.differences.is_empty() && found.tensors > 6, "{name}: {found:?}");
        // Any one changed value, any one lost tensor.
        for index in [0, found.tensors / 2] {
            let changed = export(&source, "changed");
            let mut tensor = String::new();
            change_weights(&changed, |tensors| {
                tensor = tensors[index].0.clone();
                let last = tensors[index].3.len() - 1;
                tensors[index].3[last] ^= 1;
            });
            for source in [&source, &native] {
                let found =
                    compare_weights(source, &changed, WeightType::Float32, usize::MAX).expect("compared").differences;
                assert!(found.len() == 1 && found[0].contains(&format!("`{tensor}` holds")), "{tensor}: {found:?}");
            }
            change_weights(&changed, |tensors| tensors.retain(|t| t.0 != tensor));
            let found =
                compare_weights(&source, &changed, WeightType::Float32, usize::MAX).expect("compared").differences;
            assert_eq!(found, [format!("`{tensor}` of the model is not in the export")]);
        }
    }
    // A head that the export lacks: lost if it is another one, superfluous if it repeats the embedding.
    let folder = changed("olmo", |_| {});
    let export = export(&fixture("olmo"), "tied");
    for (flip, lost) in [(0, false), (0x40, true)] {
        change_weights(folder.path(), |tensors| {
            tensors.retain(|t| t.0 != "lm_head.weight");
            let (_, dtype, shape, mut bytes) =
                tensors.iter().find(|t| t.0 == "model.embed_tokens.weight").expect("there").clone();
            bytes[3] ^= flip;
            tensors.push(("lm_head.weight".into(), dtype, shape, bytes));
        });
        let found =
            compare_weights(folder.path(), &export, WeightType::Float32, usize::MAX).expect("compared").differences;
        assert_eq!(!found.is_empty(), lost, "{found:?}");
        assert!(found.iter().all(|what| what.contains("`lm_head.weight`")));
    }
    let found = compare_weights(&export, folder.path(), WeightType::Float32, usize::MAX).expect("compared").differences;
    assert_eq!(found, ["`lm_head.weight` of the export is not in the model"]);
}

#[test]
fn a_folder_that_is_no_model_is_named_with_the_way_to_one() {
    let config = std::fs::read_to_string(fixture("olmo2").join("config.json")).expect("read");
    let weights = std::fs::read(fixture("olmo2").join("model.safetensors")).expect("read");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 29834112\n";
    let index = json!({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}).to_string();
    let both = json!({"weight_map": {"a": "model.safetensors"}}).to_string();
    let adapter = json!({"base_model_name_or_path": "allenai/OLMo-2-0425-1B"}).to_string();
    type Files<'f> = &'f [(&'f str, &'f [u8])];
    let c: (&str, &[u8]) = ("config.json", config.as_bytes());
    let w: (&str, &[u8]) = ("model.safetensors", &weights);
    let cases: &[(Files<'_>, &[&str])] = &[
        (&[], &["empty folder"]),
        (&[c], &["has config.json but no weights"]),
        (&[w], &["no config.json"]),
        (&[("README.md", b"")], &["neither config.json nor model.safetensors"]),
        (&[c, ("pytorch_model.bin", b"")], &["pytorch_model.bin", "the file is empty"]),
        (
            &[c, ("pytorch_model.bin.index.json", b"{}"), ("pytorch_model-00001-of-00002.bin", b"")],
            &["pytorch_model.bin.index.json", "has no `weight_map`"],
        ),
        (&[c, ("pytorch_model-00001-of-00002.bin", b"")], &["00001", "but no pytorch_model.bin.index.json"]),
        (&[("pytorch_model.bin", b"")], &["no config.json", "save_pretrained"]),
        (&[("consolidated.00.pth", b""), ("params.json", b"{}")], &["consolidated.00.pth", "save_pretrained"]),
        (&[c, ("last.ckpt", b"")], &["last.ckpt", "save_pretrained"]),
        (&[("olmo-q8_0.gguf", b"")], &["olmo-q8_0.gguf", "is not a GGUF file"]),
        (&[c, ("tf_model.h5", b"")], &["tf_model.h5", "from_tf=True"]),
        (
            &[c, ("model.safetensors.index.json", index.as_bytes()), ("model-1-of-2.safetensors", b"")],
            &["names 2 shards, and 1 of them", "`model-2-of-2.safetensors`"],
        ),
        (&[c, ("model-1-of-2.safetensors", b"")], &["1 safetensors files", "model.safetensors.index.json"]),
        (&[c, w, ("model.safetensors.index.json", index.as_bytes())], &["has both", "remove"]),
        (
            &[("config.json", b"{}"), ("model_and_optim/.metadata", b""), (".metadata.json", b"{}")],
            &["config.json", "`model` is missing", "OLMo-core"],
        ),
        (&[(".metadata", b""), ("__0_0.distcp", b"")], &["OLMo-core"]),
        (&[("config.yaml", b""), ("model.pt", b""), ("optim.pt", b"")], &["config.yaml", "not a YAML mapping"]),
        (&[("config.yaml", b""), w], &["config.yaml", "not a YAML mapping"]),
        (&[("config.yaml", b""), ("model/rank0.pt", b"")], &["config.yaml", "unshard.py"]),
        (
            &[("adapter_config.json", adapter.as_bytes()), ("adapter_model.safetensors", b"")],
            &["adapter for `allenai/OLMo-2-0425-1B`, not a model", "merge_and_unload().save_pretrained('merged')"],
        ),
        (&[c, w, ("adapter_config.json", adapter.as_bytes())], &["adapter", "applied to the model beside it"]),
        (&[c, ("model.safetensors", pointer.as_bytes())], &["git-lfs pointer", "29834112 bytes", "git lfs pull"]),
        (&[("config.json", pointer.as_bytes()), w], &["config.json", "git lfs pull"]),
        (&[c, ("model.safetensors.index.json", pointer.as_bytes())], &["model.safetensors.index.json", "git lfs pull"]),
        (&[("step1/config.json", config.as_bytes()), ("step1/model.safetensors", b"")], &["the folder `step1` in it"]),
    ];
    let write = |files: Files<'_>| {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, content).expect("written");
        }
        folder
    };
    for (files, words) in cases {
        let folder = write(files);
        let error = load(folder.path()).expect_err("refused");
        assert!(matches!(error, ModelError::Folder { .. } | ModelError::NotUnderstood { .. }), "{error:?}");
        for word in *words {
            assert!(error.to_string().contains(word), "{word} is not in: {error}");
        }
    }
    // Other files beside a model do not matter, nor does an index of that one file.
    let beside: Files<'_> =
        &[c, w, ("pytorch_model.bin", b""), ("x.gguf", b""), ("model.safetensors.index.json", both.as_bytes())];
    assert_eq!(load(write(beside).path()).expect("a model"), load(&fixture("olmo2")).expect("a model"));
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

#[test]
fn a_llama_without_biases_is_written_and_read_under_its_own_names() {
    let config: olmo_model::ModelConfig = serde_json::from_value(json!({
        "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 24, "layer_norm_type": "rms",
        "layer_norm_eps": 1e-5, "rope_theta": 100_000.0, "max_sequence_length": 64, "vocab_size": 60, "weight_tying": true,
        "eos_token_id": 2, "pad_token_id": 2
    }))
    .expect("a config");
    let parameters = Parameters::init(&config, 3).expect("weights");
    let folder = tempfile::tempdir().expect("a folder");
    save_huggingface(folder.path(), &config, &parameters, WeightType::Float32, None).expect("written");
    assert_eq!(load(folder.path()).expect("loaded"), (config, parameters));
    let written = std::fs::read(folder.path().join("config.json")).expect("read");
    let written: Value = serde_json::from_slice(&written).expect("JSON");
    assert_eq!(written["architectures"], json!(["LlamaForCausalLM"]));
    let bytes = std::fs::read(folder.path().join("model.safetensors")).expect("read");
    let names = SafeTensors::deserialize(&bytes).expect("tensors").names().join(" ");
    assert!(names.contains("model.layers.1.input_layernorm.weight") && !names.contains("feedforward"), "{names}");
}
