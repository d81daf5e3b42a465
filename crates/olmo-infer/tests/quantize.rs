//! Weights that are rounded when a model is opened.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use olmo_infer::{
    Batch, Draw, GenerateOptions, LanguageModel, Placement, Quantization, Request, generate, open, open_quantized,
};
use olmo_ops::RowScaled;
use safetensors::SafeTensors;
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

const PLACEMENT: Placement<'static> = Placement { compute: olmo_stage::Compute::FLEX, device: "cpu", stage: "test" };

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect()
}

#[test]
fn int8_rows_are_those_of_bitsandbytes() {
    let weights = fs::read(fixture("int8/olmo2/model.safetensors")).expect("the fixture is there");
    let rounded = fs::read(fixture("int8/olmo2-int8.safetensors")).expect("the fixture is there");
    let (weights, rounded) = (
        SafeTensors::deserialize(&weights).expect("safetensors"),
        SafeTensors::deserialize(&rounded).expect("safetensors"),
    );
    let mut compared = 0;
    for name in rounded.names() {
        let Some(name) = name.strip_suffix(".scale") else { continue };
        let view = weights.tensor(&format!("{name}.weight")).expect("a weight");
        let rows = RowScaled::of_rows(&floats(view.data()), view.shape()[1]);
        let want = rounded.tensor(&format!("{name}.weight_int8")).expect("whole numbers");
        let got: Vec<u8> = rows.values().iter().map(|value| value.cast_unsigned()).collect();
        assert!(got == want.data(), "{name}");
        let largest = floats(rounded.tensor(&format!("{name}.scale")).expect("scales").data());
        for (scale, largest) in rows.scales().iter().zip(largest) {
            assert_eq!(*scale, largest / 127.0, "{name}");
        }
        compared += 1;
    }
    assert_eq!(compared, 15);
}

#[test]
fn perplexity_and_logits_with_int8_rows_are_those_of_their_definition() {
    let golden: Value =
        serde_json::from_slice(&fs::read(fixture("int8/golden.json")).expect("the fixture is there")).expect("JSON");
    let ids = fs::read(fixture("int8/eval_ids.u16")).expect("the fixture is there");
    let ids: Vec<u32> = ids.chunks_exact(2).map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]]))).collect();
    let requests: Vec<Request> = ids
        .chunks_exact(64)
        .map(|row| Request { context: row[..1].to_vec(), continuation: row[1..].to_vec() })
        .collect();
    assert_eq!(requests.len(), 37);
    let folder = fixture("int8/olmo2");
    let mut models = Vec::new();
    for (kind, name) in [(None, "float32"), (Some(Quantization::Int8), "weight_only")] {
        let model = open_quantized(&folder, &PLACEMENT, kind).expect("a model");
        let sum: f64 = model.loglikelihood(&requests).expect("scores").iter().map(|score| score.sum()).sum();
        let perplexity = (-sum / (37.0 * 63.0)).exp();
        let want = golden["perplexity"][name].as_f64().expect("a number");
        assert!((perplexity / want - 1.0).abs() < 1e-6, "{name}: {perplexity}, not {want}");
        models.push(model);
    }
    let prompt: Vec<u32> = serde_json::from_value(golden["input_ids"].clone()).expect("ids");
    let logits = models[1].logits(&prompt, 1, prompt.len()).expect("logits");
    let want: Vec<f32> = serde_json::from_value(golden["logits_weight_only"].clone()).expect("logits");
    let last = &logits[logits.len() - want.len()..];
    let most = last.iter().zip(&want).fold(0f32, |most, (got, want)| most.max((got - want).abs()));
    assert!(most < 5e-5, "{most}");
}

/// The log-probabilities of each step of a greedy answer.
fn steps(model: &dyn LanguageModel, prompts: &[Vec<u32>], count: usize) -> Vec<Vec<(u32, f32)>> {
    let options = Arc::new(GenerateOptions { max_new_tokens: count, logprobs: Some(0), ..GenerateOptions::default() });
    let mut batch = Batch::new(model, 8);
    let mut ids = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        let draw = Draw { prompt: index as u64, sample: 0 };
        ids.extend(batch.add(prompt.clone(), &[draw], &options).expect("added"));
    }
    let mut all = vec![Vec::new(); ids.len()];
    while !batch.is_done() {
        for step in batch.step().expect("a step") {
            let place = ids.iter().position(|id| *id == step.answer).expect("an answer");
            all[place].extend(step.token.zip(step.logprobs.map(|logprobs| logprobs.chosen)));
        }
    }
    all
}

#[test]
fn rounded_models_answer_alike_alone_and_in_company_and_close_to_the_exact_model() {
    let folder = fixture("gguf/olmo3_d32");
    let exact = open(&folder, &PLACEMENT).expect("a model");
    let prompts: Vec<Vec<u32>> = (1..6).map(|length| (0..length).map(|t| 7 * t + 250).collect()).collect();
    for (kind, tolerance) in [(Quantization::Q8_0, 0.3), (Quantization::Q4_0, 4.0), (Quantization::Int8, 0.3)] {
        let model = open_quantized(&folder, &PLACEMENT, Some(kind)).expect("a model");
        let together = steps(&*model, &prompts, 10);
        let alone: Vec<_> =
            prompts.iter().flat_map(|prompt| steps(&*model, std::slice::from_ref(prompt), 10)).collect();
        assert!(together == alone, "{kind:?}");
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            assert!(pool.install(|| steps(&*model, &prompts, 10)) == together, "{kind:?}");
        }
        // Its log-probabilities of its own answers, as the exact model sees them.
        for (prompt, answer) in prompts.iter().zip(&together) {
            let continuation: Vec<u32> = answer.iter().map(|(token, _)| *token).collect();
            let request = Request { context: prompt.clone(), continuation };
            let scores = &exact.loglikelihood(&[request]).expect("scores")[0].tokens;
            for ((_, got), want) in answer.iter().zip(scores) {
                assert!((got - want).abs() < tolerance, "{kind:?}: {got} {want}");
            }
        }
        // Rounding is not nothing.
        let options = GenerateOptions { max_new_tokens: 1, ..GenerateOptions::default() };
        generate(&*model, &prompts, &options).expect("answers");
        let logits = |model: &dyn LanguageModel| model.logits(&prompts[4], 1, 5).expect("logits");
        assert_ne!(logits(&*model), logits(&*exact), "{kind:?}");
    }
}
