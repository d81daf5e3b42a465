//! [`Values`]: slices of numbers to exchange, and what a number needs to be sent and added.

/// Values to exchange, in place.
#[derive(Debug)]
pub enum Values<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
    /// The bits of bfloat16 numbers. Sums are rounded once, to nearest even, from sums in f32.
    Bf16(&'a mut [u16]),
    /// Bytes, which cannot be summed.
    U8(&'a mut [u8]),
}

/// Values to send.
#[derive(Clone, Copy, Debug)]
pub enum ValuesRef<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    /// The bits of bfloat16 numbers.
    Bf16(&'a [u16]),
    U8(&'a [u8]),
}

/// Evaluates `$body` with `$slice` bound to the slice in `$values`, whatever its type.
macro_rules! with_slice {
    ($kind:ident, $values:expr, $slice:ident => $body:expr) => {
        match $values {
            $crate::values::$kind::F32($slice) => $body,
            $crate::values::$kind::F64($slice) => $body,
            $crate::values::$kind::Bf16($slice) => $body,
            $crate::values::$kind::U8($slice) => $body,
        }
    };
}
pub(crate) use with_slice;

impl Values<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        with_slice!(Values, self, slice => slice.len())
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same values, for sending.
    pub fn as_ref(&self) -> ValuesRef<'_> {
        match self {
            Self::F32(slice) => ValuesRef::F32(slice),
            Self::F64(slice) => ValuesRef::F64(slice),
            Self::Bf16(slice) => ValuesRef::Bf16(slice),
            Self::U8(slice) => ValuesRef::U8(slice),
        }
    }

    /// The same values, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> Values<'_> {
        match self {
            Self::F32(slice) => Values::F32(slice),
            Self::F64(slice) => Values::F64(slice),
            Self::Bf16(slice) => Values::Bf16(slice),
            Self::U8(slice) => Values::U8(slice),
        }
    }
}

impl ValuesRef<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        with_slice!(ValuesRef, self, slice => slice.len())
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The type of a value on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataType {
    F32 = 1,
    F64 = 2,
    Bf16 = 3,
    U8 = 4,
}

impl DataType {
    pub(crate) fn name(code: u8) -> &'static str {
        match code {
            1 => "f32",
            2 => "f64",
            3 => "bf16",
            4 => "bytes",
            _ => "an unknown type",
        }
    }
}

/// A value that can be sent as its bytes.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding.
pub(crate) unsafe trait Element: Copy + Default + Send + Sync + 'static {
    const TYPE: DataType;

    fn values(slice: &mut [Self]) -> Values<'_>;
    fn values_ref(slice: &[Self]) -> ValuesRef<'_>;
}

/// A value that can be summed.
pub(crate) trait Number: Element {
    /// The type of sums.
    type Sum: Number;

    /// Whether a sum of two values is rounded when it is stored as a value.
    const ROUNDS: bool;

    fn widen(self) -> Self::Sum;
    fn narrow(sum: Self::Sum) -> Self;
    fn plus(self, right: Self) -> Self;
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! element {
    ($type:ty, $variant:ident) => {
        // SAFETY: a primitive number without padding, of which every bit pattern is a value.
        unsafe impl Element for $type {
            const TYPE: DataType = DataType::$variant;

            fn values(slice: &mut [Self]) -> Values<'_> {
                Values::$variant(slice)
            }

            fn values_ref(slice: &[Self]) -> ValuesRef<'_> {
                ValuesRef::$variant(slice)
            }
        }
    };
}
element!(f32, F32);
element!(f64, F64);
element!(u16, Bf16);
element!(u8, U8);

macro_rules! float {
    ($type:ty) => {
        impl Number for $type {
            type Sum = $type;
            const ROUNDS: bool = false;

            fn widen(self) -> $type {
                self
            }

            fn narrow(sum: $type) -> $type {
                sum
            }

            fn plus(self, right: $type) -> $type {
                self + right
            }

            fn from_bytes(bytes: &[u8]) -> $type {
                <$type>::from_le_bytes(bytes.try_into().unwrap_or_default())
            }
        }
    };
}
float!(f32);
float!(f64);

impl Number for u16 {
    type Sum = f32;
    const ROUNDS: bool = true;

    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }

    fn narrow(sum: f32) -> u16 {
        let bits = sum.to_bits();
        if sum.is_nan() {
            // Keep it a NaN if all its set bits are in the lower half.
            return (bits >> 16) as u16 | 0x40;
        }
        let half = 0x7fff + ((bits >> 16) & 1);
        (bits.wrapping_add(half) >> 16) as u16
    }

    fn plus(self, right: u16) -> u16 {
        Self::narrow(self.widen() + right.widen())
    }

    fn from_bytes(bytes: &[u8]) -> u16 {
        u16::from_le_bytes(bytes.try_into().unwrap_or_default())
    }
}

// Values are sent as they are in memory.
const _: () = assert!(cfg!(target_endian = "little"), "values on the wire are little-endian");

pub(crate) fn as_bytes<T: Element>(slice: &[T]) -> &[u8] {
    // SAFETY: `T` has no padding, so all of its bytes are initialized; the length is in bytes.
    unsafe { std::slice::from_raw_parts(slice.as_ptr().cast(), size_of_val(slice)) }
}

pub(crate) fn as_bytes_mut<T: Element>(slice: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `as_bytes`, and every bit pattern is a value of `T`.
    unsafe { std::slice::from_raw_parts_mut(slice.as_mut_ptr().cast(), size_of_val(slice)) }
}

/// Adds the values in `bytes` to `sums`, one by one.
pub(crate) fn add_bytes<T: Number>(sums: &mut [T::Sum], bytes: &[u8]) {
    for (sum, value) in sums.iter_mut().zip(bytes.chunks_exact(size_of::<T>())) {
        *sum = sum.plus(T::from_bytes(value).widen());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_rounded_to_nearest_even() {
        for (value, bits) in [
            (1.0f32, 0x3f80),
            (1.0 + 1.0 / 256.0, 0x3f80),
            (1.0 + 3.0 / 256.0, 0x3f82),
            (1.0 + 1.1 / 256.0, 0x3f81),
            (f32::MAX, 0x7f80),
            (f32::NEG_INFINITY, 0xff80),
        ] {
            assert_eq!(u16::narrow(value), bits, "{value}");
        }
        assert!(u16::narrow(f32::from_bits(0x7f80_0001)).widen().is_nan());
        assert_eq!(u16::narrow(1.5).widen(), 1.5);
    }

    #[test]
    fn bytes_are_added_to_sums() {
        let mut sums = [1.0f32, 2.0];
        add_bytes::<f32>(&mut sums, as_bytes(&[0.5f32, 0.25]));
        add_bytes::<u16>(&mut sums, as_bytes(&[0x3f80u16, 0x4000]));
        assert_eq!(sums, [2.5, 4.25]);
    }
}
