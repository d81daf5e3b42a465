//! Stage `convert`: exports a model to another format and checks that the logits match.
//!
//! Weights are read, written and compared tensor by tensor, and logits are computed block by block,
//! so that the memory depends on the largest tensor and not on the model.
//!
//! The export is read back from its files. Its tensors, matched by name, must equal those in the
//! model's files (rounded to the export's type), and its logits on fixed ids must equal those of
//! the model with these rounded weights. The report gives the largest difference, which must not
//! exceed 1e-5, and how far rounding alone moves the logits.

mod check;
mod perplexity;
mod tokenizer_files;

use std::fs;
use std::path::Path;

use olmo_data::tokenizer::tokenizer_json;
use olmo_data::{Chat, Template, TextTokenizer};
use olmo_infer::text::gguf_keys;
use olmo_infer::{Placement, check_tokenizer};
use olmo_model::{BlockType, GgufRounded, GgufType, ModelError, ResizedVocabulary, Rounded, WeightSource, WeightType};
use olmo_stage::compute_params::ComputeParams;
use olmo_stage::rules::{Finding, Question};
use olmo_stage::worker::{enforce, write_json};
use olmo_stage::{Compute, Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Exports a model to the format of Hugging Face, OLMo-core or OLMo, or to a GGUF file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Chat template, for a model that does not record one. Null: the one that the model was
    /// trained with, or the tokenizer's.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("enum" = ["tulu", "olmo2", "chatml", null]))]
    pub template: Option<Template>,
    /// Format of the export: `huggingface` (for `transformers`, vLLM and others), `olmo_core` (a step of
    /// OLMo-core's trainer, weights only), `olmo` (an unsharded checkpoint of OLMo) or `gguf` (the file
    /// `model.gguf` for llama.cpp, with tokenizer and chat template). The tokenizer's files are in the
    /// folder, for `olmo_core` in its folder `tokenizer`.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["huggingface", "olmo_core", "olmo", "gguf"], "default" = "huggingface"))]
    pub to: Format,
    /// Type of the exported weights: `float32` (the model's exact values), or `bfloat16` or `float16`
    /// (half the size).
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["float32", "bfloat16", "float16"], "default" = "float32"))]
    pub dtype: WeightType,
    /// With `to: gguf`, rounds matrices to blocks of 32 instead: `q8_0` (8 bits) or `q4_0` (4 bits, the
    /// head 8). Norms stay float32. Null: `dtype`.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("enum" = ["q8_0", "q4_0", null]))]
    pub quantization: Option<Quantization>,
    /// Largest weight file of a Hugging Face export, such as `5GB` or `500MB`: a larger model is split
    /// into shards with `model.safetensors.index.json`. Null: one file.
    #[serde(default)]
    pub shards: Option<String>,
    /// Rows of embedding and head: `padded` (all rows of the model) or `trimmed` (only the tokens of
    /// the tokenizer).
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["padded", "trimmed"], "default" = "padded"))]
    pub vocab: Vocab,
    #[serde(flatten)]
    pub compute: ComputeParams,
}

/// Which rows of embedding and head are exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vocab {
    #[default]
    Padded,
    Trimmed,
}

/// A format of models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    #[default]
    Huggingface,
    OlmoCore,
    Olmo,
    Gguf,
}

/// A rounding to blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    #[serde(rename = "q8_0")]
    Q8_0,
    #[serde(rename = "q4_0")]
    Q4_0,
}

impl Params {
    fn broken(&self, compute: Compute) -> Vec<Finding> {
        let mut findings = self.compute.broken("convert", compute);
        if self.quantization.is_some() && self.to != Format::Gguf {
            let what = "`quantization` is for `to: gguf`; the other formats have no blocks";
            findings.push(Finding::error("convert::quantization", "quantization", what).hint("set `to: gguf`"));
        }
        if self.quantization.is_some() && self.dtype != WeightType::Float32 {
            let what = "`quantization` and `dtype` both say how weights are rounded";
            findings.push(Finding::error("convert::quantization", "dtype", what).hint("remove `dtype`"));
        }
        let Some(shards) = &self.shards else { return findings };
        if self.to != Format::Huggingface {
            let what = "`shards` is for `to: huggingface`; the other formats have one weight file";
            findings.push(Finding::error("convert::shards", "shards", what).hint("remove `shards`"));
        }
        if let Err(why) = parse_size(shards) {
            findings.push(Finding::error("convert::shards", "shards", format!("`shards`: {why}")));
        }
        findings
    }

    /// The types of a GGUF file.
    fn gguf_type(&self) -> GgufType {
        match self.quantization {
            None => GgufType::Plain(self.dtype),
            Some(Quantization::Q8_0) => GgufType::Blocks(BlockType::Q8_0),
            Some(Quantization::Q4_0) => GgufType::Blocks(BlockType::Q4_0),
        }
    }

    /// What the weights are rounded to, for the report.
    fn rounding(&self) -> &'static str {
        match self.quantization {
            None => self.dtype.as_str(),
            Some(Quantization::Q8_0) => "q8_0",
            Some(Quantization::Q4_0) => "q4_0",
        }
    }

    /// Largest weight file in bytes.
    fn most(&self) -> Option<u64> {
        self.shards.as_deref().and_then(|shards| parse_size(shards).ok())
    }

    fn placement(&self, compute: Compute) -> Placement<'_> {
        Placement { compute, device: &self.compute.device, stage: "convert" }
    }
}

