//! [`Batch`]: prompts that are continued together, token by token.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use olmo_model::{ModelConfig, ModelError};
use rayon::prelude::*;

use crate::language_model::{LanguageModel, Sequences};
use crate::sampling::{Draw, Sampling, most_likely};

/// Limits of a generation, and how tokens are chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerateOptions {
    /// Maximum number of new tokens for each prompt. An answer also ends where the model's sequence
    /// is full.
    pub max_new_tokens: usize,
    /// Generation ends before one of these, and it is not part of the answer.
    pub stop_token_ids: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Number of most likely tokens to report for each new token, with log-probabilities. `None`: no
    /// log-probabilities are computed.
    pub logprobs: Option<usize>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// At a stop token or a stop string.
    Stop,
    /// It has the maximum number of tokens, or the model's sequence is full.
    Length,
}

impl Finish {
    /// Its name in OpenAI's API.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// Log-probabilities under the model itself: before a penalty, a temperature or a filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// That of the chosen token.
    pub chosen: f32,
    /// The most likely tokens, most likely first.
    pub top: Vec<(u32, f32)>,
}

/// An answer that is being generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnswerId(u64);

/// What a step adds to an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The answer.
    pub answer: AnswerId,
    /// Its next token, unless that is a stop token.
    pub token: Option<u32>,
    /// Log-probabilities of the token, if requested.
    pub logprobs: Option<Logprobs>,
    /// Set if the answer is complete.
    pub finish: Option<Finish>,
}

/// A prompt whose answers have not begun.
struct Waiting {
    ids: Vec<u32>,
    answers: Vec<(AnswerId, Draw)>,
    options: Arc<GenerateOptions>,
}

/// An answer that is being continued.
struct Active {
    answer: AnswerId,
    draw: Draw,
    options: Arc<GenerateOptions>,
    /// Number of tokens that it may have.
    room: usize,
    /// Number of tokens that it has.
    length: usize,
    /// The token chosen last.
    last: u32,
    /// Tokens of the prompt and the answer, if they are penalized.
    seen: BTreeSet<u32>,
}

/// Prompts that a model continues together. New ones join at any step.
///
/// On a CPU, an answer depends only on its own prompt, options and [`Draw`], not on other prompts or
/// the number of threads. Ids at or above `vocab_size` are never generated, even if the embedding has
/// more rows.
pub struct Batch<'m> {
    model: &'m dyn LanguageModel,
    sequences: Box<dyn Sequences + 'm>,
    at_once: usize,
    waiting: VecDeque<Waiting>,
    active: Vec<Active>,
    /// Answers to remove before the next step.
    ended: BTreeSet<AnswerId>,
    next_id: u64,
}

impl<'m> Batch<'m> {
    /// Maximum number of answers that are continued together by default.
    pub const AT_ONCE: usize = 32;

    /// No prompts yet. At most `at_once` answers (at least one) are continued together, but all
    /// answers to one prompt begin together.
    pub fn new(model: &'m dyn LanguageModel, at_once: usize) -> Batch<'m> {
        Batch {
            model,
            sequences: model.sequences(),
            at_once: at_once.max(1),
            waiting: VecDeque::new(),
            active: Vec::new(),
            ended: BTreeSet::new(),
            next_id: 0,
        }
    }

    /// Adds a prompt with an answer for each of `draws`.
    ///
    /// # Errors
    /// The prompt is empty, or an id is not below `vocab_size`.
    pub fn add(
        &mut self,
        ids: Vec<u32>,
        draws: &[Draw],
        options: &Arc<GenerateOptions>,
    ) -> Result<Vec<AnswerId>, ModelError> {
        self.model.config().check_ids(&ids, 1, ids.len())?;
        let first = self.next_id;
        self.next_id += draws.len() as u64;
        let answers: Vec<AnswerId> = (first..self.next_id).map(AnswerId).collect();
        let with_draws = answers.iter().copied().zip(draws.iter().copied()).collect();
        self.waiting.push_back(Waiting { ids, answers: with_draws, options: options.clone() });
        Ok(answers)
    }

    /// Ends an answer: no further step has it.
    pub fn end(&mut self, answer: AnswerId) {
        self.ended.insert(answer);
    }

    /// Whether no answers are left.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.active.iter().all(|active| self.ended.contains(&active.answer))
    }

