//! AI2's presets: architectures by family, and the sizes of OLMo-core.
//!
//! A preset is a set of fields of a [`super::ModelConfig`]. A key of the cache contains only its
//! name, so a change of its values must raise the version of stage `train`.

use serde_json::{Map, Value, json};

/// The family names. Each is also a preset, without sizes.
const FAMILIES: [&str; 3] = ["olmo1", "olmo2", "olmo3"];

/// Sizes of a preset, with the names of OLMo-core's `TransformerConfig`.
struct Size {
    label: &'static str,
    families: &'static [&'static str],
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    /// Width of a head, if it is not `d_model / n_heads`.
    head_dim: Option<usize>,
    /// Inner width of the MLP (OLMo-core's `feed_forward.hidden_size`).
    mlp_width: usize,
}

const BOTH: &[&str] = &["olmo2", "olmo3"];
const OLMO2: &[&str] = &["olmo2"];
const OLMO3: &[&str] = &["olmo3"];

/// The sizes of OLMo-core 3.0.0 (`TransformerConfig.olmo2_190M()` and so on). `1B_v2` is the size
/// of the released OLMo 2 1B.
#[rustfmt::skip]
const SIZES: [Size; 17] = [
    Size { head_dim: Some(4), ..size("1M", BOTH, 12, 4, 4, 4, 256) },
    size("14M",   BOTH,    128,  4,  8,  8,   512),
    size("30M",   BOTH,    256,  4,  8,  8,   768),
    size("60M",   BOTH,    384,  8,  8,  8,  1536),
    size("100M",  BOTH,    512, 12,  8,  8,  2048),
    size("190M",  BOTH,    768, 12, 12, 12,  3072),
    size("370M",  BOTH,   1024, 16, 16, 16,  4096),
    size("600M",  OLMO2,  1344, 16, 16, 16,  5376),
    size("600M",  OLMO3,  1280, 16, 16, 16,  5120),
    size("760M",  BOTH,   1536, 16, 16, 16,  6144),
    size("1B",    OLMO2,  2048, 18, 16, 16,  8192),
    size("1B",    OLMO3,  2048, 16, 16, 16,  8192),
    size("1B_v2", OLMO2,  2048, 16, 16, 16,  8192),
    size("3B",    BOTH,   3328, 16, 16, 16, 13312),
    size("7B",    BOTH,   4096, 32, 32, 32, 11008),
    size("13B",   BOTH,   5120, 40, 40, 40, 13824),
    size("32B",   BOTH,   5120, 64, 40,  8, 27648),
];

const fn size(
    label: &'static str,
    families: &'static [&'static str],
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    mlp_width: usize,
) -> Size {
    Size { label, families, d_model, n_layers, n_heads, n_kv_heads, head_dim: None, mlp_width }
}

/// The names of all presets: the families, then each family's sizes from small to large.
pub(super) fn names() -> Vec<String> {
    let sized = FAMILIES.iter().flat_map(|family| {
        let sizes = SIZES.iter().filter(move |size| size.families.contains(family));
        sizes.map(move |size| format!("{family}-{}", size.label))
    });
    FAMILIES.iter().map(|family| (*family).to_owned()).chain(sized).collect()
}

/// The fields of preset `name`, if there is one.
pub(super) fn fields(name: &str) -> Option<Map<String, Value>> {
    let (family, label) = name.split_once('-').map_or((name, None), |(family, label)| (family, Some(label)));
    let mut fields = family_fields(family)?;
    if let Some(label) = label {
        let size = SIZES.iter().find(|size| size.label == label && size.families.contains(&family))?;
        fields.insert("d_model".into(), size.d_model.into());
        fields.insert("n_heads".into(), size.n_heads.into());
        if size.n_kv_heads != size.n_heads {
            fields.insert("n_kv_heads".into(), size.n_kv_heads.into());
        }
        if let Some(width) = size.head_dim {
            fields.insert("head_dim".into(), width.into());
        }
        fields.insert("n_layers".into(), size.n_layers.into());
        fields.insert("mlp_hidden_size".into(), (2 * size.mlp_width).into());
    }
    Some(fields)
}

/// Architecture and initialisation of a family, as in the configs of its released models
/// (`configs/official-*` of OLMo; `olmo3` of OLMo-core). Of OLMo 1, those of the 7B: its 1B ties
/// the weights, and the 7B of April 2024 clips queries, keys and values at 8.
fn family_fields(family: &str) -> Option<Map<String, Value>> {
    let olmo2 = json!({
        "layer_norm_type": "rms", "layer_norm_with_affine": true, "layer_norm_eps": 1e-6, "attention_layer_norm": true,
        "norm_after": true, "rope_theta": 500_000.0, "embedding_size": null, "weight_tying": false,
        "init_fn": "normal", "init_std": 0.02, "init_cutoff_factor": 3.0,
    });
    let changes = match family {
        "olmo1" => json!({
            "layer_norm_type": "default", "layer_norm_with_affine": false, "layer_norm_eps": 1e-5,
            "attention_layer_norm": false, "norm_after": false, "rope_theta": 10_000.0, "init_fn": "mitchell",
            "init_cutoff_factor": null,
        }),
        "olmo2" => json!({}),
        // Three windows, then full attention.
        "olmo3" => json!({"sliding_window": 4096, "full_attention_every": 4}),
        _ => return None,
    };
    let mut fields = olmo2.as_object().cloned()?;
    fields.extend(changes.as_object().cloned()?);
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_fields_and_other_names_have_none() {
        let names = names();
        assert!(names.len() > 30 && names.iter().all(|name| fields(name).is_some()));
        for name in ["", "olmo", "olmo1-7B", "olmo2-", "olmo2-7b", "olmo3-1B_v2", "olmo2-190M-x"] {
            assert!(!names.contains(&name.to_owned()) && fields(name).is_none(), "{name}");
        }
    }
}
