//! Token ids as little-endian bytes.

/// Appends the lowest `N` bytes of each id.
pub(crate) fn append<const N: usize>(ids: &[u32], bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.resize(start + N * ids.len(), 0);
    let (places, _) = bytes[start..].as_chunks_mut::<N>();
    for (place, id) in places.iter_mut().zip(ids) {
        let all = id.to_le_bytes();
        *place = std::array::from_fn(|byte| all[byte]);
    }
}

/// The ids of `N` bytes each.
fn read<const N: usize>(bytes: &[u8]) -> Vec<u32> {
    let id = |place: &[u8; N]| u32::from_le_bytes(std::array::from_fn(|byte| if byte < N { place[byte] } else { 0 }));
    bytes.as_chunks::<N>().0.iter().map(id).collect()
}

/// How many bytes an id has: the fewest, from two on, that hold every id of a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdBytes {
    Two,
    Three,
    Four,
}

impl IdBytes {
    pub(crate) fn for_vocabulary(vocab_size: u32) -> Self {
        match vocab_size {
            0..=0x1_0000 => Self::Two,
            0x1_0001..=0x100_0000 => Self::Three,
            _ => Self::Four,
        }
    }

    pub(crate) fn count(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Three => 3,
            Self::Four => 4,
        }
    }

    /// Appends `ids`, which must be below the size of the vocabulary.
    pub(crate) fn append(self, ids: &[u32], bytes: &mut Vec<u8>) {
        match self {
            Self::Two => append::<2>(ids, bytes),
            Self::Three => append::<3>(ids, bytes),
            Self::Four => append::<4>(ids, bytes),
        }
    }

    /// The ids in `bytes`; `None` if they end within an id.
    pub(crate) fn read(self, bytes: &[u8]) -> Option<Vec<u32>> {
        bytes.len().is_multiple_of(self.count()).then(|| match self {
            Self::Two => read::<2>(bytes),
            Self::Three => read::<3>(bytes),
            Self::Four => read::<4>(bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_from_the_fewest_bytes_that_hold_the_vocabulary() {
        for (vocab_size, count) in [(2, 2), (1 << 16, 2), ((1 << 16) + 1, 3), (1 << 24, 3), ((1 << 24) + 1, 4)] {
            let kind = IdBytes::for_vocabulary(vocab_size);
            assert_eq!(kind.count(), count);
            let ids = [0, 1, vocab_size / 3, vocab_size - 1];
            let mut bytes = Vec::new();
            kind.append(&ids, &mut bytes);
            assert_eq!(bytes.len(), ids.len() * count);
            assert_eq!(kind.read(&bytes).unwrap(), ids);
            assert_eq!(kind.read(&bytes[1..]), None);
        }
    }
}
