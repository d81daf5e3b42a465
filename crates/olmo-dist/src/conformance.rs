//! What every [`Collective`] must do: a suite that any implementation can run in its tests.
//!
//! The values are small integers, so every sum is exact in every type and in any order.

use crate::collective::{Collective, all_gather_bytes, part_of};
use crate::exact;
use crate::tree_sum::TreeNode;
use crate::values::{Number, Values, ValuesRef};

/// Lengths of arrays that cover empty parts, uneven parts, and both sides of any threshold.
pub const LENGTHS: [usize; 7] = [0, 1, 2, 7, 1001, 20_011, 1 << 20];

/// Calls every operation on this rank with arrays of each of `lengths`, and checks the results.
/// Every rank must call this with the same lengths.
///
/// # Panics
/// An operation fails, or a result is wrong.
pub fn check_rank(group: &dyn Collective, lengths: &[usize]) {
    for length in lengths {
        check_type::<f32>(group, *length);
        check_type::<f64>(group, *length);
        check_type::<u16>(group, *length);
    }
    check_bytes(group);
    check_exact(group);
    check_arguments(group);
}

/// The value of `rank` at `index`.
fn value(rank: usize, index: usize) -> f32 {
    ((rank * 31 + index * 7 + index / 1000) % 17) as f32 - 4.0
}

fn array<T: Number<Sum: From32>>(rank: usize, length: usize) -> Vec<T> {
    (0..length).map(|index| T::narrow(From32::from32(value(rank, index)))).collect()
}

/// A sum that can be made of an f32.
trait From32 {
    fn from32(value: f32) -> Self;
}

impl From32 for f32 {
    fn from32(value: f32) -> Self {
        value
    }
}

impl From32 for f64 {
    fn from32(value: f32) -> Self {
        value.into()
    }
}

fn assert_equal<T: Number + PartialEq>(found: &[T], expected: &[T], context: &str) {
    assert_eq!(found.len(), expected.len(), "{context}");
    let first = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert!(first.is_none(), "{context}: value {first:?} of {} is wrong", found.len());
}

fn check_type<T: Number<Sum: From32> + PartialEq>(group: &dyn Collective, length: usize) {
    let (rank, size) = (group.rank(), group.size());
    let context = |name: &str| format!("{name} of {length} {:?}, rank {rank} of {size}", T::TYPE);
    let all: Vec<Vec<T>> = (0..size).map(|rank| array(rank, length)).collect();
    let sum = |index: usize| (0..size).map(|rank| value(rank, index)).sum();
    let sums: Vec<T> = (0..length).map(|index| T::narrow(From32::from32(sum(index)))).collect();
    let part = part_of(length, rank, size);

    let mut values = all[rank].clone();
    group.all_reduce(T::values(&mut values)).expect("all_reduce");
    assert_equal(&values, &sums, &context("all_reduce"));

    let mut values = all[rank].clone();
    assert_eq!(group.reduce_scatter(T::values(&mut values)).expect("reduce_scatter"), part);
    assert_equal(&values[part.clone()], &sums[part.clone()], &context("reduce_scatter"));

    let mut values = vec![T::default(); length];
    values[part.clone()].copy_from_slice(&sums[part]);
    group.all_gather(T::values(&mut values)).expect("all_gather");
    assert_equal(&values, &sums, &context("all_gather"));

    let root = size - 1;
    let mut values = all[rank].clone();
    group.broadcast(T::values(&mut values), root).expect("broadcast");
    assert_equal(&values, &all[root], &context("broadcast"));
    group.barrier().expect("barrier");

    // Every rank sends to the next one before it receives, whatever the size.
    if size > 1 {
        group.send(T::values_ref(&all[rank]), (rank + 1) % size).expect("send");
        let previous = (rank + size - 1) % size;
        let mut values = vec![T::default(); length];
        group.recv(T::values(&mut values), previous).expect("recv");
        assert_equal(&values, &all[previous], &context("recv"));
    }

    // Rank r sends the first `length * (to + 1) / size` of its values to rank `to`.
    let count = |to: usize| length * (to + 1) / size;
    let send: Vec<T> = (0..size).flat_map(|to| &all[rank][..count(to)]).copied().collect();
    let send_counts: Vec<usize> = (0..size).map(count).collect();
    let recv_counts = vec![count(rank); size];
    let mut values = vec![T::default(); count(rank) * size];
    group.all_to_all_v(T::values_ref(&send), &send_counts, T::values(&mut values), &recv_counts).expect("all_to_all_v");
    let expected: Vec<T> = all.iter().flat_map(|values| &values[..count(rank)]).copied().collect();
    assert_equal(&values, &expected, &context("all_to_all_v"));
}

fn check_bytes(group: &dyn Collective) {
    let mine = vec![group.rank() as u8; group.rank() * 3];
    let all = all_gather_bytes(group, &mine).expect("all_gather_bytes");
    let expected: Vec<Vec<u8>> = (0..group.size()).map(|rank| vec![rank as u8; rank * 3]).collect();
    assert_eq!(all, expected);
}

/// Rank r holds the positions from 3 r to 3 r + 3, the middle one without values.
fn check_exact(group: &dyn Collective) {
    let (rank, size, length) = (group.rank(), group.size(), 10);
    let array = |position: usize| -> Vec<f32> { array(position, length) };
    let (first, last) = (array(3 * rank), array(3 * rank + 2));
    let node = |position: usize| match position % 3 {
        0 => Some(ValuesRef::F32(&first)),
        1 => None,
        _ => Some(ValuesRef::F32(&last)),
    };
    let node = |position: usize| TreeNode { level: 0, index: position as u64, value: node(position) };
    let nodes = [node(3 * rank), node(3 * rank + 1), node(3 * rank + 2)];
    let mut sum = vec![f32::NAN; length];
    let is_present = exact::all_reduce_exact(group, &nodes, Values::F32(&mut sum)).expect("all_reduce_exact");
    let positions = (0..3 * size).filter(|position| position % 3 != 1);
    let expected: Vec<f32> = (0..length).map(|index| positions.clone().map(|p| value(p, index)).sum()).collect();
    assert!(is_present);
    assert_equal(&sum, &expected, "all_reduce_exact");
}

/// Arguments that do not fit are errors on the rank that passes them, and no other rank waits.
fn check_arguments(group: &dyn Collective) {
    let (rank, size) = (group.rank(), group.size());
    assert!(group.send(ValuesRef::U8(&[1]), rank).is_err());
    assert!(group.recv(Values::U8(&mut [1]), size).is_err());
    let counts = vec![1; size + 1];
    let send = vec![0; size + 1];
    assert!(group.all_to_all_v(ValuesRef::U8(&send), &counts, Values::U8(&mut []), &vec![0; size]).is_err());
}
