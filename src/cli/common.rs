//! Options that several commands share: the store ([`Common`]), and an experiment with changed
//! values ([`ExperimentFile`]).

use std::path::{Path, PathBuf};

use crate::run::Sourcing;
use crate::spec::{LoadOptions, Loaded};
use crate::store::Store;
use crate::ui::{Exit, Problem};

/// Options that every command takes.
#[derive(clap::Args)]
pub(super) struct Common {
    /// Folder of the store (default: OLMO_PIPE_STORE, else `.olmo-pipe` in the project root).
    #[arg(long, global = true, value_name = "FOLDER", help_heading = "Store")]
    store: Option<PathBuf>,
    /// If the store is created, share it with the group of its folder (docs/store.md).
    #[arg(long, global = true, help_heading = "Store")]
    shared: bool,
}

/// An experiment and the options that change its values.
#[derive(clap::Args)]
pub(super) struct ExperimentFile {
    /// YAML file of the experiment.
    pub file: PathBuf,
    /// Use this profile's params instead of the default profile's.
    #[arg(long, help_heading = "Values")]
    profile: Option<String>,
    /// Set a value: `--set params.lr=1e-4`, `--set stages.train.with.save_interval=50`.
    #[arg(long = "set", value_name = "PATH=VALUE", help_heading = "Values")]
    sets: Vec<String>,
    /// Sweep over values: `--sweep params.lr=[1e-4,2e-4]`. Several sweeps form a grid.
    #[arg(long = "sweep", value_name = "PATH=[VALUE,…]", help_heading = "Values")]
    sweeps: Vec<String>,
    /// Ignore the experiment's own sweep.
    #[arg(long, help_heading = "Values")]
    no_sweep: bool,
}

impl ExperimentFile {
    /// Reads and checks the experiment. The result is leaked on purpose: freeing a hundred
    /// thousand stages one by one just before exit takes a tenth of the total time.
    pub(crate) fn load(&self) -> Result<&'static Loaded, Problem> {
        Ok(Box::leak(Box::new(crate::spec::load(&self.file, &self.options(false)?, &crate::builtin::STAGES)?)))
    }

    /// How to resolve the remote sources of the experiment.
    pub(crate) fn sourcing(&self, locked: bool, offline: bool) -> Result<Sourcing, Problem> {
        let lock = Some(Sourcing::lock_path(&current_folder()?.join(&self.file)));
        let experiment = self.file.display().to_string();
        Ok(Sourcing { lock, locked, offline, settings: remote_settings()?, experiment })
    }

    pub(crate) fn options(&self, origins: bool) -> Result<LoadOptions, Problem> {
        Ok(LoadOptions {
            profile: self.profile.clone(),
            sets: self.sets.clone(),
            sweeps: self.sweeps.clone(),
            no_sweep: self.no_sweep,
            origins,
            cwd: current_folder()?,
        })
    }
}

/// Network settings from the environment.
pub(crate) fn remote_settings() -> Result<olmo_remote::Settings, Problem> {
    olmo_remote::Settings::of_environment(|name| std::env::var(name).ok())
        .map_err(|why| Problem::new(Exit::BadInput, "remote::settings", &why, None))
}

pub(crate) fn current_folder() -> Result<PathBuf, Problem> {
    std::env::current_dir()
        .map_err(|e| Problem::new(Exit::Environment, "cli::cwd", &format!("cannot find the current folder: {e}"), None))
}

impl Common {
    /// Folder of the store: `--store`, `OLMO_PIPE_STORE`, or `.olmo-pipe` in `project`.
    pub(crate) fn store_folder(&self, project: &Path) -> PathBuf {
        let variable = std::env::var_os("OLMO_PIPE_STORE").filter(|v| !v.is_empty()).map(PathBuf::from);
        self.store.clone().or(variable).unwrap_or_else(|| project.join(".olmo-pipe"))
    }

    /// Opens the store of the project around the current folder; creates it if it does not exist.
    pub(crate) fn open_store(&self) -> Result<Store, Problem> {
        self.open_store_of(&crate::spec::project_root(&current_folder()?))
    }

    /// Opens the store of `project`; creates it if it does not exist.
    pub(crate) fn open_store_of(&self, project: &Path) -> Result<Store, Problem> {
        let folder = self.store_folder(project);
        Ok(if self.shared { Store::open_shared(&folder)? } else { Store::open(&folder)? })
    }

    /// Opens the store of the project around the current folder. Also returns what had to be moved
    /// out of the way to open it.
    pub(crate) fn open_store_for_repair(&self) -> Result<(Store, Vec<crate::store::Problem>), Problem> {
        let folder = self.store_folder(&crate::spec::project_root(&current_folder()?));
        Ok(Store::open_for_repair(&folder)?)
    }

    /// Opens the store of the project around the current folder read-only; creates nothing.
    pub(crate) fn read_store(&self) -> Result<Store, Problem> {
        Ok(Store::read(&self.store_folder(&crate::spec::project_root(&current_folder()?)))?)
    }
}
