//! Batches: answers depend on nothing but their own prompt, options and draw, and are drawn from the
//! model's distribution.

use std::path::Path;
use std::sync::Arc;

use olmo_infer::{Batch, Draw, Finish, GenerateOptions, LanguageModel, Placement, Sampling, Step, open};

fn model(name: &str) -> Box<dyn LanguageModel> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf_tiny").join(name);
    let placement = Placement { compute: olmo_stage::Compute::FLEX, device: "cpu", stage: "test" };
    open(&folder, &placement).expect("a model")
}

fn drawn(seed: u64) -> Sampling {
    Sampling { temperature: 0.9, top_p: Some(0.95), seed, ..Sampling::default() }
}

fn options(max_new_tokens: usize, sampling: Sampling) -> Arc<GenerateOptions> {
    Arc::new(GenerateOptions { max_new_tokens, sampling, ..GenerateOptions::default() })
}

/// All steps of a batch with answers to `prompts`, in the order of the answers.
fn answers(
    model: &dyn LanguageModel,
    prompts: &[(Vec<u32>, Vec<Draw>)],
    options: &Arc<GenerateOptions>,
    at_once: usize,
) -> Vec<Vec<Step>> {
    let mut batch = Batch::new(model, at_once);
    let mut ids = Vec::new();
    for (prompt, draws) in prompts {
        ids.extend(batch.add(prompt.clone(), draws, options).expect("a prompt"));
    }
    let mut all: Vec<Vec<Step>> = vec![Vec::new(); ids.len()];
    while !batch.is_done() {
        for step in batch.step().expect("a step") {
            all[ids.iter().position(|id| *id == step.answer).expect("a known answer")].push(step);
        }
        assert!(batch.active() <= at_once.max(3), "{} answers at once", batch.active());
    }
    all
}

fn tokens(steps: &[Vec<Step>]) -> Vec<Vec<u32>> {
    steps.iter().map(|steps| steps.iter().filter_map(|step| step.token).collect()).collect()
}

fn prompts() -> Vec<(Vec<u32>, Vec<Draw>)> {
    let draws = |prompt: u64, count: u64| (0..count).map(|sample| Draw { prompt, sample }).collect();
    (0..7u64).map(|index| ((0..=index as u32 + 1).map(|t| 5 * t + 2).collect(), draws(index, 1 + index % 3))).collect()
}

#[test]
fn a_seed_gives_the_same_answers_in_any_batch_and_on_any_number_of_threads() {
    for name in ["olmo", "olmo2_gqa", "olmo3"] {
        let model = model(name);
        let options = options(12, drawn(3));
        let want = tokens(&answers(&*model, &prompts(), &options, 32));
        assert!(want.iter().all(|answer| answer.len() == 12));
        for at_once in [1, 2, 5] {
            assert_eq!(tokens(&answers(&*model, &prompts(), &options, at_once)), want, "{name}, {at_once} at once");
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let got = pool.install(|| tokens(&answers(&*model, &prompts(), &options, 4)));
            assert_eq!(got, want, "{name}, {threads} threads");
        }
        // Each answer alone.
        let mut alone = Vec::new();
        for (prompt, draws) in prompts() {
            for draw in draws {
                alone.extend(tokens(&answers(&*model, &[(prompt.clone(), vec![draw])], &options, 1)));
            }
        }
        assert_eq!(alone, want, "{name}");
        let other = tokens(&answers(&*model, &prompts(), &self::options(12, drawn(4)), 32));
        assert_ne!(other, want, "another seed");
    }
}

