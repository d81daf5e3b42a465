//! `olmo-pipe logits MODEL`: the worker computes; references to artifacts become folders on the way.

use std::path::PathBuf;

use super::command::{WorkerCommand, is_digest_prefix};
use super::model::is_reference;
use crate::artifacts::Reference;
use crate::cli::common::Common;
use crate::ui::{Exit, Problem};

/// Print a model's logits and log-probabilities for some tokens.
#[derive(clap::Args)]
#[command(
    after_help = "Computes in f32 on the CPU. The model may be a checkpoint, an export, or a folder of any format that \
                  `params.model` takes.\n\n\
                  Example: olmo-pipe logits out/finetune-tulu/model --text 'Hello' --top 3"
)]
pub(crate) struct Logits {
    /// Model folder, or RUN:STAGE.PORT, a tag or the first digits of a digest.
    #[arg(value_name = "MODEL")]
    model: String,
    /// Token ids, separated by commas: `--tokens 1,2,3`.
    #[arg(long, value_name = "IDS", value_delimiter = ',', required_unless_present = "text", conflicts_with = "text")]
    tokens: Vec<u32>,
    /// Text to encode with the model's tokenizer; nothing is added to it.
    #[arg(long, required_unless_present = "tokens")]
    text: Option<String>,
    /// Tokenizer folder, if the model's folder has none.
    #[arg(long, value_name = "FOLDER")]
    tokenizer: Option<PathBuf>,
    /// Number of most likely next tokens to print for each position.
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// With --json: also print every logit of every position.
    #[arg(long, requires = "json")]
    all: bool,
}

impl Logits {
    pub(crate) fn run(self, common: &Common) -> Result<Exit, Problem> {
        let mut command = WorkerCommand::new("logits");
        if is_reference(&self.model) {
            let store = common.read_store()?;
            let artifact = match is_digest_prefix(&self.model) {
                true => store.find_prefix(&self.model)?,
                false => Reference::resolve(&store, &self.model)?,
            };
            command.artifact(&store, artifact)?;
            command.args(["--shown".into(), self.model.into()]);
        } else {
            command.args([self.model.into()]);
        }
        match self.text {
            Some(text) => command.args([format!("--text={text}").into()]),
            None => {
                let ids: Vec<String> = self.tokens.iter().map(u32::to_string).collect();
                command.args(["--tokens".into(), ids.join(",").into()]);
            }
        }
        if let Some(tokenizer) = self.tokenizer {
            command.args(["--tokenizer".into(), tokenizer.into()]);
        }
        command.args([format!("--top={}", self.top).into()]);
        command.args(self.json.then(|| "--json".into()));
        command.args(self.all.then(|| "--all".into()));
        command.run()
    }
}
