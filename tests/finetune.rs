//! The main use case: `pipelines/finetune.yaml` with an existing model.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use olmo_pipe::run;
use olmo_pipe::store::Store;
use serde_json::{Value, json};

use crate::flagship::Bench;
use crate::run::project::said;

const EXPERIMENT: &str = "experiments/finetune-tulu.yaml";

/// A copy of the project, with its own chats in `my.jsonl` and a model in `hf_chat`.
fn bench() -> Bench {
    let bench = Bench::new();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf_chat");
    assert!(Command::new("cp").arg("-r").arg(model).arg(bench.dir.path()).status().unwrap().success());
    let chat = |n: usize| {
        let messages = [
            json!({"role": "user", "content": format!("Double {n}.")}),
            json!({"role": "assistant", "content": format!("{}", 2 * n)}),
        ];
        json!({"messages": messages}).to_string()
    };
    fs::write(bench.dir.path().join("my.jsonl"), (0..200).map(chat).collect::<Vec<_>>().join("\n")).unwrap();
    bench
}

fn run_in(bench: &Bench, arguments: &[&str]) -> Output {
    bench.command(arguments).output().unwrap()
}

fn read_json(bench: &Bench, file: &str) -> Value {
    serde_json::from_slice(&fs::read(bench.dir.path().join(file)).unwrap()).unwrap()
}

/// The experiment in README.md, with a few params that make it quick.
const TUNE: [&str; 12] = [
    "run",
    EXPERIMENT,
    "--set",
    "params.model=hf_chat",
    "--set",
    "params.chats=[my.jsonl]",
    "--set",
    "params.max_new_tokens=4",
    "--set",
    "params.global_batch_size=512",
    "--set",
    "params.lr=0.003",
];

#[test]
fn a_model_that_transformers_made_is_tuned_on_chats_that_are_split_and_compared_with_itself_before() {
    let bench = bench();
    let text = bench.succeeds(&TUNE);
    assert!(text.contains("190 conversations to train on, 10 held out"), "{text}");
    // The rows are as long as the longest conversation, rounded up, and not 256 tokens like the
    // model's.
    assert!(text.contains("rows of 64 uint16 tokens"), "{text}");
    let choice = read_json(&bench, "out/finetune-tulu/scores/choice.json");
    let (before, after) = (choice["before"]["eval_loss"].as_f64().unwrap(), choice["value"].as_f64().unwrap());
    assert!(choice["metric"] == "eval_loss" && after < before - 0.5, "{choice}");
    let answers = fs::read_to_string(bench.dir.path().join("out/finetune-tulu/scores/answers.jsonl")).unwrap();
    let first: Value = serde_json::from_str(answers.lines().next().unwrap()).unwrap();
    assert!(answers.lines().count() == 10 && first["question"].as_str().unwrap().starts_with("Double "), "{first}");
    assert!(first["before"].is_string() && first["after"].is_string(), "{first}");
    // Half the size, with the template and the length of the model.
    let config = read_json(&bench, "out/finetune-tulu/model/config.json");
    assert_eq!((&config["torch_dtype"], &config["max_position_embeddings"]), (&json!("bfloat16"), &json!(256)));
    let size = |file: &str| fs::metadata(bench.dir.path().join(file)).unwrap().len();
    assert!(size("out/finetune-tulu/model/model.safetensors") < size("hf_chat/model.safetensors") + 4096);
    let template = |file: &str| fs::read_to_string(bench.dir.path().join(file)).unwrap();
    assert_eq!(template("out/finetune-tulu/model/chat_template.jinja"), template("hf_chat/chat_template.jinja"));
    // The learning rate: warm-up from 0, then linear decay to exactly 0.
    let lines = template("out/finetune-tulu/metrics/metrics.jsonl");
    let steps: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps[0]["step"], 0, "the model itself is measured first");
    let rates: Vec<f64> = steps.iter().filter_map(|step| step["lr"].as_f64()).collect();
    assert!(rates.last() == Some(&0.0) && rates.iter().all(|lr| *lr <= 0.003), "{rates:?}");
    assert!(bench.succeeds(&TUNE).contains("all 13 stages cached"));
    // Checkpoints and exports can be looked at by their references, with the tokenizer that they record.
    let probabilities = |model: &str| {
        let text = bench.succeeds(&["logits", model, "--text", "Double 7.", "--json"]);
        let answer: Value = serde_json::from_str(&text).unwrap();
        let values = answer["positions"].as_array().unwrap().clone();
        assert!(values.len() > 2 && values[0]["text"].is_string(), "{text}");
        values.iter().filter_map(|value| value["log_probability"].as_f64()).sum::<f64>()
    };
    let label = format!("finetune-tulu:train.checkpoints[{}]", choice["chosen"].as_str().unwrap());
    let [folder, result, checkpoint] =
        ["out/finetune-tulu/model", "finetune-tulu:model", label.as_str()].map(probabilities);
    assert!(folder == result && (folder - checkpoint).abs() < 0.5, "{folder} {result} {checkpoint}");
    assert!(bench.command(&["logits", "finetune-tulu:nothing", "--tokens", "1"]).status().unwrap().code() == Some(2));
}

