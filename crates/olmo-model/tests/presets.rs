//! The presets against what OLMo-core 3.0.0 prints for them.

use olmo_model::{ModelConfig, ModelParams, Vocabulary, weights};
use serde_json::json;

/// A row of OLMo-core: name, `d_model`, layers, heads, key heads, MLP width, number of parameters,
/// and of those without the embedding. The vocabulary is dolma2's, padded to 100352.
type Row = (&'static str, usize, usize, usize, usize, usize, usize, usize);

const ROWS: [Row; 17] = [
    ("olmo2-1M", 12, 4, 4, 4, 256, 2_448_620, 1_244_396),
    ("olmo2-14M", 128, 4, 8, 8, 512, 26_740_864, 13_895_808),
    ("olmo2-30M", 256, 4, 8, 8, 768, 54_792_448, 29_102_336),
    ("olmo2-60M", 384, 8, 8, 8, 1536, 95_957_376, 57_422_208),
    ("olmo2-100M", 512, 12, 8, 8, 2048, 153_117_184, 101_736_960),
    ("olmo2-190M", 768, 12, 12, 12, 3072, 267_424_512, 190_354_176),
    ("olmo2-370M", 1024, 16, 16, 16, 4096, 474_022_912, 371_262_464),
    ("olmo2-600M", 1344, 16, 16, 16, 5376, 732_255_552, 597_382_464),
    ("olmo3-600M", 1280, 16, 16, 16, 5120, 676_414_720, 547_964_160),
    ("olmo2-760M", 1536, 16, 16, 16, 6144, 912_360_960, 758_220_288),
    ("olmo2-1B", 2048, 18, 16, 16, 8192, 1_619_150_848, 1_413_629_952),
    ("olmo2-1B_v2", 2048, 16, 16, 16, 8192, 1_484_916_736, 1_279_395_840),
    ("olmo3-1B", 2048, 16, 16, 16, 8192, 1_484_916_736, 1_279_395_840),
    ("olmo2-3B", 3328, 16, 16, 16, 13312, 3_503_508_736, 3_169_537_280),
    ("olmo2-7B", 4096, 32, 32, 32, 11008, 7_298_617_344, 6_887_575_552),
    ("olmo2-13B", 5120, 40, 40, 40, 13824, 13_716_198_400, 13_202_396_160),
    ("olmo2-32B", 5120, 64, 40, 8, 27648, 32_234_279_936, 31_720_477_696),
];

fn config(preset: &str) -> ModelConfig {
    let params: ModelParams = serde_json::from_value(json!({"preset": preset})).expect(preset);
    assert_eq!(params.check(), Ok(()), "{preset}");
    params.config(&Vocabulary { size: 100_352, eos_token_id: 100_257, pad_token_id: 100_277 }, 8192)
}

#[test]
fn presets_have_the_shapes_and_parameter_counts_of_olmo_core() {
    for (name, d_model, layers, heads, kv, mlp, all, without_embedding) in ROWS {
        let config = config(name);
        assert_eq!(config.problems(), [""; 0], "{name}");
        let sizes = (config.d_model, config.n_layers, config.n_heads, config.kv_heads(), config.mlp_width());
        assert_eq!(sizes, (d_model, layers, heads, kv, mlp), "{name}");
        assert_eq!((weights(&config), weights(&config) - 100_352 * d_model), (all, without_embedding), "{name}");
        let head = if name == "olmo2-1M" { 4 } else { d_model / heads };
        assert_eq!(config.head_width(), head, "{name}");
        assert_eq!((config.rope_theta, config.layer_norm_eps), (500_000.0, 1e-6), "{name}");
    }
}

#[test]
fn olmo_3_is_olmo_2_with_three_windows_before_each_full_block() {
    for (name, ..) in ROWS.iter().filter(|row| !["olmo2-600M", "olmo2-1B", "olmo2-1B_v2"].contains(&row.0)) {
        let name = name.replace("olmo3", "olmo2");
        let differs = ["olmo2-600M", "olmo2-1B"].contains(&name.as_str());
        let (olmo2, olmo3) = (config(&name), config(&name.replace("olmo2", "olmo3")));
        let windows: Vec<_> = (0..olmo3.n_layers).map(|layer| olmo3.window(layer)).collect();
        assert!(
            windows.chunks(4).all(|four| four == [Some(4096), Some(4096), Some(4096), None]),
            "{name}: {windows:?}"
        );
        let full = ModelConfig { sliding_window: None, full_attention_every: None, ..olmo3 };
        assert_eq!(full == olmo2, !differs, "{name}");
    }
}
