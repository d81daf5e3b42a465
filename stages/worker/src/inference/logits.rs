//! `logits …`: what a model predicts after each of some tokens.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use olmo_data::chat::ModelTokenizer;
use olmo_data::view::plain;
use olmo_data::{ChatRecord, TextTokenizer};
use olmo_infer::Placement;
use olmo_stage::{Compute, StageError};
use serde_json::{Value, json};

use crate::answer::print_text;

/// Print a model's logits and log-probabilities for some tokens.
#[derive(Args)]
pub(crate) struct Logits {
    /// Model folder, of any format.
    folder: PathBuf,
    /// Token ids, separated by commas.
    #[arg(long, value_delimiter = ',', required_unless_present = "text", conflicts_with = "text")]
    tokens: Vec<u32>,
    /// Text to encode with the model's tokenizer.
    #[arg(long, required_unless_present = "tokens")]
    text: Option<String>,
    /// Tokenizer folder, if the model's folder has none.
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Number of most likely next tokens to print for each position.
    #[arg(long, default_value_t = 5)]
    top: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// With --json: also print every logit of every position.
    #[arg(long, requires = "json")]
    all: bool,
    /// Name of the folder in messages (passed by olmo-pipe).
    #[arg(long, hide = true)]
    shown: Option<String>,
    /// Folder of objects named by digest, in which to find the tokenizer (passed by olmo-pipe).
    #[arg(long, hide = true)]
    objects: Option<PathBuf>,
}

/// What a model predicts after one token.
struct Position {
    token: u32,
    /// Natural logarithm of the token's probability after those before it; `None` for the first.
    log_probability: Option<f64>,
    /// The most likely next tokens: id, logit and log-probability.
    top: Vec<(u32, f32, f64)>,
}

impl Logits {
    pub(crate) fn run(mut self) -> ExitCode {
        // A checkpoint is accepted wherever a model is.
        let inner = self.folder.join("model");
        if self.folder.join("trainer.json").is_file() && inner.is_dir() {
            self.folder = inner;
        }
        let answer = self.answer().map_err(|error| self.rename(error));
        print_text(answer.map(|text| (text, true)))
    }

    /// Errors call an artifact by the user's name for it.
    fn rename(&self, error: StageError) -> StageError {
        let Some(shown) = &self.shown else { return error };
        let folder = self.folder.display().to_string();
        match error {
            StageError::Failed(mut failure) => {
                failure.message = failure.message.replace(&folder, shown);
                StageError::Failed(failure)
            }
            other => other,
        }
    }

    fn answer(&self) -> Result<String, StageError> {
        if !self.folder.exists() {
            let what = format!("there is no {}", self.folder.display());
            return Err(StageError::fail("logits::missing", what)
                .hint("name a model folder, or an artifact: RUN:STAGE.PORT, a tag or the first digits of its digest"));
        }
        let tokenizer = self.find_tokenizer()?;
        let tokens = match (&self.text, &tokenizer) {
            (None, _) => self.tokens.clone(),
            (Some(text), Some(tokenizer)) => tokenizer.encode_text(text)?,
            (Some(_), None) => {
                let what = format!("{} has no tokenizer, which --text needs", self.folder.display());
                return Err(StageError::fail("logits::tokenizer", what)
                    .hint("pass --tokenizer FOLDER, or the ids with --tokens 1,2,3"));
            }
        };
        let placement = Placement { compute: Compute::FLEX, device: "cpu", stage: "logits" };
        let model = olmo_infer::open(&self.folder, &placement)?;
        let (config, most) = (model.config(), model.config().max_sequence_length);
        if tokens.len() > most {
            let what = format!("{} tokens are more than the model's maximum sequence length of {most}", tokens.len());
            return Err(StageError::fail("logits::too_long", what).hint("give fewer tokens"));
        }
        let logits = model.logits(&tokens, 1, tokens.len()).map_err(|e| e.with_code("logits::tokens"))?;
        let rows: Vec<&[f32]> = logits.chunks(config.embedding_rows().max(1)).collect();
        let positions = positions(&tokens, &rows, self.top);
        let text = |id: u32| tokenizer.as_ref().and_then(|tokenizer| tokenizer.decode(&[id], false).ok());
        if self.json {
            let value = self.describe(config.embedding_rows(), &positions, &rows, &text);
            return Ok(format!("{value:#}\n"));
        }
        Ok(table(&positions, &text))
    }

    /// The given tokenizer, or the one in the model's folder, or the one that a trained model records.
    fn find_tokenizer(&self) -> Result<Option<TextTokenizer>, StageError> {
        if let Some(folder) = &self.tokenizer {
            return open_tokenizer(folder).map(Some);
        }
        let inside = [self.folder.clone(), self.folder.join("tokenizer")];
        if let Some(folder) = inside.iter().find(|folder| folder.join("tokenizer.json").is_file()) {
            return open_tokenizer(folder).map(Some);
        }
        let (Some(objects), Some(record)) = (&self.objects, ChatRecord::read(&self.folder)?) else { return Ok(None) };
        let hex = record.tokenizer.hex();
        let Ok(bytes) = std::fs::read(objects.join(&hex[..2]).join(&hex[2..])) else { return Ok(None) };
        let pad = record.pad_token.as_deref().unwrap_or(&record.eos_token);
        Ok(Some(TextTokenizer::from_bytes(Path::new("tokenizer.json"), &bytes, &record.eos_token, pad)?))
    }