#[test]
fn samples_follow_the_models_own_distribution() {
    let model = model("olmo2");
    let prompt = vec![4, 9, 16];
    let rows = model.config().embedding_rows();
    let distribution = |ids: &[u32]| -> Vec<f64> {
        let logits = model.logits(ids, 1, ids.len()).expect("logits");
        let last = &logits[(ids.len() - 1) * rows..];
        let weights: Vec<f64> = last.iter().map(|logit| f64::from(*logit).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    };
    let count = 6000u64;
    let draws: Vec<Draw> = (0..count).map(|sample| Draw { prompt: 0, sample }).collect();
    let sampling = Sampling { temperature: 1.0, seed: 11, ..Sampling::default() };
    let mut firsts = vec![0usize; rows];
    let mut seconds = vec![0usize; rows];
    let likely = {
        let first = distribution(&prompt);
        (0..rows).max_by(|a, b| first[*a].total_cmp(&first[*b])).expect("a token")
    };
    for draws in draws.chunks(500) {
        for answer in tokens(&answers(&*model, &[(prompt.clone(), draws.to_vec())], &options(2, sampling.clone()), 500))
        {
            firsts[answer[0] as usize] += 1;
            if answer[0] as usize == likely {
                seconds[answer[1] as usize] += 1;
            }
        }
    }
    follows(&firsts, &distribution(&prompt));
    follows(&seconds, &distribution(&[&prompt[..], &[likely as u32]].concat()));
}

/// A chi-squared test that fails one time in a million; rare tokens count together.
fn follows(counts: &[usize], probabilities: &[f64]) {
    let total: usize = counts.iter().sum();
    let (mut chi_squared, mut classes, mut rare) = (0.0, 0.0f64, (0.0, 0.0));
    let term = |count: f64, expected: f64| (count - expected).powi(2) / expected;
    for (count, probability) in counts.iter().zip(probabilities) {
        let expected = probability * total as f64;
        if expected < 8.0 {
            rare = (rare.0 + *count as f64, rare.1 + expected);
        } else {
            chi_squared += term(*count as f64, expected);
            classes += 1.0;
        }
    }
    if rare.1 > 1.0 {
        chi_squared += term(rare.0, rare.1);
        classes += 1.0;
    }
    let degrees = classes - 1.0;
    assert!(degrees >= 3.0, "the distribution is not trivial");
    let part = 2.0 / (9.0 * degrees);
    let most = degrees * (1.0 - part + 4.75 * part.sqrt()).powi(3);
    assert!(chi_squared < most, "{chi_squared} of {most} with {degrees} degrees of freedom");
}

#[test]
fn log_probabilities_are_those_of_the_model_whatever_the_sampling() {
    let model = model("olmo2_gqa");
    let rows = model.config().embedding_rows();
    let prompt = vec![3, 50, 7];
    let sampling = Sampling { repetition_penalty: 1.3, ..drawn(5) };
    let options =
        Arc::new(GenerateOptions { max_new_tokens: 6, sampling, logprobs: Some(3), ..GenerateOptions::default() });
    let draw = Draw { prompt: 0, sample: 0 };
    let steps = &answers(&*model, &[(prompt.clone(), vec![draw])], &options, 1)[0];
    let mut ids = prompt;
    for step in steps {
        let logits = model.logits(&ids, 1, ids.len()).expect("logits");
        let last: Vec<f64> = logits[(ids.len() - 1) * rows..].iter().map(|logit| f64::from(*logit)).collect();
        let sum: f64 = last.iter().map(|logit| logit.exp()).sum();
        let token = step.token.expect("a token");
        let logprobs = step.logprobs.as_ref().expect("requested");
        let close = |got: f32, id: u32| assert!((f64::from(got) - (last[id as usize] - sum.ln())).abs() < 1e-5);
        close(logprobs.chosen, token);
        assert_eq!(logprobs.top.len(), 3);
        assert!(logprobs.top.is_sorted_by(|a, b| a.1 >= b.1));
        logprobs.top.iter().for_each(|(id, logprob)| close(*logprob, *id));
        assert!(last.iter().all(|logit| *logit <= last[logprobs.top[0].0 as usize]));
        ids.push(token);
    }
}

#[test]
fn prompts_join_and_answers_end_at_any_step() {
    let model = model("olmo3");
    let greedy = options(10, Sampling::default());
    let alone =
        |prompt: &[u32]| tokens(&answers(&*model, &[(prompt.to_vec(), vec![Draw::default()])], &greedy, 1)).remove(0);
    let mut batch = Batch::new(&*model, 2);
    let first = batch.add(vec![2, 3, 4], &[Draw::default()], &greedy).expect("added")[0];
    let second = batch.add(vec![9, 8], &[Draw::default()], &greedy).expect("added")[0];
    let third = batch.add(vec![7], &[Draw::default()], &greedy).expect("added")[0];
    let never = batch.add(vec![6], &[Draw::default()], &greedy).expect("added")[0];
    let mut got = std::collections::BTreeMap::<_, Vec<u32>>::new();
    let mut steps = 0;
    while !batch.is_done() {
        for step in batch.step().expect("a step") {
            got.entry(step.answer).or_default().extend(step.token);
        }
        steps += 1;
        match steps {
            3 => batch.end(second),
            4 => batch.end(never),
            _ => {}
        }
    }
    assert_eq!(got[&first], alone(&[2, 3, 4]));
    assert_eq!(got[&second], alone(&[9, 8])[..3]);
    assert_eq!(got[&third], alone(&[7]));
    assert!(!got.contains_key(&never));
    // The third prompt took the place of the second.
    assert_eq!(steps, 13);
}

#[test]
fn an_answer_ends_at_a_stop_token_its_limit_or_the_end_of_the_models_sequence() {
    let model = model("olmo2");
    let most = model.config().max_sequence_length;
    let finish = |prompt: Vec<u32>, options: &Arc<GenerateOptions>| {
        let steps = answers(&*model, &[(prompt, vec![Draw::default()])], options, 1).remove(0);
        (steps.iter().filter(|step| step.token.is_some()).count(), steps.last().and_then(|step| step.finish))
    };
    assert_eq!(finish(vec![5], &options(4, Sampling::default())), (4, Some(Finish::Length)));
    assert_eq!(finish(vec![5; most - 2], &options(9, Sampling::default())), (2, Some(Finish::Length)));
    assert_eq!(finish(vec![5; most], &options(9, Sampling::default())), (0, Some(Finish::Length)));
    let all = GenerateOptions { max_new_tokens: 4, stop_token_ids: (0..96).collect(), ..GenerateOptions::default() };
    assert_eq!(finish(vec![5], &Arc::new(all)), (0, Some(Finish::Stop)));
    let mut batch = Batch::new(&*model, 1);
    assert!(batch.add(Vec::new(), &[Draw::default()], &options(1, Sampling::default())).is_err());
    assert!(batch.add(vec![96], &[Draw::default()], &options(1, Sampling::default())).is_err());
    assert!(batch.is_done());
}
