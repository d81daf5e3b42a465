//! Stage `generate`: answers prompts with an exported model. An attempt that was stopped goes on after
//! the last answer.
//!
//! Like any other reader of the export, it uses only the files in the model's folder:
//! `config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`,
//! `chat_template.jinja` and `generation_config.json`.

mod answers;

use std::path::Path;

use olmo_base::Digest;
use olmo_infer::text::{
    Answer, AnswerFile, AnswerRecord, Content, Listener, ModelText, Prompt, TextOptions, TokenizerPlaces, complete,
    read_prompts,
};
use olmo_infer::{Placement, Sampling};
use olmo_stage::compute_params::ComputeParams;
use olmo_stage::rules::{Finding, Question};
use olmo_stage::worker::enforce;
use olmo_stage::{Compute, Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answers prompts with an exported model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// User messages to answer, each in its own conversation; with `chat: false`, texts to continue.
    #[serde(default)]
    pub prompts: Vec<String>,
    /// Whether texts are user messages, rendered by the model's chat template. False: the model
    /// continues them as they are.
    #[serde(default = "yes")]
    pub chat: bool,
    /// Maximum number of tokens in an answer.
    #[serde(default = "default_max_new_tokens")]
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// System message before every user message; null: none.
    #[serde(default)]
    pub system: Option<String>,
    /// Today's date for chat templates that ask for it (`strftime_now`), such as `2026-01-31`. The
    /// system clock is never used.
    #[serde(default)]
    pub date: Option<String>,
    /// Divisor of the logits before a token is drawn. 0: greedy, always the most likely token.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub temperature: f64,
    /// With `temperature`, draws only among the k most likely tokens; null: all.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub top_k: Option<usize>,
    /// With `temperature`, draws only among the most likely tokens whose probabilities together reach
    /// this; null: all.
    #[serde(default)]
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub top_p: Option<f64>,
    /// With `temperature`, draws only among tokens with at least this share of the largest
    /// probability; null: all.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub min_p: Option<f64>,
    /// Makes tokens that the prompt or the answer already has less likely: divisor of their positive
    /// logits, and factor of their negative ones. 1 changes nothing.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub repetition_penalty: f64,
    /// Seed of the draws. An answer depends on the seed, its prompt, the prompt's place among the
    /// prompts, and its own place among the prompt's answers alone.
    #[serde(default)]
    pub seed: u64,
    /// Number of answers to each prompt.
    #[serde(default = "one_answer")]
    #[schemars(range(min = 1, max = 1024))]
    pub n: u64,
    /// Strings that end an answer. They are not part of it.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Ids of tokens that end an answer, in addition to the model's own.
    #[serde(default)]
    pub stop_token_ids: Vec<u32>,
    /// Number of most likely tokens to record for each token, with log-probabilities; null: none are
    /// computed.
    #[serde(default)]
    #[schemars(range(max = 1000))]
    pub logprobs: Option<usize>,
    #[serde(flatten)]
    pub compute: ComputeParams,
}

