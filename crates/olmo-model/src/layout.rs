//! The tensors of a model: names, shapes, and positions in the flat array.

use std::ops::Range;

use olmo_ops::{BlockWeights, Linear, Trained, Weight};

use crate::config::ModelConfig;

/// The role of a tensor, which decides its initialisation and whether weight decay applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Embedding,
    Head,
    Norm,
    /// A projection in a block.
    Projection(Projection),
}

/// The four matrices of a block; `layer` starts at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Projection {
    Input,
    AttentionOutput { layer: usize },
    MlpOutput { layer: usize },
}

/// One tensor of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// OLMo's name.
    pub name: String,
    /// Rows and columns, or the width of a norm.
    pub shape: Vec<usize>,
    /// Range of its elements in the flat array, row-major.
    pub range: Range<usize>,
    pub(crate) role: Role,
}

impl TensorSpec {
    /// Whether each row belongs to a token of the vocabulary.
    pub(crate) fn has_vocabulary_rows(&self) -> bool {
        matches!(self.role, Role::Embedding | Role::Head)
    }
}

/// Ranges of the vectors of a model: the weights of its norms.
pub fn vectors(config: &ModelConfig) -> Vec<Range<usize>> {
    layout(config).into_iter().filter(|spec| spec.shape.len() == 1).map(|spec| spec.range).collect()
}

/// Number of weights of a model with `config`.
pub fn weights(config: &ModelConfig) -> usize {
    layout(config).last().map_or(0, |tensor| tensor.range.end)
}

/// The tensors of a config in the order of the flat array: sorted by name.
pub(crate) fn layout(config: &ModelConfig) -> Vec<TensorSpec> {
    let (d, q, kv) = (config.d_model, config.query_width(), config.kv_width());
    let rows = config.embedding_rows();
    let mut tensors = vec![(wte(), vec![rows, d], Role::Embedding)];
    if !config.weight_tying {
        tensors.push((head(), vec![rows, d], Role::Head));
    }
    if config.layer_norm_with_affine {
        tensors.push((final_norm(), vec![d], Role::Norm));
    }
    for layer in 0..config.n_layers {
        let mut add = |part: &str, shape: Vec<usize>, role: Role| tensors.push((block(layer, part), shape, role));
        add("att_proj", vec![q + 2 * kv, d], Role::Projection(Projection::Input));
        add("attn_out", vec![d, q], Role::Projection(Projection::AttentionOutput { layer }));
        add("ff_proj", vec![config.mlp_hidden_size, d], Role::Projection(Projection::Input));
        add("ff_out", vec![d, config.mlp_width()], Role::Projection(Projection::MlpOutput { layer }));
        if config.layer_norm_with_affine {
            add("attn_norm", vec![d], Role::Norm);
            add("ff_norm", vec![d], Role::Norm);
        }
        if config.attention_layer_norm {
            add("q_norm", vec![q], Role::Norm);
            add("k_norm", vec![kv], Role::Norm);
        }
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut start = 0;
    tensors
        .into_iter()
        .map(|(name, shape, role)| {
            let range = start..start + shape.iter().product::<usize>();
            start = range.end;
            TensorSpec { name, shape, range, role }
        })
        .collect()
}

/// The weights in the flat array, by role.
#[derive(Clone, Debug)]
pub struct ModelWeights {
    /// `[embedding rows, d_model]`.
    pub embedding: Linear,
    /// Those of each block.
    pub blocks: Vec<BlockWeights<Linear, Weight>>,
    /// `[d_model]`, if norms have weights.
    pub final_norm: Option<Weight>,
    /// `[embedding rows, d_model]`; equals the embedding if the two are tied.
    pub head: Linear,
}

impl ModelWeights {
    /// The weights of a valid config, all without gradients.
    pub fn frozen(config: &ModelConfig) -> ModelWeights {
        ModelWeights::new(config, &layout(config), &Trained::new([]))
    }

    /// The weights of `specs`, the layout of a valid config.
    pub(crate) fn new(config: &ModelConfig, specs: &[TensorSpec], trained: &Trained) -> ModelWeights {
        let vector = |name: String| {
            let index = specs.binary_search_by(|spec| spec.name.as_str().cmp(&name)).ok()?;
            Some(trained.weight(specs[index].range.clone()))
        };
        let matrix = |name: String, inputs: usize| match vector(name.clone()) {
            Some(weight) => Linear::new(weight, inputs),
            None => unreachable!("every layout has {name}"),
        };
        let (d, heads) = (config.d_model, config.query_width());
        let block = |layer: usize| BlockWeights {
            att_proj: matrix(block(layer, "att_proj"), d),
            attn_out: matrix(block(layer, "attn_out"), heads),
            ff_proj: matrix(block(layer, "ff_proj"), d),
            ff_out: matrix(block(layer, "ff_out"), config.mlp_width()),
            attn_norm: vector(block(layer, "attn_norm")),
            ff_norm: vector(block(layer, "ff_norm")),
            q_norm: vector(block(layer, "q_norm")),
            k_norm: vector(block(layer, "k_norm")),
        };
        ModelWeights {
            embedding: matrix(wte(), d),
            blocks: (0..config.n_layers).map(block).collect(),
            final_norm: vector(final_norm()),
            head: matrix(if config.weight_tying { wte() } else { head() }, d),
        }
    }
}

/// The trained weights of a model: all but those whose names are `frozen`.
pub fn trained(config: &ModelConfig, frozen: impl Fn(&str) -> bool) -> Trained {
    Trained::new(layout(config).into_iter().filter(|spec| !frozen(&spec.name)).map(|spec| spec.range))
}

/// Name of the embedding.
pub(crate) fn wte() -> String {
    "transformer.wte.weight".into()
}

/// Name of the head, if it is not tied to the embedding.
pub(crate) fn head() -> String {
    "transformer.ff_out.weight".into()
}

/// Name of the final norm's weight.
pub(crate) fn final_norm() -> String {
    "transformer.ln_f.weight".into()
}

/// Name of a block's tensor.
pub(crate) fn block(layer: usize, part: &str) -> String {
    format!("transformer.blocks.{layer}.{part}.weight")
}
