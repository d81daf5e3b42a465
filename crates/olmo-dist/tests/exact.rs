//! Exact sums have the same bits for any number of ranks and any division of the positions.

use crate::support::run_ranks;
use olmo_dist::{Alone, Collective as _, TreeNode, TreeSum, Values, ValuesRef, exact, nodes_of};
use proptest::prelude::*;

type Arrays = Vec<Option<Vec<f32>>>;

fn add(mut left: Vec<f32>, right: Vec<f32>) -> Vec<f32> {
    for (left, right) in left.iter_mut().zip(right) {
        *left += right;
    }
    left
}

/// The sum of `positions`, in one process.
fn whole(positions: &Arrays) -> Option<Vec<f32>> {
    let mut sum = TreeSum::new();
    for values in positions {
        sum.push(0, values.clone(), add);
    }
    sum.take(add)
}

/// The sums that a rank holds that computed the positions from `start` to `end`.
fn nodes(positions: &Arrays, start: usize, end: usize) -> Vec<(u32, u64, Option<Vec<f32>>)> {
    let node = |(level, index): (u32, u64)| {
        let first = (index << level) as usize;
        (level, index, whole(&positions[first..first + (1 << level)].to_vec()))
    };
    nodes_of(start as u64, end as u64).into_iter().map(node).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Checks the sum of `positions`, of which rank r computes those from `cuts[r]` to `cuts[r + 1]`.
fn check(positions: &Arrays, length: usize, cuts: &[usize]) {
    let expected = whole(positions);
    let results = run_ranks(
        cuts.len() - 1,
        |_| {},
        |group| {
            let nodes = nodes(positions, cuts[group.rank()], cuts[group.rank() + 1]);
            let nodes: Vec<TreeNode<ValuesRef<'_>>> = nodes
                .iter()
                .map(|(level, index, values)| TreeNode {
                    level: *level,
                    index: *index,
                    value: values.as_deref().map(ValuesRef::F32),
                })
                .collect();
            let mut sum = vec![7.0; length];
            let is_present = group.all_reduce_exact(&nodes, Values::F32(&mut sum)).unwrap();
            group.close().unwrap();
            (is_present, sum)
        },
    );
    for result in results {
        let (is_present, sum) = result.unwrap();
        assert_eq!(is_present, expected.is_some());
        assert_eq!(bits(&sum), bits(expected.as_ref().unwrap_or(&vec![0.0; length])), "{cuts:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_division_gives_the_bits_of_one_process(
        length in 0usize..40,
        count in 1usize..=40,
        cuts in prop::collection::vec(0usize..=40, 0..5),
        seed: u32,
        absent in 0u32..10,
    ) {
        let mut state = u64::from(seed);
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let positions: Arrays = (0..count).map(|_| {
            let is_present = random() % 10 >= absent;
            let values = (0..length).map(|_| random() as f32 / 1e6 - 1073.0).collect();
            is_present.then_some(values)
        }).collect();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(count)).chain([0, count]).collect();
        cuts.sort_unstable();
        // One to five ranks.
        cuts.truncate(5);
        cuts.push(count);
        check(&positions, length, &cuts);
    }
}

#[test]
fn arrays_longer_than_a_piece_are_summed_too() {
    let length = (256 << 10) * 3 + 5;
    let array = |k: usize| (0..length).map(|i| (i % 1013) as f32 * 0.1 + 1.0 / (k + 1) as f32).collect();
    let positions: Arrays = (0..7).map(|k| (k != 3).then(|| array(k))).collect();
    check(&positions, length, &[0, 2, 7]);
}

#[test]
fn a_shard_can_be_summed_alone_and_ranks_that_disagree_are_errors() {
    let (a, b) = ([0.1f64; 5], [0.2f64; 5]);
    let node = |index, values| TreeNode { level: 0, index, value: Some(ValuesRef::F64(values)) };
    let mut whole = [0.0; 5];
    exact::all_reduce_exact(&Alone, &[node(0, &a), node(1, &b)], Values::F64(&mut whole)).unwrap();
    assert_eq!(whole, [0.1 + 0.2; 5]);
    let results = run_ranks(
        2,
        |_| {},
        |group| {
            let rank = group.rank();
            let mut shard = vec![0.0; if rank == 0 { 3 } else { 2 }];
            let mine = [node(rank as u64, if rank == 0 { &a } else { &b })];
            group.reduce_scatter_exact(&mine, 5, Values::F64(&mut shard)).unwrap();
            assert_eq!(shard, whole[..shard.len()]);
            // Both ranks hold position 0.
            let twice = group.reduce_scatter_exact(&[node(0, &a)], 5, Values::F64(&mut shard)).unwrap_err().to_string();
            assert!(twice.contains("position 0 of the global batch is summed twice"), "{twice}");
            // The ranks have arrays of other lengths.
            let length = 4 + rank;
            let own = [TreeNode { level: 0, index: rank as u64, value: None }];
            let mut shard = vec![0.0; length.div_ceil(2).min(length - rank * length.div_ceil(2))];
            let differ = group.reduce_scatter_exact(&own, length, Values::F64(&mut shard)).unwrap_err().to_string();
            assert!(differ.contains("the ranks do not agree"), "{differ}");
            group.close().unwrap();
        },
    );
    for result in results {
        result.unwrap();
    }
}
