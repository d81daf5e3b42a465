//! Both bodies of the block against torch.autograd in float64 (scripts/goldens/block_autograd.py).

mod common;

use std::collections::BTreeMap;

use common::{Body, Case, On, difference};
use olmo_ops::{BlockConfig, Norm, NormKind, RopeConfig};
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    cases: BTreeMap<String, Golden>,
}

#[derive(Deserialize)]
struct Golden {
    config: Shape,
    output: Vec<f64>,
    /// In the order of the inputs.
    gradients: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct Shape {
    d: usize,
    heads: usize,
    kv: usize,
    mlp: usize,
    batch: usize,
    sequence: usize,
    norm: String,
    after: bool,
    qk: bool,
    affine: bool,
    clip: Option<f32>,
    window: Option<usize>,
    documents: Option<Vec<Vec<u32>>>,
}

/// The closed formula of the script.
fn numbers(count: usize, seed: usize, scale: f64, offset: f64) -> Vec<f64> {
    (1..=count).map(|i| f64::from((offset + scale * (0.7 * i as f64 + 1.3 * seed as f64).sin()) as f32)).collect()
}

fn case(shape: &Shape) -> Case {
    let (kind, eps) = if shape.norm == "layer" { (NormKind::Layer, 1e-5) } else { (NormKind::Rms, 1e-6) };
    let config = BlockConfig {
        d_model: shape.d,
        n_heads: shape.heads,
        n_kv_heads: shape.kv,
        head_dim: shape.d / shape.heads,
        rope: RopeConfig::new(10_000.0),
        mlp_width: shape.mlp,
        clip_qkv: shape.clip,
        norm: Norm { kind, eps },
        norm_after: shape.after,
        qk_norm: shape.qk,
        window: shape.window,
    };
    let mut case = Case::new("a golden", config, shape.affine, shape.batch, shape.sequence);
    for (seed, (shape, values)) in case.inputs.iter_mut().enumerate() {
        let vector = shape.len() == 1;
        let scale = match seed {
            0 => 1.5,
            _ if vector => 0.3,
            _ => 1.5 / (config.d_model as f64).sqrt(),
        };
        *values = numbers(values.len(), seed, scale, f64::from(u8::from(vector)));
    }
    case.cotangent = numbers(case.cotangent.len(), 99, 1.0, 0.0);
    case.documents = shape.documents.as_ref().map(|rows| rows.concat().into());
    case
}

#[test]
fn outputs_and_gradients_are_those_of_torch() {
    let goldens: Goldens =
        serde_json::from_str(include_str!("fixtures/block_autograd.json")).expect("the fixture is sound");
    assert_eq!(goldens.cases.len(), 4);
    for (name, golden) in goldens.cases {
        for on in On::all() {
            let case = Case { on, ..case(&golden.config) };
            agrees(&name, &case, &golden);
        }
    }
}

fn agrees(name: &str, case: &Case, golden: &Golden) {
    // The rotary angles are f32 in ours, as in OLMo, and f64 in the script.
    for (body, tolerance) in [(Body::Reference64, 2e-6), (Body::Reference32, 3e-5), (Body::Fused, 2e-5)] {
        let (output, gradients) = case.run(body);
        let off = difference(&output, &golden.output);
        assert!(off < tolerance, "{name} on {:?}: the output is off by {off}", case.on);
        assert_eq!(gradients.len(), golden.gradients.len(), "{name}");
        for (input, (got, want)) in gradients.iter().zip(&golden.gradients).enumerate() {
            // Gradients that are 0 by mathematics are compared with 0 and not with their own rounding.
            let scale = want.iter().fold(0f64, |most, x| most.max(x.abs()));
            let got: Vec<f64> = if scale < 1e-9 {
                got.iter().map(|x| if x.abs() < 1e-5 { 0.0 } else { *x }).collect()
            } else {
                got.clone()
            };
            let want: Vec<f64> = if scale < 1e-9 { vec![0.0; want.len()] } else { want.clone() };
            let off = difference(&got, &want);
            assert!(off < tolerance, "{name} on {:?}: the gradient of input {input} is off by {off}", case.on);
        }
    }
}

#[test]
fn a_golden_that_is_off_by_one_percent_would_be_noticed() {
    let goldens: Goldens =
        serde_json::from_str(include_str!("fixtures/block_autograd.json")).expect("the fixture is sound");
    let golden = &goldens.cases["olmo3"];
    let (_, gradients) = case(&golden.config).run(Body::Fused);
    for (got, want) in gradients.iter().zip(&golden.gradients) {
        let wrong: Vec<f64> = want.iter().map(|x| x * 1.01).collect();
        assert!(difference(got, &wrong) > 1e-3);
    }
}
