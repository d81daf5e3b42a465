//! Generation token by token against the whole block at once.

mod common;

use common::{Body, cases, difference};
use olmo_ops::decode::{KvCache, prefill, step};
use olmo_ops::{BlockWeights, Rope};

#[test]
fn a_prompt_and_then_token_after_token_equals_the_whole_sequence() {
    for case in cases().into_iter().filter(|case| case.documents.is_none()) {
        let (want, _) = case.run(Body::Reference64);
        let values: Vec<Vec<f32>> =
            case.inputs.iter().map(|(_, values)| values.iter().map(|&x| x as f32).collect()).collect();
        let mut norms = values[5..].iter().map(Vec::as_slice);
        let mut next = |exists: bool| if exists { norms.next() } else { None };
        let weights = BlockWeights {
            att_proj: values[1].as_slice(),
            attn_out: values[2].as_slice(),
            ff_proj: values[3].as_slice(),
            ff_out: values[4].as_slice(),
            attn_norm: next(case.affine),
            ff_norm: next(case.affine),
            q_norm: next(case.config.qk_norm),
            k_norm: next(case.config.qk_norm),
        };
        let rope = Rope::new(case.config.head_width(), 10_000.0, case.sequence);
        let d = case.config.d_model;
        for prompt in [1, case.sequence.div_ceil(2), case.sequence] {
            let mut cache = KvCache::default();
            let mut got = prefill(&case.config, &rope, &values[0][..prompt * d], &weights, &mut cache);
            for token in prompt..case.sequence {
                got.extend(step(&case.config, &rope, &values[0][token * d..(token + 1) * d], &weights, &mut cache));
            }
            assert_eq!(cache.positions(), case.sequence);
            let got: Vec<f64> = got.into_iter().map(f64::from).collect();
            assert!(difference(&got, &want[..got.len()]) < 2e-5, "{}, prompt of {prompt}", case.name);
        }
    }
}
