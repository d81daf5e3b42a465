//! Descriptions of the matrices of a product.

/// A matrix: its first element, and its row and column strides in elements.
pub(crate) type Strided = (*const f32, [usize; 2]);

/// What happens to the previous content of the result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// Overwrite it.
    New,
    /// Add the product to it.
    Add,
}