    /// Number of answers that are being continued.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// Number of prompts whose answers have not begun.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Continues each answer by one token, and begins as many new ones as there is room for.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn step(&mut self) -> Result<Vec<Step>, ModelError> {
        self.remove_ended();
        let (mut steps, new) = self.take_waiting();
        let mut logits = Vec::new();
        if !self.active.is_empty() {
            let last: Vec<u32> = self.active.iter().map(|active| active.last).collect();
            logits = self.sequences.step(&last)?;
        }
        // The row of logits, and so the sequence, of each answer.
        let mut rows: Vec<usize> = (0..self.active.len()).collect();
        if !new.is_empty() {
            let prompts: Vec<&[u32]> = new.iter().map(|prompt| prompt.ids.as_slice()).collect();
            let first = self.active.len();
            logits.extend(self.sequences.prefill(&prompts)?);
            for (index, prompt) in new.into_iter().enumerate() {
                rows.extend(prompt.answers.iter().map(|_| first + index));
                let config = self.model.config();
                self.active.extend(prompt.begin(config));
            }
        }
        let config = self.model.config();
        let (width, vocabulary) = (config.embedding_rows(), config.vocab_size);
        let chosen: Vec<Result<Step, ModelError>> = self
            .active
            .par_iter_mut()
            .zip(&rows)
            .map(|(active, row)| active.next(&logits[row * width..][..vocabulary]))
            .collect();
        let chosen = chosen.into_iter().collect::<Result<Vec<Step>, ModelError>>()?;
        let goes_on = |step: &Step| step.finish.is_none();
        let kept: Vec<usize> =
            rows.iter().zip(&chosen).filter(|(_, step)| goes_on(step)).map(|(row, _)| *row).collect();
        let mut index = 0;
        self.active.retain(|_| {
            index += 1;
            goes_on(&chosen[index - 1])
        });
        self.keep(&kept);
        steps.extend(chosen);
        Ok(steps)
    }

    /// Prompts that begin now; answers that may not have a token are complete.
    fn take_waiting(&mut self) -> (Vec<Step>, Vec<Waiting>) {
        let (mut steps, mut new) = (Vec::new(), Vec::new());
        let mut count = self.active.len();
        let config = self.model.config();
        while let Some(prompt) = self.waiting.front_mut() {
            prompt.answers.retain(|(answer, _)| !self.ended.remove(answer));
            let is_empty = prompt.room(config) == 0;
            let fits = count == 0 || count + prompt.answers.len() <= self.at_once;
            if !is_empty && !fits && !prompt.answers.is_empty() {
                break;
            }
            let Some(prompt) = self.waiting.pop_front() else { break };
            if is_empty {
                let complete = |(answer, _)| Step { answer, token: None, logprobs: None, finish: Some(Finish::Length) };
                steps.extend(prompt.answers.into_iter().map(complete));
            } else if !prompt.answers.is_empty() {
                count += prompt.answers.len();
                new.push(prompt);
            }
        }
        (steps, new)
    }

    fn remove_ended(&mut self) {
        if self.active.iter().any(|active| self.ended.contains(&active.answer)) {
            let stays = |active: &Active| !self.ended.contains(&active.answer);
            let kept: Vec<usize> = (0..self.active.len()).filter(|&index| stays(&self.active[index])).collect();
            self.keep(&kept);
            self.active.retain(|active| !self.ended.remove(&active.answer));
        }
        // What is left are prompts that wait, and answers that were complete.
        let waiting = self.waiting.iter().flat_map(|prompt| &prompt.answers);
        let waiting: BTreeSet<AnswerId> = waiting.map(|(answer, _)| *answer).collect();
        self.ended.retain(|answer| waiting.contains(answer));
    }

    fn keep(&mut self, rows: &[usize]) {
        if !rows.iter().copied().eq(0..self.sequences.count()) {
            self.sequences.keep(rows);
        }
    }
}

impl Waiting {
    /// Number of tokens that an answer may have.
    fn room(&self, config: &ModelConfig) -> usize {
        self.options.max_new_tokens.min(config.max_sequence_length.saturating_sub(self.ids.len()))
    }

    fn begin(self, config: &ModelConfig) -> impl Iterator<Item = Active> {
        let room = self.room(config);
        let penalizes = self.options.sampling.penalizes();
        let seen: BTreeSet<u32> = self.ids.iter().copied().filter(|_| penalizes).collect();
        let options = self.options;
        let begin = move |(answer, draw)| {
            let (options, seen) = (options.clone(), seen.clone());
            Active { answer, draw, options, room, length: 0, last: 0, seen }
        };
        self.answers.into_iter().map(begin)
    }
}

impl Active {
    /// The next token after `logits`.
    fn next(&mut self, logits: &[f32]) -> Result<Step, ModelError> {
        let options = &self.options;
        let token = options.sampling.choose(logits, &self.seen, self.draw, self.length)?;
        if options.stop_token_ids.contains(&token) {
            let finish = Some(Finish::Stop);
            return Ok(Step { answer: self.answer, token: None, logprobs: None, finish });
        }
        let logprobs = options.logprobs.map(|count| log_probabilities(logits, token, count));
        self.length += 1;
        self.last = token;
        if options.sampling.penalizes() {
            self.seen.insert(token);
        }
        let finish = (self.length >= self.room).then_some(Finish::Length);
        Ok(Step { answer: self.answer, token: Some(token), logprobs, finish })
    }
}

/// The log-probability of token `chosen`, and the `count` most likely tokens.
pub(crate) fn log_probabilities(logits: &[f32], chosen: u32, count: usize) -> Logprobs {
    let largest = f64::from(logits[most_likely(logits) as usize]);
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    let of = |id: u32| (f64::from(logits[id as usize]) - largest - sum.ln()) as f32;
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let count = count.min(ids.len());
    if count < ids.len() {
        ids.select_nth_unstable_by(count, by_logit);
        ids.truncate(count);
    }
    ids.sort_unstable_by(by_logit);
    Logprobs { chosen: of(chosen), top: ids.into_iter().map(|id| (id, of(id))).collect() }
}
