//! The fused block against its definition: values, gradients, causality, and sameness for any number of threads.

mod common;

use std::sync::Arc;

use common::{Body, Case, Operation as _, cases, difference};
use olmo_ops::{BlockConfig, Compute, Cpu, Keep, Placed, Rope, RopeConfig};

/// What f32 may lose over a block.
const TOLERANCE: f64 = 2e-5;

/// The first gradient that is off by more than the tolerance.
fn first_difference(got: &[Vec<f64>], want: &[Vec<f64>]) -> Option<(usize, f64)> {
    let differences = got.iter().zip(want).map(|(got, want)| difference(got, want)).enumerate();
    differences.into_iter().find(|(_, difference)| *difference > TOLERANCE)
}

#[test]
fn the_fused_block_equals_the_reference_in_f64_and_f32() {
    for case in cases() {
        let (fused, fused_gradients) = case.run(Body::Fused);
        for body in [Body::Reference64, Body::Reference32] {
            let (reference, gradients) = case.run(body);
            assert!(
                difference(&fused, &reference) < TOLERANCE,
                "{} on {:?}: outputs differ by {}",
                case.name,
                case.on,
                difference(&fused, &reference)
            );
            assert_eq!(fused_gradients.len(), gradients.len());
            assert_eq!(first_difference(&fused_gradients, &gradients), None, "{}", case.name);
        }
    }
}

#[test]
fn recomputed_activations_give_the_same_bits() {
    for case in cases() {
        let want = case.run(Body::Fused);
        for keep in [Keep::All, Keep::Products, Keep::Nothing] {
            let case = Case { keep, ..case.clone() };
            assert_eq!(case.run(Body::Fused), want, "{}, {keep:?}", case.name);
        }
    }
}

#[test]
fn a_token_sees_neither_another_document_nor_beyond_its_window() {
    let of = |name: &str| cases().into_iter().find(|case| case.name == name).expect("the case is there");
    // Row 0 has documents at 0, 2, 3 and 9.
    for (name, changed, seen) in [("documents", 4, 4..9), ("documents", 1, 1..2), ("olmo3, a window", 7, 7..12)] {
        let (case, mut other) = (of(name), of(name));
        let d = case.config.d_model;
        other.inputs[0].1[changed * d..(changed + 1) * d].iter_mut().for_each(|value| *value += 1.0);
        let ((before, _), (after, _)) = (case.run(Body::Fused), other.run(Body::Fused));
        for place in 0..case.sequence {
            let at = place * d..(place + 1) * d;
            assert_eq!(before[at.clone()] != after[at], seen.contains(&place), "{name}: token {place}");
        }
    }
}

#[test]
fn a_document_among_others_gives_what_it_gives_alone_at_its_place() {
    let all = cases();
    let case = all.iter().find(|case| case.name == "documents").expect("the case is there");
    let (packed, _) = case.run(Body::Fused);
    let (d, second) = (case.config.d_model, 3..9);
    // The same tokens at the same positions, with strangers before them: what stands there must not matter.
    let mut stranger = case.clone();
    stranger.inputs[0].1[..second.start * d].iter_mut().for_each(|value| *value = 0.7 - *value);
    let (other, _) = stranger.run(Body::Fused);
    assert_eq!(packed[second.start * d..second.end * d], other[second.start * d..second.end * d]);
}

#[test]
fn a_block_may_have_its_own_rope_and_the_tables_of_another_are_refused() {
    let all = cases();
    let case = all.iter().find(|case| case.name == "a scaled rope").expect("the case is there");
    let plain = Case { config: BlockConfig { rope: RopeConfig::new(500.0), ..case.config }, ..case.clone() };
    assert_ne!(case.run(Body::Fused).0, plain.run(Body::Fused).0, "scaling and factor matter");
    let placed = Placed { rope: Arc::new(Rope::new(plain.config.rope, 6, 9)), documents: None };
    let device = Cpu::new(Compute::Flex, Arc::new(vec![0.0; 10_000]));
    let block = common::Block { config: &case.config, placed, affine: true, keep: Keep::All };
    let ranges: Vec<_> = (0..8).map(|index| index..index + 1).collect();
    let x = common::input(case.on, &case.inputs[0].1, [2, 9, 24]).without_autodiff();
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| block.apply(&device, &ranges, x)));
    assert!(refused.is_err());
}

