//! Rotary position embeddings in a Hugging Face `config.json`.
//!
//! Versions of `transformers` write them in different places: `rope_theta` and `rope_scaling` (4),
//! or `rope_parameters` (5), for OLMo 3 with an entry per kind of block. All places must agree.
//! Facts about version 5.23 were measured; see scripts/goldens/yarn.py.

use serde_json::{Value, json};

use super::architecture::{Architecture, FULL, SLIDING};
use super::reader::{Reader, shown};
use crate::config::RopeScaling;

/// Default of `transformers` 5 for OLMo 3's rotary base, even if the other kind of block has a
/// different one.
const OLMO3_THETA: f64 = 500_000.0;

/// One set of rotary parameters.
#[derive(Default)]
struct Part {
    theta: Option<f64>,
    scaling: Option<RopeScaling>,
}

/// The rotary embeddings of a model.
pub(super) struct Rope {
    /// The base.
    pub theta: f64,
    /// The base of blocks with a window, if it is another one.
    pub sliding_theta: Option<f64>,
    /// The scaling of blocks with full attention.
    pub scaling: Option<RopeScaling>,
}

/// Reads the rotary embeddings. `max_length` is the config's `max_position_embeddings`.
pub(super) fn read(reader: &mut Reader<'_>, architecture: Architecture, max_length: usize) -> Rope {
    let flat = reader.number("rope_theta");
    let parameters = reader.value("rope_parameters");
    // Each place that names a base, and each that says whether full attention is scaled.
    let mut thetas: Vec<(String, f64)> = flat.into_iter().map(|theta| ("rope_theta".to_owned(), theta)).collect();
    let mut scalings: Vec<(String, Option<RopeScaling>)> = Vec::new();
    let named = |name: &str, part: &Part| part.theta.map(|theta| (format!("{name}.rope_theta"), theta));
    let is_olmo3 = architecture == Architecture::Olmo3;
    if let Some(written) = reader.value("rope_scaling") {
        let part = read_part(reader, architecture, "rope_scaling", written, max_length);
        thetas.extend(named("rope_scaling", &part));
        let other = flat.filter(|theta| is_olmo3 && parameters.is_none() && *theta != OLMO3_THETA);
        if let (Some(theta), Some(_)) = (other, part.scaling) {
            reader.problems.push(format!(
                "`rope_theta` is {theta} beside `rope_scaling`, and versions of `transformers` read that differently \
                 (5 uses 500000 for sliding attention); write `rope_parameters` with an entry for each kind of block"
            ));
        }
        scalings.push(("rope_scaling".into(), part.scaling));
    }
    let own = parameters.map(|written| read_part(reader, architecture, "rope_parameters", written, max_length));
    let own = own.unwrap_or_default();
    thetas.extend(named("rope_parameters", &own));
    if !is_olmo3 {
        if parameters.is_some() {
            scalings.push(("rope_parameters".into(), own.scaling));
        }
        let theta = one_theta(reader, &thetas, own.theta.or(Some(10_000.0)));
        return Rope { theta, sliding_theta: None, scaling: one_scaling(reader, &scalings) };
    }
    if own.scaling.is_some() {
        reader.problems.push(format!(
            "`rope_parameters.rope_type` is \"yarn\", which `transformers` ignores for olmo3; move it to \
             `rope_parameters.{FULL}`"
        ));
    }
    // `transformers` 5 reads only the entries of each kind. Version 4 knows only `rope_theta`.
    let mut sliding_thetas = thetas.clone();
    for (kind, thetas) in [(FULL, &mut thetas), (SLIDING, &mut sliding_thetas)] {
        let written = parameters.and_then(|parameters| parameters.get(kind)).filter(|part| !part.is_null());
        let name = format!("rope_parameters.{kind}");
        let part = written.map(|part| read_part(reader, architecture, &name, part, max_length)).unwrap_or_default();
        thetas.extend(named(&name, &part));
        if part.theta.is_none() && flat.is_none() && parameters.is_some() {
            thetas.push((format!("{name}.rope_theta, by default"), OLMO3_THETA));
        }
        if kind == FULL && written.is_some() {
            scalings.push((name, part.scaling));
        } else if part.scaling.is_some() {
            reader.problems.push(format!(
                "`{name}` scales positions in sliding windows; no OLMo model was trained so, and versions of \
                 `transformers` that compute it have a bug. Give it `\"rope_type\": \"default\"`"
            ));
        }
    }
    let theta = one_theta(reader, &thetas, None);
    let sliding = if parameters.is_some() { one_theta(reader, &sliding_thetas, None) } else { theta };
    let sliding_theta = (sliding != theta).then_some(sliding);
    Rope { theta, sliding_theta, scaling: one_scaling(reader, &scalings) }
}

/// The base that all places name, or the default if none does.
fn one_theta(reader: &mut Reader<'_>, found: &[(String, f64)], default: Option<f64>) -> f64 {
    if let Some((first, rest)) = found.split_first()
        && let Some(other) = rest.iter().find(|other| other.1 != first.1)
    {
        let (a, b) = (format!("`{}` is {}", first.0, first.1), format!("`{}` is {}", other.0, other.1));
        reader.problems.push(format!("{a}, {b}; they must agree on one rotary base"));
    }
    match found.first().map(|(_, theta)| *theta).or(default) {
        Some(theta) => theta,
        None => {
            reader.problems.push(
                "`rope_theta` is missing, and versions of `transformers` have different defaults for it; write it"
                    .into(),
            );
            0.0
        }
    }
}

