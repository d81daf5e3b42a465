//! Allowed kinds of files: data, and weights. Of pickles, only those are fetched that `olmo-pickle`
//! reads as data: the weights of `transformers`, OLMo and OLMo-core. Scripts and archives never are.

/// Formats that stage `fetch` reads.
const DATA: [&str; 7] = [".jsonl", ".json", ".ndjson", ".parquet", ".arrow", ".txt", ".text"];
const PACKED: [&str; 3] = [".gz", ".zst", ".zstd"];
/// Other files of models, tokenizers and memmaps.
const MODEL: [&str; 8] = [".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken", ".npy", ".csv.gz"];

/// Checkpoints of OLMo-core and OLMo.
const CHECKPOINT: [&str; 4] = [".metadata", ".metadata.json", "config.yaml", "model.pt"];
const SHARD: &str = ".distcp";

/// Whether a file with this path is the weights of a model as a pickle of `transformers`.
pub(crate) fn is_pytorch_model(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.starts_with("pytorch_model") && name.ends_with(".bin")
}

/// Whether a file with this path is a part of a checkpoint of OLMo-core or OLMo.
pub(crate) fn is_checkpoint(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    CHECKPOINT.contains(&name) || name.strip_suffix(SHARD).is_some_and(|rest| !rest.is_empty())
}

/// Whether a file with this name is readable data.
pub(crate) fn is_data(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let inner = PACKED.iter().find_map(|packed| name.strip_suffix(packed)).unwrap_or(&name);
    DATA.iter().any(|kind| inner.ends_with(kind) && inner.len() > kind.len())
}

/// Whether a file with this name may be fetched at all.
pub(crate) fn is_allowed(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let pickled = is_pytorch_model(name) || is_checkpoint(name);
    pickled || is_data(name) || MODEL.iter().any(|kind| lower.ends_with(kind) && lower.len() > kind.len())
}

/// All allowed kinds, for messages.
pub(crate) fn listed() -> String {
    let mut all: Vec<&str> = DATA.iter().chain(&MODEL).copied().collect();
    all.sort_unstable();
    all.dedup();
    let pickled = [&CHECKPOINT[2..], &["*.distcp", "pytorch_model*.bin"]].concat();
    format!("{} {}; data may be compressed as {}", all.join(" "), pickled.join(" "), PACKED.join(" "))
}

/// What is wrong with a file path from a server or a wheel, as text.
pub(crate) fn bad_path(path: &str) -> Option<&'static str> {
    if path.is_empty() || path.len() > 1024 {
        return Some("it is empty or longer than 1024 bytes");
    }
    if path.chars().any(|c| c.is_control() || c == '\\' || c == ':') {
        return Some("it contains a control character, a backslash or a colon");
    }
    if path.split('/').any(|name| name.is_empty() || name == "." || name == "..") {
        return Some("it leaves its folder");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_weights_are_taken_and_code_is_not() {
        for name in ["a.jsonl", "a.JSONL.gz", "b/train-00000.parquet", "c.json.zst", "data.arrow", "x.txt.zstd"] {
            assert!(is_data(name) && is_allowed(name), "{name}");
        }
        for name in ["model.safetensors", "tokenizer.model", "chat_template.jinja", "ids.npy", "bounds.csv.gz"] {
            assert!(!is_data(name) && is_allowed(name), "{name}");
        }
        for name in [
            "model.bin",
            "optim.pt",
            "training_args.bin",
            ".distcp",
            "other.yaml",
            "x.pkl",
            "x.py",
            "x.json.py",
            "a.tar.gz",
            "x.zip",
            ".jsonl",
            "jsonl",
            "x.csv",
            "README.md",
        ] {
            assert!(!is_allowed(name), "{name}");
        }
        for name in ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "config.yaml"] {
            assert!(!is_data(name) && is_allowed(name) && is_allowed(&format!("step1/{name}")), "{name}");
        }
        for name in ["model_and_optim/.metadata", ".metadata.json", "model_and_optim/__0_0.distcp"] {
            assert!(is_checkpoint(name) && is_allowed(name), "{name}");
        }
        assert!(listed().contains(".safetensors") && listed().contains("pytorch_model*.bin"));
    }

    #[test]
    fn a_path_that_leaves_its_folder_is_bad() {
        for path in ["", "/a", "a/", "a//b", "../a", "a/../../b", "a/./b", "a\\b", "c:x", "a\nb"] {
            assert!(bad_path(path).is_some(), "{path:?}");
        }
        assert!(bad_path("data/train-00000-of-00001.parquet").is_none());
    }
}
