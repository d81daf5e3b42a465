//! Element types of tensors.

/// Element type of a tensor, named as in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    Float64,
    Float32,
    Float16,
    Bfloat16,
    Float8E4m3fn,
    Float8E4m3fnuz,
    Float8E5m2,
    Float8E5m2fnuz,
    Complex64,
    Complex128,
    Int64,
    Int32,
    Int16,
    Int8,
    Uint64,
    Uint32,
    Uint16,
    Uint8,
    Bool,
}

/// Each type: its name in the module `torch`, the class of its storage there, and bytes of an
/// element. Types without a class of their own are stored as `torch.storage.UntypedStorage`.
const TABLE: [(DType, &str, Option<&str>, usize); 19] = [
    (DType::Float64, "float64", Some("DoubleStorage"), 8),
    (DType::Float32, "float32", Some("FloatStorage"), 4),
    (DType::Float16, "float16", Some("HalfStorage"), 2),
    (DType::Bfloat16, "bfloat16", Some("BFloat16Storage"), 2),
    (DType::Float8E4m3fn, "float8_e4m3fn", None, 1),
    (DType::Float8E4m3fnuz, "float8_e4m3fnuz", None, 1),
    (DType::Float8E5m2, "float8_e5m2", None, 1),
    (DType::Float8E5m2fnuz, "float8_e5m2fnuz", None, 1),
    (DType::Complex64, "complex64", Some("ComplexFloatStorage"), 8),
    (DType::Complex128, "complex128", Some("ComplexDoubleStorage"), 16),
    (DType::Int64, "int64", Some("LongStorage"), 8),
    (DType::Int32, "int32", Some("IntStorage"), 4),
    (DType::Int16, "int16", Some("ShortStorage"), 2),
    (DType::Int8, "int8", Some("CharStorage"), 1),
    (DType::Uint64, "uint64", None, 8),
    (DType::Uint32, "uint32", None, 4),
    (DType::Uint16, "uint16", None, 2),
    (DType::Uint8, "uint8", Some("ByteStorage"), 1),
    (DType::Bool, "bool", Some("BoolStorage"), 1),
];

impl DType {
    /// Every type.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (DType, &'static str, Option<&'static str>, usize) {
        // The table has the order of the variants; a test compares the two.
        &TABLE[self as usize]
    }

    /// Name in the module `torch`: `bfloat16`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Size of one element in bytes.
    pub fn size(self) -> usize {
        self.row().3
    }

    /// Class in the module `torch` of a storage of this type, if there is one.
    pub(crate) fn storage_class(self) -> Option<&'static str> {
        self.row().2
    }

    /// The type with this name in the module `torch`. Knows the aliases that PyTorch defines.
    pub fn from_name(name: &str) -> Option<DType> {
        let name = match name {
            "double" => "float64",
            "float" => "float32",
            "half" => "float16",
            "long" => "int64",
            "int" => "int32",
            "short" => "int16",
            "cfloat" => "complex64",
            "cdouble" => "complex128",
            other => other,
        };
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The type whose storages have this class in the module `torch`.
    pub(crate) fn from_storage_class(class: &str) -> Option<DType> {
        TABLE.iter().find(|row| row.2 == Some(class)).map(|row| row.0)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_storage_classes_identify_a_type() {
        for dtype in DType::all() {
            assert_eq!(DType::from_name(dtype.name()), Some(dtype));
            if let Some(class) = dtype.storage_class() {
                assert_eq!(DType::from_storage_class(class), Some(dtype));
            }
        }
        assert_eq!(DType::from_name("half"), Some(DType::Float16));
        assert_eq!(DType::from_name("strided"), None);
    }
}
