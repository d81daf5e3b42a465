//! Reads a Hugging Face `config.json`.
//!
//! Every key is either understood, known not to change the logits, or reported by name. Ignoring a
//! key by mistake would give different answers without an error, so there are no exceptions.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::architecture::{Architecture, FULL, MODEL_TYPE, OLMO1_EPS, SLIDING, VOCABULARY, layer_types};
use crate::config::{InitFnType, LayerNormType, ModelConfig, token_ids};

/// Default of `transformers` for `sliding_window`.
const OLMO3_WINDOW: usize = 4096;

/// Default of `transformers` 5 for OLMo 3's rotary base, even if the other kind of block has a
/// different one.
const OLMO3_THETA: f64 = 500_000.0;

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
struct Reader<'a> {
    fields: &'a Map<String, Value>,
    read: BTreeSet<&'static str>,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    /// The value of `key`; null counts as absent.
    fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.read.insert(key);
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(&mut self, key: &'static str, wanted: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.value(key)?;
        let typed = read(value);
        if typed.is_none() {
            self.problems.push(format!("`{key}` is {}, not {wanted}", shown(value)));
        }
        typed
    }

    fn whole(&mut self, key: &'static str) -> Option<usize> {
        self.typed(key, "a whole number", |value| value.as_u64().and_then(|number| usize::try_from(number).ok()))
    }

    fn number(&mut self, key: &'static str) -> Option<f64> {
        self.typed(key, "a number", Value::as_f64)
    }

    fn flag(&mut self, key: &'static str) -> bool {
        self.typed(key, "true or false", Value::as_bool).unwrap_or(false)
    }

    fn required(&mut self, key: &'static str) -> usize {
        if self.value(key).is_none() {
            self.problems.push(format!("`{key}` is missing"));
        }
        self.whole(key).unwrap_or(0)
    }

    /// Like [`Reader::value`], but null is an error: `transformers` cannot compute with it.
    fn not_null(&mut self, key: &'static str) {
        if self.fields.get(key).is_some_and(Value::is_null) {
            self.problems.push(format!("`{key}` is null; give the number that the model was trained with"));
        }
    }

    fn ids(&mut self, key: &'static str) -> Vec<u32> {
        self.read.insert(key);
        read_token_ids(self.fields, key).unwrap_or_else(|problem| {
            self.problems.push(problem);
            Vec::new()
        })
    }

    /// Reports every key that was not read and is not known to be harmless.
    fn finish(&mut self, architecture: Architecture) {
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
fn shown(value: &Value) -> String {
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

/// Converts a Hugging Face config to ours.
///
/// # Errors
/// Every key that is missing, has a value of the wrong kind, or would change the logits in an
/// unsupported way.
pub(super) fn understand(fields: &Map<String, Value>) -> Result<ModelConfig, Vec<String>> {
    let architecture = match fields.get(MODEL_TYPE).and_then(Value::as_str) {
        Some("olmo") => Architecture::Olmo1,
        Some("olmo2") => Architecture::Olmo2,
        Some("olmo3") => Architecture::Olmo3,
        other => {
            let found = other.map_or("not a text".into(), |name| format!("{name:?}"));
            let help = match other {
                Some("hf_olmo") => "; take the repository whose name ends with `-hf`",
                _ => "",
            };
            let message = format!("`{MODEL_TYPE}` is {found}; supported are \"olmo\", \"olmo2\" and \"olmo3\"{help}");
            return Err(vec![message]);
        }
    };
    let mut reader = Reader { fields, read: BTreeSet::from([MODEL_TYPE]), problems: Vec::new() };
    if let Some(classes) = reader.value("architectures") {
        let classes_list = classes.as_array().map_or(&[][..], Vec::as_slice);
        if !classes.is_array() || classes_list.iter().any(|class| class != architecture.class()) {
            reader.problems.push(format!(
                "`architectures` is {}; {} is supported only as {}",
                shown(classes),
                architecture.model_type(),
                architecture.class()
            ));
        }
    }
    for key in ["quantization_config", "compression_config"] {
        if let Some(quantization) = reader.value(key) {
            let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("an unnamed method");
            reader.problems.push(format!(
                "`{key}` says that the weights are quantized ({method}), which is not supported; take the model from \
                 before quantization"
            ));
        }
    }
    if let Some(act) = reader.value("hidden_act").filter(|act| *act != "silu" && *act != "swish") {
        reader.problems.push(format!("`hidden_act` is {}; only \"silu\" is supported", shown(act)));
    }
    if reader.flag("attention_bias") {
        reader.problems.push("`attention_bias` is true; biases in attention are not supported".into());
    }
    let d_model = reader.required("hidden_size");
    let n_heads = reader.required("num_attention_heads");
    if let Some(width) = reader.whole("head_dim")
        && Some(width) != d_model.checked_div(n_heads)
    {
        reader.problems.push(format!(
            "`head_dim` is {width}; only `hidden_size` / `num_attention_heads` ({d_model} / {n_heads}) is supported"
        ));
    }
    let n_layers = reader.required("num_hidden_layers");
    let rows = reader.required("vocab_size");
    let vocab_size = reader.whole(VOCABULARY).unwrap_or(rows);
    let later = architecture != Architecture::Olmo1;
    let (sliding_window, full_attention_every) = attention_kinds(&mut reader, architecture, n_layers);
    let clip_qkv = reader.number("clip_qkv");
    if later && let Some(clip) = clip_qkv {
        reader.problems.push(format!(
            "`clip_qkv` is {clip}, but `transformers` has no clamp in {}; remove it if the model was trained without",
            architecture.model_type()
        ));
    }
    let layer_norm_eps = if later {
        reader.not_null("rms_norm_eps");
        reader.number("rms_norm_eps").unwrap_or(1e-5)
    } else {
        OLMO1_EPS
    };
    let config = ModelConfig {
        d_model,
        n_heads,
        n_kv_heads: reader.whole("num_key_value_heads"),
        clip_qkv,
        n_layers,
        mlp_hidden_size: reader.required("intermediate_size").saturating_mul(2),
        layer_norm_type: if later { LayerNormType::Rms } else { LayerNormType::Default },
        layer_norm_with_affine: later,
        layer_norm_eps,
        attention_layer_norm: later,
        norm_after: later,
        sliding_window,
        full_attention_every,
        rope_theta: rope_theta(&mut reader, architecture),
        max_sequence_length: reader.whole("max_position_embeddings").unwrap_or(2048),
        vocab_size,
        embedding_size: (vocab_size != rows).then_some(rows),
        weight_tying: reader.flag("tie_word_embeddings"),
        eos_token_ids: reader.ids("eos_token_id"),
        pad_token_id: reader.ids("pad_token_id").first().copied(),
        init_fn: InitFnType::Normal,
        init_std: reader.number("initializer_range").unwrap_or(0.02),
        init_cutoff_factor: None,
    };
    reader.finish(architecture);
    if reader.problems.is_empty() { Ok(config) } else { Err(reader.problems) }
}

/// The window, and the interval of blocks with full attention.
fn attention_kinds(
    reader: &mut Reader<'_>,
    architecture: Architecture,
    layers: usize,
) -> (Option<usize>, Option<usize>) {
    let kinds = reader.value("layer_types");
    if architecture != Architecture::Olmo3 {
        let all_full = |kinds: &Value| kinds.as_array().is_some_and(|kinds| kinds.iter().all(|kind| kind == FULL));
        if let Some(kinds) = kinds.filter(|kinds| !all_full(kinds)) {
            let what = shown(kinds);
            reader
                .problems
                .push(format!("`layer_types` is {what}; {} has full attention only", architecture.model_type()));
        }
        if let Some(window) = reader.value("sliding_window") {
            let what = shown(window);
            reader.problems.push(format!("`sliding_window` is {what}; only olmo3 has a window"));
        }
        return (None, None);
    }
    reader.not_null("sliding_window");
    let window = Some(reader.whole("sliding_window").unwrap_or(OLMO3_WINDOW));
    // Without a list, every fourth block uses full attention.
    let Some(kinds) = kinds else { return (window, Some(4)) };
    let names: Vec<&str> = kinds.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let every = names.iter().position(|kind| *kind == FULL).map(|index| index + 1);
    // The config may claim any number of layers; the length of the list is real.
    if names.len() != layers || names != layer_types(names.len(), every) {
        let what = shown(kinds);
        reader.problems.push(format!(
            "`layer_types` is {what}; only a full block after every same number of sliding ones is supported, {layers} in all"
        ));
    }
    (window, every)
}

/// The rotary base from every place where versions of `transformers` write it: `rope_theta` and
/// `rope_scaling` (4), `rope_parameters` (5), for OLMo 3 with an entry per kind of block. All must
/// agree.
fn rope_theta(reader: &mut Reader<'_>, architecture: Architecture) -> f64 {
    let flat = reader.number("rope_theta");
    let mut found: Vec<(String, f64)> = flat.into_iter().map(|theta| ("rope_theta".to_owned(), theta)).collect();
    let named = |name: &str, theta: Option<f64>| theta.map(|theta| (format!("{name}.rope_theta"), theta));
    if let Some(scaling) = reader.value("rope_scaling") {
        found.extend(named("rope_scaling", rope_part(reader, "rope_scaling", scaling)));
    }
    let parameters = reader.value("rope_parameters");
    let mut theta_default = Some(10_000.0);
    if let Some(parameters) = parameters {
        let own = rope_part(reader, "rope_parameters", parameters);
        found.extend(named("rope_parameters", own));
        if architecture != Architecture::Olmo3 {
            theta_default = own.or(theta_default);
        }
    }
    if architecture == Architecture::Olmo3 {
        // `transformers` 5 reads only the entries of each kind. Version 4 knows only `rope_theta`.
        for kind in [FULL, SLIDING] {
            let part = parameters.and_then(|parameters| parameters.get(kind)).filter(|part| !part.is_null());
            let name = format!("rope_parameters.{kind}");
            let own = part.and_then(|part| rope_part(reader, &name, part));
            found.extend(named(&name, own));
            if own.is_none() && flat.is_none() && parameters.is_some() {
                found.push((format!("rope_parameters.{kind}.rope_theta, by default"), OLMO3_THETA));
            }
        }
        theta_default = None;
    }
    if let Some((first, rest)) = found.split_first()
        && let Some(other) = rest.iter().find(|other| other.1 != first.1)
    {
        let (a, b) = (format!("`{}` is {}", first.0, first.1), format!("`{}` is {}", other.0, other.1));
        reader.problems.push(format!("{a}, {b}; one rotary base for all blocks is supported"));
    }
    match found.first().map(|(_, theta)| *theta).or(theta_default) {
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

/// The base in one set of rotary parameters, which may contain nothing else that matters.
fn rope_part(reader: &mut Reader<'_>, name: &str, value: &Value) -> Option<f64> {
    let Some(parameters) = value.as_object() else {
        reader.problems.push(format!("`{name}` is {}, not an object", shown(value)));
        return None;
    };
    let kinds = ["rope_type", "type"].iter().filter_map(|key| Some((key, parameters.get(*key)?)));
    if let Some((key, kind)) = kinds.into_iter().find(|(_, kind)| **kind != "default" && !kind.is_null()) {
        reader.problems.push(format!(
            "`{name}.{key}` is {}; only \"default\", positions without scaling, is supported",
            shown(kind)
        ));
        return None;
    }
    let mut theta = None;
    for (key, value) in parameters.iter().filter(|(_, value)| !value.is_null()) {
        match key.as_str() {
            "rope_type" | "type" => {}
            "rope_theta" => {
                theta = value.as_f64();
                if theta.is_none() {
                    reader.problems.push(format!("`{name}.rope_theta` is {}, not a number", shown(value)));
                }
            }
            "partial_rotary_factor" | "factor" if value.as_f64() == Some(1.0) => {}
            // The entries per kind of block, which the caller reads for the architecture that has
            // them.
            FULL | SLIDING if name == "rope_parameters" && reader.fields[MODEL_TYPE] == "olmo3" => {}
            _ => reader.problems.push(format!("`{name}.{key}` is {}, which is not supported", shown(value))),
        }
    }
    theta
}
