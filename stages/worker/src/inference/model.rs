//! [`ModelArguments`]: the model that a command asks.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use clap::Args;
use olmo_base::Digest;
use olmo_infer::text::{ModelText, TokenizerPlaces};
use olmo_infer::{LanguageModel, Placement, Quantization};
use olmo_stage::{Compute, StageError};

/// The model that a command asks, and how it is opened.
#[derive(Args)]
pub(super) struct ModelArguments {
    /// Model folder of any format, GGUF file, or RUN:STAGE.PORT, a tag or the first digits of a digest.
    #[arg(value_name = "MODEL")]
    folder: PathBuf,
    /// Tokenizer folder, if not the model's own.
    #[arg(long, value_name = "FOLDER")]
    tokenizer: Option<PathBuf>,
    /// Round the weights when the model is opened: `q8_0`, `q4_0` or `int8`.
    #[arg(long, value_name = "KIND", value_parser = quantization)]
    quantize: Option<Quantization>,
    /// Today's date for chat templates that ask for it, such as 2026-01-31.
    #[arg(long)]
    date: Option<String>,
    /// Number of threads. The answers do not depend on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Name of the folder in messages (passed by olmo-pipe).
    #[arg(long, hide = true)]
    shown: Option<String>,
    /// Folder of objects named by digest, in which to find the tokenizer (passed by olmo-pipe).
    #[arg(long, hide = true)]
    objects: Option<PathBuf>,
}

fn quantization(name: &str) -> Result<Quantization, String> {
    let names: Vec<&str> = Quantization::ALL.iter().map(|kind| kind.name()).collect();
    Quantization::named(name).ok_or_else(|| format!("it must be one of {}", names.join(", ")))
}

/// A model that is ready to answer.
pub(super) struct OpenModel {
    pub model: Box<dyn LanguageModel>,
    pub text: ModelText,
}

impl ModelArguments {
    /// The folder of the model; that of a checkpoint is inside it.
    fn model_folder(&self) -> PathBuf {
        let inner = self.folder.join("model");
        let is_checkpoint = self.folder.join("trainer.json").is_file() && inner.is_dir();
        if is_checkpoint { inner } else { self.folder.clone() }
    }

    /// Maps the model and reads its tokenizer.
    ///
    /// # Errors
    /// There is no such folder, or it is no model.
    pub(super) fn open(&self, stage: &'static str) -> Result<OpenModel, StageError> {
        self.open_folder(stage).map_err(|error| self.rename(error))
    }

    fn open_folder(&self, stage: &'static str) -> Result<OpenModel, StageError> {
        let folder = self.model_folder();
        if !folder.exists() {
            let what = format!("there is no {}", folder.display());
            return Err(StageError::fail(&format!("{stage}::missing"), what)
                .hint("name a model folder, or an artifact: RUN:STAGE.PORT, a tag or the first digits of its digest"));
        }
        if let Some(threads) = self.threads {
            let built = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global();
            built.map_err(|error| StageError::fail(&format!("{stage}::threads"), error.to_string()))?;
        }
        let placement = Placement { compute: Compute::FLEX, device: "cpu", stage };
        let model = olmo_infer::open_quantized(&folder, &placement, self.quantize)?;
        let places = TokenizerPlaces { named: self.tokenizer.as_deref(), objects: self.objects.as_deref() };
        let text = ModelText::open(&folder, places, self.date.as_deref(), stage)?;
        text.check_vocabulary(model.config())?;
        Ok(OpenModel { model, text })
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

    /// Changes if a file of the model or its tokenizer does: the names, sizes and times of the files,
    /// or the digest of an artifact.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub(super) fn identity(&self) -> Result<Digest, StageError> {
        let mut text = format!("{:?}\n", self.quantize);
        let folder = self.model_folder();
        // The folder of an artifact is named by its digest, and its files may be copies.
        let own = self.shown.is_none().then_some(&folder);
        text += &format!("{:?}\n", self.folder.file_name().filter(|_| self.shown.is_some()));
        for folder in own.into_iter().chain(self.tokenizer.as_ref()) {
            list(folder, folder, &mut text).map_err(|error| StageError::io(folder, error))?;
        }
        Ok(Digest::of(text.as_bytes()))
    }
}

/// Adds a line for each file in `folder`, by names relative to `root`.
fn list(root: &Path, folder: &Path, text: &mut String) -> std::io::Result<()> {
    if folder.is_file() {
        return describe(root, folder, text);
    }
    let mut entries = std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() { list(root, &path, text)? } else { describe(root, &path, text)? }
    }
    Ok(())
}

/// Adds a line for the file `path`.
fn describe(root: &Path, path: &Path, text: &mut String) -> std::io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = path.strip_prefix(root).unwrap_or(path);
    *text += &format!("{name:?} {} {}\n", metadata.len(), changed.as_nanos());
    Ok(())
}
