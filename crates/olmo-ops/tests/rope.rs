//! Frequencies of YaRN against tables of `transformers` (made by scripts/goldens/yarn.py).

use olmo_ops::{Rope, RopeConfig, RopeScaling, Yarn};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    head_dim: usize,
    theta: f64,
    factor: f64,
    old_context_len: usize,
    beta_fast: f64,
    beta_slow: f64,
    attention_factor: f64,
    frequencies: Vec<f64>,
}

#[test]
fn yarn_has_the_frequencies_of_transformers() {
    let golden: Golden = serde_json::from_str(include_str!("fixtures/yarn.json")).expect("the fixture is JSON");
    assert!(golden.rows.len() >= 8);
    for row in golden.rows {
        let Row { factor, beta_fast, beta_slow, old_context_len, .. } = row;
        let attention_factor = row.attention_factor as f32;
        let scaling = RopeScaling::Yarn(Yarn { factor, beta_fast, beta_slow, old_context_len });
        let config = RopeConfig { theta: row.theta, scaling, attention_factor };
        let rope = Rope::new(config, row.head_dim, 2);
        // At position 1, the angles are the frequencies.
        let (cosines, sines) = rope.at(1);
        assert_eq!(cosines.len(), row.frequencies.len());
        for (pair, want) in row.frequencies.iter().enumerate() {
            let (cosine, sine) = (f64::from(cosines[pair]), f64::from(sines[pair]));
            let found = sine.atan2(cosine);
            assert!((found - want).abs() <= 1e-6 * want, "head of {}, pair {pair}: {found}, not {want}", row.head_dim);
            assert!((cosine.hypot(sine) - row.attention_factor).abs() <= 1e-6, "head of {}, pair {pair}", row.head_dim);
        }
    }
}

#[test]
fn a_factor_of_one_changes_nothing() {
    let plain = RopeConfig::new(10_000.0);
    let yarn = Yarn { factor: 1.0, beta_fast: 32.0, beta_slow: 1.0, old_context_len: 2048 };
    let scaled = RopeConfig { scaling: RopeScaling::Yarn(yarn), ..plain };
    let (plain, scaled) = (Rope::new(plain, 64, 9), Rope::new(scaled, 64, 9));
    for (a, b) in plain.cosines().iter().zip(scaled.cosines()).chain(plain.sines().iter().zip(scaled.sines())) {
        assert!((a - b).abs() <= 1e-6, "{a} {b}");
    }
}
