//! [`Encoding`]: how the elements of a tensor are written.

use std::fmt;

use olmo_ops::{BLOCK, BlockType};
use olmo_pickle::DType;

/// How the elements of a tensor are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// One after the other.
    Plain(DType),
    /// In blocks of 32. Rows are whole blocks.
    Blocks(BlockType),
}

impl From<DType> for Encoding {
    fn from(dtype: DType) -> Encoding {
        Encoding::Plain(dtype)
    }
}

impl From<BlockType> for Encoding {
    fn from(kind: BlockType) -> Encoding {
        Encoding::Blocks(kind)
    }
}

impl Encoding {
    /// The number of bytes of `elements` elements in rows of `width`; `None` if a row has no whole
    /// blocks, or there are too many.
    pub(crate) fn bytes_of(self, elements: usize, width: usize) -> Option<usize> {
        match self {
            Encoding::Plain(dtype) => elements.checked_mul(dtype.size()),
            Encoding::Blocks(kind) => {
                width.is_multiple_of(BLOCK).then(|| (elements / BLOCK).checked_mul(kind.size())).flatten()
            }
        }
    }

    /// The number of bytes of a tensor whose shape begins with the width of a row.
    pub(crate) fn bytes(self, shape: &[usize]) -> Option<usize> {
        let elements = shape.iter().try_fold(1usize, |count, length| count.checked_mul(*length))?;
        self.bytes_of(elements, shape.first().copied().unwrap_or(1))
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::Plain(dtype) => write!(formatter, "{dtype}"),
            Encoding::Blocks(kind) => formatter.write_str(kind.name()),
        }
    }
}
