//! Models made by `transformers` (tests/fixtures/hf_tiny, made by scripts/goldens/hf_tiny.py): the same logits and answers.

use std::path::{Path, PathBuf};

use olmo_infer::{GenerateOptions, LanguageModel, Placement, generate, open};
use olmo_model::{Parameters, WeightType, load, save_huggingface};
use serde_json::Value;

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

fn model(folder: &Path) -> Box<dyn LanguageModel> {
    open(folder, &Placement { compute: olmo_stage::Compute::FLEX, device: "cpu", stage: "test" }).expect("a model")
}

#[test]
fn logits_are_those_of_transformers() {
    for name in CASES {
        let (case, model) = (case(name), model(&fixture(name)));
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
        let (case, model) = (case(name), model(&fixture(name)));
        let (prompts, want) = (ids(&case["input_ids"]), ids(&case["greedy"]));
        let options = GenerateOptions { max_new_tokens: want[0].len(), ..GenerateOptions::default() };
        assert_eq!(generate(&*model, &prompts, &options).expect("answers"), want, "{name}");
        assert_eq!(generate(&*model, &prompts[1..], &options).expect("answers"), want[1..], "{name}");
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            assert_eq!(pool.install(|| generate(&*model, &prompts, &options)).expect("answers"), want, "{name}");
        }
        // An answer ends before the first of its eos ids, whichever that is.
        let position = |eos: u32| want[0].iter().position(|id| *id == eos).expect("it is there");
        for eos in [vec![want[0][5]], vec![want[0][5], want[0][3]], vec![want[0][3], want[0][5]]] {
            let end = eos.iter().map(|id| position(*id)).min().expect("an id");
            let options = GenerateOptions { stop_token_ids: eos, ..options.clone() };
            let stopped = generate(&*model, &prompts[..1], &options).expect("answers");
            assert_eq!(stopped, [want[0][..end].to_vec()], "{name}");
        }
    }
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
    save_huggingface(folder.path(), &config, &parameters, WeightType::Float32, None).expect("written");
    let model = model(folder.path());
    assert_eq!((model.config().vocab_size, model.config().embedding_size), (40, Some(64)));
    let prompts: Vec<Vec<u32>> = (0..8).map(|first| vec![first, first + 1]).collect();
    let answers = generate(&*model, &prompts, &GenerateOptions { max_new_tokens: 10, ..GenerateOptions::default() })
        .expect("answers");
    assert!(answers.concat().iter().all(|id| *id < 40), "{answers:?}");
}