    fn describe(
        &self,
        vocabulary: usize,
        positions: &[Position],
        rows: &[&[f32]],
        text: &dyn Fn(u32) -> Option<String>,
    ) -> Value {
        let top = |(id, logit, log_probability): &(u32, f32, f64)| json!({"token": id, "text": text(*id), "logit": logit, "log_probability": log_probability});
        let describe = |(position, row): (&Position, &&[f32])| {
            let Position { token, log_probability, top: likely } = position;
            let likely: Vec<Value> = likely.iter().map(top).collect();
            let mut value =
                json!({"token": token, "text": text(*token), "log_probability": log_probability, "top": likely});
            if self.all {
                value["logits"] = json!(row);
            }
            value
        };
        let positions: Vec<Value> = positions.iter().zip(rows).map(describe).collect();
        json!({"format": 1, "embedding_rows": vocabulary, "positions": positions})
    }
}

/// A tokenizer artifact, or a folder with Hugging Face's files.
fn open_tokenizer(folder: &Path) -> Result<TextTokenizer, StageError> {
    if folder.join("special_tokens.json").is_file() {
        return Ok(TextTokenizer::open(folder)?);
    }
    let read = ModelTokenizer::read(folder);
    Ok(read.map_err(|error| StageError::fail("logits::tokenizer", error.to_string()).hint(error.hint()))?.tokenizer)
}

/// The ids of the `count` largest logits, largest first; of equal ones, the lowest id first.
fn most_likely(row: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..row.len() as u32).collect();
    let logit = |id: &u32| row[*id as usize];
    ids.sort_unstable_by(|a, b| logit(b).total_cmp(&logit(a)).then(a.cmp(b)));
    ids.truncate(count);
    ids
}

fn positions(tokens: &[u32], rows: &[&[f32]], top: usize) -> Vec<Position> {
    // ln Σ exp(logit), stable for large logits.
    let normalizer = |row: &[f32]| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|logit| (f64::from(*logit) - f64::from(largest)).exp()).sum();
        f64::from(largest) + sum.ln()
    };
    let normalizers: Vec<f64> = rows.iter().map(|row| normalizer(row)).collect();
    let log_probability = |row: usize, id: u32| f64::from(rows[row][id as usize]) - normalizers[row];
    let position = |(index, token): (usize, &u32)| Position {
        token: *token,
        log_probability: index.checked_sub(1).map(|before| log_probability(before, *token)),
        top: most_likely(rows[index], top)
            .into_iter()
            .map(|id| (id, rows[index][id as usize], log_probability(index, id)))
            .collect(),
    };
    tokens.iter().enumerate().map(position).collect()
}

/// One line for each position, and the sum.
fn table(positions: &[Position], text: &dyn Fn(u32) -> Option<String>) -> String {
    let named = |id: u32| match text(id) {
        Some(text) => format!("{id} \"{}\"", plain(&text).escape_debug()),
        None => id.to_string(),
    };
    let header = ["position", "token", "log-probability", "most likely next: logit (log-probability)"];
    let mut lines = vec![header.map(str::to_owned)];
    for (index, position) in positions.iter().enumerate() {
        let likely = |(id, logit, log_probability): &(u32, f32, f64)| {
            format!("{}: {logit:.4} ({log_probability:.4})", named(*id))
        };
        let own = position.log_probability.map_or("-".to_owned(), |value| format!("{value:.4}"));
        let likely: Vec<String> = position.top.iter().map(likely).collect();
        lines.push([index.to_string(), named(position.token), own, likely.join(", ")]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2].map(width);
    let mut text = String::new();
    for [position, token, own, likely] in &lines {
        let [first, second, third] = widths;
        let _ = writeln!(text, "{position:<first$}  {token:<second$}  {own:<third$}  {likely}");
    }
    let sum: f64 = positions.iter().filter_map(|position| position.log_probability).sum();
    if positions.len() > 1 {
        let _ = writeln!(text, "log-probability of tokens 1 to {}: {sum:.4}", positions.len() - 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_normalized_and_ties_go_to_the_lowest_id() {
        let rows: [&[f32]; 2] = [&[1.0, 3.0, 3.0, 0.0], &[1000.0, 0.0, 0.0, 0.0]];
        let found = positions(&[2, 0], &rows, 2);
        assert_eq!(found[0].log_probability, None);
        let sum: f64 = [1.0f64, 3.0, 3.0, 0.0].iter().map(|logit| logit.exp()).sum();
        assert!((found[1].log_probability.unwrap() - (1.0 - sum.ln())).abs() < 1e-12);
        let ids = |position: &Position| position.top.iter().map(|(id, ..)| *id).collect::<Vec<_>>();
        assert_eq!((ids(&found[0]), ids(&found[1])), (vec![1, 2], vec![0, 1]));
        assert_eq!(found[1].top[0].2, 0.0, "no overflow");
    }
}
