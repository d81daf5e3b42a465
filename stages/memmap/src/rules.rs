//! Checks before any row is written.

use olmo_data::tokens::TokensManifest;
use olmo_data::{Dtype, Pack};
use olmo_stage::rules::{Finding, Question};

use crate::header;
use crate::params::MemmapParams;

/// Message and hint for a missing row length.
pub(crate) const NO_LENGTH: &str = "sequence_length is null, which works only where whole documents are packed";
pub(crate) const NO_LENGTH_HINT: &str =
    "set `sequence_length`, or use `pack: best_fit` or `pack: whole` with documents from stage tokenize";

/// Every rule that `params` and the known inputs break.
pub(crate) fn check(params: &MemmapParams, question: &Question) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (tokens, ids) = (question.has("tokens"), question.has("input_ids"));
    if tokens == ids {
        let what = if tokens { "both `tokens` and `input_ids` are given" } else { "there are no tokens" };
        findings.push(
            Finding::error("memmap::params", "", what)
                .hint("give either `tokens`, or `input_ids` and `tokenizer` to import id files"),
        );
    }
    if params.sequence_length.is_none() && (ids || params.pack == Pack::Concat) {
        findings.push(Finding::error("memmap::params", "sequence_length", NO_LENGTH).hint(NO_LENGTH_HINT));
    }
    if ids && params.dtype.dtype().is_none() {
        let text = "id files do not record whether they hold uint16 or uint32";
        findings
            .push(Finding::error("memmap::dtype", "dtype", text).hint(
                "set `dtype: uint16` (what OLMo 1 and `prepare_tulu_data.py` write) or `dtype: uint32` (OLMo 2)",
            ));
    }
    // Check files that already exist; an unreadable file is an error of the run.
    for (port, raw) in [("input_ids", params.dtype.dtype().map(Dtype::as_str)), ("label_mask", Some("bool"))] {
        let known = question.inputs.get(port).and_then(|known| known.items.as_ref());
        for (name, path) in known.into_iter().flatten().flat_map(|item| &item.files) {
            let refusal = header::refusal(port, name, path, raw.unwrap_or("uint16"));
            if let Ok(Some((message, hint))) = refusal {
                findings.push(Finding::error("memmap::header", "", message).hint(hint));
            }
        }
    }
    let manifest = question.file("tokens", "manifest.json").and_then(|path| std::fs::read(path).ok());
    // The run itself reports an unreadable manifest.
    let manifest: Option<TokensManifest> = manifest.and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(manifest) = manifest {
        let wanted = Dtype::for_vocabulary(manifest.vocab_size);
        if let Some(dtype) = params.dtype.dtype().filter(|dtype| dtype.bytes() < wanted.bytes()) {
            let (name, size) = (dtype.as_str(), manifest.vocab_size);
            let text = format!("{name} is too small for a vocabulary of {size}: larger ids would wrap around");
            findings.push(Finding::error("memmap::dtype", "dtype", text).hint("set `dtype: auto` or `dtype: uint32`"));
        }
        let width = params.dtype.dtype().unwrap_or(wanted).bytes() as u64;
        // The ids, plus one byte of label mask per id.
        let bytes = manifest.tokens.saturating_mul(width + 1);
        if let Some(free) = question.free_bytes.filter(|free| bytes > *free) {
            let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
            let text = format!("the rows take at least {}, but the store has only {} free", gib(bytes), gib(free));
            findings.push(
                Finding::error("memmap::space", "", text).hint("free some space, or move the store with --store"),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use olmo_stage::rules::{KnownInput, KnownItem};
    use serde_json::{Value, json};

    use super::*;

    fn found(params: Value, inputs: &[(&str, KnownInput)], free_bytes: Option<u64>) -> Vec<(String, String)> {
        let parsed: MemmapParams = serde_json::from_value(params.clone()).unwrap();
        let inputs = inputs.iter().map(|(port, known)| ((*port).to_owned(), known.clone())).collect();
        let question = Question {
            stage: "memmap".into(),
            params,
            inputs,
            free_bytes,
            compute: olmo_stage::Compute::FLEX,
            ranks: 1,
        };
        check(&parsed, &question).into_iter().map(|finding| (finding.code, finding.param)).collect()
    }

    fn one(code: &str, param: &str) -> Vec<(String, String)> {
        vec![(code.to_owned(), param.to_owned())]
    }

    #[test]
    fn each_rule_names_its_param() {
        let unknown = KnownInput::default;
        let tokens = [("tokens", KnownInput::default())];
        assert_eq!(found(json!({}), &tokens, None), []);
        assert_eq!(found(json!({"pack": "concat"}), &tokens, None), one("memmap::params", "sequence_length"));
        let params = json!({"sequence_length": 16});
        assert_eq!(found(params.clone(), &[("tokens", unknown())], Some(0)), [], "nothing is known yet");
        assert_eq!(found(params.clone(), &[], None), one("memmap::params", ""));
        let both = [("tokens", unknown()), ("input_ids", unknown())];
        assert_eq!(found(json!({"sequence_length": 16, "dtype": "uint16"}), &both, None), one("memmap::params", ""));
        assert_eq!(found(params, &[("input_ids", unknown())], None), one("memmap::dtype", "dtype"));
    }

    #[test]
    fn a_file_with_a_header_is_refused_before_anything_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("object");
        let known = || {
            let item = KnownItem { label: None, files: [("ids.npy".to_owned(), path.clone())].into() };
            [("input_ids", KnownInput { items: Some(vec![item]), ..KnownInput::default() })]
        };
        let params = json!({"sequence_length": 16, "dtype": "uint32"});
        std::fs::write(&path, b"\x93NUMPY\x01\0").unwrap();
        assert_eq!(found(params.clone(), &known(), None), one("memmap::header", ""));
        std::fs::write(&path, [7; 64]).unwrap();
        assert_eq!(found(params, &known(), None), []);
    }

    #[test]
    fn a_vocabulary_that_does_not_fit_is_told_before_its_ids_wrap() {
        let dir = tempfile::tempdir().unwrap();
        let known = |vocab_size: u32| {
            let manifest = json!({
                "format": 1, "tokenizer": olmo_base::Digest::of(b"t"), "vocab_size": vocab_size, "eos_token_id": 0,
                "pad_token_id": 1, "template": "tulu", "documents": 1, "dropped": 0, "truncated": 0, "tokens": 1000,
                "labels": 10, "max_length": 16,
            });
            let path = dir.path().join("manifest.json");
            std::fs::write(&path, manifest.to_string()).unwrap();
            serde_json::from_value::<TokensManifest>(manifest).expect("the manifest of this build");
            let item = KnownItem { label: None, files: [("manifest.json".to_owned(), path)].into() };
            [("tokens", KnownInput { items: Some(vec![item]), ..KnownInput::default() })]
        };
        let small = json!({"sequence_length": 16, "dtype": "uint16"});
        assert_eq!(found(small.clone(), &known(65_536), Some(1 << 20)), []);
        assert_eq!(found(small, &known(65_537), Some(1 << 20)), one("memmap::dtype", "dtype"));
        let auto = json!({"sequence_length": 16});
        assert_eq!(found(auto.clone(), &known(65_537), Some(1 << 20)), []);
        assert_eq!(found(auto, &known(65_537), Some(4_999)), one("memmap::space", ""), "five bytes a token");
    }
}
