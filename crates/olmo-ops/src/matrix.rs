//! [`Matrix`]: the elements of a weight on the host, in memory or in a mapped file.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// The bytes of a mapped file.
pub type MappedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The elements of a weight, row-major.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// f32.
    F32(Elements<f32>),
    /// The bits of bf16.
    Bf16(Elements<u16>),
}

impl Matrix {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.view().len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first element that is infinite or NaN, with its index.
    pub fn first_not_finite(&self) -> Option<(usize, f32)> {
        let is_broken = |(_, value): &(usize, f32)| !value.is_finite();
        match self {
            Matrix::F32(elements) => elements.iter().copied().enumerate().find(is_broken),
            Matrix::Bf16(elements) => elements.iter().map(|&bits| widen(bits)).enumerate().find(is_broken),
        }
    }

    pub(crate) fn view(&self) -> MatrixView<'_> {
        match self {
            Matrix::F32(elements) => MatrixView::F32(elements),
            Matrix::Bf16(elements) => MatrixView::Bf16(elements),
        }
    }
}

/// The f32 with the value of a bf16.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// A borrowed [`Matrix`].
#[derive(Clone, Copy)]
pub(crate) enum MatrixView<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

impl<'a> MatrixView<'a> {
    pub(crate) fn len(self) -> usize {
        match self {
            MatrixView::F32(elements) => elements.len(),
            MatrixView::Bf16(elements) => elements.len(),
        }
    }

    /// The elements in `range`.
    pub(crate) fn part(self, range: Range<usize>) -> MatrixView<'a> {
        match self {
            MatrixView::F32(elements) => MatrixView::F32(&elements[range]),
            MatrixView::Bf16(elements) => MatrixView::Bf16(&elements[range]),
        }
    }

    /// Writes the elements as f32.
    pub(crate) fn widen_into(self, target: &mut [f32]) {
        match self {
            MatrixView::F32(elements) => target.copy_from_slice(elements),
            MatrixView::Bf16(elements) => {
                target.iter_mut().zip(elements).for_each(|(target, &bits)| *target = widen(bits));
            }
        }
    }
}

/// A type of which any bytes are a value.
pub trait Plain: Copy + Send + Sync + 'static {}

impl Plain for f32 {}
impl Plain for u16 {}

/// Elements in memory, which others may share, or in a mapped file.
#[derive(Clone)]
pub struct Elements<T: Plain>(Memory<T>);

#[derive(Clone)]
enum Memory<T> {
    Shared(Arc<Vec<T>>, Range<usize>),
    /// The range is aligned for `T`, and its length is a multiple of its size.
    Mapped(MappedBytes, Range<usize>),
}

impl<T: Plain> Elements<T> {
    /// The elements of `values` in `range`, without a copy.
    ///
    /// # Panics
    /// The range is not within `values`.
    pub fn shared(values: Arc<Vec<T>>, range: Range<usize>) -> Elements<T> {
        assert!(range.start <= range.end && range.end <= values.len(), "the elements are there");
        Elements(Memory::Shared(values, range))
    }

    /// The elements in the bytes `range` of a mapped file, without a copy; `None` if they are not
    /// aligned, or the range does not hold whole elements. The file's bytes are little-endian, as
    /// those of the machine must be.
    pub fn mapped(bytes: MappedBytes, range: Range<usize>) -> Option<Elements<T>> {
        let held = (*bytes).as_ref().get(range.clone())?;
        let aligned = held.as_ptr().align_offset(align_of::<T>()) == 0 && held.len().is_multiple_of(size_of::<T>());
        (aligned && cfg!(target_endian = "little")).then_some(Elements(Memory::Mapped(bytes, range)))
    }
}

impl<T: Plain> From<Vec<T>> for Elements<T> {
    fn from(values: Vec<T>) -> Elements<T> {
        let range = 0..values.len();
        Elements::shared(Arc::new(values), range)
    }
}

impl<T: Plain> Deref for Elements<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Memory::Shared(values, range) => &values[range.clone()],
            Memory::Mapped(bytes, range) => {
                let bytes = &(**bytes).as_ref()[range.clone()];
                assert_eq!(bytes.as_ptr().align_offset(align_of::<T>()), 0, "a mapping does not move");
                // SAFETY: any bytes are a `Plain` value, and these are aligned for it.
                unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
            }
        }
    }
}

impl<T: Plain> fmt::Debug for Elements<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} elements of {} bytes", self.len(), size_of::<T>())
    }
}

/// The weights of a model, each in memory of its own, by their range in the model's flat layout.
///
/// A weight of the layout may consist of several matrices, one below the other: a file that holds
/// queries, keys and values separately has three matrices for the fused projection.
#[derive(Debug, Default)]
pub struct Matrices {
    parts: BTreeMap<usize, Matrix>,
    end: usize,
}

impl Matrices {
    /// The matrices with their ranges.
    ///
    /// # Panics
    /// A matrix does not have as many elements as its range.
    pub fn new(parts: impl IntoIterator<Item = (Range<usize>, Matrix)>) -> Matrices {
        let mut all = Matrices::default();
        for (range, matrix) in parts {
            assert_eq!(range.len(), matrix.len(), "a matrix fills its range");
            all.end = all.end.max(range.end);
            all.parts.insert(range.start, matrix);
        }
        all
    }

    /// Length of the flat layout.
    pub fn len(&self) -> usize {
        self.end
    }

    /// Whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// All matrices with the starts of their ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Matrix)> {
        self.parts.iter().map(|(start, matrix)| (*start, matrix))
    }

    /// The matrices that make up the weight with this range.
    pub(crate) fn of(&self, range: &Range<usize>) -> impl Iterator<Item = MatrixView<'_>> {
        self.parts.range(range.clone()).map(|(_, matrix)| matrix.view())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_elements_are_those_of_the_bytes_and_unaligned_ones_are_refused() {
        let values = [1.5f32, -2.0, 0.25];
        let bytes: Vec<u8> = [0u8; 4].into_iter().chain(values.iter().flat_map(|value| value.to_le_bytes())).collect();
        // Words, so that the memory is aligned.
        struct Words(Vec<u32>);
        impl AsRef<[u8]> for Words {
            fn as_ref(&self) -> &[u8] {
                // SAFETY: any memory may be read as bytes.
                unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), 4 * self.0.len()) }
            }
        }
        let words = bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        let file: MappedBytes = Arc::new(Words(words));
        assert_eq!(*Elements::<f32>::mapped(file.clone(), 4..16).unwrap(), values);
        assert!(Elements::<f32>::mapped(file.clone(), 2..14).is_none(), "not aligned");
        assert!(Elements::<f32>::mapped(file.clone(), 4..15).is_none(), "not whole");
        assert!(Elements::<f32>::mapped(file.clone(), 4..20).is_none(), "beyond the file");
        let halves = Elements::<u16>::mapped(file, 6..16).unwrap();
        assert_eq!(widen(halves[0]), 1.5);
    }

    #[test]
    fn a_weight_is_made_of_the_matrices_in_its_range() {
        let matrix = |values: &[f32]| Matrix::F32(values.to_vec().into());
        let all = Matrices::new([(0..2, matrix(&[1.0, 2.0])), (2..3, matrix(&[3.0])), (3..5, matrix(&[4.0, 5.0]))]);
        let lengths = |range: Range<usize>| all.of(&range).map(MatrixView::len).collect::<Vec<_>>();
        assert_eq!((all.len(), lengths(0..3), lengths(3..5)), (5, vec![2, 1], vec![2]));
    }
}
