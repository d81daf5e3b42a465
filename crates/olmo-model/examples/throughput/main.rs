//! Tokens per second of whole training steps (loss, gradients, clipping, AdamW) on this machine.
//!
//!     cargo run --release -p olmo-model --example throughput -- d_model=128 n_layers=4 n_heads=4 mlp=384 sequence=128 batch=16 vocab=1024 steps=20
//!
//! `backend=libtorch` with `--features libtorch` (scripts/libtorch), and `backend=libtorch-cuda precision=amp_bf16`. Also `kv=2` for grouped keys, `arch=olmo1` and `arch=prenorm` (RMSNorm before,
//! no QK-norm), `clip_qkv=0` for none, `ids=all` for ids from the whole vocabulary, `recompute=whole_layer`, and `seconds=20` to stop early; `json=yes` prints one line for scripts.
//! `RAYON_NUM_THREADS` sets the number of threads.
//!
//! `check=small` times nothing: it holds the backend's losses and gradients against flex in f32 on small models of every kind; `check=all` on wider
//! ones too. It ends with 1 if they differ.

mod check;
mod sides;

use std::time::Instant;

use olmo_model::{ActivationCheckpointing, Batch, LossOptions, ModelConfig, Parameters};
use serde_json::{Value, json};

use sides::{Side, Trainer};

type Failure = Box<dyn std::error::Error>;

