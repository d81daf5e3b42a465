//! Tokens per second of whole training steps (loss, gradients, clipping, AdamW) on this machine's CPU.
//!
//!     cargo run --release -p olmo-model --example throughput -- d_model=128 n_layers=4 n_heads=4 mlp=384 sequence=128 batch=16 vocab=1024 steps=20
//!
//! `backend=libtorch` with `--features libtorch` (scripts/libtorch). Also `kv=2` for grouped keys, `arch=olmo1` and `arch=prenorm` (RMSNorm before, no QK-norm); `json=yes` prints one line for scripts.
//! `RAYON_NUM_THREADS` sets the number of threads.

use std::time::Instant;

use olmo_model::{Batch, Compute, LossOptions, Model, ModelConfig, Parameters};
use olmo_ops::adamw::{self, AdamW, State};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut shape = [
        ("d_model", 128),
        ("n_layers", 4),
        ("n_heads", 4),
        ("kv", 0),
        ("mlp", 384),
        ("sequence", 128),
        ("batch", 16),
        ("vocab", 1024),
        ("steps", 20),
    ];
    let (mut arch, mut json_line, mut compute) = (String::new(), false, Compute::default());
    for argument in std::env::args().skip(1) {
        let (name, value) = argument.split_once('=').ok_or(format!("{argument}: arguments are name=value"))?;
        if name == "arch" {
            arch = value.to_owned();
        } else if name == "backend" {
            compute = Compute::named(value).ok_or(format!("{value}: this build has no such backend"))?;
        } else if name == "json" {
            json_line = value == "yes";
        } else {
            let place =
                shape.iter_mut().find(|(known, _)| *known == name).ok_or(format!("{name}: no such argument"))?;
            place.1 = value.parse()?;
        }
    }
    let [d_model, layers, heads, kv, mlp, sequence, batch, vocab, steps] = shape.map(|(_, value): (&str, usize)| value);
    let mut fields = json!({"d_model": d_model, "n_layers": layers, "n_heads": heads, "mlp_hidden_size": 2 * mlp, "vocab_size": vocab});
    if kv > 0 {
        fields["n_kv_heads"] = json!(kv);
    }
    let changes = match arch.as_str() {
        "" => json!({}),
        "prenorm" => json!({"norm_after": false, "attention_layer_norm": false}),
        "olmo1" => {
            json!({"layer_norm_type": "default", "layer_norm_with_affine": false, "attention_layer_norm": false, "norm_after": false,
            "layer_norm_eps": 1e-5, "weight_tying": true, "clip_qkv": 8.0})
        }
        other => return Err(format!("{other}: no such arch").into()),
    };
    fields.as_object_mut().expect("made as an object").extend(changes.as_object().cloned().unwrap_or_default());
    let config: ModelConfig = serde_json::from_value(fields)?;
    let mut parameters = Parameters::init(&config, 1)?;
    let mut model = Model::on(compute, &config, &parameters, true)?;
    let (mut exp_avg, mut exp_avg_sq) = (vec![0f32; parameters.len()], vec![0f32; parameters.len()]);
    let groups = parameters.weight_decay_groups(true, false);
    let settings = AdamW { learning_rate: 1e-3, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 };
    let tokens = batch * sequence;
    let say = |text: String| {
        if !json_line {
            println!("{text}");
        }
    };
    say(format!(
        "{:.2} M weights, {} tokens a step, {} threads",
        parameters.len() as f64 / 1e6,
        tokens,
        rayon::current_num_threads()
    ));
    let mut gradients = vec![0f32; parameters.len()];
    let (mut seconds, mut forward, mut optimizer, mut losses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for step in 0..steps {
        let input_ids = (0..tokens).map(|i| ((i * i + 31 * i + 7 * step) % vocab.min(61)) as u32).collect();
        let data = Batch { input_ids, label_mask: None, documents: None, batch, sequence };
        let options = LossOptions { denominator: data.labels() as f64, z_loss: 0.0 };
        let start = Instant::now();
        model.loss(&data, &options)?;
        forward.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        gradients.fill(0.0);
        let output = model.loss_and_gradients(&data, &options, &mut gradients)?;
        let update = Instant::now();
        let scale = olmo_ops::clip_coefficient(olmo_ops::global_norm(&gradients), 1.0);
        model.update(&mut parameters, |weights| {
            let state = State { parameters: weights, exp_avg: &mut exp_avg, exp_avg_sq: &mut exp_avg_sq };
            adamw::step(&settings, step as u64 + 1, state, &gradients, scale, &groups);
        })?;
        optimizer.push(update.elapsed().as_secs_f64());
        seconds.push(start.elapsed().as_secs_f64());
        losses.push(output.loss_sum / options.denominator);
    }
    seconds.drain(..steps / 3);
    let (median, best) = (middle(&mut seconds), seconds[0]);
    if json_line {
        let ends = [losses[0], losses[losses.len() - 1]];
        println!("{}", json!({"tokens_per_second": tokens as f64 / median, "step_ms": median * 1e3, "losses": ends}));
    }
    say(format!("loss {:.3} -> {:.3}", losses[0], losses[losses.len() - 1]));
    say(format!(
        "step {:.1} ms (best {:.1}), of it optimizer {:.1} ms; loss alone {:.1} ms",
        median * 1e3,
        best * 1e3,
        middle(&mut optimizer) * 1e3,
        middle(&mut forward) * 1e3
    ));
    say(format!("{:.0} tokens/s (best {:.0})", tokens as f64 / median, tokens as f64 / best));
    Ok(())
}

/// The median; sorts.
fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
