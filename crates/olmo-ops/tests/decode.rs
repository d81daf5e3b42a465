//! Generation token by token against the whole block at once.

mod common;

use std::sync::Arc;

use common::{Block, Body, cases, difference, flatten};
use olmo_ops::decode::{KvCache, prefill, step};
use olmo_ops::{Compute, Cpu, Placed, Rope};

#[test]
fn a_prompt_and_then_token_after_token_equals_the_whole_sequence() {
    for case in cases().into_iter().filter(|case| case.documents.is_none()) {
        let (want, _) = case.run(Body::Reference64);
        let values: Vec<f32> = case.inputs[0].1.iter().map(|&x| x as f32).collect();
        let flat: Vec<&[f64]> = case.inputs[1..].iter().map(|(_, values)| values.as_slice()).collect();
        let (flat, ranges) = flatten(&flat);
        let device = Cpu::new(Compute::Flex, Arc::new(flat));
        let rope = Arc::new(Rope::new(case.config.rope, case.config.head_dim, case.sequence));
        let placed = Placed { rope: rope.clone(), documents: None };
        let block = Block { config: &case.config, placed, affine: case.affine, keep: case.keep };
        let weights = block.weights(&ranges);
        let slices = weights.slices(device.weights());
        let d = case.config.d_model;
        for prompt in [1, case.sequence.div_ceil(2), case.sequence] {
            let mut cache = KvCache::default();
            let mut got = prefill(&device, &case.config, &rope, values[..prompt * d].to_vec(), &weights, &mut cache);
            for token in prompt..case.sequence {
                got.extend(step(&case.config, &rope, &values[token * d..(token + 1) * d], &slices, &mut cache));
            }
            assert_eq!(cache.positions(), case.sequence);
            let got: Vec<f64> = got.into_iter().map(f64::from).collect();
            assert!(difference(&got, &want[..got.len()]) < 2e-5, "{}, prompt of {prompt}", case.name);
        }
    }
}
