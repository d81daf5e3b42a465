//! Elements of weights from bytes, little endian, in f32, bf16 and f16.

use half::f16;
use olmo_pickle::DType;

/// Converts `bytes` to f32 into `target`, which must have the same number of elements. bf16 and f16
/// widen exactly.
///
/// # Errors
/// The type is not a weight type.
pub(crate) fn widen(dtype: DType, bytes: &[u8], target: &mut [f32]) -> Result<(), String> {
    let pairs = || bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    match dtype {
        DType::Float32 => {
            for (target, bytes) in target.iter_mut().zip(bytes.chunks_exact(4)) {
                *target = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        DType::Bfloat16 => {
            target.iter_mut().zip(pairs()).for_each(|(target, half)| *target = f32::from_bits(u32::from(half) << 16));
        }
        DType::Float16 => {
            target.iter_mut().zip(pairs()).for_each(|(target, half)| *target = f16::from_bits(half).to_f32());
        }
        other => return Err(format!("has type {other}, not float32, bfloat16 or float16")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_widens_exactly() {
        let known = [
            (0x0000, 0.0),
            (0x8000, -0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 6.103_515_6e-5),
            (0x0001, 5.960_464_5e-8),
        ];
        let widened = |half: u16| {
            let mut value = [0.0];
            widen(DType::Float16, &half.to_le_bytes(), &mut value).expect("a weight type");
            value[0]
        };
        for (half, value) in known {
            assert_eq!(widened(half).to_bits(), f32::to_bits(value), "{half:#x}");
        }
        assert!(widened(0x7c00).is_infinite() && widened(0x7e00).is_nan());
        assert!(widen(DType::Int8, &[0], &mut [0.0]).is_err());
    }
}
