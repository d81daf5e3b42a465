//! What the model promises beside right numbers: initialisation, errors, causality, sameness.

use olmo_model::{
    Batch, InitFnType, LossOptions, Model, ModelConfig, ModelError, Parameters, load, save_native, trained,
};
use olmo_ops::adamw::{self, AdamW, State};
use serde_json::{Value, json};

/// A small OLMo 2 with `changes`.
fn config(changes: Value) -> ModelConfig {
    let mut fields = json!({
        "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 3, "mlp_hidden_size": 96, "layer_norm_type": "rms",
        "layer_norm_eps": 1e-6, "attention_layer_norm": true, "norm_after": true, "rope_theta": 500_000.0,
        "max_sequence_length": 4096, "vocab_size": 60, "weight_tying": false,
    });
    fields.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
    serde_json::from_value(fields).expect("a config")
}

fn batch(rows: usize, sequence: usize) -> Batch {
    let input_ids = (0..rows * sequence).map(|i| ((i * i * 7 + 13 * i) % 60) as u32).collect();
    let label_mask = Some((0..rows * sequence).map(|i| i % 4 != 2).collect());
    Batch { input_ids, label_mask, documents: None, batch: rows, sequence }
}

fn gradients(model: &Model, batch: &Batch, denominator: f64) -> Vec<f32> {
    let length = Parameters::zeros(model.config()).expect("weights").len();
    let mut gradients = vec![0f32; length];
    model.loss_and_gradients(batch, &LossOptions { denominator, z_loss: 1e-4 }, &mut gradients).expect("gradients");
    gradients
}

#[test]
fn new_weights_depend_on_the_seed_and_each_tensor_on_its_name_alone() {
    let one = Parameters::init(&config(json!({})), 1).expect("weights");
    assert_eq!(one, Parameters::init(&config(json!({})), 1).expect("weights"));
    let other = Parameters::init(&config(json!({})), 2).expect("weights");
    assert_ne!(one.tensor("transformer.wte.weight"), other.tensor("transformer.wte.weight"));
    // Another architecture around it does not change a tensor.
    let deeper = Parameters::init(&config(json!({"n_layers": 5, "weight_tying": true})), 1).expect("weights");
    for name in ["transformer.wte.weight", "transformer.blocks.1.ff_proj.weight"] {
        assert_eq!(one.tensor(name), deeper.tensor(name), "{name}");
    }
}

#[test]
fn new_weights_of_a_seed_never_change() {
    let parameters = Parameters::init(&config(json!({"init_cutoff_factor": 3})), 42).expect("weights");
    let sum = |name: &str| parameters.tensor(name).expect("a tensor").iter().map(|&x| f64::from(x)).sum::<f64>();
    let first = parameters.tensor("transformer.wte.weight").expect("a tensor")[..3].to_vec();
    let got =
        format!("{first:?} {:.6} {:.6}", sum("transformer.wte.weight"), sum("transformer.blocks.2.att_proj.weight"));
    assert_eq!(got, "[0.011161142, -0.017224938, 0.015779305] 1.111988 1.302907");
}

