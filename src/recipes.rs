//! The experiments that ship with olmo-pipe, embedded with all their files so that an installed
//! binary can copy them anywhere.

use std::path::{Path, PathBuf};

use olmo_base::{IoContext as _, PathError};

/// An experiment with its pipeline, stages, schemas and data.
#[derive(Debug)]
pub struct Recipe {
    pub name: &'static str,
    /// A one-sentence description.
    pub summary: &'static str,
    /// Paths relative to the project's root and the files' contents; the experiment comes first.
    pub files: &'static [(&'static str, &'static [u8])],
}

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../", $path)))),*]
    };
}

/// All recipes, smallest first.
pub const RECIPES: [Recipe; 4] = [
    Recipe {
        name: "word-frequency",
        summary: "Counts the words of a text: the smallest pipeline with a custom stage.",
        files: files![
            "experiments/word-frequency.yaml",
            "pipelines/word-frequency.yaml",
            "stages/word-frequency/stage.yaml",
            "stages/word-frequency/count.sh",
            "schemas/experiment.word-frequency.schema.json",
            "schemas/pipeline.schema.json",
            "data/sentences.txt",
        ],
    },
    Recipe {
        name: "finetune-tulu",
        summary: "Trains a small OLMo, fine-tunes it on conversations, and exports the best checkpoint.",
        files: files![
            "experiments/finetune-tulu.yaml",
            "experiments/configs/allenai/OLMo-2-0425-1B/config.json",
            "experiments/configs/allenai/OLMo-2-1124-7B/config.json",
            "experiments/configs/allenai/Olmo-3-7B-Instruct/config.json",
            "pipelines/finetune.yaml",
            "schemas/experiment.finetune.schema.json",
            "schemas/pipeline.schema.json",
            "data/sentences.txt",
            "data/tulu-sample.jsonl",
            "data/tulu-heldout.jsonl",
        ],
    },
    Recipe {
        name: "evaluate",
        summary: "Evaluates a model on requests, one task per file, and keeps every answer.",
        files: files![
            "experiments/evaluate.yaml",
            "pipelines/evaluate.yaml",
            "schemas/experiment.evaluate.schema.json",
            "schemas/pipeline.schema.json",
            "data/requests/larger.jsonl",
            "data/requests/category.jsonl",
            "data/requests/repeat.jsonl",
        ],
    },
    Recipe {
        name: "harness",
        summary: "Evaluates an exported model with stock lm_eval or olmo-eval, which you install.",
        files: files![
            "experiments/harness.yaml",
            "pipelines/harness.yaml",
            "stages/harness/stage.yaml",
            "stages/harness/run.py",
            "stages/harness/convert.py",
            "stages/harness/check.py",
            "stages/harness/requirements.txt",
            "schemas/experiment.harness.schema.json",
            "schemas/pipeline.schema.json",
        ],
    },
];

/// The file that marks a project's root.
const MARK: (&str, &[u8]) = ("olmo-pipe.yaml", include_bytes!("../olmo-pipe.yaml"));
/// Paths that a project keeps out of git.
const IGNORED: [&str; 2] = ["/.olmo-pipe", "/out"];

/// Why a recipe was not copied.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("these files exist with different content: {}", .0.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    Different(Vec<PathBuf>),
    #[error(transparent)]
    Io(#[from] PathError),
}

/// Finds the recipe called `name`.
pub fn find(name: &str) -> Option<&'static Recipe> {
    RECIPES.iter().find(|recipe| recipe.name == name)
}

impl Recipe {
    /// Writes the recipe's files into `root`, which becomes a project. Existing files with the same
    /// content stay. Returns the files written.
    ///
    /// # Errors
    /// Files with different content exist and `force` is not set, or an I/O error occurred. In the
    /// first case, nothing is written.
    pub fn lay_out(&self, root: &Path, force: bool) -> Result<Vec<PathBuf>, RecipeError> {
        lay_out(root, self.files.iter().chain([&MARK]), force)
    }
}

/// Makes `root` a project: writes `olmo-pipe.yaml`, and adds the project's generated folders to
/// `.gitignore`. Returns the files written.
///
/// # Errors
/// An I/O error occurred.
pub fn make_project(root: &Path) -> Result<Vec<PathBuf>, RecipeError> {
    let mut written = Vec::new();
    // Keep an existing `olmo-pipe.yaml`, since it may contain settings.
    if !root.join(MARK.0).exists() {
        written = lay_out(root, [&MARK].into_iter(), false)?;
    }
    let path = root.join(".gitignore");
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    let missing: Vec<&str> =
        IGNORED.into_iter().filter(|line| !old.lines().any(|known| known.trim_end_matches('/') == *line)).collect();
    if !missing.is_empty() {
        let gap = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
        std::fs::write(&path, format!("{old}{gap}{}\n", missing.join("\n"))).context_during("write", &path)?;
        written.push(path);
    }
    Ok(written)
}

fn lay_out<'f>(
    root: &Path,
    files: impl Iterator<Item = &'f (&'static str, &'static [u8])>,
    force: bool,
) -> Result<Vec<PathBuf>, RecipeError> {
    let mut missing = Vec::new();
    let mut different = Vec::new();
    for (path, content) in files {
        let path = root.join(path);
        match std::fs::read(&path) {
            Ok(existing) if existing == *content => {}
            // Any existing `olmo-pipe.yaml` will do, since ours contains only a comment.
            Ok(_) if path.ends_with(MARK.0) => {}
            Ok(_) if !force => different.push(path),
            _ => missing.push((path, content)),
        }
    }
    if !different.is_empty() {
        return Err(RecipeError::Different(different));
    }
    let mut written = Vec::new();
    for (path, content) in missing {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).context_during("write", folder)?;
        }
        std::fs::write(&path, content).context_during("write", &path)?;
        written.push(path);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edited_files_are_not_overwritten_and_a_conflict_writes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let recipe = find("word-frequency").unwrap();
        assert_eq!(recipe.lay_out(root.path(), false).unwrap().len(), recipe.files.len() + 1);
        assert_eq!(recipe.lay_out(root.path(), false).unwrap(), Vec::<PathBuf>::new(), "all files exist");
        let edited = root.path().join("experiments/word-frequency.yaml");
        std::fs::write(&edited, "mine").unwrap();
        std::fs::remove_file(root.path().join("data/sentences.txt")).unwrap();
        let error = recipe.lay_out(root.path(), false).unwrap_err();
        assert!(error.to_string().contains("word-frequency.yaml"), "{error}");
        assert!(!root.path().join("data/sentences.txt").exists());
        assert_eq!(recipe.lay_out(root.path(), true).unwrap().len(), 2);
        assert_ne!(std::fs::read_to_string(&edited).unwrap(), "mine");
    }

    #[test]
    fn an_existing_project_file_and_gitignore_are_kept() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("olmo-pipe.yaml"), "# mine\n").unwrap();
        std::fs::write(root.path().join(".gitignore"), "*.tmp\n/out/").unwrap();
        assert_eq!(make_project(root.path()).unwrap(), [root.path().join(".gitignore")]);
        assert_eq!(std::fs::read_to_string(root.path().join(".gitignore")).unwrap(), "*.tmp\n/out/\n/.olmo-pipe\n");
        assert_eq!(std::fs::read_to_string(root.path().join("olmo-pipe.yaml")).unwrap(), "# mine\n");
        assert!(make_project(root.path()).unwrap().is_empty());
    }
}
