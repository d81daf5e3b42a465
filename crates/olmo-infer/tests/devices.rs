//! Prompts, steps and log-likelihoods on every device, against the logits of whole rows.

use olmo_infer::{GenerateOptions, LanguageModel, Placement, Request, Sampling, generate, of_parameters, open};
use olmo_model::{ModelConfig, Parameters, WeightType, save_huggingface};
use serde_json::{Value, json};

fn config(changes: Value) -> ModelConfig {
    let mut fields = json!({"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "n_layers": 3, "mlp_hidden_size": 96, "vocab_size": 60,
        "layer_norm_type": "rms", "layer_norm_eps": 1e-6, "attention_layer_norm": true, "norm_after": true,
        "rope_theta": 500_000.0, "weight_tying": false, "max_sequence_length": 64, "init_std": 0.15, "eos_token_id": 0, "pad_token_id": 1});
    fields.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
    serde_json::from_value(fields).expect("a config")
}

/// Variants of the architecture, by name.
fn configs() -> Vec<(&'static str, ModelConfig)> {
    let olmo1 = json!({"layer_norm_type": "default", "layer_norm_with_affine": false, "attention_layer_norm": false,
        "norm_after": false, "weight_tying": true, "clip_qkv": 2.0, "n_kv_heads": 4});
    vec![
        ("OLMo 2", config(json!({}))),
        ("OLMo 1", config(olmo1)),
        ("OLMo 3", config(json!({"sliding_window": 4, "full_attention_every": 3}))),
        ("odd widths", config(json!({"d_model": 36, "n_heads": 3, "n_kv_heads": 1, "mlp_hidden_size": 50}))),
    ]
}

fn weights(config: &ModelConfig) -> Parameters {
    let mut parameters = Parameters::init(config, 7).expect("weights");
    // Values of bf16, so that no device rounds them, and norm weights that are not all one.
    let norms: Vec<_> = parameters.tensors().iter().filter(|spec| spec.shape.len() == 1).cloned().collect();
    for spec in norms {
        for (index, weight) in parameters.flat_mut()[spec.range].iter_mut().enumerate() {
            *weight = 0.7 + 0.05 * (index % 13) as f32;
        }
    }
    parameters.rounded(WeightType::Bfloat16)
}

/// A model on a device, and how far its logits may be from those of the host.
struct Device {
    name: &'static str,
    model: Box<dyn LanguageModel>,
    tolerance: f64,
}

/// The model on every device of this build.
fn devices(config: &ModelConfig, parameters: &Parameters) -> Vec<Device> {
    let device = |name, tolerance, model| Device { name, model, tolerance };
    let mut all = vec![device("the host", 2e-5, of_parameters(config, parameters).expect("a model"))];
    let folder = tempfile::tempdir().expect("a folder");
    let placement = Placement { compute: olmo_stage::Compute::FLEX, device: "cpu", stage: "test" };
    let written = config.clone();
    for (name, dtype) in [("f32, mapped", WeightType::Float32), ("bf16, mapped", WeightType::Bfloat16)] {
        // Not every variant can be exported.
        if save_huggingface(folder.path(), &written, parameters, dtype, None).is_ok() {
            all.push(device(name, 2e-5, open(folder.path(), &placement).expect("a model")));
        }
    }
    #[cfg(feature = "libtorch")]
    {
        use olmo_model::device::{Element, Place};
        use olmo_ops::Compute;
        Compute::LibTorch.prepare();
        for (name, element, tolerance) in
            [("the emulator in f32", Element::F32, 5e-5), ("the emulator in bf16", Element::Bf16, 6e-2)]
        {
            let matrices = parameters.matrices();
            let model = olmo_infer::of_matrices_on(Place::Cpu, element, config.clone(), &matrices).expect("a model");
            all.push(device(name, tolerance, model));
        }
    }
    all
}

fn text(length: usize, seed: usize) -> Vec<u32> {
    (0..length).map(|i| ((i * i * 7 + 13 * i + 5 * seed) % 60) as u32).collect()
}

fn difference(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1e-9f64, |largest, x| largest.max(f64::from(x.abs())));
    got.iter().zip(want).fold(0.0f64, |most, (a, b)| most.max(f64::from((a - b).abs()))) / largest
}

