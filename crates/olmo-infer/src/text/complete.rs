//! [`complete`]: the answers to prompts, as text.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use olmo_stage::StageError;

use super::decoder::TextDecoder;
use super::model_text::ModelText;
use super::prompts::{Content, Prompt};
use super::stops::StopStrings;
use crate::batch::{AnswerId, Batch, Finish, GenerateOptions, Logprobs, Step};
use crate::language_model::LanguageModel;
use crate::sampling::{Draw, Sampling};

/// How prompts are answered.
#[derive(Clone, Debug, PartialEq)]
pub struct TextOptions {
    /// Maximum number of tokens in an answer, at least 1.
    pub max_new_tokens: usize,
    /// An answer ends before one of these strings.
    pub stop: Vec<String>,
    /// An answer ends before one of these tokens, in addition to the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Whether the model's own stop tokens are ordinary tokens.
    pub ignores_eos: bool,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Number of answers to each prompt, at least 1.
    pub samples: u64,
    /// Number of most likely tokens to report for each token. `None`: no log-probabilities.
    pub logprobs: Option<usize>,
}

impl Default for TextOptions {
    fn default() -> TextOptions {
        TextOptions {
            max_new_tokens: 128,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignores_eos: false,
            sampling: Sampling::default(),
            samples: 1,
            logprobs: None,
        }
    }
}

/// An answer to a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its text, without special tokens, up to a stop string.
    pub text: String,
    /// Its tokens. If it ends before a stop string, the tokens of that string are among them.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Of each token, if requested.
    pub logprobs: Option<Vec<Logprobs>>,
}

/// Is informed while prompts are answered.
pub trait Listener {
    /// An answer has more text.
    ///
    /// # Errors
    /// Stops the work.
    fn text(&mut self, _prompt: &Prompt, _sample: u64, _text: &str) -> Result<(), StageError> {
        Ok(())
    }

    /// A prompt has all its answers.
    ///
    /// # Errors
    /// Stops the work.
    fn answered(&mut self, prompt: &Prompt, answers: Vec<Answer>) -> Result<(), StageError>;

    /// Every answer has one more token.
    ///
    /// # Errors
    /// Stops the work.
    fn step(&mut self) -> Result<(), StageError> {
        Ok(())
    }
}

/// An answer whose text is growing.
pub struct Completion {
    decoder: TextDecoder,
    stops: StopStrings,
    answer: Answer,
}

impl Completion {
    /// An answer without text.
    pub fn new(options: &TextOptions) -> Completion {
        let logprobs = options.logprobs.map(|_| Vec::new());
        let answer = Answer { text: String::new(), tokens: Vec::new(), finish: Finish::Length, logprobs };
        Completion { decoder: TextDecoder::new(true), stops: StopStrings::new(&options.stop), answer }
    }

    /// Adds a step. Returns the new text, and whether the answer is complete.
    ///
    /// # Errors
    /// The tokenizer cannot decode the token.
    pub fn push(&mut self, text: &ModelText, step: Step) -> Result<(String, bool), StageError> {
        let mut new = String::new();
        if let Some(token) = step.token {
            self.answer.tokens.push(token);
            if let (Some(all), Some(logprobs)) = (&mut self.answer.logprobs, step.logprobs) {
                all.push(logprobs);
            }
            let piece = self.decoder.push(text.tokenizer(), token)?;
            let (piece, is_over) = self.stops.push(&piece);
            new += &piece;
            if is_over {
                self.answer.finish = Finish::Stop;
                self.answer.text += &new;
                return Ok((new, true));
            }
        }
        let Some(mut finish) = step.finish else {
            self.answer.text += &new;
            return Ok((new, false));
        };
        let (piece, is_over) = self.stops.push(&self.decoder.finish(text.tokenizer())?);
        new += &piece;
        if is_over {
            finish = Finish::Stop;
        } else {
            new += &self.stops.finish();
        }
        self.answer.text += &new;
        self.answer.finish = finish;
        Ok((new, true))
    }

    /// The answer so far.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }
}

impl TextOptions {
    /// What is wrong with the values; `None` if they can be used.
    pub fn problem(&self) -> Option<String> {
        if self.max_new_tokens == 0 {
            return Some("`max_new_tokens` is 0 and must be at least 1".into());
        }
        if self.samples == 0 {
            return Some("`n` is 0 and must be at least 1".into());
        }
        self.sampling.problem()
    }

