//! How a request becomes tokens.
//!
//! The rules of [`Encoding::Joint`] are those of lm-evaluation-harness (`_encode_pair` and model type
//! `hf`) and of olmo-eval's provider `olmo_core`:
//!
//! - Whitespace at the end of a context moves to the front of the continuation.
//! - Context and continuation are encoded as one text; the tokens after as many as the context alone
//!   has are those of the continuation. Nothing is added.
//!
//! With [`Encoding::Separate`], context and continuation are each encoded as they are
//! (ai2-olmo-eval 0.9.0). For both:
//!
//! - An empty context is the prefix token (bos, or eos if the tokenizer has no bos).
//! - Of a request that is too long, the last `max_length + 1` tokens are kept: the model reads all but
//!   the last of them.

use serde::{Deserialize, Serialize};

use crate::text::split_trailing_space;

/// Token ids of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// What the model sees before the continuation; not empty.
    pub context: Vec<u32>,
    /// The tokens to score. Empty if the continuation merged into the context.
    pub continuation: Vec<u32>,
    /// Number of tokens cut off at the beginning.
    pub cut: usize,
}

/// Whether context and continuation are encoded together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As one text, after whitespace at the end of the context has moved.
    #[default]
    Joint,
    /// Each as it is.
    Separate,
}

/// How requests are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRules {
    /// The token that stands for an empty context.
    pub prefix_token: u32,
    /// Maximum number of tokens that the model reads.
    pub max_length: usize,
    pub encoding: Encoding,
    /// A token before every context of a choice that does not begin with it.
    pub first_token: Option<u32>,
}

/// Why a request has no tokens to score.
#[derive(Clone, Debug, PartialEq)]
pub enum EncodeError<E> {
    /// The tokenizer failed.
    Tokenizer(E),
    /// The continuation alone is longer than the model's sequence.
    TooLong {
        /// Its number of tokens.
        tokens: usize,
        max_length: usize,
    },
}

impl<E: std::fmt::Display> std::fmt::Display for EncodeError<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tokenizer(error) => error.fmt(f),
            Self::TooLong { tokens, max_length } => write!(
                f,
                "the continuation has {tokens} tokens, but the model reads at most {max_length}; cut text would be \
                 scored as if it were whole"
            ),
        }
    }
}

/// Encodes `continuation` after `context`.
///
/// # Errors
/// The tokenizer fails, or the continuation alone is too long.
pub fn encode_choice<E>(
    context: &str,
    continuation: &str,
    rules: TokenRules,
    mut encode: impl FnMut(&str) -> Result<Vec<u32>, E>,
) -> Result<Encoded, EncodeError<E>> {
    let mut encode = |text: &str| -> Result<Vec<u32>, EncodeError<E>> {
        if text.is_empty() { Ok(Vec::new()) } else { encode(text).map_err(EncodeError::Tokenizer) }
    };
    let (mut context, continuation) = match rules.encoding {
        Encoding::Joint => {
            let (stripped, space) = split_trailing_space(context);
            let context = encode(stripped)?;
            let mut whole = encode(&format!("{stripped}{space}{continuation}"))?;
            let continuation = whole.split_off(context.len().min(whole.len()));
            (context, continuation)
        }
        Encoding::Separate => (encode(context)?, encode(continuation)?),
    };
    if context.is_empty() {
        context = vec![rules.prefix_token];
    }
    if let Some(first) = rules.first_token.filter(|first| context[0] != *first) {
        context.insert(0, first);
    }
    truncate(context, continuation, rules)
}

/// Keeps the last `max_length + 1` tokens.
fn truncate<E>(
    mut context: Vec<u32>,
    continuation: Vec<u32>,
    TokenRules { max_length, .. }: TokenRules,
) -> Result<Encoded, EncodeError<E>> {
    if continuation.len() > max_length {
        return Err(EncodeError::TooLong { tokens: continuation.len(), max_length });
    }
    // Without a continuation, nothing is predicted and the model reads nothing.
    let cut = (context.len() + continuation.len()).saturating_sub(max_length + 1);
    context.drain(..cut);
    Ok(Encoded { context, continuation, cut })
}

/// Encodes a prompt to continue with at most `max_new_tokens`: its last tokens, so that the answer has
/// room in the model's sequence. An empty prompt is the prefix token.
///
/// # Errors
/// The tokenizer fails, or `max_new_tokens` leave no room for a prompt.
pub fn encode_prompt<E>(
    prompt: &str,
    max_new_tokens: usize,
    rules: TokenRules,
    encode: impl FnOnce(&str) -> Result<Vec<u32>, E>,
) -> Result<Encoded, EncodeError<E>> {
    let mut context = encode(prompt).map_err(EncodeError::Tokenizer)?;
    if context.is_empty() {
        context.push(rules.prefix_token);
    }
    let room = rules.max_length.saturating_sub(max_new_tokens);
    if room == 0 {
        return Err(EncodeError::TooLong { tokens: max_new_tokens, max_length: rules.max_length });
    }
    let cut = context.len().saturating_sub(room);
    context.drain(..cut);
    Ok(Encoded { context, continuation: Vec::new(), cut })
}

