//! The attributes that Python's types have.

use crate::jinja::value::Value;

/// The kind of attribute that Python finds.
pub(crate) enum Known {
    Method,
    /// The sandbox returns an undefined value.
    Unsafe,
    Unsupported,
    Missing,
}

const TEXT: [&str; 42] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
];
const MORE_TEXT: [&str; 2] = ["upper", "zfill"];
const CHANGE_LIST: [&str; 8] = ["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"];
const CHANGE_DICT: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// The kind of attribute `name` of `object`.
pub(crate) fn known(object: &Value, name: &str) -> Known {
    let found = |found: bool, unsupported: &[&str]| {
        if found {
            Known::Method
        } else if unsupported.contains(&name) {
            Known::Unsupported
        } else {
            Known::Missing
        }
    };
    match object {
        Value::Text(_) => {
            found(TEXT.contains(&name) || MORE_TEXT.contains(&name), &["encode", "maketrans", "translate"])
        }
        Value::Markup(_) if TEXT.contains(&name) || MORE_TEXT.contains(&name) => Known::Unsupported,
        Value::Markup(_) => found(false, &["encode", "maketrans", "translate", "striptags", "unescape", "escape"]),
        Value::List(_) if CHANGE_LIST.contains(&name) => Known::Unsafe,
        Value::List(_) => found(["index", "count", "copy"].contains(&name), &[]),
        Value::Tuple(_) | Value::Group(_) => found(["index", "count"].contains(&name), &[]),
        Value::Dict(_) if CHANGE_DICT.contains(&name) => Known::Unsafe,
        Value::Dict(_) => found(["get", "items", "keys", "values", "copy"].contains(&name), &["fromkeys"]),
        Value::View(..) => found(false, &["isdisjoint", "mapping"]),
        Value::Range(_) => found(["index", "count"].contains(&name), &["start", "stop", "step"]),
        Value::Cycler(_) => found(["next", "reset"].contains(&name), &["items", "pos"]),
        Value::Joiner(_) => found(false, &["sep", "used"]),
        Value::Loop(_) => found(["cycle", "changed"].contains(&name), &[]),
        Value::Int(_) | Value::Bool(_) => found(
            false,
            &[
                "real",
                "imag",
                "numerator",
                "denominator",
                "bit_length",
                "bit_count",
                "conjugate",
                "to_bytes",
                "from_bytes",
                "as_integer_ratio",
            ],
        ),
        Value::Float(_) => {
            found(false, &["real", "imag", "is_integer", "hex", "fromhex", "conjugate", "as_integer_ratio"])
        }
        Value::Generator(_) => found(false, &["send", "throw", "close", "gi_running", "gi_yieldfrom"]),
        Value::Function("dict") => found(false, &["fromkeys"]),
        _ => Known::Missing,
    }
}
