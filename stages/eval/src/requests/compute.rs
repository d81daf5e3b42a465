//! Asks the model.

use std::collections::BTreeMap;

use olmo_eval::score::cut_at_stop;
use olmo_eval::{Answer, Encoded, Scored, Work};
use olmo_infer::{ChatModel, GenerateOptions, LanguageModel, Loglikelihood, Request, generate_until};
use olmo_model::ModelError;
use olmo_stage::{Context, StageError};

use super::encoding::{Item, Outcome};

/// Number of tokens to score between checks of the stop signal.
const TOKENS: usize = 1 << 14;
/// Number of prompts to answer between checks of the stop signal.
const PROMPTS: usize = 64;

/// Computes the log-likelihoods of all items that wait for them.
pub(super) fn score(
    items: &mut [Item<'_>],
    model: &dyn LanguageModel,
    context: &mut Context,
) -> Result<(), StageError> {
    let is_waiting =
        |item: &Item<'_>| matches!(item.result, Outcome::Waiting) && !matches!(item.instance.work, Work::Generate(_));
    let mut waiting: Vec<&mut Item<'_>> = items.iter_mut().filter(|item| is_waiting(item)).collect();
    let total = waiting.len();
    let mut done = 0;
    while done < total {
        context.check_stop()?;
        let (mut count, mut tokens) = (0, 0);
        while done + count < total && tokens < TOKENS {
            let parts = &waiting[done + count].encoded;
            tokens += parts.iter().map(|part| part.context.len() + part.continuation.len()).sum::<usize>();
            count += 1;
        }
        let some = &mut waiting[done..done + count];
        // A continuation without tokens has likelihood 1.
        let requests: Vec<Request> = some
            .iter()
            .flat_map(|item| &item.encoded)
            .filter(|part| !part.continuation.is_empty())
            .map(|Encoded { context, continuation, .. }| Request {
                context: context.clone(),
                continuation: continuation.clone(),
            })
            .collect();
        let scores = model.loglikelihood(&requests).map_err(|e| e.with_code("eval::model"))?;
        let mut scores = scores.into_iter();
        for item in some {
            let parts: Vec<Option<Loglikelihood>> = item
                .encoded
                .iter()
                .map(|part| if part.continuation.is_empty() { None } else { scores.next() })
                .collect();
            item.result = outcome(item, &parts);
        }
        done += count;
        context.progress(done as u64, total as u64, "request", "");
    }
    Ok(())
}

/// The scores of an item, or why one of them is not a number.
fn outcome(item: &Item<'_>, parts: &[Option<Loglikelihood>]) -> Outcome {
    let sum = |part: &Option<Loglikelihood>| part.as_ref().map_or(0.0, Loglikelihood::sum);
    let count = match &item.instance.work {
        Work::Choose { choices, .. } => choices.len(),
        _ => parts.len(),
    };
    if let Some(index) = parts.iter().position(|part| !sum(part).is_finite()) {
        let choice = index % count.max(1);
        let place = if count > 1 { format!(" of choice {choice}") } else { String::new() };
        return Outcome::Failed(format!(
            "the log-likelihood{place} is {}: the model's weights are damaged or its training diverged",
            sum(&parts[index])
        ));
    }
    let is_greedy = |part: &Option<Loglikelihood>| part.as_ref().is_none_or(|part| part.is_greedy);
    match &item.instance.work {
        Work::Choose { choices, .. } if choices.len() > 1 && parts.iter().all(Option::is_none) => {
            Outcome::Failed("every choice merges into its prompt, so none has tokens to compare".into())
        }
        Work::Choose { choices, .. } => {
            let scored =
                choices.iter().enumerate().zip(&item.encoded).zip(parts).map(|(((index, choice), encoded), part)| {
                    Scored {
                        text: choice.continuation.clone(),
                        sum_logits: sum(part),
                        num_tokens: encoded.continuation.len(),
                        num_tokens_all: encoded.context.len() + encoded.continuation.len(),
                        is_greedy: is_greedy(part),
                        unconditional: parts.get(count + index).map(sum),
                    }
                });
            Outcome::Scored(scored.collect())
        }
        Work::Roll { text } => {
            let tokens = item.encoded.iter().map(|window| window.continuation.len()).sum();
            Outcome::Scored(vec![Scored {
                text: text.clone(),
                sum_logits: parts.iter().map(sum).sum(),
                num_tokens: tokens,
                num_tokens_all: tokens + 1,
                is_greedy: parts.iter().all(is_greedy),
                unconditional: None,
            }])
        }
        Work::Tokens { ids, targets } => {
            let tokens = parts.iter().flatten().flat_map(|part| &part.tokens);
            let is_target = |index: usize| targets.as_ref().is_none_or(|targets| targets.get(index) == Some(&true));
            // The first token is not predicted.
            let counted: Vec<f64> = tokens
                .enumerate()
                .filter(|(index, _)| is_target(index + 1))
                .map(|(_, &token)| f64::from(token))
                .collect();
            if counted.is_empty() {
                return Outcome::Failed("no token of the row is a target".into());
            }
            Outcome::Scored(vec![Scored {
                text: String::new(),
                sum_logits: counted.iter().sum(),
                num_tokens: counted.len(),
                num_tokens_all: ids.len(),
                is_greedy: parts.iter().all(is_greedy),
                unconditional: None,
            }])
        }
        Work::Generate(_) => Outcome::Waiting,
    }
}

/// Generates the answers of all items that wait for one.
pub(super) fn answer(
    items: &mut [Item<'_>],
    model: &dyn LanguageModel,
    chat: &ChatModel,
    context: &mut Context,
) -> Result<(), StageError> {
    // Those with the same limit and the same stop tokens are answered together.
    let mut groups: BTreeMap<(usize, Vec<u32>), Vec<usize>> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        if let (Outcome::Waiting, Work::Generate(generation)) = (&item.result, &item.instance.work) {
            let stops = match generation.prompt {
                olmo_eval::Prompt::Chat(_) => chat.stop_token_ids(),
                olmo_eval::Prompt::Text(_) => chat.end_of_text_ids(),
            };
            groups.entry((item.max_new_tokens, stops)).or_default().push(index);
        }
    }
    let total: usize = groups.values().map(Vec::len).sum();
    let mut done = 0;
    for ((max_new_tokens, stop_token_ids), indices) in groups {
        let options = GenerateOptions { max_new_tokens, stop_token_ids, ..GenerateOptions::default() };
        for some in indices.chunks(PROMPTS) {
            context.check_stop()?;
            let prompts: Vec<Vec<u32>> = some.iter().map(|&index| items[index].encoded[0].context.clone()).collect();
            let stops: Vec<&[String]> = some.iter().map(|&index| stop_sequences(&items[index])).collect();
            let mut is_complete = |prompt: usize, ids: &[u32]| -> Result<bool, ModelError> {
                if stops[prompt].is_empty() {
                    return Ok(false);
                }
                let text = chat.decode(ids).map_err(|error| ModelError::Input(format!("{error:?}")))?;
                Ok(stops[prompt].iter().any(|stop| text.contains(stop.as_str())))
            };
            let answers =
                generate_until(model, &prompts, &options, &mut is_complete).map_err(|e| e.with_code("eval::model"))?;
            for (&index, ids) in some.iter().zip(answers) {
                let text = chat.decode(&ids)?;
                let text = cut_at_stop(&text, stop_sequences(&items[index])).to_owned();
                items[index].result = Outcome::Answered(Answer { text, num_tokens: ids.len() });
            }
            done += some.len();
            context.progress(done as u64, total as u64, "answer", "");
        }
    }
    Ok(())
}

fn stop_sequences<'a>(item: &Item<'a>) -> &'a [String] {
    match &item.instance.work {
        Work::Generate(generation) => &generation.stop_sequences,
        _ => &[],
    }
}
