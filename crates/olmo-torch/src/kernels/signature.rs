//! Reads the kernels declared in a source, and their parameters:
//! `KERNEL name(const E* x, i64 rows, int d, float eps)`.
//!
//! CUDA's launch does not check arguments: it would read a missing one from arbitrary memory. So
//! each launch is checked against the source.

use std::collections::BTreeMap;

/// Type of a parameter, as passed by a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    Pointer,
    Int,
    Long,
    Float,
}

/// Parameters of every kernel in a source, by name.
pub(super) type Signatures = BTreeMap<String, Vec<Parameter>>;

/// Reads the declarations.
///
/// # Errors
/// A kernel has a parameter that no launch can pass; the message names both.
pub(super) fn signatures(text: &str) -> Result<Signatures, String> {
    let mut found = Signatures::new();
    let text = without_comments(text);
    for declaration in text.split("\nKERNEL ").skip(1) {
        let declaration = match declaration.trim_start().strip_prefix("__launch_bounds__(") {
            Some(rest) => rest.split_once(')').map_or("", |(_, after)| after),
            None => declaration,
        };
        let Some((name, rest)) = declaration.split_once('(') else { continue };
        let Some((parameters, _)) = rest.split_once(')') else { continue };
        let name = name.trim();
        let parameters = parameters.split(',').filter(|parameter| !parameter.trim().is_empty());
        let parameters = parameters.map(|parameter| {
            one(parameter).ok_or_else(|| {
                format!(
                    "kernel {name} takes `{}`; a launch passes pointers, int, i64 (long long) and float",
                    parameter.trim()
                )
            })
        });
        found.insert(name.to_owned(), parameters.collect::<Result<_, _>>()?);
    }
    Ok(found)
}

fn one(parameter: &str) -> Option<Parameter> {
    if parameter.contains('*') {
        return Some(Parameter::Pointer);
    }
    let mut words: Vec<&str> = parameter.split_whitespace().filter(|&word| word != "const").collect();
    words.pop()?;
    match words.as_slice() {
        ["int"] => Some(Parameter::Int),
        ["i64"] | ["long", "long"] => Some(Parameter::Long),
        ["float"] => Some(Parameter::Float),
        _ => None,
    }
}

fn without_comments(text: &str) -> String {
    let mut plain = String::from("\n");
    for line in text.lines() {
        plain.push_str(line.split_once("//").map_or(line, |(code, _)| code));
        plain.push('\n');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use Parameter::{Float, Int, Long, Pointer};

    #[test]
    fn declarations_are_read_as_they_are_written() {
        let text = "#define KERNEL extern \"C\" __global__ void\n// KERNEL not_me(int a) {}\nKERNEL one(const E* x, i64 rows,\n    \
                    int d, const float eps) {\n}\nKERNEL __launch_bounds__(256) two(long long n) {}\nKERNEL three() {}";
        let found = signatures(text).unwrap();
        assert_eq!(found["one"], [Pointer, Long, Int, Float]);
        assert_eq!(found["two"], [Long]);
        assert_eq!(found["three"], []);
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_parameter_that_no_launch_passes_is_named() {
        let words = signatures("KERNEL k(const float* a, double b) {}").unwrap_err();
        assert_eq!(words, "kernel k takes `double b`; a launch passes pointers, int, i64 (long long) and float");
    }
}
