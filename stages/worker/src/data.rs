//! `data …`: shows and checks data. `olmo-pipe data` runs it with artifacts laid out as folders.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use olmo_data::order::{Order, batch_digest, epoch_order};
use olmo_data::view::preview::{self, Style};
use olmo_data::view::{ArtifactKind, Sequence, Sequences, audit, html, kind, plain, stats};
use olmo_data::{DataError, Memmap, Message, TextTokenizer, dataset};
use olmo_stage::StageError;

use crate::answer::print_text;
use crate::raw::{self, Raw};

/// Preview, measure and audit data, and show the rows of training steps.
#[derive(Subcommand)]
pub enum Data {
    /// Show records; trained tokens are green, or between ⟦ and ⟧ without colour.
    #[command(after_help = "Example: olmo-pipe data preview latest:chat_rows.memmap --count 1")]
    Preview {
        #[command(flatten)]
        artifact: Artifact,
        /// First record or row to show, from 0.
        #[arg(long, default_value_t = 0)]
        record: u64,
        /// Number of records or rows to show.
        #[arg(long, default_value_t = 3)]
        count: u64,
        /// Show each token separately, with its id.
        #[arg(long)]
        ids: bool,
        /// Write an HTML page instead.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Print lengths, label density and utilisation, with histograms.
    #[command(after_help = "Example: olmo-pipe data stats latest:chat_rows.memmap")]
    Stats {
        #[command(flatten)]
        artifact: Artifact,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look for errors such as duplicates, untrained rows and wrong special tokens.
    #[command(after_help = "Example: olmo-pipe data audit my-chats.jsonl --html audit.html")]
    Audit {
        #[command(flatten)]
        artifact: Artifact,
        /// Report documents with more tokens than this as too long (0: no limit).
        #[arg(long, default_value_t = 0)]
        max_length: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Also write an HTML page.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Show exactly the rows that training steps read.
    #[command(after_help = "Example: olmo-pipe data inspect latest:train --steps 5-7")]
    Inspect {
        #[command(flatten)]
        artifact: Artifact,
        /// Steps, counted from 1: `5`, `5-7` or `1,5-7`.
        #[arg(long)]
        steps: String,
        /// The training's `seed`; not needed for a run.
        #[arg(long)]
        seed: Option<u64>,
        /// The training's `global_train_batch_size`; not needed for a run.
        #[arg(long)]
        batch: Option<usize>,
        /// Show each token separately, with its id.
        #[arg(long)]
        ids: bool,
        #[command(flatten)]
        run: RunContext,
    },
    /// Print the order in which an epoch visits rows, the same as in OLMo.
    #[command(after_help = "Example: olmo-pipe data order --rows 1000 --seed 6198 --epoch 1")]
    Order {
        /// Number of rows.
        #[arg(long)]
        rows: usize,
        /// The training's `seed`.
        #[arg(long)]
        seed: u64,
        /// Epoch, counted from 0.
        #[arg(long, default_value_t = 0)]
        epoch: u64,
        /// Write OLMo's `global_indices.npy` instead: raw little-endian 32-bit integers.
        #[arg(long, value_name = "FILE")]
        raw: Option<PathBuf>,
    },
}

/// What the engine passes about the run to inspect.
#[derive(Args)]
pub struct RunContext {
    /// The training's params as JSON.
    #[arg(long, hide = true)]
    params: Option<String>,
    /// Folder of the training's metrics.
    #[arg(long, hide = true)]
    metrics: Option<PathBuf>,
}

impl RunContext {
    /// The given number, else the one in the params.
    fn number(&self, given: Option<u64>, param: &str, option: &str) -> Result<u64, StageError> {
        let params: Option<serde_json::Value> = self.params.as_ref().and_then(|text| serde_json::from_str(text).ok());
        given.or_else(|| params?.get(param)?.as_u64()).ok_or_else(|| {
            StageError::fail("data::inspect", format!("the training's `{param}` is unknown"))
                .hint(format!("pass --{option} N, or name the run instead of the rows"))
        })
    }

    /// Rows of a step of the training on `memmap`, by its params, in rows or in tokens.
    fn batch_rows(&self, memmap: &Memmap) -> Option<u64> {
        let params: serde_json::Value = serde_json::from_str(self.params.as_ref()?).ok()?;
        let params: olmo_stage_train::Params = serde_json::from_value(params).ok()?;
        Some(params.batch_rows(memmap.instances() as u64, memmap.manifest().sequence_length) as u64)
    }

    /// The digests of the steps' batches, as the training recorded them.
    fn recorded(&self) -> HashMap<u64, String> {
        let Some(folder) = &self.metrics else { return HashMap::new() };
        let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
        let digest = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            Some((value.get("step")?.as_u64()?, value.get("batch")?.as_str()?.to_owned()))
        };
        text.lines().filter_map(digest).collect()
    }
}

/// The data to look at.
#[derive(Args)]
pub struct Artifact {
    /// Raw files, an artifact's folder, or RUN:STAGE.PORT, a tag or the first digits of a digest.
    artifact: PathBuf,
    /// Tokenizer folder, or a `tokenizer.json`; not needed for artifacts in the store.
    #[arg(long, value_name = "PATH", help_heading = "Tokenizer")]
    tokenizer: Option<PathBuf>,
    /// The eos token of a bare `tokenizer.json`.
    #[arg(long, default_value = "<|endoftext|>", help_heading = "Tokenizer")]
    eos: String,
    /// The pad token of a bare `tokenizer.json` (default: the eos token).
    #[arg(long, help_heading = "Tokenizer")]
    pad: Option<String>,
    /// Folder of objects named by digest, in which to find the tokenizer (passed by olmo-pipe).
    #[arg(long, hide = true)]
    objects: Option<PathBuf>,
}

impl Artifact {
    /// If the artifact is raw files, reads them into a dataset, at most `limit` records per file (0:
    /// all), and points to that instead. The dataset lives as long as the result.
    fn read_raw(&mut self, limit: u64) -> Result<Option<Raw>, StageError> {
        let raw = raw::read(&self.artifact, limit)?;
        if let Some(raw) = &raw {
            self.artifact.clone_from(&raw.dataset);
            for text in &raw.messages {
                let _ = writeln!(std::io::stderr(), "{}", plain(text));
            }
        }
        Ok(raw)
    }

    /// The given tokenizer, or the one whose digest the artifact records.
    fn tokenizer(&self) -> Result<Option<TextTokenizer>, StageError> {
        let bare = |path: &Path, pad: &str| Ok(Some(TextTokenizer::from_file(path, &self.eos, pad)?));
        match &self.tokenizer {
            Some(path) if path.is_dir() => return Ok(Some(TextTokenizer::open(path)?)),
            Some(path) => return bare(path, self.pad.as_deref().unwrap_or(&self.eos)),
            None => {}
        }
        let Some(objects) = &self.objects else { return Ok(None) };
        if kind(&self.artifact)? == ArtifactKind::Dataset {
            return Ok(None);
        }
        let (digest, _, eos, pad) = Sequences::open(&self.artifact)?.tokenizer();
        let hex = digest.hex();
        let path = objects.join(&hex[..2]).join(&hex[2..]);
        let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
        // The artifact holds the ids of eos and pad; the file has their names.
        let named = Path::new("tokenizer.json");
        let names = TextTokenizer::token_names(named, &bytes, &[eos, pad])?;
        let [Some(eos), Some(pad)] = names.as_slice() else { return Ok(None) };
        Ok(Some(TextTokenizer::from_bytes(named, &bytes, eos, pad)?))
    }

    fn needed_tokenizer(&self) -> Result<TextTokenizer, StageError> {
        self.tokenizer()?.ok_or_else(|| {
            StageError::fail("data::tokenizer", "token ids cannot be shown as text without their tokenizer")
                .hint("pass --tokenizer FOLDER, or --tokenizer tokenizer.json --eos TOKEN --pad TOKEN")
        })
    }
}

impl Data {
    pub fn run(self) -> ExitCode {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        // The usual conventions: NO_COLOR and CLICOLOR_FORCE.
        let colour = set("CLICOLOR_FORCE") || (std::io::stdout().is_terminal() && !set("NO_COLOR"));
        print_text(self.answer(colour))
    }

    /// The text to print, and whether the data is free of errors.
    fn answer(self, colour: bool) -> Result<(String, bool), StageError> {
        let style = if colour { Style::Colour } else { Style::Marks };
        match self {
            Data::Preview { mut artifact, record, count, ids, html: page } => {
                let _raw = artifact.read_raw(record.saturating_add(count))?;
                let style = if page.is_some() { Style::Html } else { style };
                let blocks = preview(&artifact, record, count, style, ids)?;
                let Some(page) = page else { return Ok((join(&blocks), true)) };
                let block = |(heading, text): &(String, String)| {
                    format!("<h2>{}</h2>\n<pre>{text}</pre>\n", html::escape(heading))
                };
                let body: String = blocks.iter().map(block).collect();
                write(&page, &html::page("Data preview", &body))?;
                Ok((format!("{}\n", page.display()), true))
            }
            Data::Stats { mut artifact, json } => {
                let _raw = artifact.read_raw(0)?;
                let stats = stats::stats(&artifact.artifact)?;
                Ok((if json { format!("{:#}\n", stats.json()) } else { stats.text() }, true))
            }
            Data::Audit { mut artifact, max_length, json, html } => {
                let raw = artifact.read_raw(0)?;
                let tokenizer = artifact.tokenizer()?;
                let mut audit = audit::audit(&artifact.artifact, tokenizer.as_ref(), max_length)?;
                if raw.is_some() {
                    // In a dataset, records were skipped on purpose; for raw files, fetch would fail.
                    audit.raise("skipped", audit::Level::Error);
                }
                if let Some(path) = html {
                    write(&path, &audit.html("Data audit"))?;
                }
                let sound = audit.worst() < audit::Level::Error;
                if json {
                    let text = serde_json::to_string_pretty(&audit).unwrap_or_default();
                    return Ok((text + "\n", sound));
                }
                Ok((audit.text(colour), sound))
            }
            Data::Inspect { artifact, steps, seed, batch, ids, run } => {
                let seed = run.number(seed, "seed", "seed")?;
                if kind(&artifact.artifact)? != ArtifactKind::Memmap {
                    return Err(StageError::fail("data::inspect", "only a memmap has training rows"));
                }
                let memmap = Memmap::open(&artifact.artifact)?;
                let batch = batch.map(|batch| batch as u64).or_else(|| run.batch_rows(&memmap));
                let batch = run.number(batch, "global_train_batch_size", "batch")? as usize;
                let (blocks, sound) = inspect(&artifact, &memmap, &steps, seed, batch, &run.recorded(), style, ids)?;
                Ok((join(&blocks), sound))
            }
            Data::Order { rows, seed, epoch, raw } => {
                if u32::try_from(rows).is_err() {
                    return Err(StageError::fail("data::order", "--rows must be at most 4294967295"));
                }
                let order = epoch_order(rows, seed, epoch);
                let Some(path) = raw else {
                    return Ok((order.iter().map(|row| format!("{row}\n")).collect(), true));
                };
                let bytes: Vec<u8> = order.iter().flat_map(|row| row.to_le_bytes()).collect();
                std::fs::write(&path, bytes).map_err(|e| StageError::io(&path, e))?;
                Ok((format!("{}\n", path.display()), true))
            }
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), StageError> {
    std::fs::write(path, text).map_err(|e| StageError::io(path, e))
}

fn join(blocks: &[(String, String)]) -> String {
    blocks.iter().map(|(heading, text)| format!("── {heading}\n{text}\n")).collect()
}

fn preview(
    artifact: &Artifact,
    record: u64,
    count: u64,
    style: Style,
    ids: bool,
) -> Result<Vec<(String, String)>, StageError> {
    if kind(&artifact.artifact)? == ArtifactKind::Dataset {
        return records(&artifact.artifact, record, count, style);
    }
    let tokenizer = artifact.needed_tokenizer()?;
    let sequences = Sequences::open(&artifact.artifact)?;
    let (noun, length) = (sequences.noun(), sequences.len());
    if record >= length {
        return Err(StageError::fail(
            "data::record",
            format!("there is no {noun} {record}: the last one is {}", length - 1),
        ));
    }
    let mut blocks = Vec::new();
    let mut failed: Option<DataError> = None;
    sequences.each(|number, sequence| {
        if number < record {
            return true;
        }
        match preview::sequence(&sequence, &tokenizer, style, ids) {
            Ok(text) => blocks.push((preview::heading(&sequence, noun, number), text)),
            Err(e) => failed = Some(e),
        }
        failed.is_none() && number + 1 < record.saturating_add(count)
    })?;
    failed.map_or(Ok(blocks), |e| Err(e.into()))
}

/// Shows records of a dataset, which has no token ids yet.
fn records(dir: &Path, record: u64, count: u64, style: Style) -> Result<Vec<(String, String)>, StageError> {
    let shown = |text: &str| {
        let text = plain(text);
        if style == Style::Html { html::escape(&text) } else { text }
    };
    let (first, count) = (record as usize, count as usize);
    let blocks: Vec<(String, String)> = if dataset::manifest(dir)?.kind == dataset::Kind::Text {
        let texts = dataset::text_batches(dir)?
            .flat_map(|batch| batch.map_or_else(|e| vec![Err(e)], |b| b.into_iter().map(Ok).collect()));
        let block = |(n, text): (usize, Result<String, DataError>)| Ok((format!("document {n}"), shown(&text?) + "\n"));
        texts.enumerate().skip(first).take(count).map(block).collect::<Result<_, DataError>>()?
    } else {
        let chats = dataset::message_batches(dir)?
            .flat_map(|batch| batch.map_or_else(|e| vec![Err(e)], |b| b.into_iter().map(Ok).collect()));
        let block = |(n, chat): (usize, Result<olmo_data::Conversation, DataError>)| {
            let chat = chat?;
            let more =
                |key: &str, value: &serde_json::Value| format!("  {}: {}\n", shown(key), shown(&value.to_string()));
            let turn = |message: &Message| {
                let weight =
                    message.trained.map_or("", |trained| if trained { " (trained)" } else { " (not trained)" });
                let fields: String = message.fields.iter().map(|(key, value)| more(key, value)).collect();
                format!("{}{weight}: {}\n{fields}", message.role, shown(message.text()))
            };
            let mut turns: String = chat.messages.iter().map(turn).collect();
            for (key, value) in [("tools", &chat.tools), ("documents", &chat.documents)] {
                turns.extend(value.as_ref().map(|value| more(key, value)));
            }
            Ok((format!("conversation {n}: {} of `{}`", plain(&chat.id), plain(&chat.dataset)), turns))
        };
        chats.enumerate().skip(first).take(count).map(block).collect::<Result<_, DataError>>()?
    };
    match blocks.is_empty() {
        true => Err(StageError::fail("data::record", format!("there is no record {record}"))),
        false => Ok(blocks),
    }
}

/// Shows the rows of training steps, in order. Also returns whether they match the digests that the
/// training recorded.
#[expect(clippy::too_many_arguments, reason = "each is an option of the command")]
fn inspect(
    artifact: &Artifact,
    memmap: &Memmap,
    steps: &str,
    seed: u64,
    batch: usize,
    recorded: &HashMap<u64, String>,
    style: Style,
    ids: bool,
) -> Result<(Vec<(String, String)>, bool), StageError> {
    let steps = parse_steps(steps).ok_or_else(|| {
        StageError::fail("data::steps", format!("`{}` is not a list of steps", plain(steps)))
            .hint("write --steps 5, 5-7 or 1,5-7")
    })?;
    if batch == 0 || memmap.instances() < batch {
        let message = format!("a step has {batch} rows, but the memmap has only {}", memmap.instances());
        return Err(StageError::fail("data::inspect", message));
    }
    let tokenizer = artifact.needed_tokenizer()?;
    let mut blocks = Vec::new();
    let mut sound = true;
    for step in steps {
        let digest = step_digest(memmap, batch, seed, step)?;
        let said = match recorded.get(&step) {
            None => "not recorded by the run",
            Some(there) if *there == digest => "matches the run's record",
            Some(_) => {
                sound = false;
                "does NOT match the run's record: the run used other rows"
            }
        };
        if !recorded.is_empty() {
            blocks.push((format!("step {step}, batch {}", &digest[..12]), format!("{said}\n")));
        }
        let order = Order::new(memmap.instances(), batch, seed, (step - 1) * batch as u64);
        for (epoch, row) in order.take(batch) {
            let sequence: Sequence = Sequences::row(memmap, row as usize)?;
            let heading = preview::heading(&sequence, "row", u64::from(row));
            blocks.push((
                format!("step {step}, epoch {epoch}, {heading}"),
                preview::sequence(&sequence, &tokenizer, style, ids)?,
            ));
        }
    }
    Ok((blocks, sound))
}

/// The digest of the batch of step `step`, as a training records it.
fn step_digest(memmap: &Memmap, batch: usize, seed: u64, step: u64) -> Result<String, DataError> {
    let order = Order::new(memmap.instances(), batch, seed, (step - 1) * batch as u64);
    let rows: Vec<u32> = order.take(batch).map(|(_, row)| row).collect();
    let (mut input_ids, mut labels) = (Vec::new(), Vec::new());
    let indices: Vec<usize> = rows.iter().map(|row| *row as usize).collect();
    for mut instance in memmap.rows(&indices)? {
        input_ids.append(&mut instance.input_ids);
        labels.append(&mut instance.label_mask.unwrap_or_default());
    }
    Ok(batch_digest(&rows, &input_ids, (!labels.is_empty()).then_some(labels.as_slice())))
}

/// Parses `1,5-7` as 1, 5, 6, 7.
fn parse_steps(text: &str) -> Option<Vec<u64>> {
    let mut steps = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u64, u64) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        if from == 0 || to < from || to - from > 100_000 {
            return None;
        }
        steps.extend(from..=to);
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbers_and_ranges_from_one() {
        assert_eq!(parse_steps("1,5-7"), Some(vec![1, 5, 6, 7]));
        for wrong in ["", "0", "7-5", "a", "1-", "1-999999999"] {
            assert_eq!(parse_steps(wrong), None, "{wrong}");
        }
    }
}
