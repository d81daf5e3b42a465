//! [`Reader`]: reads the values of a Hugging Face `config.json`, and reports every key that is
//! neither read nor known to be harmless.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::architecture::{Architecture, OLMO1_EPS};
use crate::config::token_ids;

/// Keys that never change the logits of these architectures, whatever their value.
const HARMLESS: &[&str] = &[
    // Provenance and bookkeeping of `save_pretrained` and of fine-tuning tools.
    "_commit_hash",
    "_from_model_config",
    "_name_or_path",
    "model_max_length",
    "name_or_path",
    "tokenizer_class",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    // How the same function is computed: precision in memory, kernels, caches, chunks.
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_experts_implementation",
    "_flash_attn_2_enabled",
    "attn_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "gradient_checkpointing",
    "torch_dtype",
    "torchscript",
    "use_bfloat16",
    "use_cache",
    // What is returned in addition to the logits.
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "tie_last_hidden_states",
    // Training only.
    "attention_dropout",
    "tf_legacy_loss",
    // Labels of classification heads, which a causal language model does not have.
    "finetuning_task",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "task_specific_params",
    // Token ids and settings of `generate`, from before they had their own file.
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cls_token_id",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "prefix",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "unk_token_id",
    // Ignored by `transformers`: a causal language model is a decoder in any case.
    "is_decoder",
];

/// Keys of other architectures, with the value at which they have no effect. Null is neutral for
/// every key.
fn neutral(key: &str, architecture: Architecture) -> Option<Value> {
    Some(match key {
        // Computations that OLMo does not have.
        "add_cross_attention"
        | "alibi"
        | "attention_sinks"
        | "lm_head_bias"
        | "is_encoder_decoder"
        | "mlp_bias"
        | "rope_interleaved"
        | "scale_logits"
        | "tie_encoder_decoder"
        | "use_bias" => json!(false),
        "use_sliding_window" => json!(architecture == Architecture::Olmo3),
        // Factors.
        "embedding_multiplier"
        | "lm_head_multiplier"
        | "logit_scale"
        | "logits_scaling"
        | "partial_rotary_factor"
        | "pretraining_tp"
        | "residual_multiplier"
        | "rotary_pct"
        | "scale_emb" => json!(1),
        "embd_pdrop" | "embedding_dropout" | "hidden_dropout" | "resid_pdrop" | "residual_dropout" => json!(0),
        // OLMo 1's norms have this eps regardless of the config.
        "layer_norm_eps" | "rms_norm_eps" if architecture == Architecture::Olmo1 => json!(OLMO1_EPS),
        "auto_map" | "per_layer_config" | "pruned_heads" => json!({}),
        _ => return None,
    })
}

/// Reads values and records which keys were read and what is wrong with them.
pub(super) struct Reader<'a> {
    pub fields: &'a Map<String, Value>,
    pub read: BTreeSet<&'static str>,
    pub problems: Vec<String>,
}

impl<'a> Reader<'a> {
    /// The value of `key`; null counts as absent.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.read.insert(key);
        self.fields.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn typed<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let typed = read(value);
        if typed.is_none() {
            self.problems.push(format!("`{key}` is {}, not {wanted}", shown(value)));
        }
        typed
    }

    pub(super) fn whole(&mut self, key: &'static str) -> Option<usize> {
        self.typed(key, "a whole number", |value| value.as_u64().and_then(|number| usize::try_from(number).ok()))
    }

    pub(super) fn number(&mut self, key: &'static str) -> Option<f64> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        self.typed(key, "true or false", Value::as_bool).unwrap_or(false)
    }

    pub(super) fn required(&mut self, key: &'static str) -> usize {
        if self.value(key).is_none() {
            self.problems.push(format!("`{key}` is missing"));
        }
        self.whole(key).unwrap_or(0)
    }

    /// Like [`Reader::value`], but null is an error: `transformers` cannot compute with it.
    pub(super) fn not_null(&mut self, key: &'static str) {
        if self.fields.get(key).is_some_and(Value::is_null) {
            self.problems.push(format!("`{key}` is null; give the number that the model was trained with"));
        }
    }

    pub(super) fn ids(&mut self, key: &'static str) -> Vec<u32> {
        self.read.insert(key);
        read_token_ids(self.fields, key).unwrap_or_else(|problem| {
            self.problems.push(problem);
            Vec::new()
        })
    }

    /// Reports every key that was not read and is not known to be harmless.
    pub(super) fn finish(&mut self, architecture: Architecture) {
        let model_type = architecture.model_type();
        for (key, value) in self.fields {
            if self.read.contains(key.as_str()) || value.is_null() || HARMLESS.contains(&key.as_str()) {
                continue;
            }
            let value_shown = shown(value);
            self.problems.push(match neutral(key, architecture) {
                Some(neutral) if same(&neutral, value) => continue,
                Some(neutral) => format!("`{key}` is {value_shown}; {model_type} is supported only with {neutral}"),
                None => format!(
                    "`{key}` is {value_shown}, and olmo-pipe does not know this key of {model_type}; it may change the \
                     model's answers. If it does not, remove it from the file"
                ),
            });
        }
    }
}

/// Whether two JSON values are equal; 1 equals 1.0.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| a == b)
}

/// Formats a value for a message.
pub(super) fn shown(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        None => text,
        Some((at, _)) => format!("{} …", &text[..at]),
    }
}

/// The token ids under `key`, a number or a list; none if it is absent or null.
pub(super) fn read_token_ids(fields: &Map<String, Value>, key: &str) -> Result<Vec<u32>, String> {
    let value = fields.get(key).unwrap_or(&Value::Null);
    token_ids::deserialize(value)
        .map_err(|_| format!("`{key}` is {}, not a token id or a list of token ids", shown(value)))
}
