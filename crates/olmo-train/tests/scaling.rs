//! The table of docs/scaling.md is what the estimates give.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::fmt::Write as _;

use olmo_base::units::bytes;
use olmo_model::{ActivationCheckpointing, Computes, ModelParams, Vocabulary};
use olmo_train::memory::Need;
use olmo_train::{Reduce, Strategy};
use serde_json::json;

const SEQUENCE: usize = 4096;
/// Bytes per second over TCP between processes of one host, and over a network of 400 Gbit/s.
const SPEEDS: [f64; 2] = [2e9, 50e9];

#[test]
fn the_table_in_the_docs_is_that_of_the_estimates() {
    let mut table = String::new();
    for preset in ["olmo2-1B", "olmo2-7B", "olmo2-13B", "olmo2-32B"] {
        let params: ModelParams = serde_json::from_value(json!({"preset": preset})).unwrap();
        let vocabulary = Vocabulary { size: 100_278, eos_token_id: 100_257, pad_token_id: 100_277 };
        let config = params.config(&vocabulary, SEQUENCE);
        let need = |ranks| Need {
            config: &config,
            sequence: SEQUENCE,
            rows: ranks,
            computes: Computes::OnGpuInBf16,
            ranks,
            strategy: Strategy::Ddp,
            reduce: Reduce::Fast,
        };
        let estimate = need(8).estimate(ActivationCheckpointing::WholeLayer, 1);
        let state = estimate.weights + estimate.gradients + estimate.moments;
        let sent = [2, 8, 64].map(|ranks| need(ranks).sent_per_step(1));
        let times = SPEEDS.map(|speed| sent[1] as f64 / speed);
        let _ = writeln!(
            table,
            "| {preset} | {} | {} | {} | {} | {} | {:.1} s | {:.2} s |",
            bytes(state),
            bytes(estimate.total()),
            bytes(sent[0]),
            bytes(sent[1]),
            bytes(sent[2]),
            times[0],
            times[1]
        );
    }
    let page = include_str!("../../../docs/scaling.md");
    assert!(page.contains(&table), "the table should be\n{table}");
}
