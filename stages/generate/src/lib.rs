//! Stage `generate`: answers prompts with an exported model.
//!
//! Like any other reader of the export, it uses only the files in the model's folder:
//! `config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`,
//! `chat_template.jinja` and `generation_config.json`.

mod answers;

use olmo_infer::{ChatModel, GenerateOptions, Placement, Sampling, generate};
use olmo_stage::compute_params::ComputeParams;
use olmo_stage::rules::{Finding, Question};
use olmo_stage::worker::enforce;
use olmo_stage::{Compute, Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use answers::Answer;

/// Generates answers to prompts with an exported model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// User messages to answer, each in its own conversation.
    #[schemars(length(min = 1))]
    pub prompts: Vec<String>,
    /// Maximum number of tokens in an answer.
    #[serde(default = "default_max_new_tokens")]
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// System message before every prompt; null: none.
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
    /// Seed of the draws. An answer depends on the seed, its prompt and the prompt's place in
    /// `prompts` alone.
    #[serde(default)]
    pub seed: u64,
    #[serde(flatten)]
    pub compute: ComputeParams,
}

impl Params {
    fn sampling(&self) -> Sampling {
        let Params { temperature, top_k, top_p, seed, .. } = *self;
        Sampling { temperature, top_k, top_p, seed }
    }

    fn broken(&self, compute: Compute) -> Vec<Finding> {
        let mut findings = self.compute.broken("generate", compute);
        findings.extend(self.sampling().problem().map(|problem| {
            let name = problem.split('`').nth(1).unwrap_or("");
            Finding::error("generate::params", name, problem.as_str())
        }));
        findings
    }

    fn placement(&self, compute: Compute) -> Placement<'_> {
        Placement { compute, device: &self.compute.device, stage: "generate" }
    }
}

fn default_max_new_tokens() -> usize {
    128
}

/// The stage.
pub struct Generate;

impl Stage for Generate {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &Params, question: &Question) -> Vec<Finding> {
        params.broken(question.compute)
    }

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        enforce(params.broken(context.request.compute))?;
        if params.prompts.is_empty() {
            return Err(StageError::fail("generate::empty", "`prompts` is empty"));
        }
        let dir = context.input("model")?;
        let chat = ChatModel::of_huggingface(&dir, params.date.as_deref(), "generate")?;
        let model = olmo_infer::open(&dir, &params.placement(context.request.compute))?;
        chat.check_folder(model.config())?;
        let most = model.config().max_sequence_length;
        let prompt = |(index, prompt): (usize, &String)| {
            let input_ids = chat.question(params.system.as_deref(), prompt)?;
            if input_ids.len() < most {
                return Ok(input_ids);
            }
            let what = format!(
                "prompt {} has {} tokens, which leaves no room for an answer in the model's {most}",
                index + 1,
                input_ids.len(),
            );
            Err(StageError::fail("generate::too_long", what).hint("shorten the prompt"))
        };
        let prompts = params.prompts.iter().enumerate().map(prompt).collect::<Result<Vec<_>, _>>()?;
        context.check_stop()?;
        let options = GenerateOptions {
            max_new_tokens: params.max_new_tokens,
            stop_token_ids: chat.stop_token_ids(),
            sampling: params.sampling(),
        };
        let made = generate(&*model, &prompts, &options).map_err(|e| e.with_code("generate::model"))?;
        let answer =
            |(prompt, ids): (&String, Vec<u32>)| Ok(Answer { prompt: prompt.clone(), answer: chat.decode(&ids)? });
        let answers = params.prompts.iter().zip(made).map(answer).collect::<Result<Vec<_>, StageError>>()?;
        answers::write(&context.output("answers")?, params.system.as_deref(), &answers)
    }
}