#[test]
fn an_export_is_tuned_further_and_the_results_that_are_read_stay_as_they_are() {
    let bench = bench();
    bench.succeeds(&TUNE);
    let first = fs::read(bench.dir.path().join("out/finetune-tulu/model/model.safetensors")).unwrap();
    let again = |model: &str| {
        let model = format!("params.model={model}");
        let arguments: Vec<&str> = TUNE
            .iter()
            .map(|argument| if argument.starts_with("params.model") { model.as_str() } else { argument })
            .collect();
        bench.succeeds(&arguments)
    };
    let text = again("out/finetune-tulu/model");
    assert!(text.contains("the results are in out/finetune-tulu-2"), "{text}");
    let (one, two) = (
        read_json(&bench, "out/finetune-tulu/scores/choice.json"),
        read_json(&bench, "out/finetune-tulu-2/scores/choice.json"),
    );
    assert!(two["value"].as_f64() < one["value"].as_f64(), "{one} {two}");
    assert!(two["value"].as_f64() < two["before"]["eval_loss"].as_f64(), "{two}");
    assert_eq!(fs::read(bench.dir.path().join("out/finetune-tulu/model/model.safetensors")).unwrap(), first);
    assert!(again("out/finetune-tulu/model").contains("all 13 stages cached"), "what is read has not changed");
    assert!(again("out/finetune-tulu-2/model").contains("the results are in out/finetune-tulu-3"));
}

#[test]
fn a_kill_in_the_middle_resumes_to_the_same_bytes() {
    let (bench, unbroken) = (bench(), bench());
    unbroken.succeeds(&TUNE);
    let died = bench.command(&TUNE).env("OLMO_PIPE_FAILPOINT", "train.saved:2").output().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&died.status), Some(9), "{}", said(&died));
    let store = Store::open(&bench.dir.path().join(".olmo-pipe")).unwrap();
    let id = run::list(&store).unwrap().pop().unwrap().id.to_string();
    let text = bench.succeeds(&["resume", &id]);
    assert!(text.contains("continues after step"), "{text}");
    for file in ["model/model.safetensors", "metrics/metrics.jsonl", "scores/choice.json", "answers/answers.md"] {
        let read = |bench: &Bench| fs::read(bench.dir.path().join("out/finetune-tulu").join(file)).unwrap();
        assert!(read(&bench) == read(&unbroken), "{file} differs");
    }
}

#[test]
fn a_base_model_needs_a_template_and_learns_it() {
    let bench = bench();
    fs::remove_file(bench.dir.path().join("hf_chat/chat_template.jinja")).unwrap();
    let refused = run_in(&bench, &["validate", EXPERIMENT, "--set", "params.model=hf_chat"]);
    let text = said(&refused);
    assert!(refused.status.code() == Some(2) && text.contains("tokenizer::no_template"), "{text}");
    assert!(text.contains("`template: olmo2`") && text.contains("pipelines/finetune.yaml:"), "{text}");
    bench.succeeds(&[&TUNE[..], &["--set", "params.template=olmo2"]].concat());
    let template = fs::read_to_string(bench.dir.path().join("out/finetune-tulu/model/chat_template.jinja")).unwrap();
    assert!(template.contains("<|assistant|>"), "{template}");
}

