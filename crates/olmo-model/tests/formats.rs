//! One model in every format: each is read and written from each other, tensor by tensor.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use olmo_model::{
    ModelConfig, ModelError, Parameters, ResizedVocabulary, Rounded, WeightSource, WeightType, differing_tensors, load,
    open, save_huggingface, save_native, save_olmo, save_olmo_core,
};
use olmo_pickle::DType;
use olmo_pickle::archive::ArchiveWriter;
use olmo_pickle::pickle::Item;
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn config(changes: Value) -> ModelConfig {
    let mut fields = json!({
        "d_model": 16, "n_heads": 4, "n_layers": 3, "mlp_hidden_size": 48, "layer_norm_type": "rms", "layer_norm_eps": 1e-6,
        "attention_layer_norm": true, "norm_after": true, "rope_theta": 500_000.0, "weight_tying": false, "vocab_size": 60,
        "embedding_size": 64, "max_sequence_length": 32, "eos_token_id": 3, "pad_token_id": 1,
    });
    fields.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(fields).unwrap()
}

const DTYPES: [WeightType; 3] = [WeightType::Float32, WeightType::Bfloat16, WeightType::Float16];

/// Writes `source` in the format with this name.
fn save(format: &str, folder: &Path, config: &ModelConfig, source: &dyn WeightSource, dtype: WeightType) {
    match format {
        "native" => save_native(folder, config, &Rounded::new(source, dtype)),
        "huggingface" => save_huggingface(folder, config, source, dtype, None),
        "shards" => save_huggingface(folder, config, source, dtype, Some(3000)),
        "olmo_core" => save_olmo_core(folder, config, source, dtype),
        "olmo" => save_olmo(folder, config, source, dtype),
        other => panic!("no format {other}"),
    }
    .unwrap();
}

#[test]
fn every_format_is_made_from_every_other_bit_by_bit() {
    let formats = ["native", "huggingface", "shards", "olmo_core", "olmo"];
    let olmo1 = json!({
        "layer_norm_type": "default", "layer_norm_with_affine": false, "attention_layer_norm": false,
        "norm_after": false, "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "weight_tying": true
    });
    for changes in [json!({}), json!({"weight_tying": true, "n_kv_heads": 2}), json!({"embedding_size": null}), olmo1] {
        let config = config(changes);
        let parameters = Parameters::init(&config, 7).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for from in formats {
            save(from, &folder.path().join(from), &config, &parameters, WeightType::Float32);
            let stored = open(&folder.path().join(from)).unwrap();
            assert_eq!(stored.parameters().unwrap().flat(), parameters.flat(), "{from}");
            for (to, dtype) in formats.into_iter().flat_map(|to| DTYPES.map(|dtype| (to, dtype))) {
                let target = folder.path().join(format!("{from}-{to}-{}", dtype.as_str()));
                save(to, &target, &config, &stored, dtype);
                let read = open(&target).unwrap();
                let differing = differing_tensors(&parameters, &read, dtype).unwrap();
                assert!(differing.is_empty(), "{from} to {to} as {}: {differing:?}", dtype.as_str());
                let is_exact = parameters.rounded(dtype) == parameters;
                assert!(is_exact == differing_tensors(&parameters, &read, WeightType::Float32).unwrap().is_empty());
            }
        }
    }
}

#[test]
fn an_export_has_the_same_bytes_wherever_its_weights_are_and_shards_have_the_names_of_transformers() {
    let config = config(json!({}));
    let parameters = Parameters::init(&config, 7).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [memory, stored] = ["memory", "stored"].map(|name| folder.path().join(name));
    save_olmo_core(&folder.path().join("core"), &config, &parameters, WeightType::Float32).unwrap();
    save_huggingface(&memory, &config, &parameters, WeightType::Bfloat16, Some(4000)).unwrap();
    let source = open(&folder.path().join("core")).unwrap();
    save_huggingface(&stored, &config, &source, WeightType::Bfloat16, Some(4000)).unwrap();
    let list = |folder: &Path| -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()))
            .collect()
    };
    let files = list(&memory);
    assert!(files == list(&stored));
    let index: Value = serde_json::from_slice(&files["model.safetensors.index.json"]).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    let count = map.values().filter_map(Value::as_str).collect::<std::collections::BTreeSet<_>>().len();
    assert!(count > 3 && map["model.embed_tokens.weight"] == json!(format!("model-00001-of-{count:05}.safetensors")));
    assert_eq!(map["lm_head.weight"], json!(format!("model-{count:05}-of-{count:05}.safetensors")));
    assert_eq!(index["metadata"], json!({"total_parameters": parameters.len(), "total_size": 2 * parameters.len()}));
    for (name, file) in map {
        let bytes = &files[file.as_str().unwrap()];
        assert!(SafeTensors::deserialize(bytes).unwrap().names().contains(&name.as_str()), "{name}");
    }
    let tensors = |name: &str| SafeTensors::deserialize(&files[name]).unwrap().tensors().len();
    assert_eq!(
        files.keys().filter(|name| name.ends_with(".safetensors")).map(|name| tensors(name)).sum::<usize>(),
        map.len()
    );

    // A shard that is missing is named.
    std::fs::remove_file(stored.join(format!("model-00002-of-{count:05}.safetensors"))).unwrap();
    let error = load(&stored).unwrap_err().to_string();
    assert!(
        error.contains(&format!("1 of them are not in the folder: `model-00002-of-{count:05}.safetensors`")),
        "{error}"
    );
}