#[test]
fn prompts_and_then_token_after_token_give_the_logits_of_whole_rows() {
    for (variant, config) in configs() {
        let parameters = weights(&config);
        let host = of_parameters(&config, &parameters).expect("a model");
        let whole: Vec<Vec<u32>> = (0..4).map(|seed| text(20, seed)).collect();
        let want: Vec<Vec<f32>> = whole.iter().map(|ids| host.logits(ids, 1, 20).expect("logits")).collect();
        for Device { name, model, tolerance } in devices(&config, &parameters) {
            let check = |got: &[f32], row: usize, place: usize| {
                let off = difference(got, &want[row][place * 60..(place + 1) * 60]);
                assert!(off <= tolerance, "{variant} on {name}: row {row}, place {place} is off by {off}");
            };
            let mut sequences = model.sequences();
            // Row, and number of tokens so far.
            let mut active = vec![(0, 5), (1, 1), (2, 9)];
            let prompts: Vec<&[u32]> = active.iter().map(|&(row, length)| &whole[row][..length]).collect();
            let mut logits = sequences.prefill(&prompts).expect("logits");
            for step in 0..14 {
                for (got, &(row, length)) in logits.chunks_exact(60).zip(&active) {
                    check(got, row, length - 1);
                }
                if step == 2 {
                    // One ends, and another order.
                    sequences.keep(&[2, 0]);
                    active = vec![active[2], active[0]];
                }
                let tokens: Vec<u32> = active.iter().map(|&(row, length)| whole[row][length]).collect();
                logits = sequences.step(&tokens).expect("logits");
                for (_, length) in &mut active {
                    *length += 1;
                }
                if step == 4 {
                    logits.extend(sequences.prefill(&[&whole[3][..2]]).expect("logits"));
                    active.push((3, 2));
                }
                active.truncate(sequences.count());
                if active[0].1 == 20 {
                    break;
                }
            }
        }
    }
}

#[test]
fn loglikelihoods_are_those_of_the_logits() {
    for (variant, config) in configs() {
        let parameters = weights(&config);
        let host = of_parameters(&config, &parameters).expect("a model");
        let request = |length: usize, context: usize, seed: usize| {
            let ids = text(length, seed);
            Request { context: ids[..context].to_vec(), continuation: ids[context..].to_vec() }
        };
        let mut requests = vec![request(12, 4, 1), request(2, 1, 2), request(20, 19, 3), request(7, 1, 4)];
        // One whose continuation is the most likely one.
        let options = GenerateOptions { max_new_tokens: 3, ..GenerateOptions::default() };
        let continuation = generate(&*host, &[text(6, 5)], &options).expect("an answer").remove(0);
        requests.push(Request { context: text(6, 5), continuation });
        let want: Vec<Vec<f64>> = requests
            .iter()
            .map(|Request { context, continuation }| {
                let ids: Vec<u32> = context.iter().chain(continuation).copied().collect();
                let logits = host.logits(&ids, 1, ids.len()).expect("logits");
                let log_probability = |(place, id): (usize, &u32)| {
                    let row = &logits[(context.len() - 1 + place) * 60..][..60];
                    let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                    f64::from(row[*id as usize]) - sum.ln()
                };
                continuation.iter().enumerate().map(log_probability).collect()
            })
            .collect();
        for Device { name, model, tolerance } in devices(&config, &parameters) {
            let got = model.loglikelihood(&requests).expect("scores");
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(got.tokens.len(), want.len());
                for (token, want) in got.tokens.iter().zip(want) {
                    let off = (f64::from(*token) - want).abs();
                    assert!(off <= tolerance * want.abs().max(1.0), "{variant} on {name}: {token}, not {want}");
                }
            }
            let greedy: Vec<bool> = got.iter().map(|got| got.is_greedy).collect();
            assert_eq!(greedy, [false, false, false, false, true], "{variant} on {name}");
        }
    }
}

