//! What a product is told of its matrices.

/// A matrix's first element, and the elements from one row and from one column to the next.
pub(crate) type Strided = (*const f32, [usize; 2]);

/// What happens to the old content of the result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// It is overwritten.
    New,
    /// The product is added to it.
    Add,
}