impl Params {
    fn options(&self) -> TextOptions {
        let Params { temperature, top_k, top_p, min_p, repetition_penalty, seed, .. } = *self;
        TextOptions {
            max_new_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
            stop_token_ids: self.stop_token_ids.clone(),
            sampling: Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed },
            samples: self.n,
            logprobs: self.logprobs,
            ..TextOptions::default()
        }
    }

    /// `has_file`: the prompts are in a file.
    fn broken(&self, compute: Compute, has_file: bool) -> Vec<Finding> {
        let mut findings = self.compute.broken("generate", compute);
        findings.extend(self.options().problem().map(|problem| {
            let name = problem.split('`').nth(1).unwrap_or("");
            Finding::error("generate::params", name, problem.as_str())
        }));
        let prompts = match (self.prompts.is_empty(), has_file) {
            (true, false) => Some("there are no prompts"),
            (false, true) => Some("prompts are given both in `prompts` and in `prompt_file`"),
            _ => None,
        };
        findings.extend(prompts.map(|what| {
            Finding::error("generate::prompts", "prompts", what)
                .hint("give a list of texts, or bind `prompt_file` to a file with one prompt per line")
        }));
        if self.system.is_some() && !self.chat {
            let what = "`system` is a message of a chat, but `chat` is false";
            findings.push(Finding::error("generate::params", "system", what).hint("remove one of both"));
        }
        findings
    }

    fn placement(&self, compute: Compute) -> Placement<'_> {
        Placement { compute, device: &self.compute.device, stage: "generate" }
    }

    fn prompts(&self, file: Option<&Path>) -> Result<Vec<Prompt>, StageError> {
        let contents = match file {
            Some(path) => read_prompts(path, "generate")?,
            None => self.prompts.iter().cloned().map(Content::Text).collect(),
        };
        let as_asked = |content| match content {
            Content::Text(text) if self.chat => Content::question(self.system.as_deref(), &text),
            other => other,
        };
        let contents = contents.into_iter().map(as_asked).enumerate();
        Ok(contents.map(|(index, content)| Prompt { index: index as u64, content }).collect())
    }
}

fn default_max_new_tokens() -> usize {
    128
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

fn one_answer() -> u64 {
    1
}

/// The stage.
pub struct Generate;

impl Stage for Generate {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &Params, question: &Question) -> Vec<Finding> {
        params.broken(question.compute, question.has("prompt_file"))
    }

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        let file = context.input_files("prompt_file")?.into_iter().next();
        enforce(params.broken(context.request.compute, file.is_some()))?;
        let prompts = params.prompts(file.as_deref())?;
        let dir = context.input("model")?;
        let text = ModelText::open(&dir, TokenizerPlaces::default(), params.date.as_deref(), "generate")?;
        if params.chat {
            text.chat()?;
        }
        let model = olmo_infer::open(&dir, &params.placement(context.request.compute))?;
        text.check_vocabulary(model.config())?;
        context.check_stop()?;
        let mut answers = open_journal(&params, context)?;
        let left: Vec<Prompt> = prompts.iter().filter(|prompt| !answers.has(prompt.index)).cloned().collect();
        let total = prompts.len();
        let mut recorder = Recorder { context, text: &text, answers: &mut answers, total };
        complete(&*model, &text, &left, &params.options(), &mut recorder)?;
        let folder = context.output("answers")?;
        answers::write(&folder, &prompts, answers.records())?;
        answers.finish(&folder.join("answers.jsonl"))
    }
}

/// The answers of earlier attempts; none if their file is damaged.
fn open_journal(params: &Params, context: &mut Context) -> Result<AnswerFile, StageError> {
    let path = context.state_dir()?.join("answers.journal");
    // The folder belongs to these params and inputs, so that nothing else needs to be recorded.
    let settings = Digest::of(format!("{params:?}").as_bytes());
    AnswerFile::open(&path, settings).or_else(|error| {
        let why = match &error {
            StageError::Failed(failure) => failure.message.clone(),
            _ => return Err(error),
        };
        context.warning(format!("begins again, because an earlier attempt cannot be continued: {why}"));
        std::fs::remove_file(&path).map_err(|error| StageError::io(&path, error))?;
        AnswerFile::open(&path, settings)
    })
}

/// Records answers as they are complete.
struct Recorder<'r> {
    context: &'r mut Context,
    text: &'r ModelText,
    answers: &'r mut AnswerFile,
    total: usize,
}

impl Listener for Recorder<'_> {
    fn answered(&mut self, prompt: &Prompt, answers: Vec<Answer>) -> Result<(), StageError> {
        self.answers.add(AnswerRecord::new(self.text, prompt, answers)?)?;
        self.context.progress(self.answers.len() as u64, self.total as u64, "prompts", "");
        Ok(())
    }

    fn step(&mut self) -> Result<(), StageError> {
        self.context.check_stop()
    }
}
