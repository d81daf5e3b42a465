//! Tables of the rotary position embedding.

use std::sync::Arc;

/// The rotary position embedding of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies for longer sequences than those of pretraining.
    pub scaling: RopeScaling,
    /// Factor of all cosines and sines, and so of the square root of the scores.
    pub attention_factor: f32,
}

/// A change of the frequencies of a rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// Divides all frequencies by a factor: position interpolation.
    Linear(f32),
    /// Divides low frequencies by a factor and keeps high ones.
    Yarn(Yarn),
}

/// YaRN (<https://arxiv.org/abs/2309.00071>): a pair of a head that turns at least `beta_fast` times
/// in the original context keeps its frequency, one that turns at most `beta_slow` times has it
/// divided by `factor`, and those between have a mixture.
///
/// YaRN also scales the scores; that is [`RopeConfig::attention_factor`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// Divisor of low frequencies; at least 1.
    pub factor: f64,
    /// Number of turns from which a frequency is kept.
    pub beta_fast: f64,
    /// Number of turns up to which a frequency is divided.
    pub beta_slow: f64,
    /// Length of the original context in tokens.
    pub old_context_len: usize,
}

impl Yarn {
    /// The share of each pair that is divided, from 0 to 1, `[head_dim / 2]`.
    ///
    /// The steps and types are those of `transformers` 5.23 (`_compute_yarn_parameters`): bounds
    /// in f64, the ramp in f32.
    fn ramp(&self, theta: f64, head_dim: usize) -> Vec<f32> {
        let dim = head_dim as f64;
        let pair_with = |turns: f64| {
            dim * (self.old_context_len as f64 / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln())
        };
        let low = pair_with(self.beta_fast).floor().max(0.0);
        let mut high = pair_with(self.beta_slow).ceil().min(dim - 1.0);
        if low == high {
            high += 0.001;
        }
        let share = |pair: usize| ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        (0..head_dim / 2).map(share).collect()
    }
}

impl RopeConfig {
    /// Without scaling.
    pub fn new(theta: f64) -> RopeConfig {
        RopeConfig { theta, scaling: RopeScaling::None, attention_factor: 1.0 }
    }

    /// The frequencies of the pairs of a head, `[head_dim / 2]`.
    fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let wavelength = |pair: usize| {
            let exponent = (2 * pair) as f32 / head_dim as f32;
            self.theta.powf(f64::from(exponent)) as f32
        };
        let wavelengths = (0..head_dim / 2).map(wavelength);
        match self.scaling {
            RopeScaling::None => wavelengths.map(|wavelength| 1.0 / wavelength).collect(),
            RopeScaling::Linear(factor) => wavelengths.map(|wavelength| 1.0 / wavelength / factor).collect(),
            RopeScaling::Yarn(yarn) => {
                let mix = |(wavelength, divided): (f32, f32)| {
                    let kept = 1.0 - divided;
                    1.0 / (yarn.factor as f32 * wavelength) * (1.0 - kept) + 1.0 / wavelength * kept
                };
                wavelengths.zip(yarn.ramp(self.theta, head_dim)).map(mix).collect()
            }
        }
    }
}

/// Cosines and sines of every position's angles, `[positions, head_dim / 2]` each.
///
/// Angles are f32 products, as in OLMo and `transformers`: at large positions, exact angles would
/// differ from theirs.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    config: RopeConfig,
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// Tables for positions `0..positions`.
    pub fn new(config: RopeConfig, head_dim: usize, positions: usize) -> Rope {
        let half = head_dim / 2;
        let frequencies = config.frequencies(head_dim);
        let (mut cos, mut sin) = (Vec::with_capacity(positions * half), Vec::with_capacity(positions * half));
        for position in 0..positions {
            for frequency in &frequencies {
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32 * config.attention_factor);
                sin.push(angle.sin() as f32 * config.attention_factor);
            }
        }
        Rope { config, half, cos, sin }
    }

    /// The embedding that the tables are of.
    pub fn config(&self) -> &RopeConfig {
        &self.config
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(0)
    }

    /// All cosines, row-major.
    pub fn cosines(&self) -> &[f32] {
        &self.cos
    }

    /// All sines, row-major.
    pub fn sines(&self) -> &[f32] {
        &self.sin
    }

    /// Cosines and sines of one position, each `head_dim / 2` long.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Positions of the tokens of a batch: rows of `sequence` tokens, and within a row documents that
/// do not attend to each other.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Rotary tables for at least `sequence` positions.
    pub rope: &'a Rope,
    /// Row length in tokens.
    pub sequence: usize,
    /// For each token of the batch, the position in its row where its document begins: at most its
    /// own position, and never decreasing within a row. `None`: each row is one document.
    pub documents: Option<&'a [u32]>,
}

impl<'a> Places<'a> {
    /// Rows of one document each.
    pub fn rows(rope: &'a Rope, sequence: usize) -> Places<'a> {
        Places { rope, sequence, documents: None }
    }

    /// Start of the document of the token at `place` in row `row`.
    #[inline(always)]
    pub(crate) fn document(&self, row: usize, place: usize) -> usize {
        self.documents.map_or(0, |all| all[row * self.sequence + place] as usize)
    }

    /// # Panics
    /// The tables are too short, or the documents violate the rules of their field.
    pub(crate) fn check(&self, tokens: usize) {
        assert!(self.rope.positions() >= self.sequence, "the rotary tables reach the sequence's length");
        let Some(documents) = self.documents else { return };
        assert_eq!(documents.len(), tokens, "every token has a document");
        for row in documents.chunks(self.sequence.max(1)) {
            let mut before = 0;
            for (place, &start) in row.iter().enumerate() {
                assert!(
                    start >= before && start as usize <= place,
                    "documents begin at or before their tokens, in order"
                );
                before = start;
            }
        }
    }
}

/// Positions of the tokens of a batch, like [`Places`], for a node that outlives the call.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Rotary tables.
    pub rope: Arc<Rope>,
    /// For each token, the position in its row where its document begins; `None`: each row is one
    /// document.
    pub documents: Option<Arc<[u32]>>,
}

impl Placed {
    pub(crate) fn places(&self, sequence: usize) -> Places<'_> {
        Places { rope: &self.rope, sequence, documents: self.documents.as_deref() }
    }
}
