//! The embedding's backward pass: adds gradients of rows in token order.

use olmo_torch::Tensor;

use super::weights::Cuda;
use crate::linear::Linear;

/// Adds `dx [tokens, width]` to the gradients of the rows at `ids`. A single thread sums each column
/// of a row, so no two threads add to the same element.
pub(super) fn backward(device: &Cuda, weight: &Linear, ids: &[u32], dx: &Tensor) {
    let (Tokens { order, starts, ids }, width) = (Tokens::new(ids), weight.inputs);
    device.add_nothing(&weight.weight);
    let Some((sum, _)) = device.gradient(&weight.weight) else { return };
    let blocks = ids.len();
    let (order, starts, ids) = (device.integers(&order), device.integers(&starts), device.integers(&ids));
    let arguments = arguments![dx, &order, &starts, &ids, &sum, width as i32];
    let threads = width.next_multiple_of(32).min(256);
    // SAFETY: `order` lists rows of `dx`, `starts` parts of `order`, and `ids` rows of `sum`: the
    // forward pass has read the same rows of the weight.
    unsafe { device.launch("embedding_backward", blocks * width.div_ceil(threads), threads, &arguments) };
}

/// The tokens of a batch, grouped by id.
struct Tokens {
    /// Positions of the tokens, grouped by id and in order within a group.
    order: Vec<i64>,
    /// Start of each group in `order`, followed by the length of `order`.
    starts: Vec<i64>,
    /// The distinct ids.
    ids: Vec<i64>,
}

impl Tokens {
    fn new(ids: &[u32]) -> Tokens {
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        // Stable sort: tokens of one id stay in order.
        order.sort_by_key(|&place| ids[place as usize]);
        let mut tokens = Tokens { order: Vec::with_capacity(ids.len()), starts: Vec::new(), ids: Vec::new() };
        for (at, &place) in order.iter().enumerate() {
            let id = i64::from(ids[place as usize]);
            if tokens.ids.last() != Some(&id) {
                tokens.ids.push(id);
                tokens.starts.push(at as i64);
            }
            tokens.order.push(i64::from(place));
        }
        tokens.starts.push(ids.len() as i64);
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_grouped_by_id_and_keep_their_order() {
        let Tokens { order, starts, ids } = Tokens::new(&[7, 2, 7, 0, 2, 7]);
        assert_eq!(ids, [0, 2, 7]);
        assert_eq!(order, [3, 1, 4, 0, 2, 5]);
        assert_eq!(starts, [0, 1, 3, 6]);
    }
}