#[test]
fn on_the_host_company_threads_and_bf16_files_change_no_bit() {
    for (variant, config) in configs() {
        let parameters = weights(&config);
        let mut results = Vec::new();
        for Device { name, model, .. } in devices(&config, &parameters) {
            if name.starts_with("the emulator") {
                continue;
            }
            let prompts: Vec<Vec<u32>> = (0..40).map(|seed| text(1 + seed % 9, seed)).collect();
            let sampling = Sampling { temperature: 1.0, seed: 3, ..Sampling::default() };
            let options = GenerateOptions { max_new_tokens: 8, stop_token_ids: vec![7, 9], sampling, logprobs: None };
            let all = generate(&*model, &prompts, &options).expect("answers");
            assert!(all.iter().any(|answer| answer.len() < 8) && all.iter().any(|answer| answer.len() == 8));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
            assert_eq!(pool.install(|| generate(&*model, &prompts, &options)).expect("answers"), all, "{variant}");
            assert_eq!(generate(&*model, &prompts[..1], &options).expect("an answer"), all[..1], "{variant}");
            let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let texts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
            let company = bits(model.sequences().prefill(&texts).expect("logits"));
            let alone = bits(model.sequences().prefill(&texts[4..5]).expect("logits"));
            assert!(company[4 * 60..5 * 60] == alone, "{variant} on {name}");
            results.push((all, company));
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{variant}");
    }
}

#[test]
fn a_log_likelihood_has_the_same_bits_in_any_company_with_any_threads() {
    for (variant, config) in configs() {
        let parameters = weights(&config);
        let model = of_parameters(&config, &parameters).expect("a model");
        // Choices of the same context, contexts that begin alike, equal requests, and others.
        let mut requests = Vec::new();
        for (shared, length) in [(0, 30), (29, 40), (29, 33), (10, 50), (1, 4)] {
            let mut context = text(shared, 1);
            context.extend(text(length - shared, length));
            for choice in 0..4 {
                requests.push(Request { context: context.clone(), continuation: text(1 + choice * 2, choice) });
            }
            requests.push(requests[requests.len() - 1].clone());
        }
        let bits = |scores: Vec<olmo_infer::Loglikelihood>| -> Vec<Vec<u32>> {
            scores.iter().map(|score| score.tokens.iter().map(|token| token.to_bits()).collect()).collect()
        };
        let together = bits(model.loglikelihood(&requests).expect("scores"));
        let alone: Vec<Vec<u32>> = requests
            .iter()
            .flat_map(|request| bits(model.loglikelihood(std::slice::from_ref(request)).expect("a score")))
            .collect();
        assert!(together == alone, "{variant}");
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let scores = pool.install(|| model.loglikelihood(&requests)).expect("scores");
            assert!(bits(scores) == together, "{variant}, {threads} threads");
        }
    }
}

#[test]
fn logits_before_a_changed_token_stay_the_same_bits() {
    for changes in [json!({}), json!({"norm_after": false, "attention_layer_norm": false, "weight_tying": true})] {
        let config = config(changes);
        let model = of_parameters(&config, &Parameters::init(&config, 1).expect("weights")).expect("a model");
        let ids: Vec<u32> = text(160, 0);
        let before = model.logits(&ids, 2, 80).expect("logits");
        for place in [1, 40, 66, 79] {
            let mut changed = ids.clone();
            changed[place] = (changed[place] + 1) % 60;
            let after = model.logits(&changed, 2, 80).expect("logits");
            assert_eq!(before[..place * 60], after[..place * 60], "token {place}");
            assert_ne!(before[place * 60..(place + 1) * 60], after[place * 60..(place + 1) * 60], "token {place}");
            assert_eq!(before[80 * 60..], after[80 * 60..], "the other row");
        }
    }
}

#[test]
fn an_answer_ends_where_the_models_sequence_is_full() {
    let config = config(json!({"max_sequence_length": 12}));
    let model = of_parameters(&config, &weights(&config)).expect("a model");
    let options = GenerateOptions { max_new_tokens: 100, ..GenerateOptions::default() };
    let answers = generate(&*model, &[text(5, 1), text(12, 2), text(11, 3)], &options).expect("answers");
    assert_eq!(answers.iter().map(Vec::len).collect::<Vec<_>>(), [7, 0, 1]);
}

#[test]
fn what_a_model_cannot_answer_is_refused_by_its_index() {
    let config = config(json!({"max_sequence_length": 12}));
    let model = of_parameters(&config, &weights(&config)).expect("a model");
    let error = |prompts: &[Vec<u32>]| {
        generate(&*model, prompts, &GenerateOptions { max_new_tokens: 1, ..GenerateOptions::default() })
            .expect_err("refused")
            .to_string()
    };
    assert!(error(&[vec![1], vec![]]).starts_with("prompt 1: "), "{}", error(&[vec![1], vec![]]));
    assert!(error(&[vec![60]]).contains("token id 60"));
    let refused = |context: Vec<u32>, continuation: Vec<u32>| {
        model.loglikelihood(&[Request { context, continuation }]).expect_err("refused").to_string()
    };
    assert!(refused(vec![], vec![1]).starts_with("request 0: "));
    assert!(refused(vec![1], vec![]).contains("continuation"));
    assert!(refused(text(12, 1), vec![1, 2]).contains("14 tokens"));
    assert!(refused(vec![1], vec![61]).contains("token id 61"));
    assert!(model.sequences().step(&[1]).is_err(), "a token without a sequence");
    assert!(model.logits(&[1, 2, 3], 2, 2).is_err() && model.logits(&[], 0, 5).is_err());
    let mut broken = weights(&config);
    broken.flat_mut()[0] = f32::NAN;
    let model = of_parameters(&config, &broken).expect("a model");
    let options = GenerateOptions { max_new_tokens: 1, ..GenerateOptions::default() };
    let ids: Vec<u32> = (0..5).collect();
    let error = generate(&*model, &[ids], &options).expect_err("refused").to_string();
    assert!(error.contains("not finite"), "{error}");
}
