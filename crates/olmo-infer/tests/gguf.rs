//! GGUF files: those that we write equal those of llama.cpp's converter, and those that we read answer
//! as the model that they were made from (tests/fixtures/gguf).

use std::fs;
use std::path::{Path, PathBuf};

use olmo_infer::text::{Content, ModelText, TokenizerPlaces, gguf_keys};
use olmo_infer::{GenerateOptions, LanguageModel, Placement, generate, open};
use olmo_model::{
    BlockType, GgufMetadata, GgufType, GgufValue, WeightSource as _, WeightType, read_gguf_metadata, save_gguf,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf").join(name)
}

fn golden() -> Value {
    serde_json::from_slice(&fs::read(fixture("golden.json")).expect("the fixture is there")).expect("JSON")
}

const PLACEMENT: Placement<'static> = Placement { compute: olmo_stage::Compute::FLEX, device: "cpu", stage: "test" };

const TYPES: [(&str, GgufType); 3] = [
    ("f32", GgufType::Plain(WeightType::Float32)),
    ("f16", GgufType::Plain(WeightType::Float16)),
    ("q8_0", GgufType::Blocks(BlockType::Q8_0)),
];

/// A model folder of transformers, with its tokenizer.
fn source(name: &str, into: &Path) -> PathBuf {
    let folder = into.join(name);
    fs::create_dir_all(&folder).expect("a folder");
    for file in fs::read_dir(fixture(name)).expect("the fixture is there") {
        let path = file.expect("a file").path();
        fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("copied");
    }
    // Both models have the same tokenizer.
    fs::copy(fixture("olmo1_d32/tokenizer.json"), folder.join("tokenizer.json")).expect("copied");
    folder
}

