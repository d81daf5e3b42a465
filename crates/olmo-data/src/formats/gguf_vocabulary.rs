//! [`GgufVocabulary`]: a byte-level BPE tokenizer as GGUF files have it, from a `tokenizer.json` and
//! back.

use serde_json::{Map, Value, json};

/// A byte-level BPE tokenizer as GGUF files have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufVocabulary {
    /// llama.cpp's name for the rule by which texts are split into words (`tokenizer.ggml.pre`).
    pub pre: String,
    /// The tokens by id.
    pub tokens: Vec<String>,
    /// The kind of each token: 1 normal, 3 control, 4 added by a user, 5 unused.
    pub kinds: Vec<i32>,
    /// The merges, with a space between their halves.
    pub merges: Vec<String>,
}

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The splitting rule of cl100k, as `tokenizer.json` files write it.
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How texts are split into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    /// The rule of GPT-2.
    Gpt2,
    /// Single digits, then the rule of GPT-2.
    Digits,
    Cl100k,
}

/// Names of llama.cpp, with the rule and whether a word that is a token is never split.
const RULES: [(&str, Split, bool); 7] = [
    ("olmo", Split::Gpt2, false),
    ("gpt-2", Split::Gpt2, false),
    ("smollm", Split::Digits, false),
    ("dbrx", Split::Cl100k, false),
    ("llama-bpe", Split::Cl100k, true),
    ("llama3", Split::Cl100k, true),
    ("llama-v3", Split::Cl100k, true),
];

impl GgufVocabulary {
    /// The vocabulary of the `tokenizer.json` with the content `bytes`, for a model with `rows` rows of
    /// the embedding: rows without a token become unused ones.
    ///
    /// # Errors
    /// llama.cpp has no such tokenizer: why.
    pub fn of_tokenizer_json(bytes: &[u8], rows: usize) -> Result<GgufVocabulary, String> {
        let file: Value = serde_json::from_slice(bytes).map_err(|error| format!("is not JSON: {error}"))?;
        let model = &file["model"];
        if model["type"] != "BPE" || model["byte_fallback"] == true {
            return Err("is not a byte-level BPE".into());
        }
        if !(file["normalizer"].is_null() || file["normalizer"]["type"] == "NFC") {
            return Err(format!("has a normalizer, which GGUF has no place for: {}", file["normalizer"]));
        }
        let split = Split::of(&file["pre_tokenizer"]).ok_or("splits texts by a rule that llama.cpp has no name for")?;
        let keeps_words = model["ignore_merges"] == true;
        let rule = RULES.iter().find(|(_, rule, keeps)| (*rule, *keeps) == (split, keeps_words));
        let (pre, ..) = rule.ok_or("splits texts by a rule that llama.cpp has no name for")?;
        let mut tokens: Vec<Option<(String, i32)>> = vec![None; rows];
        let mut put = |token: &str, id: &Value, kind: i32| -> Result<(), String> {
            let place = id.as_u64().and_then(|id| usize::try_from(id).ok());
            let place = place.and_then(|place| tokens.get_mut(place));
            let place = place
                .ok_or_else(|| format!("has a token `{}` beyond the model's {rows} rows", token.escape_debug()))?;
            *place = Some((token.to_owned(), kind));
            Ok(())
        };
        for (token, id) in model["vocab"].as_object().ok_or("has no vocabulary")? {
            put(token, id, NORMAL)?;
        }
        for added in file["added_tokens"].as_array().into_iter().flatten() {
            let content = added["content"].as_str().ok_or("has an added token without content")?;
            let looks_special = content.starts_with("<|") && content.ends_with("|>");
            let kind = if added["special"] == true || looks_special { CONTROL } else { USER_DEFINED };
            put(content, &added["id"], kind)?;
        }
        let merge = |merge: &Value| match merge {
            Value::String(text) => Some(text.clone()),
            Value::Array(halves) => match &halves[..] {
                [Value::String(left), Value::String(right)] => Some(format!("{left} {right}")),
                _ => None,
            },
            _ => None,
        };
        let merges = model["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
        let merges = merges.iter().map(merge).collect::<Option<Vec<String>>>().ok_or("has a merge that is no pair")?;
        let unused = |id: usize| (format!("[PAD{id}]"), UNUSED);
        let tokens = tokens.into_iter().enumerate().map(|(id, token)| token.unwrap_or_else(|| unused(id)));
        let (tokens, kinds) = tokens.unzip();
        Ok(GgufVocabulary { pre: (*pre).to_owned(), tokens, kinds, merges })
    }

    /// The content of a `tokenizer.json` that encodes as llama.cpp does.
    ///
    /// # Errors
    /// The rule is unknown, or the lists do not fit each other.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, String> {
        let rule = RULES.iter().find(|(name, ..)| *name == self.pre);
        let Some((_, split, keeps_words)) = rule else {
            let known: Vec<&str> = RULES.iter().map(|(name, ..)| *name).collect();
            let pre = self.pre.escape_debug();
            return Err(format!("splits texts by the rule \"{pre}\"; supported are {}", known.join(", ")));
        };
        if self.tokens.len() != self.kinds.len() {
            return Err(format!("has {} tokens, but {} kinds of tokens", self.tokens.len(), self.kinds.len()));
        }
        let used = self.tokens.len() - self.kinds.iter().rev().take_while(|kind| **kind == UNUSED).count();
        let (mut vocabulary, mut added) = (Map::new(), Vec::new());
        for (id, (token, kind)) in self.tokens.iter().zip(&self.kinds).take(used).enumerate() {
            if vocabulary.insert(token.clone(), json!(id)).is_some() {
                return Err(format!("has the token `{}` twice", token.escape_debug()));
            }
            if [UNKNOWN, CONTROL, USER_DEFINED].contains(kind) {
                added.push(json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": *kind != USER_DEFINED
                }));
            }
        }
        let pair = |merge: &String| {
            let (left, right) = merge.split_once(' ')?;
            Some(json!([left, right]))
        };
        let merges = self.merges.iter().map(pair).collect::<Option<Vec<Value>>>();
        let merges = merges.ok_or("has a merge without a space between its halves")?;
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": split.pre_tokenizer(), "post_processor": null, "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": keeps_words,
                "vocab": vocabulary, "merges": merges
            }
        });
        serde_json::to_vec(&file).map_err(|error| error.to_string())
    }
}

