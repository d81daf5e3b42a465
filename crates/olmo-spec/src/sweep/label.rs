//! Names of trials: `lr=1e-5,seed=2`. They are short, safe in file names and on a command line, and
//! do not depend on the other values of the sweep.

use std::collections::HashMap;

use serde_json::Value;

use crate::sweep::value::canonical;

/// Maximum length of a value's word in characters.
const MAX_WORD: usize = 24;
/// Maximum length of a name in characters.
const MAX_NAME: usize = 80;

/// The words for the axes of a sweep and their values.
#[derive(Debug)]
pub(crate) struct Labels {
    axes: Vec<String>,
    values: Vec<Vec<String>>,
}

impl Labels {
    /// The labels of the axes `paths` with `values`, which differ within each axis.
    pub(crate) fn new(paths: &[&str], values: Vec<Vec<Value>>) -> Self {
        Self { axes: short_paths(paths), values: values.iter().map(|values| words(values)).collect() }
    }

    /// The name of the values `row` of `axes`, unique for each row. `row` holds indices by axis; one out
    /// of range means unset.
    pub(crate) fn name(&self, row: &[u32], axes: impl Iterator<Item = usize>) -> String {
        let mut name = String::new();
        for axis in axes {
            let Some(word) = self.values[axis].get(row[axis] as usize) else { continue };
            if !name.is_empty() {
                name.push(',');
            }
            name.push_str(&self.axes[axis]);
            name.push('=');
            name.push_str(word);
        }
        if name.is_empty() {
            // No stage or output has a name of this form.
            return "=".to_owned();
        }
        if name.len() > MAX_NAME {
            let hash = blake3::hash(name.as_bytes()).to_hex();
            name.truncate(MAX_NAME - 9);
            name.push('~');
            name.push_str(&hash[..8]);
        }
        name
    }
}

/// The shortest suffix of each path that distinguishes it from the others.
fn short_paths(paths: &[&str]) -> Vec<String> {
    let parts: Vec<Vec<&str>> = paths
        .iter()
        .map(|path| {
            let mut parts: Vec<&str> = path.split('.').skip(1).collect();
            if path.starts_with("stages.") && parts.len() > 2 {
                parts.remove(1);
            }
            parts
        })
        .collect();
    let most = parts.iter().map(Vec::len).max().unwrap_or(0);
    let tail = |parts: &Vec<&str>, length: usize| parts[parts.len().saturating_sub(length)..].join(".");
    let mut short: Vec<Option<String>> = vec![None; paths.len()];
    for length in 1..=most {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for parts in &parts {
            *counts.entry(tail(parts, length)).or_default() += 1;
        }
        for (place, parts) in short.iter_mut().zip(&parts) {
            let text = tail(parts, length);
            if place.is_none() && counts[&text] == 1 {
                *place = Some(text);
            }
        }
    }
    short.into_iter().zip(paths).map(|(short, path)| short.unwrap_or_else(|| (*path).to_owned())).collect()
}

/// A unique word for each value.
fn words(values: &[Value]) -> Vec<String> {
    let words: Vec<String> = values.iter().map(word).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in &words {
        *counts.entry(word).or_default() += 1;
    }
    let different = |(word, value): (&String, &Value)| match counts[word.as_str()] {
        1 => word.clone(),
        _ => format!("{word}~{}", &blake3::hash(canonical(value).as_bytes()).to_hex()[..12]),
    };
    words.iter().zip(values).map(different).collect()
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => match number.as_f64() {
            Some(value) if number.is_f64() => float(value),
            _ => number.to_string(),
        },
        Value::String(text) => {
            let last = text.trim_end_matches('/').rsplit('/').next().unwrap_or("");
            let safe: String = last
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+') { c } else { '-' })
                .take(MAX_WORD)
                .collect();
            let safe = safe.trim_matches(['-', '.']);
            if safe.is_empty() { digits(value) } else { safe.to_owned() }
        }
        Value::Array(items) => {
            let plain = items.iter().all(|item| !item.is_array() && !item.is_object());
            let text = items.iter().map(word).collect::<Vec<_>>().join("+");
            if plain && !text.is_empty() && text.len() <= MAX_WORD { text } else { digits(value) }
        }
        // The chosen key of a union says the most.
        Value::Object(map) => match map.keys().next() {
            Some(key) if map.len() == 1 => word(&Value::String(key.clone())),
            _ => digits(value),
        },
    }
}

