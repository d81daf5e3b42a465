//! Trains a byte-level BPE tokenizer. Equal texts give equal bytes for any number of threads:
//! merges are chosen by count, then by ids, and ids follow from the earlier merges.

use olmo_data::Template;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use crate::params::TokenizerParams;

/// Number of ids in every byte-level vocabulary before its first merge, not counting special
/// tokens.
const BYTES: u32 = 256;

/// Why no tokenizer was trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("vocab_size is {vocab_size}, but the {BYTES} bytes and the special tokens take {least} ids")]
    VocabularyTooSmall { vocab_size: u32, least: u32 },
    #[error("{0} is empty")]
    EmptyToken(&'static str),
    #[error("{0}")]
    Failed(#[from] tokenizers::Error),
}

/// The `tokenizer.json` of a tokenizer trained on `texts`.
///
/// The order of ids is: eos, pad, other tokens that the chat template writes, the bytes, then
/// merges. Text is not normalised. Words are split as in GPT-2; with `split_digits` each digit is
/// its own token, so that every number has one spelling.
pub fn train(texts: impl Iterator<Item = String> + Send, params: &TokenizerParams) -> Result<Vec<u8>, TrainError> {
    let mut special = vec![params.eos()];
    for (name, token) in [("eos_token", params.eos()), ("pad_token", params.pad())] {
        if token.is_empty() {
            return Err(TrainError::EmptyToken(name));
        }
        if !special.contains(&token) {
            special.push(token);
        }
    }
    let of_template = params.template.map_or(&[][..], Template::control_tokens);
    for token in params.bos_token.as_deref().into_iter().chain(of_template.iter().copied()) {
        if !special.contains(&token) {
            special.push(token);
        }
    }
    let least = BYTES + special.len() as u32;
    if params.vocab_size < least {
        return Err(TrainError::VocabularyTooSmall { vocab_size: params.vocab_size, least });
    }
    let bytes = ByteLevel::new(false, false, true);
    let mut steps = Vec::new();
    if params.split_digits {
        steps.push(PreTokenizerWrapper::Digits(Digits::new(true)));
    }
    steps.push(PreTokenizerWrapper::ByteLevel(bytes));
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps))).with_decoder(Some(bytes));
    let trainer = BpeTrainer::builder()
        .vocab_size(params.vocab_size as usize)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.into_iter().map(|token| AddedToken::from(token, true)).collect())
        .show_progress(false)
        .build();
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts)?;
    let mut json = tokenizer.to_string(true)?;
    json.push('\n');
    Ok(json.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Vec<String> {
        let word = |n: u64| ["lamp", "river", "stone", "a", "an", "of", "Tree", "née", "🦀"][(n % 9) as usize];
        let mut state = 7u64;
        let mut next = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 33
        };
        (0..2000).map(|_| (0..8).map(|_| format!("{}{} ", word(next()), next() % 30)).collect()).collect()
    }

    fn with_threads(threads: usize, params: &TokenizerParams) -> Vec<u8> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train(texts().into_iter(), params).unwrap())
    }

    #[test]
    fn the_bytes_do_not_depend_on_threads_or_on_the_run() {
        let params = TokenizerParams { vocab_size: 400, ..TokenizerParams::default() };
        let first = with_threads(1, &params);
        for threads in [1, 2, 3, 8] {
            assert_eq!(with_threads(threads, &params), first, "{threads} threads");
        }
        // From another process, whose hash maps had another order.
        assert_eq!(olmo_base::Digest::of(&first).short(), "96abdd038874");
    }

    #[test]
    fn digits_are_tokens_of_their_own_and_text_comes_back() {
        let params = TokenizerParams { vocab_size: 400, ..TokenizerParams::default() };
        let tokenizer = Tokenizer::from_bytes(train(texts().into_iter(), &params).unwrap()).unwrap();
        let text = "a river12 née 🦀 <|endoftext|> e\u{301}\u{200d} \n\t漢";
        let encoding = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), text);
        assert!(encoding.get_tokens().contains(&"1".to_owned()) && encoding.get_tokens().contains(&"2".to_owned()));
        assert!(encoding.get_ids().contains(&0), "eos is id 0");
        assert_eq!(tokenizer.token_to_id("<|padding|>"), Some(1));
        let whole = TokenizerParams { split_digits: false, ..params };
        let tokenizer = Tokenizer::from_bytes(train(texts().into_iter(), &whole).unwrap()).unwrap();
        assert!(tokenizer.encode("river12", false).unwrap().get_tokens().contains(&"12".to_owned()));
    }

    #[test]
    fn a_vocabulary_smaller_than_the_bytes_is_refused() {
        let params = TokenizerParams { vocab_size: 257, ..TokenizerParams::default() };
        let error = train(texts().into_iter(), &params).unwrap_err();
        assert_eq!(error.to_string(), "vocab_size is 257, but the 256 bytes and the special tokens take 258 ids");
    }
}
