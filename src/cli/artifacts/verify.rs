//! `olmo-pipe artifacts verify|reindex`: checks and repairs the store.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::artifacts::Common;
use crate::cli::artifacts::argument::{ARTIFACT, find};
use crate::run;
use crate::store::{Index, Repaired, Store};
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts verify --repair")]
pub(crate) struct Verify {
    #[arg(help = ARTIFACT)]
    artifacts: Vec<String>,
    /// Quarantine damaged files, restore copies from results, and let lost stages run again.
    #[arg(long, conflicts_with = "artifacts")]
    repair: bool,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) fn run(self, common: &Common) -> Result<Exit, Problem> {
        let (store, mut problems) = match self.repair {
            true => common.open_store_for_repair()?,
            false => (common.read_store()?, Vec::new()),
        };
        let (store, opened) = (&store, problems.len());
        problems.extend(if self.artifacts.is_empty() {
            store.verify()?
        } else {
            let artifacts: Result<Vec<_>, Problem> = self.artifacts.iter().map(|text| find(store, text)).collect();
            store.verify_artifacts(&artifacts?)?
        });
        let records = if self.artifacts.is_empty() { run::verify(store)? } else { Vec::new() };
        let damage = problems.iter().filter(|p| p.is_damage()).count() + records.len();
        let mut repaired = if self.repair { Some(repair(store, &problems[opened..])?) } else { None };
        if let Some(repaired) = &mut repaired {
            // These were moved before the store could be opened.
            repaired.quarantined += opened;
        }
        let left = match &repaired {
            Some(_) => {
                run::set_damaged_records_aside(store, &records)?;
                store.verify()?.iter().filter(|p| p.is_damage()).count() + run::verify(store)?.len()
            }
            None => damage,
        };
        if self.json {
            let shown = problems
                .iter()
                .map(|p| json!({"path": p.path, "damage": p.is_damage(), "what": p.to_string()}))
                .chain(records.iter().map(|p| json!({"path": p.path, "damage": true, "what": p.to_string()})))
                .collect::<Vec<_>>();
            let repaired = repaired.map(|r| {
                json!({"quarantined": r.quarantined, "healed": r.healed, "forgotten": r.forgotten, "damage_left": left})
            });
            answer_json(&json!({"format": 1, "problems": shown, "repaired": repaired}));
        } else {
            let mut text = String::new();
            for problem in &problems {
                let _ = writeln!(text, "{}", escape_control(&problem.to_string()));
            }
            for problem in &records {
                let _ = writeln!(text, "{}", escape_control(&problem.to_string()));
            }
            match repaired {
                Some(Repaired { quarantined, healed, forgotten }) => {
                    let healed = healed.len();
                    let quarantined = quarantined + records.len();
                    let _ = writeln!(
                        text,
                        "moved {quarantined} damaged files to quarantine/; restored {healed} objects from results; removed {forgotten} entries that referred to lost files"
                    );
                    text.push_str(if left == 0 { "the store is sound\n" } else { "some damage remains\n" });
                }
                None if damage > 0 => {
                    let _ = writeln!(
                        text,
                        "{damage} problems; run `artifacts verify --repair`, then run the experiments again to restore what is lost"
                    );
                }
                None => text.push_str("the store is sound\n"),
            }
            answer(&text);
        }
        Ok(if left > 0 { Exit::CheckFailed } else { Exit::Success })
    }
}

/// Repairs the store, using the named results of all runs as copies of lost files.
fn repair(store: &Store, problems: &[crate::store::Problem]) -> Result<Repaired, Problem> {
    let mut by_size: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    if problems.iter().any(|p| p.is_damage()) {
        let mut open: Vec<PathBuf> = run::list(store)?.into_iter().flat_map(|run| run.results.into_values()).collect();
        while let Some(place) = open.pop() {
            let Ok(metadata) = std::fs::symlink_metadata(&place) else { continue };
            if metadata.is_dir() {
                open.extend(std::fs::read_dir(&place).into_iter().flatten().flatten().map(|e| e.path()));
            } else if metadata.is_file() {
                by_size.entry(metadata.len()).or_default().push(place);
            }
        }
    }
    Ok(store.repair(problems, &|size| by_size.get(&size).cloned().unwrap_or_default())?)
}

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts reindex")]
pub(crate) struct Reindex {}

impl Reindex {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let rebuilt = Index::open(store).rebuild()?;
        answer(&match rebuilt {
            Some(count) => format!("indexed {count} artifacts\n"),
            None => {
                "the index is in use or cannot be created; commands read the files instead, with the same results\n"
                    .into()
            }
        });
        Ok(Exit::Success)
    }
}