/// The stage.
pub struct Convert;

impl Stage for Convert {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &Params, question: &Question) -> Vec<Finding> {
        params.broken(question.compute)
    }

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        enforce(params.broken(context.request.compute))?;
        let tokenizer_dir = context.input("tokenizer")?;
        let tokenizer = TextTokenizer::open(&tokenizer_dir)?;
        let source = context.input("model")?;
        let chat = Chat::of_model(&source, &tokenizer, params.template)
            .map_err(|e| StageError::fail("convert::template", e.to_string()).hint(e.hint()))?;
        let model = |error: ModelError| StageError::from(error.with_code("convert::model"));
        let stored = olmo_model::open(&source).map_err(model)?;
        let mut config = stored.config().clone();
        check_tokenizer(&config, tokenizer.special(), "convert")?;
        // The stop token of an answer comes first: some readers support one eos id only and take
        // the first.
        let before = std::mem::replace(&mut config.eos_token_ids, chat.stop_token_ids());
        for id in before {
            if !config.eos_token_ids.contains(&id) {
                config.eos_token_ids.push(id);
            }
        }
        config.pad_token_id = Some(tokenizer.special().pad_token_id);
        if params.vocab == Vocab::Trimmed {
            config.vocab_size = tokenizer.special().vocab_size as usize;
            config.embedding_size = None;
        }
        let weights = ResizedVocabulary::new(&stored, &config).map_err(model)?;
        let dir = context.output("model")?;
        context.check_stop()?;
        let dtype = params.dtype;
        match params.to {
            Format::Huggingface => olmo_model::save_huggingface(&dir, &config, &weights, dtype, params.most()),
            Format::OlmoCore => olmo_model::save_olmo_core(&dir, &config, &weights, dtype),
            Format::Olmo => olmo_model::save_olmo(&dir, &config, &weights, dtype),
            Format::Gguf => {
                let path = tokenizer_dir.join("tokenizer.json");
                let bytes = fs::read(&path).map_err(|e| StageError::io(&path, e))?;
                let keys = gguf_keys(&bytes, &chat, config.embedding_rows(), "convert")?;
                olmo_model::save_gguf(&dir, &config, &weights, params.gguf_type(), &keys)
            }
        }
        .map_err(model)?;
        if params.to != Format::Gguf {
            let tokenizer_out = if params.to == Format::OlmoCore { dir.join("tokenizer") } else { dir.clone() };
            fs::create_dir_all(&tokenizer_out).map_err(|e| StageError::io(&tokenizer_out, e))?;
            tokenizer_files::write(&tokenizer_out, &tokenizer_dir, &chat, config.max_sequence_length)?;
            clean_tokenizer(&tokenizer_out.join("tokenizer.json"), context)?;
        }
        context.check_stop()?;
        let export = olmo_model::open(&dir).map_err(model)?;
        let rounded: Box<dyn WeightSource + '_> = match params.to {
            Format::Gguf => Box::new(GgufRounded::new(&weights, &config, params.gguf_type()).map_err(model)?),
            _ => Box::new(Rounded::new(&weights, dtype)),
        };
        // By the names in both files, if there is a table of them that the export did not use.
        let tensors = match params.to == Format::Huggingface && olmo_model::has_known_names(&source).map_err(model)? {
            true => check::compare_files(&source, &dir, dtype, config.embedding_rows())?,
            false => check::compare_weights(&*rounded, &export)?,
        };
        context.check_stop()?;
        let placement = params.placement(context.request.compute);
        let rounded = (params.rounding() != WeightType::Float32.as_str()).then_some(&*rounded);
        let mut report =
            check::compare_logits((&config, &weights), &export, (params.rounding(), rounded), tensors, &placement)?;
        if let Some(data) = context.optional_input("data") {
            context.check_stop()?;
            report.perplexity = Some(perplexity::compare(&data, [&source, &dir], &placement)?);
        }
        write_json(&context.output("report")?.join("report.json"), &report)?;
        context.message(report.to_string());
        report.verdict()
    }
}

/// A size in bytes: a number with `KB`, `MB`, `GB` (powers of 1000), `KiB`, `MiB` or `GiB` (powers of
/// 1024), as `transformers` reads it.
fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 6] =
        [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("KB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)];
    let size = UNITS.iter().find_map(|(unit, size)| {
        let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        number.checked_mul(*size).filter(|size| *size > 0)
    });
    size.ok_or_else(|| format!("\"{text}\" is no size; write one such as 5GB, 500MB or 512MiB"))
}

/// Removes truncation, padding and dropout from the exported `tokenizer.json`, with a warning.
/// Tokenizers from stage `tokenizer` have none of these settings.
fn clean_tokenizer(path: &Path, context: &mut Context) -> Result<(), StageError> {
    let bytes = fs::read(path).map_err(|e| StageError::io(path, e))?;
    let Some(cleaned) = tokenizer_json::clean(&bytes) else { return Ok(()) };
    fs::write(path, &cleaned.bytes).map_err(|e| StageError::io(path, e))?;
    context.warning(format!("removed from the exported tokenizer.json: {}", cleaned.removed.join(", ")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        assert_eq!(parse_size("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        assert_eq!(parse_size("3 KB"), Ok(3000));
        for wrong in ["", "5", "GB", "0GB", "-1GB", "1.5GB", "5gb", "99999999999999GB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