/// The windows in which a whole text is scored: consecutive continuations of at most `max_length`
/// tokens that together are the text, each after as many tokens before it as fit (at least one; the
/// prefix token before the first). This is lm-evaluation-harness's `get_rolling_token_windows` with
/// a context of 1.
///
/// # Errors
/// The tokenizer fails.
pub fn encode_text<E>(
    text: &str,
    rules: TokenRules,
    encode: impl FnOnce(&str) -> Result<Vec<u32>, E>,
) -> Result<Vec<Encoded>, E> {
    let ids = encode(text)?;
    let length = rules.max_length;
    let mut windows = Vec::new();
    let mut done = 0;
    while done < ids.len() {
        let end = (done + length).min(ids.len());
        let context = if done == 0 {
            vec![rules.prefix_token]
        } else {
            // The last window reaches back, so that it is as long as the others.
            let start = end.saturating_sub(length + 1).min(done - 1);
            ids[start..done].to_vec()
        };
        windows.push(Encoded { context, continuation: ids[done..end].to_vec(), cut: 0 });
        done = end;
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: TokenRules =
        TokenRules { prefix_token: 99, max_length: 6, encoding: Encoding::Joint, first_token: None };

    /// One token for each character, and one for `ab`.
    fn encode(text: &str) -> Result<Vec<u32>, String> {
        if text.contains('!') {
            return Err("no token for `!`".into());
        }
        let mut ids: Vec<u32> = Vec::new();
        for c in text.chars() {
            match (c, ids.last()) {
                ('b', Some(97)) => *ids.last_mut().unwrap() = 1000,
                _ => ids.push(c as u32),
            }
        }
        Ok(ids)
    }

    fn choice(context: &str, continuation: &str) -> (Vec<u32>, Vec<u32>, usize) {
        let Encoded { context, continuation, cut } = encode_choice(context, continuation, RULES, encode).unwrap();
        (context, continuation, cut)
    }

    #[test]
    fn trailing_whitespace_moves_and_both_parts_are_encoded_as_one_text() {
        assert_eq!(choice("x", "y"), (vec![120], vec![121], 0));
        assert_eq!(choice("x \n", "y"), (vec![120], vec![32, 10, 121], 0));
        // The continuation merges into the context.
        assert_eq!(choice("xa", "b"), (vec![120, 97], vec![], 0));
        assert_eq!(choice("xa", "bc"), (vec![120, 97], vec![99], 0));
        assert_eq!(choice("", "y"), (vec![99], vec![121], 0));
        assert_eq!(choice("  ", "y"), (vec![99], vec![32, 32, 121], 0));
    }

    #[test]
    fn separate_parts_stay_as_they_are() {
        let rules = TokenRules { encoding: Encoding::Separate, ..RULES };
        let Encoded { context, continuation, cut } = encode_choice("xa ", "b", rules, encode).unwrap();
        assert_eq!((context, continuation, cut), (vec![120, 97, 32], vec![98], 0));
        assert_eq!(encode_choice("", "b", rules, encode).unwrap().context, [99]);
    }

    #[test]
    fn of_a_long_request_the_last_tokens_are_kept() {
        assert_eq!(choice("12345", "67"), (encode("12345").unwrap(), encode("67").unwrap(), 0));
        assert_eq!(choice("123456", "78"), (encode("23456").unwrap(), encode("78").unwrap(), 1));
        assert_eq!(choice("1", "234567").2, 0);
        let error = encode_choice("1", "2345678", RULES, encode).unwrap_err();
        assert_eq!(error, EncodeError::TooLong { tokens: 7, max_length: 6 });
        assert!(encode_choice("!", "2", RULES, encode).unwrap_err().to_string().contains("no token"));
        let prompt = |text: &str, new: usize| encode_prompt(text, new, RULES, encode);
        assert_eq!(prompt("12345", 2).unwrap().context, encode("2345").unwrap());
        assert_eq!((prompt("", 2).unwrap().context, prompt("12345", 2).unwrap().cut), (vec![99], 1));
        assert!(prompt("1", 6).is_err());
    }

    #[test]
    fn windows_cover_a_text_once() {
        let windows = |text: &str| -> Vec<(usize, usize)> {
            let windows = encode_text(text, RULES, encode).unwrap();
            let whole: Vec<u32> = windows.iter().flat_map(|window| window.continuation.clone()).collect();
            assert_eq!(whole, encode(text).unwrap());
            assert!(windows.iter().all(|w| w.context.len() + w.continuation.len() <= RULES.max_length + 1));
            windows.iter().map(|window| (window.context.len(), window.continuation.len())).collect()
        };
        assert_eq!(windows(""), []);
        assert_eq!(windows("123456"), [(1, 6)]);
        // The second window reads 4 more tokens before its own.
        assert_eq!(windows("12345678"), [(1, 6), (5, 2)]);
        assert_eq!(windows("1234567890123"), [(1, 6), (1, 6), (6, 1)]);
    }
}
