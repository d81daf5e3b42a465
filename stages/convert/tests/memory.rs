//! The memory of a conversion depends on the largest tensor, not on the model. Alone in this program,
//! because it measures its process.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use olmo_data::TextTokenizer;
use olmo_stage::{Context, Stage as _};
use olmo_stage_convert::Convert;
use serde_json::{Map, Value, json};

const WIDTH: usize = 1024;
const MLP: usize = 2816;
const LAYERS: usize = 6;

/// Peak memory of this process in bytes; `None` if the system does not tell. (`getrusage` would count
/// the program that started this one.)
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// A Hugging Face model whose weights are zeros in a sparse file: it needs neither memory nor disk.
fn write_model(folder: &Path, vocabulary: usize, eos: u32) -> u64 {
    fs::create_dir_all(folder).unwrap();
    let config = json!({
        "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "hidden_size": WIDTH, "intermediate_size": MLP,
        "num_attention_heads": 8, "num_hidden_layers": LAYERS, "num_key_value_heads": 8, "vocab_size": vocabulary,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 500_000.0, "tie_word_embeddings": false,
        "eos_token_id": eos, "pad_token_id": eos
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut header = Map::new();
    let mut end = 0;
    let mut add = |name: String, shape: &[usize]| {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(format!("{name}.weight"), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    };
    add("model.embed_tokens".into(), &[vocabulary, WIDTH]);
    add("lm_head".into(), &[vocabulary, WIDTH]);
    add("model.norm".into(), &[WIDTH]);
    for layer in 0..LAYERS {
        for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(format!("model.layers.{layer}.self_attn.{part}"), &[WIDTH, WIDTH]);
        }
        for (part, shape) in [("gate_proj", [MLP, WIDTH]), ("up_proj", [MLP, WIDTH]), ("down_proj", [WIDTH, MLP])] {
            add(format!("model.layers.{layer}.mlp.{part}"), &shape);
        }
        for norm in ["self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm", "post_feedforward_layernorm"] {
            add(format!("model.layers.{layer}.{norm}"), &[WIDTH]);
        }
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    end as u64
}

/// Converts `model` and returns the folder of the export.
fn convert(dir: &Path, model: &Path, params: Value) -> PathBuf {
    let name = format!("{}-{}", params["to"].as_str().unwrap(), params["dtype"].as_str().unwrap());
    let attempt = tempfile::Builder::new().prefix(&name).tempdir_in(dir).unwrap().keep();
    let request = json!({
        "protocol": 4, "stage": "convert", "version": 3, "params": params,
        "inputs": {"model": [{"path": model}], "tokenizer": [{"path": dir.join("tokenizer")}]},
        "outputs": ["model", "report"], "state_dir": attempt.join("state"), "items": {}, "threads": 2,
        "compute": olmo_stage::Compute::FLEX
    });
    fs::write(attempt.join("request.json"), request.to_string()).unwrap();
    Convert::run(serde_json::from_value(params).unwrap(), &mut Context::open(&attempt).unwrap()).unwrap();
    attempt.join("out/model")
}

#[test]
fn the_memory_of_a_conversion_is_three_times_the_largest_tensor_and_200_mb_at_most() {
    if peak().is_none() {
        return olmo_base::testing::skip("the system does not tell the memory of a process");
    }
    let dir = tempfile::tempdir().unwrap();
    let params = serde_json::from_value(json!({"vocab_size": 280})).unwrap();
    let bytes = olmo_stage_tokenizer::train(["One two three.".to_owned()].into_iter(), &params).unwrap();
    let path = dir.path().join("tokenizer");
    fs::create_dir_all(&path).unwrap();
    let tokenizer = TextTokenizer::from_bytes(&path, &bytes, "<|endoftext|>", "<|padding|>").unwrap();
    tokenizer.save(&path, &bytes).unwrap();
    let special = tokenizer.special();
    let model = dir.path().join("hf");
    let size = write_model(&model, special.vocab_size as usize, special.eos_token_id);
    // In our own format, queries, keys and values are one tensor, and so are the two inputs of the MLP.
    let largest = 4 * (2 * MLP * WIDTH) as u64;
    let most = 3 * largest + 200_000_000;
    assert!(size > most, "the whole model would not fit: {size} bytes, at most {most}");
    // From Hugging Face to our own format, and from each format to each other in every type.
    let native = dir.path().join("native");
    let stored = olmo_model::open(&model).unwrap();
    olmo_model::save_native(&native, stored.config(), &stored).unwrap();
    let assert_few = |to: &str| {
        let peak = peak().unwrap();
        assert!(peak <= most, "{to}: {peak} bytes at peak so far, at most {most}");
    };
    assert_few("our own format");
    let mut source = native;
    let chain = [
        ("olmo_core", "float32"),
        ("olmo", "float32"),
        ("huggingface", "float32"),
        ("olmo", "bfloat16"),
        ("olmo_core", "float16"),
        ("huggingface", "bfloat16"),
    ];
    for (to, dtype) in chain {
        let export = convert(dir.path(), &source, json!({"to": to, "dtype": dtype}));
        assert_few(&format!("{to} as {dtype}"));
        source = export;
    }
}
