//! `generate …`: answers prompts, or continues texts.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use olmo_base::Digest;
use olmo_data::view::plain;
use olmo_infer::Sampling;
use olmo_infer::text::{
    Answer, AnswerFile, AnswerRecord, Content, Listener, ModelText, Prompt, TextOptions, complete, read_prompts,
};
use olmo_stage::StageError;
use serde_json::json;

use super::model::{ModelArguments, OpenModel};
use crate::answer::{print, print_error};

const STAGE: &str = "generate";

/// Continue texts, or answer messages.
#[derive(Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    model: ModelArguments,
    /// Texts to continue; with --chat, messages to answer.
    #[arg(value_name = "PROMPT", required_unless_present = "prompts", conflicts_with = "prompts")]
    texts: Vec<String>,
    /// File with one prompt per line: text, or (.jsonl) JSON with `prompt`, `messages` or `tokens`.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Write the answers to a file as JSON Lines. If it is interrupted, the same command goes on.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the answers as JSON Lines.
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Answer each text as a user's message, by the model's chat template.
    #[arg(long)]
    chat: bool,
    /// System message before each message. Implies --chat.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Number of answers to each prompt.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    n: u64,
    /// Report the log-probability of each token and of the K most likely ones. Needs --json or --output.
    #[arg(long, value_name = "K")]
    logprobs: Option<usize>,
    /// Print the numbers of tokens and seconds as JSON on standard error.
    #[arg(long)]
    stats: bool,
}

/// How tokens are chosen, and where an answer ends.
#[derive(Args)]
pub(super) struct SamplingArguments {
    /// Maximum number of tokens in an answer.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_new_tokens: usize,
    /// Divisor of the logits before a token is drawn; 0: always the most likely token.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Draw among the K most likely tokens only.
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw among the most likely tokens whose probabilities together reach P only.
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Draw among tokens with at least the share P of the largest probability only.
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Make tokens that were there before less likely; 1 changes nothing.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Seed of the draws: the same seed gives the same text.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// End an answer before this string; may be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// End an answer before this token; may be repeated.
    #[arg(long, value_name = "ID")]
    stop_token: Vec<u32>,
    /// Go on after the tokens that end the model's texts.
    #[arg(long)]
    ignore_eos: bool,
}

impl SamplingArguments {
    /// The options for one answer without log-probabilities.
    ///
    /// # Errors
    /// A value cannot be used.
    pub(super) fn options(&self, stage: &str) -> Result<TextOptions, StageError> {
        let SamplingArguments { temperature, top_k, top_p, min_p, repetition_penalty, seed, .. } = *self;
        let options = TextOptions {
            max_new_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
            stop_token_ids: self.stop_token.clone(),
            ignores_eos: self.ignore_eos,
            sampling: Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed },
            ..TextOptions::default()
        };
        match options.problem() {
            None => Ok(options),
            Some(problem) => Err(StageError::fail(&format!("{stage}::params"), problem.replace('_', "-"))),
        }
    }
}

impl Generate {
    pub(crate) fn run(self) -> ExitCode {
        match self.answer() {
            Ok(()) => ExitCode::SUCCESS,
            // The reader closed the pipe.
            Err(StageError::Interrupted) => ExitCode::SUCCESS,
            Err(error) => print_error(error),
        }
    }

    fn answer(&self) -> Result<(), StageError> {
        let options = TextOptions { samples: self.n, logprobs: self.logprobs, ..self.sampling.options(STAGE)? };
        if self.logprobs.is_some() && !self.json && self.output.is_none() {
            return Err(
                StageError::fail("generate::logprobs", "--logprobs needs --json or --output FILE").hint("add --json")
            );
        }
        let prompts = self.read_prompts()?;
        let start = Instant::now();
        let OpenModel { model, text } = self.model.open(STAGE)?;
        let mut stats = Stats { start, loaded: start.elapsed().as_secs_f64(), first: None, steps: 0, tokens: 0 };
        match &self.output {
            Some(output) => {
                let mut name = output.clone().into_os_string();
                name.push(".partial");
                let mut answers = AnswerFile::open(&PathBuf::from(name), self.settings(&options, &prompts)?)?;
                let left: Vec<Prompt> = prompts.iter().filter(|prompt| !answers.has(prompt.index)).cloned().collect();
                let mut recorder =
                    Recorder { text: &text, answers: &mut answers, total: prompts.len(), stats: &mut stats };
                complete(&*model, &text, &left, &options, &mut recorder)?;
                answers.finish(output)?;
            }
            None => {
                let style = match (self.json, prompts.len() == 1 && self.n == 1) {
                    (true, _) => Style::Json,
                    (_, true) => Style::Stream,
                    _ => Style::Sections,
                };
                let mut printer = Printer { text: &text, style, waiting: BTreeMap::new(), next: 0, stats: &mut stats };
                complete(&*model, &text, &prompts, &options, &mut printer)?;
            }
        }
        if self.stats {
            stats.print();
        }
        Ok(())
    }