impl Split {
    fn of(pre_tokenizer: &Value) -> Option<Split> {
        let is_byte_level = |value: &Value, splits: bool| {
            value["type"] == "ByteLevel"
                && value["use_regex"].as_bool().unwrap_or(true) == splits
                && value["add_prefix_space"].as_bool() == Some(false)
        };
        if is_byte_level(pre_tokenizer, true) {
            return Some(Split::Gpt2);
        }
        match &pre_tokenizer["pretokenizers"].as_array()?[..] {
            [digits, bytes]
                if digits["type"] == "Digits" && digits["individual_digits"] == true && is_byte_level(bytes, true) =>
            {
                Some(Split::Digits)
            }
            [split, bytes]
                if split["type"] == "Split" && split["pattern"]["Regex"] == CL100K && is_byte_level(bytes, false) =>
            {
                // Every text consists of matches, so that both do the same.
                let isolates = split["behavior"] == "Isolated" && split["invert"] == false;
                let removes = split["behavior"] == "Removed" && split["invert"] == true;
                (isolates || removes).then_some(Split::Cl100k)
            }
            _ => None,
        }
    }

    fn pre_tokenizer(self) -> Value {
        let byte_level = |splits: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits});
        let first = match self {
            Split::Gpt2 => return byte_level(true),
            Split::Digits => json!({"type": "Digits", "individual_digits": true}),
            Split::Cl100k => {
                json!({"type": "Split", "pattern": {"Regex": CL100K}, "behavior": "Isolated", "invert": false})
            }
        };
        json!({"type": "Sequence", "pretokenizers": [first, byte_level(self == Split::Digits)]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(pre_tokenizer: Value) -> Value {
        json!({
            "normalizer": null, "pre_tokenizer": pre_tokenizer,
            "added_tokens": [
                {"id": 4, "content": "<|end|>", "special": true}, {"id": 5, "content": "|||x|||", "special": false}
            ],
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": ["a b"]}
        })
    }

    #[test]
    fn a_vocabulary_survives_the_way_there_and_back() {
        for split in [Split::Gpt2, Split::Digits, Split::Cl100k] {
            let bytes = serde_json::to_vec(&file(split.pre_tokenizer())).unwrap();
            let vocabulary = GgufVocabulary::of_tokenizer_json(&bytes, 8).unwrap();
            assert_eq!(vocabulary.tokens, ["a", "b", "ab", "c", "<|end|>", "|||x|||", "[PAD6]", "[PAD7]"]);
            assert_eq!(vocabulary.kinds, [1, 1, 1, 1, 3, 4, 5, 5]);
            assert_eq!(vocabulary.merges, ["a b"]);
            let back = vocabulary.tokenizer_json().unwrap();
            assert_eq!(GgufVocabulary::of_tokenizer_json(&back, 8).unwrap(), vocabulary);
        }
    }

    #[test]
    fn what_llama_cpp_cannot_express_is_refused() {
        let refuse = |file: Value, rows: usize| {
            GgufVocabulary::of_tokenizer_json(file.to_string().as_bytes(), rows).unwrap_err()
        };
        assert!(refuse(file(json!({"type": "Whitespace"})), 8).contains("no name"));
        assert!(refuse(file(Split::Gpt2.pre_tokenizer()), 5).contains("beyond the model's 5 rows"));
        let mut lower = file(Split::Gpt2.pre_tokenizer());
        lower["normalizer"] = json!({"type": "Lowercase"});
        assert!(refuse(lower, 8).contains("normalizer"));
        let bytes = file(Split::Gpt2.pre_tokenizer()).to_string();
        let good = GgufVocabulary::of_tokenizer_json(bytes.as_bytes(), 8).unwrap();
        let unknown = GgufVocabulary { pre: "x".into(), ..good.clone() };
        assert!(unknown.tokenizer_json().unwrap_err().contains("supported are olmo"));
        assert!(GgufVocabulary { kinds: vec![1], ..good.clone() }.tokenizer_json().is_err());
        assert!(GgufVocabulary { merges: vec!["ab".into()], ..good }.tokenizer_json().is_err());
    }
}
