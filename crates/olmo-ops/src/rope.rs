//! Tables of the rotary position embedding.

/// Cosine and sine of every position's angles, `[positions, head_width / 2]` each.
///
/// Angles are f32 products, as in OLMo and in `transformers`: at large positions an exact angle would differ from theirs.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// Tables for positions `0..positions`.
    pub fn new(head_width: usize, theta: f64, positions: usize) -> Rope {
        let half = head_width / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|pair| {
                let exponent = (2 * pair) as f32 / head_width as f32;
                1.0 / theta.powf(f64::from(exponent)) as f32
            })
            .collect();
        let mut tables =
            Rope { half, cos: Vec::with_capacity(positions * half), sin: Vec::with_capacity(positions * half) };
        for position in 0..positions {
            for frequency in &frequencies {
                let angle = f64::from(position as f32 * frequency);
                tables.cos.push(angle.cos() as f32);
                tables.sin.push(angle.sin() as f32);
            }
        }
        tables
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(0)
    }

    /// Cosines and sines of one position, each `head_width / 2` long.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}