    fn read_prompts(&self) -> Result<Vec<Prompt>, StageError> {
        let contents = match &self.prompts {
            Some(path) => read_prompts(path, STAGE)?,
            None => self.texts.iter().cloned().map(Content::Text).collect(),
        };
        let is_chat = self.chat || self.system.is_some();
        let as_asked = |content| match content {
            Content::Text(text) if is_chat => Content::question(self.system.as_deref(), &text),
            other => other,
        };
        let contents = contents.into_iter().map(as_asked).enumerate();
        Ok(contents.map(|(index, content)| Prompt { index: index as u64, content }).collect())
    }

    /// A digest of everything that the answers depend on.
    fn settings(&self, options: &TextOptions, prompts: &[Prompt]) -> Result<Digest, StageError> {
        let all = format!("{:?} {options:?} {prompts:?}", self.model.identity()?);
        Ok(Digest::of(all.as_bytes()))
    }
}

/// Times and numbers of a run.
struct Stats {
    start: Instant,
    /// Seconds to open the model.
    loaded: f64,
    /// Seconds to the first tokens.
    first: Option<f64>,
    steps: u64,
    tokens: u64,
}

impl Stats {
    fn step(&mut self) {
        self.steps += 1;
        self.first.get_or_insert_with(|| self.start.elapsed().as_secs_f64());
    }

    fn add(&mut self, answers: &[Answer]) {
        self.tokens += answers.iter().map(|answer| answer.tokens.len() as u64).sum::<u64>();
    }

    fn print(&self) {
        let seconds = self.start.elapsed().as_secs_f64();
        let line = json!({
            "load_seconds": self.loaded, "first_token_seconds": self.first, "seconds": seconds, "steps": self.steps,
            "tokens": self.tokens,
        });
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// Records answers in a file.
struct Recorder<'r> {
    text: &'r ModelText,
    answers: &'r mut AnswerFile,
    total: usize,
    stats: &'r mut Stats,
}

impl Listener for Recorder<'_> {
    fn answered(&mut self, prompt: &Prompt, answers: Vec<Answer>) -> Result<(), StageError> {
        self.stats.add(&answers);
        self.answers.add(AnswerRecord::new(self.text, prompt, answers)?)?;
        let mut stderr = std::io::stderr();
        if stderr.is_terminal() {
            let _ = write!(stderr, "\r{} of {} prompts", self.answers.len(), self.total);
            if self.answers.len() == self.total {
                let _ = writeln!(stderr);
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), StageError> {
        self.stats.step();
        Ok(())
    }
}

/// How answers are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// The text of the only answer, as it comes.
    Stream,
    /// Each prompt and its answers under headings.
    Sections,
    /// JSON Lines.
    Json,
}

/// Prints answers in the order of their prompts.
struct Printer<'p> {
    text: &'p ModelText,
    style: Style,
    /// Answers to prompts after one that has none yet.
    waiting: BTreeMap<u64, String>,
    next: u64,
    stats: &'p mut Stats,
}

impl Listener for Printer<'_> {
    fn text(&mut self, _: &Prompt, _: u64, text: &str) -> Result<(), StageError> {
        if self.style == Style::Stream { print(&plain(text)) } else { Ok(()) }
    }

    fn answered(&mut self, prompt: &Prompt, answers: Vec<Answer>) -> Result<(), StageError> {
        self.stats.add(&answers);
        let text = match self.style {
            Style::Stream => "\n".to_owned(),
            Style::Json => {
                let record = AnswerRecord::new(self.text, prompt, answers)?;
                json!(record).to_string() + "\n"
            }
            Style::Sections => sections(prompt, &answers),
        };
        self.waiting.insert(prompt.index, text);
        while let Some(text) = self.waiting.remove(&self.next) {
            print(&text)?;
            self.next += 1;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), StageError> {
        self.stats.step();
        Ok(())
    }
}

/// A prompt and its answers under headings.
fn sections(prompt: &Prompt, answers: &[Answer]) -> String {
    let number = prompt.index + 1;
    let title = match &prompt.content {
        Content::Text(text) => text.lines().next().unwrap_or_default().to_owned(),
        Content::Messages(messages) => {
            let last = messages.last().map(olmo_data::Message::text).unwrap_or_default();
            last.lines().next().unwrap_or_default().to_owned()
        }
        Content::Tokens(ids) => format!("{} tokens", ids.len()),
    };
    let mut text = String::new();
    for (sample, answer) in answers.iter().enumerate() {
        let which = if answers.len() == 1 { String::new() } else { format!(" ({} of {})", sample + 1, answers.len()) };
        text += &format!("## {number}{which}: {}\n{}\n\n", plain(&title), plain(&answer.text));
    }
    text
}