/// Writes the model in `folder` as a GGUF file, as stage convert does.
fn write(folder: &Path, to: GgufType, out: &Path) -> PathBuf {
    let model = olmo_model::open(folder).expect("a model");
    let tokenizer = fs::read(folder.join("tokenizer.json")).expect("a tokenizer");
    let text = ModelText::open(folder, TokenizerPlaces::default(), None, "test").expect("a tokenizer");
    let chat = text.chat().expect("a chat format");
    let all = gguf_keys(&tokenizer, chat, model.config().embedding_rows(), "test").expect("keys");
    // llama.cpp's converter does not look for the token that ends an answer.
    let mut keys = GgufMetadata::default();
    let known = all.iter().filter(|(key, _)| !key.ends_with("eot_token_id"));
    keys.extend(known.map(|(key, value)| (key.to_owned(), value.clone())));
    save_gguf(out, model.config(), &model, to, &keys).expect("written");
    out.join("model.gguf")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a value's type and the value, as the golden has them.
fn described(value: &GgufValue) -> (String, Value) {
    let list = |values: Vec<Value>| Value::Array(values);
    match value {
        GgufValue::String(text) => ("STRING".into(), text.as_str().into()),
        GgufValue::Uint32(number) => ("UINT32".into(), (*number).into()),
        GgufValue::Float32(number) => ("FLOAT32".into(), f64::from(*number).into()),
        GgufValue::Bools(values) => ("ARRAY[BOOL]".into(), list(values.iter().map(|value| (*value).into()).collect())),
        GgufValue::Strings(values) => {
            ("ARRAY[STRING]".into(), list(values.iter().map(|value| value.as_str().into()).collect()))
        }
        GgufValue::Int32s(values) => {
            ("ARRAY[INT32]".into(), list(values.iter().map(|value| (*value).into()).collect()))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_equal_those_of_llama_cpps_converter() {
    let golden = golden();
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["olmo1_d32", "olmo3_d32"] {
        let folder = source(name, dir.path());
        for (kind, to) in TYPES {
            let what = format!("{name}-{kind}");
            let want = &golden["files"][&what];
            let path = write(&folder, to, &dir.path().join(&what));
            let metadata = read_gguf_metadata(&path).expect("metadata");
            // All types have the same keys but one.
            let keys = golden["files"][format!("{name}-f16")]["metadata"].as_array().expect("a list");
            assert_eq!(metadata.len(), keys.len(), "{what}");
            for ((key, value), want_key) in metadata.iter().zip(keys) {
                assert_eq!(key, want_key["key"], "{what}");
                let (type_name, value) = described(value);
                assert_eq!(type_name, want_key["type"], "{what}: {key}");
                if key == "general.name" {
                    continue;
                }
                if key == "general.file_type" {
                    let own = want["metadata"].as_array().expect("a list").iter().find(|entry| entry["key"] == key);
                    assert_eq!(Some(&value), own.map(|entry| &entry["value"]), "{what}");
                } else if let Some(digest) = want_key["sha256_of_json"].as_str() {
                    assert_eq!(sha256(value.to_string().as_bytes()), digest, "{what}: {key}");
                } else {
                    assert_eq!(value, want_key["value"], "{what}: {key}");
                }
            }
            // The tensors are the end of the file.
            let bytes = fs::read(&path).expect("a file");
            let tensors = want["tensors"].as_array().expect("a list");
            let size = |tensor: &Value| {
                let elements: u64 =
                    tensor[1].as_array().expect("a shape").iter().map(|n| n.as_u64().expect("a size")).product();
                match tensor[2].as_str() {
                    Some("F32") => 4 * elements,
                    Some("F16") => 2 * elements,
                    Some("Q8_0") => elements / 32 * 34,
                    other => panic!("{other:?}"),
                }
            };
            let last = tensors.last().expect("a tensor");
            let data = last[3].as_u64().expect("an offset") + size(last).next_multiple_of(32);
            let start = bytes.len() - data as usize;
            assert!(start.is_multiple_of(32));
            for tensor in tensors {
                let first = start + tensor[3].as_u64().expect("an offset") as usize;
                let range = first..first + size(tensor) as usize;
                assert_eq!(sha256(&bytes[range]), tensor[4].as_str().expect("a digest"), "{what}: {}", tensor[0]);
                let name = tensor[0].as_str().expect("a name").as_bytes();
                assert!(bytes[..start].windows(name.len()).any(|window| window == name));
            }
        }
    }
}

#[test]
fn a_file_answers_as_the_model_that_it_was_made_from() {
    let golden = golden();
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["olmo1_d32", "olmo3_d32"] {
        let folder = source(name, dir.path());
        // The largest difference of log-probabilities that llama.cpp itself is allowed.
        for ((kind, to), tolerance) in TYPES.into_iter().zip([1e-4, 0.02, 0.5]) {
            let path = write(&folder, to, &dir.path().join(format!("{name}-{kind}")));
            let model = open(&path, &PLACEMENT).expect("a model");
            answers(&*model, &golden["cases"][name], kind == "f32", tolerance);
        }
    }
    // A file that llama.cpp wrote.
    let model = open(&fixture("olmo3_d32-q8_0.gguf"), &PLACEMENT).expect("a model");
    answers(&*model, &golden["cases"]["olmo3_d32"], false, 0.5);
    assert_eq!(model.config().vocab_size, 380, "unused tokens are never generated");
}

fn answers(model: &dyn LanguageModel, cases: &Value, exact: bool, tolerance: f64) {
    for case in cases.as_array().expect("cases") {
        let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).expect("ids") };
        let (prompt, want) = (ids("prompt_ids"), ids("tokens"));
        let options = GenerateOptions { max_new_tokens: want.len(), ..GenerateOptions::default() };
        if exact {
            assert_eq!(generate(model, std::slice::from_ref(&prompt), &options).expect("answers")[0], want);
        }
        let all = [&prompt[..], &want].concat();
        let logits = model.logits(&all, 1, all.len()).expect("logits");
        let rows = model.config().embedding_rows();
        for (place, (token, logprob)) in want.iter().zip(case["logprobs"].as_array().expect("numbers")).enumerate() {
            let row = &logits[(prompt.len() - 1 + place) * rows..][..rows];
            let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
            let got = f64::from(row[*token as usize]) - sum.ln();
            assert!((got - logprob.as_f64().expect("a number")).abs() <= tolerance, "{got} {logprob}");
        }
    }
}

#[test]
fn the_tokenizer_and_the_template_of_a_file_are_those_of_the_model() {
    let golden = golden();
    let dir = tempfile::tempdir().expect("a folder");
    let folder = source("olmo1_d32", dir.path());
    let own = ModelText::open(&folder, TokenizerPlaces::default(), None, "test").expect("a tokenizer");
    let written = write(&folder, GgufType::Plain(WeightType::Float32), &dir.path().join("gguf"));
    for path in [written, fixture("olmo3_d32-q8_0.gguf")] {
        let read = ModelText::open(&path, TokenizerPlaces::default(), None, "test").expect("a tokenizer");
        for (text, count) in golden["probes"].as_object().expect("probes") {
            let ids = read.encode(&Content::Text(text.clone())).expect("ids");
            assert_eq!(ids, own.encode(&Content::Text(text.clone())).expect("ids"), "{text:?}");
            assert_eq!(Some(ids.len() as u64), count.as_u64(), "{text:?}");
        }
        let question = Content::question(Some("Be kind."), "Hi");
        assert_eq!(read.encode(&question).expect("ids"), own.encode(&question).expect("ids"));
        assert_eq!(read.end_of_answer_ids().expect("stops"), own.end_of_answer_ids().expect("stops"));
    }
}

#[test]
fn four_bits_can_be_written_and_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = source("olmo3_d32", dir.path());
    let path = write(&folder, GgufType::Blocks(BlockType::Q4_0), &dir.path().join("q4_0"));
    let (read, exact) = (olmo_model::open(&path).expect("a model"), olmo_model::open(&folder).expect("a model"));
    let rounded =
        olmo_model::GgufRounded::new(&exact, exact.config(), GgufType::Blocks(BlockType::Q4_0)).expect("weights");
    let names = olmo_model::differing_tensors(&rounded, &read, WeightType::Float32).expect("compared");
    assert!(names.is_empty(), "{names:?}");
    assert!(fs::metadata(&path).expect("a file").len() < 60_000);
    let mapped = olmo_model::map(&path).expect("a model").1;
    assert_eq!(mapped.len(), exact.tensors().last().expect("a tensor").range.end);
}

#[test]
fn a_head_that_is_the_embedding_is_written_for_llama_cpp_and_read_as_such() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = olmo_model::open(&fixture("olmo3_d32")).expect("a model").config().clone();
    config.weight_tying = true;
    let parameters = olmo_model::Parameters::init(&config, 3).expect("weights");
    for (kind, to) in [TYPES[0], TYPES[2], ("q4_0", GgufType::Blocks(BlockType::Q4_0))] {
        let out = dir.path().join(kind);
        save_gguf(&out, &config, &parameters, to, &GgufMetadata::default()).expect("written");
        let bytes = fs::read(out.join("model.gguf")).expect("a file");
        assert!(bytes.windows(13).any(|window| window == b"output.weight"), "{kind}");
        let read = olmo_model::open(&out).expect("a model");
        assert!(read.config().weight_tying, "{kind}");
        let rounded = olmo_model::GgufRounded::new(&parameters, &config, to).expect("weights");
        let names = olmo_model::differing_tensors(&rounded, &read, WeightType::Float32).expect("compared");
        assert!(names.is_empty(), "{kind}: {names:?}");
    }
}