struct Arguments {
    numbers: [(&'static str, usize); 10],
    arch: String,
    json_line: bool,
    check: Option<String>,
    side: Side,
    recompute: ActivationCheckpointing,
    seconds: f64,
    clip_qkv: Option<f64>,
    all_ids: bool,
}

impl Arguments {
    fn read() -> Result<Arguments, Failure> {
        let numbers = [
            ("d_model", 128),
            ("n_layers", 4),
            ("n_heads", 4),
            ("kv", 0),
            ("mlp", 384),
            ("sequence", 128),
            ("batch", 16),
            ("vocab", 1024),
            ("steps", 20),
            ("window", 0),
        ];
        let mut read = Arguments {
            numbers,
            arch: String::new(),
            json_line: false,
            check: None,
            side: Side::default(),
            recompute: ActivationCheckpointing::None,
            seconds: f64::INFINITY,
            clip_qkv: None,
            all_ids: false,
        };
        let (mut backend, mut precision) = ("flex".to_owned(), "fp32".to_owned());
        for argument in std::env::args().skip(1) {
            let (name, value) = argument.split_once('=').ok_or(format!("{argument}: arguments are name=value"))?;
            match name {
                "arch" => read.arch = value.to_owned(),
                "backend" => backend = value.to_owned(),
                "precision" => precision = value.to_owned(),
                "json" => read.json_line = value == "yes",
                "check" => read.check = Some(value.to_owned()),
                "recompute" => read.recompute = serde_json::from_value(json!(value))?,
                "seconds" => read.seconds = value.parse()?,
                "ids" => read.all_ids = value == "all",
                "clip_qkv" => read.clip_qkv = Some(value.parse()?),
                name => {
                    let place = read.numbers.iter_mut().find(|(known, _)| *known == name);
                    place.ok_or(format!("{name}: no such argument"))?.1 = value.parse()?;
                }
            }
        }
        read.side = Side::named(&backend, &precision)?;
        Ok(read)
    }

    fn number(&self, name: &str) -> usize {
        self.numbers.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value)
    }

    fn config(&self) -> Result<ModelConfig, Failure> {
        let mut fields = json!({
            "d_model": self.number("d_model"), "n_layers": self.number("n_layers"), "n_heads": self.number("n_heads"),
            "mlp_hidden_size": 2 * self.number("mlp"), "vocab_size": self.number("vocab"), "max_sequence_length": 4096,
        });
        let mut extend = |more: Value| {
            let more = more.as_object().cloned().unwrap_or_default();
            fields.as_object_mut().expect("made as an object").extend(more);
        };
        extend(arch(&self.arch)?);
        match self.clip_qkv {
            Some(0.0) => extend(json!({"clip_qkv": null})),
            Some(clip) => extend(json!({"clip_qkv": clip})),
            None => {}
        }
        if self.number("kv") > 0 {
            extend(json!({"n_kv_heads": self.number("kv")}));
        }
        if self.number("window") > 0 {
            extend(json!({"sliding_window": self.number("window")}));
        }
        Ok(serde_json::from_value(fields)?)
    }
}

/// The fields of an architecture, except its sizes.
fn arch(name: &str) -> Result<Value, Failure> {
    let mut fields = json!({"layer_norm_type": "rms", "layer_norm_eps": 1e-6, "attention_layer_norm": true, "norm_after": true,
        "rope_theta": 500_000.0, "weight_tying": false});
    let changes = match name {
        "" | "olmo2" => json!({}),
        "prenorm" => json!({"norm_after": false, "attention_layer_norm": false}),
        "olmo1" => {
            json!({"layer_norm_type": "default", "layer_norm_with_affine": false, "attention_layer_norm": false, "norm_after": false,
            "layer_norm_eps": 1e-5, "weight_tying": true, "clip_qkv": 8.0})
        }
        other => return Err(format!("{other}: no such arch").into()),
    };
    let changes = changes.as_object().cloned().unwrap_or_default();
    fields.as_object_mut().expect("made as an object").extend(changes);
    Ok(fields)
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::read()?;
    match &arguments.check {
        Some(size) => check::run(&arguments.side, size),
        None => time(&arguments),
    }
}

fn time(arguments: &Arguments) -> Result<(), Failure> {
    let [sequence, batch, vocab, steps] = ["sequence", "batch", "vocab", "steps"].map(|name| arguments.number(name));
    let config = arguments.config()?;
    let parameters = Parameters::init(&config, 1)?;
    let say = |text: String| {
        if !arguments.json_line {
            println!("{text}");
        }
    };
    let tokens = batch * sequence;
    let id = |i: usize, step: usize| match arguments.all_ids {
        true => (i * i * 7919 + 104_729 * i + 31 * step) % vocab,
        false => (i * i + 31 * i + 7 * step) % vocab.min(61),
    };
    let threads = rayon::current_num_threads();
    say(format!("{:.2} M weights, {tokens} tokens a step, {threads} threads", parameters.len() as f64 / 1e6));
    let mut trainer = Trainer::new(&arguments.side, &config, parameters, arguments.recompute)?;
    let (mut seconds, mut forward, mut optimizer, mut losses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut began = None;
    for step in 0..steps {
        let input_ids = (0..tokens).map(|i| id(i, step) as u32).collect();
        let data = Batch { input_ids, label_mask: None, documents: None, batch, sequence };
        let options = LossOptions { denominator: data.labels() as f64, z_loss: 0.0 };
        if !arguments.json_line {
            let start = Instant::now();
            trainer.loss(&data, &options)?;
            forward.push(start.elapsed().as_secs_f64());
        }
        let start = Instant::now();
        let (loss, update) = trainer.step(step as u64 + 1, &data, &options)?;
        seconds.push(start.elapsed().as_secs_f64());
        optimizer.push(update);
        losses.push(loss / options.denominator);
        // The first step prepares what the others find.
        let began = began.get_or_insert_with(Instant::now);
        if began.elapsed().as_secs_f64() > arguments.seconds && seconds.len() > 3 {
            break;
        }
    }
    let steps = seconds.len();
    seconds.drain(..steps / 3);
    let (median, best) = (middle(&mut seconds), seconds[0]);
    if arguments.json_line {
        let ends = [losses[0], losses[losses.len() - 1]];
        let speed = tokens as f64 / median;
        let mut line = json!({"tokens_per_second": speed, "step_ms": median * 1e3, "losses": ends, "steps": steps});
        if let Some(peak) = arguments.side.peak() {
            line["peak_flops"] = json!(peak);
        }
        println!("{line}");
        return Ok(());
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
