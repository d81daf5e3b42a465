//! Gathers the elements of a tensor that is not contiguous.

use crate::document::Tensor;
use crate::error::Error;

/// The part of a storage that a tensor uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Offset in the storage, and length, in bytes.
    pub start: u64,
    pub length: u64,
    /// Bytes of the tensor, each element once.
    pub bytes: u64,
    /// Whether the elements follow each other in the order of the indices.
    pub contiguous: bool,
}

/// Where `tensor` is in its storage.
///
/// # Errors
/// It uses bytes outside of the storage, or has more elements than the storage.
pub(super) fn span(tensor: &Tensor<'_>) -> Result<Span, Error> {
    let too_large = || Error::invalid("the shape of the tensor is too large");
    let size = tensor.dtype.size() as u64;
    let elements = tensor.shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    // A dimension of size 0 makes any other size harmless.
    let elements = if tensor.shape.contains(&0) { 0 } else { elements.ok_or_else(too_large)? };
    let bytes = elements.checked_mul(size).ok_or_else(too_large)?;
    if elements == 0 {
        return Ok(Span { start: 0, length: 0, bytes: 0, contiguous: true });
    }
    let mut last = 0u64;
    let mut expected = 1u64;
    let mut contiguous = true;
    for (extent, stride) in tensor.shape.iter().zip(tensor.strides).rev() {
        let reach = (extent - 1).checked_mul(*stride).ok_or_else(too_large)?;
        last = last.checked_add(reach).ok_or_else(too_large)?;
        contiguous &= *extent == 1 || *stride == expected;
        expected = expected.saturating_mul(*extent);
    }
    let start = tensor.offset.checked_mul(size).ok_or_else(too_large)?;
    let length = last.checked_add(1).and_then(|count| count.checked_mul(size)).ok_or_else(too_large)?;
    let end = start.checked_add(length).ok_or_else(too_large)?;
    if end > tensor.storage.bytes {
        let reason = format!("the tensor ends at byte {end} of its storage, which has {}", tensor.storage.bytes);
        return Err(Error::invalid(reason));
    }
    if bytes > tensor.storage.bytes {
        let hint = "make it contiguous before saving: tensor.contiguous()";
        return Err(Error::unsupported("the tensor repeats elements of its storage (a stride of 0)").with_hint(hint));
    }
    Ok(Span { start, length, bytes, contiguous })
}

/// The elements of `tensor` in the order of the indices, from the bytes of its [`Span`].
pub(super) fn gather(tensor: &Tensor<'_>, span: &Span, bytes: &[u8]) -> Vec<u8> {
    let size = tensor.dtype.size();
    let mut gathered = Vec::with_capacity(span.bytes as usize);
    // A counter of indices; the last one varies fastest.
    let mut indices = vec![0u64; tensor.shape.len()];
    let mut at = 0u64;
    let count = span.bytes / size as u64;
    for _ in 0..count {
        let start = at as usize * size;
        gathered.extend_from_slice(&bytes[start..start + size]);
        for dimension in (0..indices.len()).rev() {
            indices[dimension] += 1;
            // A dimension of one element can have any stride.
            at = at.wrapping_add(tensor.strides[dimension]);
            if indices[dimension] < tensor.shape[dimension] {
                break;
            }
            at = at.wrapping_sub(tensor.strides[dimension].wrapping_mul(tensor.shape[dimension]));
            indices[dimension] = 0;
        }
    }
    gathered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Storage;
    use crate::dtype::DType;

    fn tensor<'d>(offset: u64, shape: &'d [u64], strides: &'d [u64]) -> Tensor<'d> {
        let storage = Storage { dtype: Some(DType::Uint8), key: "0", bytes: 12 };
        Tensor { dtype: DType::Uint8, shape, strides, offset, storage }
    }

    #[test]
    fn a_transposed_view_is_gathered_by_its_indices() {
        let bytes: Vec<u8> = (0..12).collect();
        let view = tensor(1, &[3, 2], &[1, 4]);
        let part = span(&view).unwrap();
        assert_eq!(part, Span { start: 1, length: 7, bytes: 6, contiguous: false });
        assert_eq!(gather(&view, &part, &bytes[1..8]), [1, 5, 2, 6, 3, 7]);
        let view = tensor(0, &[2, 1, 2], &[3, u64::MAX, 1]);
        assert_eq!(gather(&view, &span(&view).unwrap(), &bytes), [0, 1, 3, 4]);
        assert!(span(&tensor(0, &[3, 4], &[4, 1])).unwrap().contiguous);
        assert!(span(&tensor(0, &[1, 4], &[99, 1])).unwrap().contiguous);
    }

    #[test]
    fn a_tensor_outside_of_its_storage_is_refused() {
        let scalar = span(&tensor(11, &[], &[])).unwrap();
        assert_eq!((scalar.start, scalar.bytes), (11, 1));
        for (view, reason) in [
            (tensor(12, &[], &[]), "ends at byte 13"),
            (tensor(0, &[3, 4], &[5, 1]), "ends at byte 14"),
            (tensor(0, &[13], &[0]), "repeats elements"),
            (tensor(u64::MAX, &[2], &[1]), "too large"),
            (tensor(0, &[u64::MAX, 3], &[1, 1]), "too large"),
        ] {
            let message = span(&view).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        }
        assert_eq!(span(&tensor(0, &[u64::MAX, 0, u64::MAX], &[1, 1, 1])).unwrap().bytes, 0);
    }
}
