//! `olmo-pipe init`, `recipes ls|cp` and `completion`: commands for getting started.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use olmo_base::PathError;

use crate::recipes::{self, RECIPES, Recipe, RecipeError};
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe init my-project --recipe finetune-tulu")]
pub(super) struct Init {
    /// Folder of the project; created if it does not exist.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Recipe to start from (`recipes ls` lists them).
    #[arg(long, default_value = "word-frequency")]
    recipe: String,
    /// Create an empty project without a recipe.
    #[arg(long, conflicts_with = "recipe")]
    empty: bool,
}

impl Init {
    pub(super) fn run(self) -> Result<Exit, Problem> {
        let recipe = if self.empty { None } else { Some(find(&self.recipe)?) };
        std::fs::create_dir_all(&self.folder)
            .map_err(|source| problem(RecipeError::from(PathError::during("write", &self.folder, source))))?;
        let mut written = match recipe {
            Some(recipe) => recipe.lay_out(&self.folder, false).map_err(problem)?,
            None => Vec::new(),
        };
        written.extend(recipes::make_project(&self.folder).map_err(problem)?);
        answer(&report(&written, recipe, &self.folder));
        Ok(Exit::Success)
    }
}

#[derive(Subcommand)]
pub(super) enum Recipes {
    /// List the experiments that ship with olmo-pipe.
    #[command(after_help = "Example: olmo-pipe recipes ls")]
    Ls {
        /// Print JSON (docs/json.md).
        #[arg(long)]
        json: bool,
    },
    /// Copy an experiment with its pipeline, stages, schemas and data.
    #[command(after_help = "Example: olmo-pipe recipes cp finetune-tulu my-project")]
    Cp {
        /// Name of the recipe (`recipes ls` lists them).
        name: String,
        /// Folder of the project.
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// Replace existing files whose content differs.
        #[arg(long)]
        force: bool,
    },
}

impl Recipes {
    pub(super) fn run(self) -> Result<Exit, Problem> {
        match self {
            Recipes::Ls { json: true } => {
                let item = |recipe: &Recipe| {
                    let files: Vec<&str> = recipe.files.iter().map(|(path, _)| *path).collect();
                    serde_json::json!({"name": recipe.name, "summary": recipe.summary, "files": files})
                };
                answer_json(&serde_json::json!({"format": 1, "recipes": RECIPES.iter().map(item).collect::<Vec<_>>()}));
            }
            Recipes::Ls { json: false } => {
                let mut text = String::new();
                for recipe in &RECIPES {
                    let _ = writeln!(text, "{:<16}  {}", recipe.name, recipe.summary);
                }
                answer(&text);
            }
            Recipes::Cp { name, folder, force } => {
                let recipe = find(&name)?;
                let written = recipe.lay_out(&folder, force).map_err(problem)?;
                answer(&report(&written, Some(recipe), &folder));
            }
        }
        Ok(Exit::Success)
    }
}

fn find(name: &str) -> Result<&'static Recipe, Problem> {
    recipes::find(name).ok_or_else(|| {
        let names: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
        let (message, hint) = (format!("there is no recipe `{name}`"), format!("there are: {}", names.join(", ")));
        Problem::new(Exit::BadInput, "recipes::unknown", &message, Some(&hint))
    })
}

fn problem(error: RecipeError) -> Problem {
    match &error {
        RecipeError::Different(_) => Problem::new(
            Exit::BadInput,
            "recipes::different",
            &error.to_string(),
            Some("move them away, choose another folder, or replace them with `recipes cp NAME --force`"),
        ),
        RecipeError::Io { .. } => Problem::new(Exit::Environment, "recipes::write", &error.to_string(), None),
    }
}

/// Lists the written files and the command that runs the recipe.
fn report(written: &[PathBuf], recipe: Option<&Recipe>, folder: &Path) -> String {
    let mut text = String::new();
    for path in written {
        let _ = writeln!(text, "wrote {}", escape_control(&path.display().to_string()));
    }
    if written.is_empty() {
        text.push_str("all files exist already\n");
    }
    if let Some((experiment, _)) = recipe.and_then(|recipe| recipe.files.first()) {
        let path = if folder == Path::new(".") { PathBuf::from(experiment) } else { folder.join(experiment) };
        let _ = writeln!(text, "to run it: olmo-pipe run {}", escape_control(&path.display().to_string()));
    }
    text
}

#[derive(Args)]
#[command(after_help = "Example: source <(olmo-pipe completion bash)")]
pub(super) struct Completion {
    /// Shell to generate the script for.
    shell: clap_complete::Shell,
}

impl Completion {
    /// Prints the script for `command`.
    pub(super) fn run(self, mut command: clap::Command) -> Result<Exit, Problem> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "olmo-pipe", &mut script);
        answer(&String::from_utf8_lossy(&script));
        Ok(Exit::Success)
    }
}
