//! The experiments that ship, with all they need, embedded so that an installed binary can lay
//! them out anywhere.

use std::path::{Path, PathBuf};

use olmo_base::{IoContext, PathError};

/// An experiment with its pipeline, stages, schemas and data.
#[derive(Debug)]
pub struct Recipe {
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Paths below the project's root, and what the files hold; the experiment first.
    pub files: &'static [(&'static str, &'static [u8])],
}

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../", $path)))),*]
    };
}

/// All of them, the smallest first.
pub const RECIPES: [Recipe; 2] = [
    Recipe {
        name: "word-frequency",
        summary: "Counts the words of a text: the smallest pipeline with a stage of one's own.",
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
        summary: "Trains a small OLMo, fine-tunes it on conversations, and picks and converts the best checkpoint.",
        files: files![
            "experiments/finetune-tulu.yaml",
            "pipelines/finetune.yaml",
            "schemas/experiment.finetune.schema.json",
            "schemas/pipeline.schema.json",
            "data/sentences.txt",
            "data/tulu-sample.jsonl",
            "data/tulu-heldout.jsonl",
        ],
    },
];

/// The file that marks a project's root.
const MARK: (&str, &[u8]) = ("olmo-pipe.yaml", include_bytes!("../olmo-pipe.yaml"));
/// What a project does not keep in git.
const IGNORED: [&str; 2] = ["/.olmo-pipe", "/out"];

/// Why a recipe was not laid out. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("these files are there already and hold something else: {}", .0.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    Different(Vec<PathBuf>),
    #[error(transparent)]
    Io(#[from] PathError),
}

/// The recipe `name`.
pub fn find(name: &str) -> Option<&'static Recipe> {
    RECIPES.iter().find(|recipe| recipe.name == name)
}

impl Recipe {
    /// Writes its files below `root`, which becomes a project; those that are there already with
    /// the same content stay. Returns what was written.
    ///
    /// # Errors
    /// Files with other content, unless `force` replaces them; what the file system refuses.
    pub fn lay_out(&self, root: &Path, force: bool) -> Result<Vec<PathBuf>, RecipeError> {
        lay_out(root, self.files.iter().chain([&MARK]), force)
    }
}

/// Makes `root` a project: its mark, and what git is to leave out. Returns what was written.
///
/// # Errors
/// What the file system refuses.
pub fn make_project(root: &Path) -> Result<Vec<PathBuf>, RecipeError> {
    let mut written = Vec::new();
    // A project's own mark may say more than ours.
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
            Ok(there) if there == *content => {}
            // The mark says nothing: one that is there is as good.
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
    fn what_is_edited_is_not_written_over_and_nothing_is_half_done() {
        let root = tempfile::tempdir().unwrap();
        let recipe = find("word-frequency").unwrap();
        assert_eq!(recipe.lay_out(root.path(), false).unwrap().len(), recipe.files.len() + 1);
        assert_eq!(recipe.lay_out(root.path(), false).unwrap(), Vec::<PathBuf>::new(), "all is there");
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
    fn a_project_keeps_its_own_mark_and_its_lines_for_git() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("olmo-pipe.yaml"), "# mine\n").unwrap();
        std::fs::write(root.path().join(".gitignore"), "*.tmp\n/out/").unwrap();
        assert_eq!(make_project(root.path()).unwrap(), [root.path().join(".gitignore")]);
        assert_eq!(std::fs::read_to_string(root.path().join(".gitignore")).unwrap(), "*.tmp\n/out/\n/.olmo-pipe\n");
        assert_eq!(std::fs::read_to_string(root.path().join("olmo-pipe.yaml")).unwrap(), "# mine\n");
        assert!(make_project(root.path()).unwrap().is_empty());
    }
}