#[test]
fn new_weights_have_olmos_deviations_and_stay_within_the_cutoff() {
    let deviation = |parameters: &Parameters, name: &str| {
        let values = parameters.tensor(name).expect("a tensor");
        (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt()
    };
    let normal = Parameters::init(&config(json!({"d_model": 64, "init_cutoff_factor": 3})), 1).expect("weights");
    for spec in normal.tensors() {
        let values = normal.tensor(&spec.name).expect("a tensor");
        if spec.shape.len() == 1 {
            assert!(values.iter().all(|x| *x == 1.0), "{}", spec.name);
        } else {
            assert!(values.iter().all(|x| x.abs() <= 0.06), "{}", spec.name);
            assert!(
                (deviation(&normal, &spec.name) / 0.02 - 1.0).abs() < 0.08,
                "{} {}",
                spec.name,
                deviation(&normal, &spec.name)
            );
        }
    }
    let mut mitchell = config(json!({"d_model": 64}));
    mitchell.init_fn = InitFnType::Mitchell;
    let parameters = Parameters::init(&mitchell, 1).expect("weights");
    let want = [
        ("transformer.wte.weight", 64f32),
        ("transformer.ff_out.weight", 64.0),
        ("transformer.blocks.2.att_proj.weight", 64.0),
        ("transformer.blocks.2.ff_proj.weight", 64.0),
        ("transformer.blocks.2.attn_out.weight", 2.0 * 64.0 * 3.0),
        ("transformer.blocks.2.ff_out.weight", 2.0 * 48.0 * 3.0),
    ];
    for (name, square) in want {
        assert!(
            (deviation(&parameters, name) * square.sqrt() - 1.0).abs() < 0.08,
            "{name} {}",
            deviation(&parameters, name)
        );
    }
}

#[test]
fn every_problem_of_a_config_is_told_at_once() {
    let bad = config(
        json!({"d_model": 30, "n_heads": 4, "n_kv_heads": 3, "mlp_hidden_size": 97, "clip_qkv": -1.0, "embedding_size": 50,
        "eos_token_id": 60, "layer_norm_eps": 0.0}),
    );
    let text = bad.validate().expect_err("refused").to_string();
    for word in [
        "`d_model`",
        "`n_kv_heads`",
        "`mlp_hidden_size`",
        "`clip_qkv`",
        "`embedding_size`",
        "`eos_token_id`",
        "`layer_norm_eps`",
    ] {
        assert!(text.contains(word), "{word} is not in: {text}");
    }
    let empty = config(json!({"d_model": 0, "n_heads": 0, "n_layers": 0, "n_kv_heads": 0, "vocab_size": 0}));
    assert!(Parameters::zeros(&empty).is_err());
    assert!(
        serde_json::from_value::<ModelConfig>(
            json!({"d_model": 8, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 8, "d_modle": 1})
        )
        .is_err()
    );
}

#[test]
fn ids_beyond_the_vocabulary_and_wrong_shapes_are_errors() {
    let config = config(json!({"embedding_size": 64}));
    let parameters = Parameters::init(&config, 1).expect("weights");
    let model = Model::new(&config, &parameters).expect("a model");
    let text = config.check_ids(&[1, 60], 1, 2).expect_err("refused").to_string();
    assert!(text.contains("60") && text.contains("tokenizer"), "{text}");
    let refused = |ids: &[u32], rows, sequence| config.check_ids(ids, rows, sequence).is_err();
    assert!(refused(&[1, 2, 3], 2, 2) && refused(&[], 0, 5) && refused(&[1], usize::MAX, 2));
    let options = LossOptions { denominator: 1.0, z_loss: 0.0 };
    let mut short = batch(1, 4);
    short.label_mask = Some(vec![true; 3]);
    assert!(model.loss(&short, &options).is_err());
    assert!(model.loss(&batch(1, 4), &LossOptions { denominator: 0.0, ..options }).is_err());
    let mut few = vec![0f32; 3];
    assert!(model.loss_and_gradients(&batch(1, 4), &options, &mut few).is_err());
}

#[test]
fn no_labels_give_a_finite_loss_and_no_gradient() {
    let config = config(json!({}));
    let model = Model::new(&config, &Parameters::init(&config, 1).expect("weights")).expect("a model");
    let mut silent = batch(2, 5);
    silent.label_mask = Some(vec![false; 10]);
    assert_eq!(silent.labels(), 0);
    assert_eq!(model.loss(&silent, &LossOptions { denominator: 10.0, z_loss: 1e-4 }).expect("a loss").loss_sum, 0.0);
    assert!(gradients(&model, &silent, 10.0).iter().all(|gradient| *gradient == 0.0));
    // One token has nothing before it and nothing to say.
    assert!(gradients(&model, &batch(3, 1), 1.0).iter().all(|gradient| *gradient == 0.0));
}

#[test]
fn gradients_are_added_and_micro_batches_add_up_to_the_batch() {
    let config = config(json!({}));
    let model = Model::new(&config, &Parameters::init(&config, 1).expect("weights")).expect("a model");
    let whole = batch(4, 9);
    let denominator = whole.labels() as f64;
    let want = gradients(&model, &whole, denominator);
    let mut sum = vec![0f32; want.len()];
    for half in 0..2 {
        let part = 18 * half..18 * (half + 1);
        let mask = whole.label_mask.as_ref().map(|mask| mask[part.clone()].to_vec());
        let micro = Batch {
            input_ids: whole.input_ids[part].to_vec(),
            label_mask: mask,
            documents: None,
            batch: 2,
            sequence: 9,
        };
        model.loss_and_gradients(&micro, &LossOptions { denominator, z_loss: 1e-4 }, &mut sum).expect("gradients");
    }
    let most = want.iter().fold(0f32, |most, x| most.max(x.abs()));
    for (got, want) in sum.iter().zip(&want) {
        assert!((got - want).abs() <= 1e-5 * most, "{got} {want}");
    }
}

#[test]
fn frozen_weights_have_no_gradient_and_no_moments_and_never_change() {
    for changes in [json!({}), json!({"norm_after": false, "attention_layer_norm": false, "weight_tying": true})] {
        let config = config(changes);
        let mut parameters = Parameters::init(&config, 1).expect("weights");
        let before = parameters.clone();
        let mut model = Model::new(&config, &parameters).expect("a model");
        let all = gradients(&model, &batch(2, 9), 10.0);
        for layer in ["transformer.blocks.1.", "transformer.wte.", "transformer.ln_f.", "transformer.ff_out."] {
            let trained = trained(&config, |name| !name.starts_with(layer));
            model.set_trained(trained.clone()).expect("a model on the host");
            let mut gradients = vec![0f32; trained.len()];
            let options = LossOptions { denominator: 10.0, z_loss: 1e-4 };
            model.loss_and_gradients(&batch(2, 9), &options, &mut gradients).expect("gradients");
            assert_eq!(gradients, trained.pack(&all), "{layer}");
            let groups = trained.within(&parameters.weight_decay_groups(true, true));
            let [mut exp_avg, mut exp_avg_sq] = [vec![0f32; trained.len()], vec![0f32; trained.len()]];
            let settings = AdamW { learning_rate: 1e-2, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 };
            parameters = before.clone();
            model
                .update(&mut parameters, |parameters| {
                    let state = State { parameters, exp_avg: &mut exp_avg, exp_avg_sq: &mut exp_avg_sq };
                    adamw::step(&settings, 1, state, &gradients, 1.0, &groups);
                })
                .expect("a step");
            for spec in parameters.tensors() {
                let same = parameters.flat()[spec.range.clone()] == before.flat()[spec.range.clone()];
                assert_eq!(same, !spec.name.starts_with(layer), "{}", spec.name);
            }
            model.set_parameters(&before).expect("the same config");
        }
        assert!(
            model
                .loss_and_gradients(&batch(2, 9), &LossOptions { denominator: 1.0, z_loss: 0.0 }, &mut all.clone())
                .is_err()
        );
    }
}

#[test]
fn loss_and_gradients_are_the_same_bits_for_any_number_of_threads_and_again() {
    let config = config(json!({"d_model": 64, "weight_tying": true}));
    let model = Model::new(&config, &Parameters::init(&config, 1).expect("weights")).expect("a model");
    let data = batch(6, 70);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| gradients(&model, &data, 100.0).into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let one = run(1);
    for threads in [1, 2, 3, 5] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn a_native_folder_keeps_everything_and_refuses_another_format() {
    let config =
        config(json!({"embedding_size": 64, "eos_token_id": [3, 4], "pad_token_id": 1, "init_cutoff_factor": 3.0}));
    let parameters = Parameters::init(&config, 5).expect("weights");
    let folder = tempfile::tempdir().expect("a folder");
    save_native(folder.path(), &config, &parameters).expect("written");
    assert_eq!(load(folder.path()).expect("loaded"), (config, parameters));
    let path = folder.path().join("config.json");
    let text = std::fs::read_to_string(&path).expect("read");
    for (from, to, word) in [
        ("\"format\": 1", "\"format\": 2", "format"),
        ("\"format\": 1,", "", "format"),
        ("d_model", "d_modle", "d_modle"),
        ("\"norm_after\": true,", "", "lacks `norm_after`"),
    ] {
        std::fs::write(&path, text.replace(from, to)).expect("written");
        let error = load(folder.path()).expect_err("refused");
        assert!(matches!(error, ModelError::Folder { .. }) && error.to_string().contains(word), "{error}");
    }
}