#[test]
fn a_wrong_model_is_refused_before_anything_runs_with_the_way_to_a_right_one() {
    let bench = bench();
    let make = |name: &str, files: &[(&str, &str)]| {
        for (file, text) in files {
            let path = bench.dir.path().join(name).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    };
    make("unsharded", &[("config.yaml", "model: {}"), ("model.pt", "")]);
    make("core", &[(".metadata.json", "{}"), ("model_and_optim/.metadata", ""), ("train/rank0.pt", "")]);
    make("gpt2", &[("config.json", r#"{"model_type": "gpt2"}"#), ("model.safetensors", ""), ("tokenizer.json", "{}")]);
    make("outer", &[("step1/config.json", "{}"), ("step1/model.safetensors", "")]);
    let config = fs::read_to_string(bench.dir.path().join("hf_chat/config.json")).unwrap();
    make("pickle", &[("config.json", &config), ("pytorch_model.bin", "")]);
    fs::write(bench.dir.path().join("file"), "").unwrap();
    let shrunk = bench.dir.path().join("shrunk");
    assert!(
        Command::new("cp").arg("-r").arg(bench.dir.path().join("hf_chat")).arg(&shrunk).status().unwrap().success()
    );
    let config = fs::read_to_string(shrunk.join("config.json")).unwrap();
    fs::write(shrunk.join("config.json"), config.replace("\"intermediate_size\": 64", "\"intermediate_size\": 32"))
        .unwrap();
    for (model, code, words) in [
        ("gone", "spec::missing_file", "there is no folder `gone`"),
        ("allenai/OLMo-2-0425-1B", "spec::missing_file", "write `hf:allenai/OLMo-2-0425-1B`"),
        ("file", "spec::wrong_type", "takes a folder"),
        ("unsharded", "train::init", "config.yaml"),
        ("core", "train::init", "take the whole folder of the step"),
        ("gpt2", "train::init", "`model_type` is \"gpt2\"; supported are"),
        ("outer", "train::init", "the folder `step1` in it is a model"),
        ("pickle", "train::init", "pytorch_model.bin: cannot be read: the file is empty"),
        ("shrunk", "train::init", "has shape [64, 16], not [32, 16]"),
    ] {
        for store in [&[][..], &["--store", "a-store"]] {
            let set = format!("params.model={model}");
            let output = run_in(&bench, &[&["validate", EXPERIMENT, "--set", &set], store].concat());
            let text = said(&output);
            assert_eq!(output.status.code(), Some(2), "{model}: {text}");
            assert!(text.contains(code) && text.contains(words), "{model}: {text}");
            assert!(text.contains("--set") || text.contains("command line"), "{model}: {text}");
        }
        // The first preview must not create a store. The second one uses an existing store.
        fs::create_dir_all(bench.dir.path().join("a-store")).unwrap();
    }
}

#[test]
fn without_a_model_or_an_architecture_there_is_nothing_to_train() {
    let bench = bench();
    let output = run_in(&bench, &["validate", EXPERIMENT, "--set", "params.architecture=null"]);
    let text = said(&output);
    assert!(output.status.code() == Some(2) && text.contains("train::no_model"), "{text}");
}

/// The numbers are those of `MemoryEstimate` for the configs next to the experiment.
#[test]
fn profiles_for_models_of_ai2_are_planned_without_network() {
    let bench = Bench::new();
    for (profile, model, words) in [
        ("olmo2-1b", "hf:allenai/OLMo-2-0425-1B", "with micro-batches of 4 rows"),
        ("olmo2-7b", "hf:allenai/OLMo-2-1124-7B", "with micro-batches of 8 rows"),
        ("olmo3-7b-instruct", "hf:allenai/Olmo-3-7B-Instruct", "with micro-batches of 1 rows"),
    ] {
        let text = bench.succeeds(&["plan", EXPERIMENT, "--profile", profile]);
        assert!(text.contains(&format!("a run fetches and locks `{model}` first")), "{profile}: {text}");
        assert!(text.contains("memory: about ") && text.contains(words), "{profile}: {text}");
        assert!(text.contains("steps and time: unknown until `olmo-pipe lock`"), "{profile}: {text}");
        let show = bench.succeeds(&["show", EXPERIMENT, "--profile", profile, "--resolved", "--json"]);
        let show: Value = serde_json::from_str(&show).unwrap();
        let train = &show["resolved"]["stages"]["train"];
        assert_eq!(train["resources"]["gpus"], json!(1), "{profile}");
    }
    // Without the copy of the config, the memory is unknown, and a damaged one is reported.
    let path = bench.dir.path().join("experiments/configs/allenai/OLMo-2-0425-1B/config.json");
    fs::write(&path, "{}").unwrap();
    let text = said(&run_in(&bench, &["validate", EXPERIMENT, "--profile", "olmo2-1b"]));
    assert!(text.contains("train::described") && text.contains("configs/allenai/OLMo-2-0425-1B/config.json"), "{text}");
    fs::remove_file(&path).unwrap();
    let text = bench.succeeds(&["plan", EXPERIMENT, "--profile", "olmo2-1b"]);
    assert!(!text.contains("memory: about "), "{text}");
}

#[test]
fn a_model_in_every_format_is_tuned_to_the_same_bytes() {
    let bench = bench();
    let write = |name: &str, text: &str| fs::write(bench.dir.path().join(name), text).unwrap();
    let convert = |name: &str, params: &str| {
        format!(
            "  {name}: {{uses: convert, with: {{model: hf_chat, tokenizer: '${{stages.tokenizer.tokenizer}}', {params}}}}}\n"
        )
    };
    let stages = [
        convert("step", "to: olmo_core"),
        convert("unsharded", "to: olmo, dtype: bfloat16"),
        convert("shards", "dtype: bfloat16, shards: 8KB"),
    ];
    write(
        "formats.pipeline.yaml",
        &format!(
            "pipeline: formats\nstages:\n  tokenizer: {{uses: tokenizer, with: {{model: hf_chat}}}}\n{}outputs: {{step: '${{stages.step.model}}', \
             unsharded: '${{stages.unsharded.model}}', shards: '${{stages.shards.model}}'}}\n",
            stages.concat()
        ),
    );
    write("formats.yaml", "experiment: formats\nuses: formats.pipeline.yaml\n");
    bench.succeeds(&["run", "formats.yaml"]);
    let folder = |name: &str| bench.dir.path().join("out/formats").join(name);
    assert!(folder("step/model_and_optim/.metadata").is_file() && folder("unsharded/model.pt").is_file());
    assert!(folder("shards/model.safetensors.index.json").is_file());
    // A checkpoint without a tokenizer takes one from elsewhere.
    for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"] {
        fs::remove_file(folder("unsharded").join(file)).unwrap();
    }
    let tune = |model: &str, more: &[&str]| {
        let model = format!("params.model={model}");
        let arguments: Vec<&str> = TUNE
            .iter()
            .map(|argument| if argument.starts_with("params.model") { model.as_str() } else { argument })
            .chain(more.iter().copied())
            .collect();
        bench.succeeds(&arguments);
        ["model/model.safetensors", "answers/answers.md", "scores/answers.jsonl"]
            .map(|file| fs::read(bench.dir.path().join("out/finetune-tulu").join(file)).unwrap())
    };
    let expected = tune("hf_chat", &[]);
    for (model, more) in [
        ("out/formats/step", &[][..]),
        ("out/formats/shards", &[]),
        ("out/formats/unsharded", &["--set", "params.tokenizer=hf_chat"]),
    ] {
        assert!(tune(model, more) == expected, "{model}");
    }
}