    /// The options for answers to `content`.
    ///
    /// # Errors
    /// The model has no chat format for messages.
    pub fn for_content(&self, text: &ModelText, content: &Content) -> Result<GenerateOptions, StageError> {
        let mut stop_token_ids = match content {
            _ if self.ignores_eos => Vec::new(),
            Content::Messages(_) => text.end_of_answer_ids()?,
            _ => text.end_of_text_ids().to_vec(),
        };
        stop_token_ids.extend(&self.stop_token_ids);
        Ok(GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            stop_token_ids,
            sampling: self.sampling.clone(),
            logprobs: self.logprobs,
        })
    }
}

/// Prompts that wait in a batch at a time: enough that it is never idle.
const AHEAD: usize = 2 * Batch::AT_ONCE;

/// Answers `prompts`, several at a time, and reports each prompt's answers to `listener`, in the order
/// in which they are complete. An answer depends on its prompt, the prompt's index and `options`
/// alone.
///
/// # Errors
/// A prompt is empty or leaves no room for an answer; its messages do not fit the template; or an
/// error of the listener.
pub fn complete(
    model: &dyn LanguageModel,
    text: &ModelText,
    prompts: &[Prompt],
    options: &TextOptions,
    listener: &mut dyn Listener,
) -> Result<(), StageError> {
    let stage = text.stage();
    if let Some(problem) = options.problem() {
        return Err(StageError::fail(&format!("{stage}::params"), problem));
    }
    let most = model.config().max_sequence_length;
    let encode = |prompt: &Prompt| -> Result<Vec<u32>, StageError> {
        let name = format!("prompt {}", prompt.index + 1);
        let ids = text.encode(&prompt.content).map_err(|error| error.about(&name))?;
        if ids.len() < most {
            return Ok(ids);
        }
        let what = format!("{name} has {} tokens, which leaves no room for an answer in the model's {most}", ids.len());
        Err(StageError::fail(&format!("{stage}::too_long"), what).hint("shorten the prompt"))
    };
    let mut queue: VecDeque<(&Prompt, Vec<u32>)> = VecDeque::new();
    for prompt in prompts {
        queue.push_back((prompt, encode(prompt)?));
    }
    let mut batch = Batch::new(model, Batch::AT_ONCE);
    let mut running: BTreeMap<AnswerId, (usize, usize)> = BTreeMap::new();
    let mut groups: BTreeMap<usize, Group<'_>> = BTreeMap::new();
    let model_error = |error: olmo_model::ModelError| -> StageError {
        StageError::fail(&format!("{stage}::model"), error.to_string())
    };
    let mut next_group = 0;
    while !queue.is_empty() || !batch.is_done() {
        while batch.waiting() < AHEAD
            && let Some((prompt, ids)) = queue.pop_front()
        {
            let settings = Arc::new(options.for_content(text, &prompt.content)?);
            let draws: Vec<Draw> = (0..options.samples).map(|sample| Draw { prompt: prompt.index, sample }).collect();
            let named = |error| model_error(error).about(&format!("prompt {}", prompt.index + 1));
            let answers = batch.add(ids, &draws, &settings).map_err(named)?;
            running.extend(answers.iter().enumerate().map(|(sample, answer)| (*answer, (next_group, sample))));
            let group = Group {
                prompt,
                left: answers.len(),
                answers: draws.iter().map(|_| Completion::new(options)).collect(),
            };
            groups.insert(next_group, group);
            next_group += 1;
        }
        for step in batch.step().map_err(model_error)? {
            let answer = step.answer;
            let ends = step.finish.is_some();
            let Some(&(index, sample)) = running.get(&answer) else { continue };
            let Some(group) = groups.get_mut(&index) else { continue };
            let (new, is_complete) = group.answers[sample].push(text, step)?;
            if !new.is_empty() {
                listener.text(group.prompt, sample as u64, &new)?;
            }
            if !is_complete {
                continue;
            }
            if !ends {
                batch.end(answer);
            }
            running.remove(&answer);
            group.left -= 1;
            if group.left == 0 {
                let Some(group) = groups.remove(&index) else { continue };
                listener.answered(group.prompt, group.answers.into_iter().map(|answer| answer.answer).collect())?;
            }
        }
        listener.step()?;
    }
    Ok(())
}

/// A prompt and its answers.
struct Group<'p> {
    prompt: &'p Prompt,
    answers: Vec<Completion>,
    /// Number of answers that are not complete.
    left: usize,
}
