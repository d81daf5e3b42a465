//! Checks the stages that will run against their own rules ([`olmo_stage::rules`]), all at once and
//! before anything runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use olmo_remote::Source;
use olmo_stage::PortType;
use olmo_stage::rules::{KnownInput, KnownItem, Maker, Question};

use crate::exec::backend::stage_compute;
use crate::exec::rules::{ask_command, ask_worker};
use crate::run::api::{Options, StageFinding};
use crate::run::error::RunError;
use crate::run::plan::board::{self, Input};
use crate::run::plan::stages as plan;
use crate::run::plan::stages::Missing;
use crate::run::sources::Sources;
use crate::spec::{Binding, Resolved, ResolvedStage};
use crate::store::{Store, source_files};

/// The findings of the stages of `resolved` that have no result in `store`. Without a store, the
/// rules see only the inputs that are local files.
///
/// # Errors
/// The worker, or the check program of a stage, does not answer.
pub fn findings(
    resolved: &Resolved,
    targets: &[String],
    store: Option<&Store>,
    options: &Options,
) -> Result<Vec<StageFinding>, RunError> {
    let names = board::order(resolved, targets)?;
    if !names.iter().filter_map(|name| resolved.stages.get(name)).any(has_rules) {
        return Ok(Vec::new());
    }
    let missing = match store {
        Some(store) => {
            plan::find(
                resolved,
                &names,
                &Sources::read(resolved, &names, store, &options.sourcing.read()?.sources)?,
                store,
            )?
            .missing
        }
        None => names.into_iter().map(|name| Missing { name, inputs: BTreeMap::new() }).collect(),
    };
    findings_of(resolved, &missing, store, options)
}

/// Like [`findings`], for stages that are known to have no result.
pub fn findings_of(
    resolved: &Resolved,
    missing: &[Missing],
    store: Option<&Store>,
    options: &Options,
) -> Result<Vec<StageFinding>, RunError> {
    let free = store.and_then(|store| rustix::fs::statvfs(store.root()).ok());
    let free_bytes = free.map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    let mut names = Vec::new();
    let mut questions = Vec::new();
    let mut findings = Vec::new();
    for Missing { name, inputs } in missing {
        let Some(stage) = resolved.stages.get(name).filter(|stage| has_rules(stage)) else { continue };
        let question = Question {
            stage: stage.uses.clone(),
            params: stage.params.clone(),
            inputs: stage
                .inputs
                .iter()
                .map(|(port, bindings)| {
                    let port_type = stage.description.contract.inputs.get(port).map(|input| input.port_type);
                    let mut known = known_input(port_type, bindings, inputs.get(port), store);
                    if known.items.is_none() {
                        known.described = described(bindings, options);
                        known.maker = maker(resolved, bindings);
                    }
                    (port.clone(), known)
                })
                .collect(),
            free_bytes,
            compute: stage_compute(stage),
            ranks: stage.description.contract.ranks(&stage.resources),
        };
        if stage.description.contract.command.is_some() {
            let found = ask_command(stage, &question)?;
            findings.extend(found.into_iter().map(|finding| StageFinding { stage: name.clone(), finding }));
        } else {
            names.push(name);
            questions.push(question);
        }
    }
    if !questions.is_empty() {
        for (name, found) in names.iter().zip(ask_worker(&options.worker, &questions)?) {
            findings.extend(found.into_iter().map(|finding| StageFinding { stage: (*name).clone(), finding }));
        }
    }
    Ok(findings)
}

fn has_rules(stage: &ResolvedStage) -> bool {
    let contract = &stage.description.contract;
    contract.check || contract.command.as_ref().is_some_and(|command| command.check.is_some())
}

/// What is known about the inputs of a port. An artifact or a file that cannot be read is left out
/// here, since the run reports it.
fn known_input(
    port_type: Option<PortType>,
    bindings: &[Binding],
    inputs: Option<&Vec<Input>>,
    store: Option<&Store>,
) -> KnownInput {
    if let (Some(inputs), Some(store)) = (inputs, store) {
        let item = |input: &Input| {
            let files = store.places(input.digest).ok()?;
            Some(KnownItem { label: input.label.clone(), files })
        };
        return KnownInput { items: inputs.iter().map(item).collect(), ..KnownInput::default() };
    }
    // The user's files are known even without a store.
    let item = |binding: &Binding| match binding {
        Binding::Path(path) => Some(KnownItem { label: None, files: source_files(port_type?, path).ok()? }),
        Binding::Port(_) | Binding::Remote(_) | Binding::Item => None,
    };
    KnownInput { items: bindings.iter().map(item).collect(), ..KnownInput::default() }
}

/// The files that describe a model of the hub that is not fetched yet: those in the folder
/// `configs/OWNER/NAME` next to the experiment.
fn described(bindings: &[Binding], options: &Options) -> BTreeMap<String, PathBuf> {
    let ([Binding::Remote(source)], Some(lock)) = (bindings, &options.sourcing.lock) else { return BTreeMap::new() };
    let id = match Source::parse(source) {
        Ok(Source::Hub { repository, path, .. }) if !repository.dataset && path.is_empty() => repository.id,
        _ => return BTreeMap::new(),
    };
    let folder = lock.parent().unwrap_or(Path::new(".")).join("configs").join(id);
    source_files(PortType::Model, &folder).unwrap_or_default()
}

/// The stage that makes the input.
fn maker(resolved: &Resolved, bindings: &[Binding]) -> Option<Maker> {
    let [Binding::Port(from)] = bindings else { return None };
    let stage = resolved.stages.get(&from.stage)?;
    Some(Maker { stage: stage.uses.clone(), params: stage.params.clone() })
}
