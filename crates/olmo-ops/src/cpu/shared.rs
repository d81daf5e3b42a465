//! A slice that several tasks write concurrently, each its own part.

use std::marker::PhantomData;

/// A mutable slice that can be split among tasks into parts that no chunk iterator can express
/// (columns of rows).
#[derive(Clone, Copy)]
pub(crate) struct SharedSlice<'a> {
    start: *mut f32,
    length: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: this is a pointer into a slice of f32 that outlives it; writers guarantee that their
// parts do not overlap.
unsafe impl Send for SharedSlice<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedSlice<'_> {}

impl<'a> SharedSlice<'a> {
    pub(super) fn new(slice: &'a mut [f32]) -> SharedSlice<'a> {
        SharedSlice { start: slice.as_mut_ptr(), length: slice.len(), lifetime: PhantomData }
    }

    /// The part `[start, start + length)`.
    ///
    /// # Safety
    /// No other live reference, in this or another task, overlaps the part.
    pub(super) unsafe fn part(&self, start: usize, length: usize) -> &'a mut [f32] {
        assert!(start + length <= self.length, "a part lies within its slice");
        // SAFETY: in bounds by the assertion, exclusive by the caller's guarantee.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }

    /// A pointer to the element at `index`, for matrices whose rows interleave with those of other
    /// tasks.
    pub(super) fn at(&self, index: usize) -> *mut f32 {
        assert!(index < self.length.max(1), "an element lies within its slice");
        // SAFETY: in bounds (or the start of an empty slice).
        unsafe { self.start.add(index) }
    }
}