/// The scaling that all places name.
fn one_scaling(reader: &mut Reader<'_>, found: &[(String, Option<RopeScaling>)]) -> Option<RopeScaling> {
    // An attention factor that is written may equal the one that follows from the factor.
    let resolved = |scaling: &Option<RopeScaling>| {
        scaling.map(|scaling| RopeScaling { attention_factor: Some(scaling.attention_factor()), ..scaling })
    };
    let (first, rest) = found.split_first()?;
    if let Some(other) = rest.iter().find(|other| resolved(&other.1) != resolved(&first.1)) {
        reader.problems.push(format!("`{}` and `{}` describe different rotary embeddings", first.0, other.0));
    }
    first.1
}

/// One set of rotary parameters, which may contain nothing else that matters.
fn read_part(
    reader: &mut Reader<'_>,
    architecture: Architecture,
    name: &str,
    value: &Value,
    max_length: usize,
) -> Part {
    let Some(parameters) = value.as_object() else {
        reader.problems.push(format!("`{name}` is {}, not an object", shown(value)));
        return Part::default();
    };
    let given = |key: &str| parameters.get(key).filter(|value| !value.is_null());
    let kind = ["rope_type", "type"].into_iter().find_map(|key| Some((key, given(key)?)));
    let is_yarn = match kind {
        None => false,
        Some((_, kind)) if *kind == "default" => false,
        Some(("rope_type", kind)) if *kind == "yarn" => true,
        Some((key, kind)) if *kind == "yarn" => {
            reader.problems.push(format!(
                "`{name}.{key}` is \"yarn\", and versions of `transformers` read the key `{key}` differently; rename \
                 it to `rope_type`"
            ));
            return Part::default();
        }
        Some((key, kind)) => {
            reader.problems.push(format!(
                "`{name}.{key}` is {}; only \"default\", positions without scaling, and \"yarn\" are supported",
                shown(kind)
            ));
            return Part::default();
        }
    };
    let mut number = |key: &str| {
        let value = given(key)?;
        let number = value.as_f64();
        if number.is_none() {
            reader.problems.push(format!("`{name}.{key}` is {}, not a number", shown(value)));
        }
        number
    };
    let theta = number("rope_theta");
    let scaling = if is_yarn { read_yarn(&mut number, max_length) } else { None };
    if is_yarn && given("factor").is_none() {
        reader.problems.push(format!("`{name}.factor` is missing, but \"yarn\" needs it"));
    }
    for (key, value) in parameters.iter().filter(|(_, value)| !value.is_null()) {
        match key.as_str() {
            "rope_theta" => {}
            "rope_type" | "type" if kind.is_none_or(|(_, kind)| kind == value) => {}
            "factor"
            | "beta_fast"
            | "beta_slow"
            | "original_max_position_embeddings"
            | "attention_factor"
            | "mscale"
            | "mscale_all_dim"
                if is_yarn => {}
            "truncate" if is_yarn && *value == true => {}
            "partial_rotary_factor" | "factor" if value.as_f64() == Some(1.0) => {}
            // The entries per kind of block, which the caller reads.
            FULL | SLIDING if name == "rope_parameters" && architecture == Architecture::Olmo3 => {}
            _ => reader.problems.push(format!("`{name}.{key}` is {}, which is not supported", shown(value))),
        }
    }
    Part { theta, scaling }
}

/// YaRN, with the defaults of `transformers`: a beta of 0 counts as absent, and the old context is
/// `max_length` unless it is given.
fn read_yarn(number: &mut dyn FnMut(&str) -> Option<f64>, max_length: usize) -> Option<RopeScaling> {
    let factor = number("factor")?;
    let beta = |value: Option<f64>, default: f64| value.filter(|beta| *beta != 0.0).unwrap_or(default);
    let length = number("original_max_position_embeddings").unwrap_or(max_length as f64);
    // A length that is not whole, or below 1, is a problem of the config.
    let old_context_len = if length.fract() == 0.0 { length as usize } else { 0 };
    let (mscale, of_all) = (number("mscale"), number("mscale_all_dim"));
    let mut scaling = RopeScaling {
        factor,
        beta_fast: beta(number("beta_fast"), 32.0),
        beta_slow: beta(number("beta_slow"), 1.0),
        old_context_len,
        attention_factor: number("attention_factor"),
    };
    if let (None, Some(mscale), Some(of_all)) = (scaling.attention_factor, mscale, of_all) {
        let attention = |mscale: f64| 0.1 * mscale * factor.ln() + 1.0;
        scaling.attention_factor = Some(attention(mscale) / attention(of_all));
    }
    Some(scaling)
}

/// `scaling` as `rope_scaling` of version 4. Version 5 reads it with the base ([`with_theta`]).
pub(super) fn describe(scaling: &RopeScaling) -> Value {
    let mut fields = json!({
        "rope_type": "yarn",
        "factor": scaling.factor,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "original_max_position_embeddings": scaling.old_context_len,
    });
    if let Some(attention_factor) = scaling.attention_factor {
        fields["attention_factor"] = json!(attention_factor);
    }
    fields
}

/// Rotary parameters with their base, as version 5 reads them.
pub(super) fn with_theta(parameters: &Value, theta: f64) -> Value {
    let mut fields = parameters.clone();
    fields["rope_theta"] = json!(theta);
    fields
}
