//! Logits against outputs of OLMo's own code.

#[path = "../../olmo-model/tests/common/oracle.rs"]
mod oracle;

use olmo_infer::of_parameters;
use oracle::{BATCH, SEQUENCE, batch, parameters, variants};

fn close(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance, "{what}: {got}, not {want}");
}

#[test]
fn logits_are_olmos() {
    for (name, config, golden) in variants() {
        let model = of_parameters(&config, &parameters(&config)).expect("a model");
        let logits = model.logits(&batch().input_ids, BATCH, SEQUENCE).expect("logits");
        let place = |row: usize, place: usize| &logits[(row * SEQUENCE + place) * 128..][..8];
        for (got, want) in [(place(0, 7), &golden.logits_0_7_first8), (place(3, 2), &golden.logits_3_2_first8)] {
            for (got, want) in got.iter().zip(want) {
                close(f64::from(*got), *want, 1e-5, name);
            }
        }
        close(logits.iter().map(|&x| f64::from(x)).sum(), golden.logits_sum, 1e-3, name);
        close(logits.iter().map(|&x| f64::from(x).abs()).sum(), golden.logits_abs_sum, 1e-3, name);
    }
}