#[test]
fn rows_of_the_vocabulary_are_cut_or_added_as_zeros() {
    for tied in [false, true] {
        let (large, small) =
            (config(json!({"weight_tying": tied})), config(json!({"weight_tying": tied, "embedding_size": null})));
        let parameters = Parameters::init(&large, 7).unwrap();
        let trimmed = ResizedVocabulary::new(&parameters, &small).unwrap();
        let folder = tempfile::tempdir().unwrap();
        save_huggingface(folder.path(), &small, &trimmed, WeightType::Float32, None).unwrap();
        let (_, read) = load(folder.path()).unwrap();
        let names = ["transformer.wte.weight", "transformer.ff_out.weight", "transformer.blocks.1.att_proj.weight"];
        for name in
            names.into_iter().filter(|name| !tied || !name.ends_with("ff_out.weight") || name.contains("blocks"))
        {
            let own = parameters.tensor(name).unwrap();
            let length = if name.contains("blocks") { own.len() } else { 60 * 16 };
            assert_eq!(read.tensor(name).unwrap(), &own[..length], "{name}");
        }
        // There and back.
        let padded = ResizedVocabulary::new(&read, &large).unwrap();
        save_native(folder.path().join("native").as_path(), &large, &padded).unwrap();
        let (_, back) = load(&folder.path().join("native")).unwrap();
        let embedding = back.tensor("transformer.wte.weight").unwrap();
        assert!(embedding[60 * 16..].iter().all(|value| *value == 0.0) && embedding.len() == 64 * 16);
        assert_eq!(&embedding[..60 * 16], &parameters.tensor("transformer.wte.weight").unwrap()[..60 * 16]);
        assert!(ResizedVocabulary::new(&parameters, &config(json!({"n_layers": 2, "weight_tying": tied}))).is_err());
    }
}

#[test]
fn a_weight_that_a_type_cannot_hold_is_named() {
    let config = config(json!({}));
    let mut parameters = Parameters::init(&config, 7).unwrap();
    parameters.tensor_mut("transformer.blocks.1.ff_out.weight").unwrap()[5] = 70_000.0;
    let folder = tempfile::tempdir().unwrap();
    for save in [save_olmo_core, save_olmo] {
        let error = save(folder.path(), &config, &parameters, WeightType::Float16).unwrap_err().to_string();
        assert!(
            error.contains("`transformer.blocks.1.ff_out.weight` holds 70000, which float16 cannot hold"),
            "{error}"
        );
    }
    let error = save_huggingface(folder.path(), &config, &parameters, WeightType::Float16, None).unwrap_err();
    assert!(error.to_string().contains("which float16 cannot hold"), "{error}");
    save_huggingface(folder.path(), &config, &parameters, WeightType::Bfloat16, None).unwrap();
}