/// The message of a file that cannot be opened.
fn refusal(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).expect("written");
    match olmo_model::open(&path) {
        Ok(_) => panic!("a damaged file was opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn damaged_files_are_refused_with_a_reason() {
    let good = fs::read(fixture("olmo3_d32-q8_0.gguf")).expect("a file");
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(&changed)
    };
    assert!(refusal(b"").contains("does not begin with `GGUF`"));
    assert!(
        refusal(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n").contains("git-lfs")
            || refusal(b"version https://git-lfs.github.com/spec/v1\n").contains("LFS")
    );
    assert!(with(4, &[1, 0, 0, 0]).contains("version 1"));
    assert!(with(4, &[0, 0, 0, 3]).contains("big-endian"));
    assert!(with(8, &[0xff; 8]).contains("more than it has room for"));
    assert!(with(16, &[0xff; 8]).contains("more than it has room for"));
    for cut in [20, 100, 5000, good.len() - 40] {
        let message = refusal(&good[..cut]);
        assert!(
            message.contains("ends within") || message.contains("room for") || message.contains("beyond the end"),
            "{message}"
        );
    }
    // Another architecture, and a key that is not known.
    let place =
        |text: &str| good.windows(text.len()).position(|window| window == text.as_bytes()).expect("it is there");
    assert!(with(place("olmo2"), b"gpt-j").contains("supported are"));
    assert!(with(place("olmo2.block_count"), b"olmo2.block_kount").contains("`olmo2.block_count` is missing"));
    // Any changed byte of the header is refused or changes nothing that a panic could come from.
    let mut state = 1u64;
    for _ in 0..300 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut changed = good.clone();
        let at = (state >> 33) as usize % 20_000;
        changed[at] = (state >> 20) as u8;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("model.gguf");
        fs::write(&path, changed).expect("written");
        if let Ok((_, matrices)) = olmo_model::map(&path) {
            assert!(!matrices.is_empty());
        }
        let _ = ModelText::open(&path, TokenizerPlaces::default(), None, "test");
    }
}