#[test]
#[should_panic(expected = "documents begin at or before their tokens")]
fn documents_out_of_order_are_refused() {
    let mut case = cases().into_iter().find(|case| case.name == "documents").expect("the case is there");
    case.documents = Some(vec![5u32; case.batch * case.sequence].into());
    case.run(Body::Fused);
}

#[test]
fn the_fused_gradients_equal_central_differences() {
    for case in cases() {
        let (_, gradients) = case.run(Body::Fused);
        for (index, gradient) in gradients.iter().enumerate() {
            // Some gradients are 0 (a single token's attention does not depend on its query): what counts there is the rounding.
            let scale = gradient.iter().fold(5e-3f64, |most, x| most.max(x.abs()));
            let count = gradient.len();
            for element in [0, count / 3, count / 2, count - 1] {
                let step = 1e-5;
                let shifted = |direction: f64| {
                    let mut case = case.clone();
                    case.inputs[index].1[element] += direction * step;
                    case.value()
                };
                let slope = (shifted(1.0) - shifted(-1.0)) / (2.0 * step);
                let off = (slope - gradient[element]).abs() / scale;
                assert!(
                    off < 1e-4,
                    "{}: input {index}, element {element}: {} is not {slope}",
                    case.name,
                    gradient[element]
                );
            }
        }
    }
}

#[test]
fn a_gradient_that_is_off_by_one_percent_is_noticed() {
    let case = &cases()[1];
    let (_, want) = case.run(Body::Reference64);
    let (_, right) = case.run(Body::Fused);
    assert_eq!(first_difference(&right, &want), None);
    for index in 0..right.len() {
        let mut wrong = right.clone();
        wrong[index].iter_mut().for_each(|value| *value *= 1.01);
        assert_eq!(first_difference(&wrong, &want).map(|(index, _)| index), Some(index));
    }
}

#[test]
fn a_clamped_projection_passes_no_gradient_and_one_at_the_bound_does() {
    let olmo1 = cases().into_iter().find(|case| case.config.clip_qkv.is_some()).expect("a case with a clamp");
    let config = BlockConfig { norm_after: true, ..olmo1.config };
    let steepest = |clip: f32| {
        let mut case =
            Case::new("every projected value is 0.5", BlockConfig { clip_qkv: Some(clip), ..config }, false, 1, 3);
        let set = |case: &mut Case, input: usize, value: f64| {
            let column = |index: usize| index.is_multiple_of(config.d_model);
            case.inputs[input]
                .1
                .iter_mut()
                .enumerate()
                .for_each(|(index, x)| *x = if column(index) { value } else { 0.0 });
        };
        set(&mut case, 0, 1.0);
        set(&mut case, 1, 0.5);
        case.run(Body::Fused).1[1].iter().fold(0.0f64, |most, gradient| most.max(gradient.abs()))
    };
    assert!(steepest(0.6) > 0.0);
    assert!(steepest(0.5) > 0.0, "as in torch, the bound itself belongs to the inside");
    assert_eq!(steepest(0.4), 0.0);
}

#[test]
fn a_token_never_sees_the_tokens_behind_it() {
    for case in cases() {
        let (d, last) = (case.config.d_model, case.sequence - 1);
        let (before, _) = case.run(Body::Fused);
        for changed in [last / 2, last] {
            if case.documents.is_some() {
                continue; // What a token changes behind it is tested on its own.
            }
            let mut other = case.clone();
            other.inputs[0].1[changed * d..(changed + 1) * d].iter_mut().for_each(|value| *value += 1.0);
            let (after, _) = other.run(Body::Fused);
            assert_eq!(before[..changed * d], after[..changed * d], "{}: token {changed}", case.name);
            assert_ne!(before[changed * d..], after[changed * d..], "{}: token {changed}", case.name);
        }
    }
}

#[test]
fn results_are_the_same_bits_for_any_number_of_threads() {
    let run = |case: &Case, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool can be built");
        pool.install(|| case.run(Body::Fused))
    };
    let mut all = cases();
    // Large enough that products are cut into pieces.
    let large = common::cases()[1].config;
    all.push(Case::new(
        "large",
        BlockConfig { d_model: 64, n_heads: 4, n_kv_heads: 2, head_dim: 16, mlp_width: 96, ..large },
        true,
        5,
        70,
    ));
    for case in all {
        let one = run(&case, 1);
        for threads in [2, 3, 5] {
            assert_eq!(run(&case, threads), one, "{} on {threads} threads", case.name);
        }
    }
}