/// The usual notation: `0.001`, `1e-5`.
fn float(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || (1e-3..1e7).contains(&size) { value.to_string() } else { format!("{value:e}") }
}

/// Six digits of a value's hash.
fn digits(value: &Value) -> String {
    blake3::hash(canonical(value).as_bytes()).to_hex()[..6].to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(paths: &[&str], values: Vec<Vec<Value>>, row: &[u32]) -> String {
        Labels::new(paths, values).name(row, 0..row.len())
    }

    #[test]
    fn a_name_is_made_of_the_last_part_of_paths_and_plain_values() {
        let values = vec![vec![json!(1e-5), json!(0.001)], vec![json!(3)], vec![json!("a/b/tulu sample.jsonl")]];
        let paths = ["params.lr", "stages.train.with.seed", "params.chats"];
        assert_eq!(name(&paths, values.clone(), &[0, 0, 0]), "lr=1e-5,seed=3,chats=tulu-sample.jsonl");
        assert_eq!(name(&paths, values, &[1, u32::MAX, 0]), "lr=0.001,chats=tulu-sample.jsonl");
    }

    #[test]
    fn paths_with_one_end_show_more() {
        assert_eq!(
            short_paths(&["stages.base.with.lr", "stages.train.with.lr", "params.seed"]),
            ["base.lr", "train.lr", "seed"]
        );
        assert_eq!(short_paths(&["params.a.x", "stages.a.with.x"]), ["params.a.x", "stages.a.with.x"]);
        assert_eq!(short_paths(&["params.x", "params.a.x"]), ["x", "a.x"]);
    }

    #[test]
    fn lists_unions_and_odd_texts_have_words_that_differ() {
        let values = vec![
            json!([0.9, 0.95]),
            json!({"cosine": {"alpha": 0.1}}),
            json!({"cosine": {"alpha": 0.2}}),
            json!("\u{1b}[2J"),
            json!("x y"),
            json!("x/y"),
            json!("x-y"),
            json!(null),
            json!(true),
            json!(""),
            json!([[1]]),
        ];
        let words = words(&values);
        assert_eq!(words[0], "0.9+0.95");
        assert!(words[1].starts_with("cosine~") && words[1] != words[2], "{words:?}");
        assert_eq!((words[5].as_str(), words[7].as_str(), words[8].as_str()), ("y", "null", "true"));
        assert!(words.iter().all(|word| word.bytes().all(|b| b.is_ascii_graphic() && !b"/[]{}\\".contains(&b))));
        let different: std::collections::BTreeSet<&String> = words.iter().collect();
        assert_eq!(different.len(), words.len(), "{words:?}");
    }

    #[test]
    fn a_long_name_is_cut_and_stays_different() {
        let paths: Vec<String> = (0..9).map(|i| format!("params.quite_a_long_name_{i}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let labels = Labels::new(&paths, vec![vec![json!(1), json!(2)]; 9]);
        let (a, b) = (labels.name(&[0; 9], 0..9), labels.name(&[0, 0, 0, 0, 0, 0, 0, 0, 1], 0..9));
        assert!(a.len() == MAX_NAME && b.len() == MAX_NAME && a != b, "{a}\n{b}");
    }

    #[test]
    fn a_trial_that_sets_nothing_has_a_name_too() {
        assert_eq!(name(&["params.x"], vec![vec![json!(1)]], &[u32::MAX]), "=");
    }
}
