//! The table of the classes and functions that this crate understands.
//!
//! To add one: if its objects are plain records, add its name to [`RECORDS`]. If a call of it must
//! become another value, add a [`Rule`] and its case in `build.rs`.

use crate::dtype::DType;

/// What a class or function becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// `collections.OrderedDict([pairs])`: a dict.
    OrderedDict,
    /// `collections.defaultdict(factory)`: a dict.
    DefaultDict,
    /// `set([items])` and `frozenset([items])`: a set.
    Set,
    /// `_codecs.encode(text, "latin1")`: bytes, as protocol 2 writes them.
    Encode,
    /// `bytes()`: empty bytes, as protocol 2 writes them.
    Bytes,
    /// `torch.Size(tuple)`: the tuple.
    Size,
    /// A type of elements; not to be called.
    DType(DType),
    /// A class of storages, with its type of elements unless it is untyped; not to be called.
    Storage(Option<DType>),
    /// `_rebuild_tensor_v2(storage, offset, shape, strides, …)`: a tensor.
    TensorV2,
    /// `_rebuild_tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, …)`: a
    /// tensor.
    TensorV3,
    /// `_rebuild_parameter(tensor, …)`: the tensor.
    Parameter,
    /// `_rebuild_from_type_v2(function, type, args, state)`: what the function makes of the
    /// arguments.
    FromType,
    /// `_reconstruct(numpy.ndarray, …)`: an array that its state completes.
    Array,
    /// `scalar(dtype, bytes)` of numpy: an int, float or bool.
    Scalar,
    /// `_frombuffer(bytes, dtype, shape, order)` of numpy: an array.
    ArrayFromBytes,
    /// Its objects are records: they stay objects.
    Record,
}

/// Classes whose objects are records, by module: nothing but their fields matters.
const RECORDS: [(&str, &[&str]); 12] = [
    (
        "torch.distributed.checkpoint.metadata",
        &[
            "Metadata",
            "MetadataIndex",
            "TensorStorageMetadata",
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "TensorProperties",
            "StorageMeta",
            "_MEM_FORMAT_ENCODING",
        ],
    ),
    ("torch.distributed.checkpoint.filesystem", &["_StorageInfo"]),
    ("olmo_core.distributed.checkpoint.filesystem", &["_StorageInfo"]),
    ("torch.serialization", &["_get_layout"]),
    ("torch", &["device", "Generator"]),
    ("numpy", &["dtype", "ndarray"]),
    ("numpy.random._pickle", &["__generator_ctor", "__bit_generator_ctor", "__randomstate_ctor"]),
    ("pathlib", &["Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"]),
    ("pathlib._local", &["Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"]),
    ("copyreg", &["_reconstructor"]),
    ("datetime", &["datetime", "date", "time", "timedelta", "timezone"]),
    // What the trainer states of OLMo and OLMo-core have beside numbers.
    ("olmo_core.train.common", &["Duration", "DurationUnit", "ReduceType"]),
];

/// The rule for `name` of `module`, if the table has it.
pub(super) fn rule(module: &str, name: &str) -> Option<Rule> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Rule::OrderedDict,
        ("collections", "defaultdict") => Rule::DefaultDict,
        ("builtins" | "__builtin__", "set" | "frozenset") => Rule::Set,
        ("builtins" | "__builtin__", "bytes") => Rule::Bytes,
        ("_codecs", "encode") => Rule::Encode,
        ("torch", "Size") => Rule::Size,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Rule::TensorV2,
        ("torch._utils", "_rebuild_tensor_v3") => Rule::TensorV3,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Rule::Parameter,
        ("torch._tensor", "_rebuild_from_type_v2") => Rule::FromType,
        ("torch.storage" | "torch", "UntypedStorage") => Rule::Storage(None),
        ("numpy._core.multiarray" | "numpy.core.multiarray", "_reconstruct") => Rule::Array,
        ("numpy._core.multiarray" | "numpy.core.multiarray", "scalar") => Rule::Scalar,
        ("numpy._core.numeric" | "numpy.core.numeric", "_frombuffer") => Rule::ArrayFromBytes,
        _ => {
            if let ("torch", Some(dtype)) = (module, DType::from_name(name)) {
                return Some(Rule::DType(dtype));
            }
            if let ("torch" | "torch.cuda", Some(dtype)) = (module, DType::from_storage_class(name)) {
                return Some(Rule::Storage(Some(dtype)));
            }
            let (_, names) = RECORDS.iter().find(|(known, _)| *known == module)?;
            return names.contains(&name).then_some(Rule::Record);
        }
    })
}

/// Whether the table has `name` of `module`.
pub(super) fn is_known(module: &str, name: &str) -> bool {
    rule(module, name).is_some()
}
