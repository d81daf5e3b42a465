//! [`Chat`]: the tokenizer and the chat template of an exported model.

use std::path::Path;

use olmo_data::{TextTokenizer, TurnView};
use olmo_model::ModelConfig;
use olmo_stage::StageError;
use serde_json::Value;

use crate::chat_template;

const TEMPLATE: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";

/// How conversations become ids and back.
pub struct Chat {
    tokenizer: TextTokenizer,
    template: String,
    bos_token: Option<String>,
}

impl Chat {
    /// Opens the files in folder `dir`.
    ///
    /// # Errors
    /// A file is missing or broken, or the special tokens are not those of the tokenizer.
    pub fn open(dir: &Path) -> Result<Self, StageError> {
        let path = dir.join(CONFIG);
        let text = std::fs::read(&path).map_err(|e| missing(&path, e))?;
        let config: Value = serde_json::from_slice(&text)
            .map_err(|e| StageError::fail("generate::tokenizer_config", format!("{CONFIG} is not JSON: {e}")))?;
        let eos_token = token(&config, "eos_token")
            .ok_or_else(|| StageError::fail("generate::tokenizer_config", format!("{CONFIG} names no eos_token")))?;
        // Nothing is padded here, so a model without a pad token is as good.
        let pad_token = token(&config, "pad_token").unwrap_or_else(|| eos_token.clone());
        let tokenizer = TextTokenizer::from_file(&dir.join("tokenizer.json"), &eos_token, &pad_token)?;
        let path = dir.join(TEMPLATE);
        let template = std::fs::read_to_string(&path).map_err(|e| missing(&path, e))?;
        Ok(Self { tokenizer, template, bos_token: token(&config, "bos_token") })
    }

    /// Refuses a model that does not know all ids of the tokenizer.
    pub fn check(&self, config: &ModelConfig) -> Result<(), StageError> {
        let ids = self.tokenizer.special().vocab_size as usize;
        if ids <= config.vocab_size {
            return Ok(());
        }
        let what = format!("tokenizer.json has {ids} ids, the model knows {}", config.vocab_size);
        Err(StageError::fail("generate::vocabulary", what)
            .hint("the folder's files do not belong together; export the model again"))
    }

    pub fn eos_token_id(&self) -> u32 {
        self.tokenizer.special().eos_token_id
    }

    /// The ids of a conversation in which the assistant is to answer `prompt`.
    pub fn prompt(&self, system: Option<&str>, prompt: &str) -> Result<Vec<u32>, StageError> {
        let system = system.map(|content| TurnView { role: "system", content });
        let turns: Vec<TurnView<'_>> = system.into_iter().chain([TurnView { role: "user", content: prompt }]).collect();
        let special = self.tokenizer.special();
        let tokens = [
            ("bos_token", self.bos_token.as_deref()),
            ("eos_token", Some(special.eos_token.as_str())),
            ("pad_token", Some(special.pad_token.as_str())),
        ];
        let text = chat_template::render(&self.template, &turns, &tokens)?;
        let ids = self.tokenizer.encode_text(&text)?;
        if ids.is_empty() {
            return Err(StageError::fail("generate::template", format!("{TEMPLATE} makes no text of the prompt")));
        }
        Ok(ids)
    }

    /// The text of `ids`, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, StageError> {
        Ok(self.tokenizer.decode(ids, true)?)
    }
}

/// A special token of `tokenizer_config.json`: a string, or an object with its `content`.
fn token(config: &Value, name: &str) -> Option<String> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

fn missing(path: &Path, error: std::io::Error) -> StageError {
    StageError::io(path, error).hint("this stage reads a model folder as stage convert writes it")
}