/// Rewrites the safetensors of a Hugging Face folder as `pytorch_model.bin`, in `shards` files, as
/// `dtype`.
fn pickle(folder: &Path, shards: usize, dtype: DType) -> Vec<PathBuf> {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    // They come in an order of their own each time.
    tensors.sort_by(|left, right| left.0.cmp(&right.0));
    std::fs::remove_file(&path).unwrap();
    let mut map = BTreeMap::new();
    let mut files = Vec::new();
    for shard in 0..shards {
        let file = match shards {
            1 => "pytorch_model.bin".to_owned(),
            _ => format!("pytorch_model-{:05}-of-{shards:05}.bin", shard + 1),
        };
        let own: Vec<_> = tensors.iter().skip(shard).step_by(shards).collect();
        let item = |(storage, (name, view)): (usize, &&(String, safetensors::tensor::TensorView<'_>))| {
            let shape = view.shape().iter().map(|size| *size as u64).collect();
            (Item::text(name), Item::Tensor { dtype, shape, storage })
        };
        let root = Item::OrderedDict(own.iter().enumerate().map(item).collect());
        let mut writer = ArchiveWriter::new(File::create(folder.join(&file)).unwrap(), "archive", &root).unwrap();
        for (name, view) in own {
            let values = view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
            let bytes: Vec<u8> = match dtype {
                DType::Float32 => view.data().to_vec(),
                DType::Bfloat16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
                _ => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
            };
            writer.storage(&bytes).unwrap();
            map.insert(name.clone(), file.clone());
        }
        writer.finish().unwrap();
        files.push(folder.join(file));
    }
    if shards > 1 {
        let index = json!({"metadata": {}, "weight_map": map}).to_string();
        std::fs::write(folder.join("pytorch_model.bin.index.json"), index).unwrap();
    }
    files
}

#[test]
fn weights_of_transformers_are_read_from_pickles_in_one_file_or_several() {
    let config = config(json!({}));
    let parameters = Parameters::init(&config, 7).unwrap();
    for (dtype, rounded) in [
        (DType::Float32, WeightType::Float32),
        (DType::Bfloat16, WeightType::Bfloat16),
        (DType::Float16, WeightType::Float16),
    ] {
        for shards in [1, 3] {
            let folder = tempfile::tempdir().unwrap();
            save_huggingface(folder.path(), &config, &parameters, WeightType::Float32, None).unwrap();
            let (expected, _) = load(folder.path()).unwrap();
            pickle(folder.path(), shards, dtype);
            let (read, weights) = load(folder.path()).unwrap();
            assert_eq!((read, weights.flat()), (expected, parameters.rounded(rounded).flat()), "{dtype} {shards}");
            assert_eq!(olmo_model::map(folder.path()).unwrap().1.len(), parameters.len());
        }
    }
}

#[test]
fn damaged_pickles_of_transformers_are_refused_with_the_file_and_the_reason() {
    let config = config(json!({}));
    let parameters = Parameters::init(&config, 7).unwrap();
    let folder = tempfile::tempdir().unwrap();
    save_huggingface(folder.path(), &config, &parameters, WeightType::Float32, None).unwrap();
    let files = pickle(folder.path(), 2, DType::Float32);
    let whole = std::fs::read(&files[1]).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&files[1], bytes).unwrap();
        load(folder.path()).unwrap_err().to_string()
    };
    // In a tensor: bytes between two tensors have no checksum.
    let weights = &parameters.tensor("transformer.wte.weight").unwrap()[..8];
    let weights: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    let place = whole.windows(weights.len()).position(|bytes| bytes == weights);
    let mut flipped = whole.clone();
    flipped[place.expect("the embedding is in the second file")] ^= 1;
    for (bytes, words) in [
        (&b""[..], "the file is empty"),
        (&whole[..whole.len() / 2], "pytorch_model-00002-of-00002.bin"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (&flipped, "checksum differs"),
    ] {
        let error = refused(bytes);
        assert!(error.contains(words) && error.contains("pytorch_model-00002-of-00002.bin"), "{words}: {error}");
    }
    // A value that is no tensor, as a hostile file may have.
    let call = Item::Call { module: "posix", name: "system", args: vec![Item::text("true")] };
    let root = Item::OrderedDict(vec![(Item::text("lm_head.weight"), call)]);
    let mut bytes = Vec::new();
    ArchiveWriter::new(&mut bytes, "archive", &root).unwrap().finish().unwrap();
    let error = refused(&bytes);
    assert!(error.contains("not a state dict of tensors alone"), "{error}");
    std::fs::remove_file(&files[1]).unwrap();
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("1 of them are not in the folder: `pytorch_model-00002-of-00002.bin`"), "{error}");
    std::fs::remove_file(folder.path().join("pytorch_model.bin.index.json")).unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(matches!(error, ModelError::Folder { .. }), "{error:?}");
    assert!(
        error.to_string().contains("has pytorch_model-00001-of-00002.bin but no pytorch_model.bin.index.json"),
        "{error}"
    );
    // Our own config cannot come with them.
    save_native(&folder.path().join("native"), &config, &parameters).unwrap();
    std::fs::remove_file(folder.path().join("native/model.safetensors")).unwrap();
    std::fs::write(folder.path().join("native/pytorch_model.bin"), &whole).unwrap();
    let error = load(&folder.path().join("native")).unwrap_err().to_string();
    assert!(error.contains("config.json: has no `model_type`"), "{error}");
}
