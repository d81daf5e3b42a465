//! [`Board`]: the stages of an experiment, their tasks, and the outputs so far. From these it
//! derives the inputs and the cache key of every task. The planner fills it from the cache alone;
//! the scheduler fills it while stages run. It starts nothing and reads no clock.
//!
//! A task is a whole stage, or a `for_each` stage with one item. A task whose item left its list
//! stays on the board but is not *listed*: it is ignored until the item comes back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use olmo_base::ArtifactId;
use olmo_stage::contract::PortType;

use crate::exec::backend::stage_compute;
use crate::exec::item_list::{ItemRecord, Items};
use crate::graph::Graph;
use crate::key::{CommandKey, KeyInput, KeyRecord};
use crate::run::error::RunError;
use crate::run::event::Place;
use crate::run::sources::Sources;
use crate::spec::{Binding, PortRef, Resolved, ResolvedStage};
use crate::store::{ListItem, Output, Store, StoreError};

/// All stages, in dependency order.
pub(crate) struct Board<'r> {
    pub stages: Vec<Stage<'r>>,
    pub tasks: Vec<Task>,
    places: HashMap<String, usize>,
    sources: &'r Sources,
}

/// A stage with its tasks and its outputs so far.
pub(crate) struct Stage<'r> {
    pub name: String,
    pub spec: &'r ResolvedStage,
    /// Indices of its listed tasks. In list order once the list of a `for_each` stage is closed.
    pub tasks: Vec<usize>,
    pub end: End,
    /// Items in its list ports while it runs.
    pub open: Items,
    /// The task for each (label, artifact) of a `for_each` stage, listed or not.
    by_item: HashMap<(String, ArtifactId), usize>,
}

/// Whether a stage is done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Open,
    Done(BTreeMap<String, Output>),
    /// It failed, or it needs a stage that failed. Holds the name of the first stage that failed.
    Never(String),
}

/// One piece of work: a stage, or a `for_each` stage with one item.
pub(crate) struct Task {
    pub stage: usize,
    pub label: Option<String>,
    /// The item of a `for_each` stage.
    pub item: Option<ArtifactId>,
    /// Set once the task is done.
    pub outputs: Option<BTreeMap<String, Output>>,
    /// Whether its item is currently in the list. Always true without `for_each`.
    pub listed: bool,
}

/// The changes made by [`Board::expand`].
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Expansion {
    /// Tasks that are new, or listed again.
    pub added: Vec<usize>,
    /// Tasks whose item left the list.
    pub removed: Vec<usize>,
}

/// One artifact that goes into a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub label: Option<String>,
    /// The artifact, or the part of it that the port takes.
    pub digest: ArtifactId,
    /// The task that made it. `None` for a source.
    pub maker: Option<Place>,
}

/// What is known about a task's inputs.
pub(crate) enum Inputs {
    /// All inputs, by port.
    Ready(BTreeMap<String, Vec<Input>>),
    /// Other stages have to run first.
    Wait(Pending),
    /// The inputs will never be complete, because this stage failed or was skipped.
    Never(String),
}

/// Inputs of which some are not known yet.
pub(crate) struct Pending {
    /// The stages that make the missing inputs.
    pub stages: BTreeSet<String>,
    /// Remote sources that are not locked yet.
    pub remote: BTreeSet<String>,
    /// The ports whose inputs are not all known.
    pub ports: BTreeSet<String>,
    /// The inputs of the other ports.
    pub known: BTreeMap<String, Vec<Input>>,
}

/// An input that is known, but damaged.
#[derive(Debug)]
pub(crate) struct DamagedInput {
    pub maker: Option<Place>,
    pub artifact: ArtifactId,
    pub error: StoreError,
}

impl<'r> Board<'r> {
    /// Creates the board of the stages `names` of `resolved`. `names` must be in dependency order
    /// and include all dependencies.
    pub(crate) fn new(resolved: &'r Resolved, names: &[String], sources: &'r Sources) -> Self {
        let mut board = Self { stages: Vec::new(), tasks: Vec::new(), places: HashMap::new(), sources };
        for name in names {
            let Some(spec) = resolved.stages.get(name) else { continue };
            let stage = board.stages.len();
            let mut tasks = Vec::new();
            if spec.for_each.is_none() {
                tasks.push(board.tasks.len());
                board.tasks.push(Task { stage, label: None, item: None, outputs: None, listed: true });
            }
            let (open, by_item) = (Items::default(), HashMap::new());
            board.places.insert(name.clone(), stage);
            board.stages.push(Stage { name: name.clone(), spec, tasks, end: End::Open, open, by_item });
        }
        board
    }

    /// The index of stage `name`.
    pub(crate) fn stage(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// The stage and item of task `index`, as shown to the user and stored in records.
    pub(crate) fn place(&self, index: usize) -> Place {
        let task = &self.tasks[index];
        Place { stage: self.stages[task.stage].name.clone(), item: task.label.clone() }
    }

    /// The stage that task `index` belongs to.
    pub(crate) fn stage_of(&self, index: usize) -> &Stage<'r> {
        &self.stages[self.tasks[index].stage]
    }

    /// The listed task at `place`.
    pub(crate) fn task_at(&self, place: &Place) -> Option<usize> {
        let stage = &self.stages[self.stage(&place.stage)?];
        stage.tasks.iter().copied().find(|i| self.tasks[*i].label == place.item)
    }

    /// The items of the list `port` so far.
    pub(crate) fn items(&self, port: &PortRef) -> Vec<ListItem> {
        let Some(index) = self.stage(&port.stage) else { return Vec::new() };
        let stage = &self.stages[index];
        match &stage.end {
            End::Done(outputs) => match outputs.get(&port.port) {
                Some(Output::List(items)) => items.clone(),
                Some(Output::Single(_)) | None => Vec::new(),
            },
            _ if stage.spec.for_each.is_some() => self.finished_items(index, &port.port),
            _ => {
                let item = |(label, digest): &(String, ArtifactId)| ListItem { label: label.clone(), digest: *digest };
                stage.open.in_port(&port.port).iter().map(item).collect()
            }
        }
    }

    /// Whether no item can join or leave the list `port` anymore.
    pub(crate) fn is_closed(&self, port: &PortRef) -> bool {
        self.stage(&port.stage).is_some_and(|index| matches!(self.stages[index].end, End::Done(_)))
    }

    /// The outputs in `port` of all finished tasks of a `for_each` stage.
    fn finished_items(&self, stage: usize, port: &str) -> Vec<ListItem> {
        self.stages[stage].tasks.iter().filter_map(|index| self.finished_item(*index, port)).collect()
    }

    /// The output in `port` of task `index`, as an item of the list over all tasks of its stage.
    pub(crate) fn finished_item(&self, index: usize, port: &str) -> Option<ListItem> {
        let task = &self.tasks[index];
        match task.outputs.as_ref()?.get(port)? {
            Output::Single(digest) => Some(ListItem { label: task.label.clone()?, digest: *digest }),
            Output::List(_) => None,
        }
    }

    /// Gives the `for_each` stage `stage` one listed task for each item of its list, in order. A
    /// task that already exists for an item keeps its state.
    pub(crate) fn expand(&mut self, stage: usize) -> Expansion {
        let mut expansion = Expansion::default();
        let Some(list) = &self.stages[stage].spec.for_each else { return expansion };
        if self.stages[stage].end != End::Open {
            return expansion;
        }
        let mut items = self.items(list);
        items.retain(|item| self.stages[stage].spec.takes(&item.label));
        let before = std::mem::take(&mut self.stages[stage].tasks);
        let was_listed: HashSet<usize> = before.iter().copied().collect();
        for index in &before {
            self.tasks[*index].listed = false;
        }
        let mut tasks = Vec::with_capacity(items.len());
        for item in items {
            let index = self.task_for(stage, item);
            tasks.push(index);
            if !was_listed.contains(&index) {
                expansion.added.push(index);
            }
        }
        expansion.removed = before.into_iter().filter(|index| !self.tasks[*index].listed).collect();
        self.stages[stage].tasks = tasks;
        expansion
    }

    /// Lists `item`, which has joined the list of the `for_each` stage `stage`. Returns its task,
    /// or `None` if the task was already listed.
    pub(crate) fn append(&mut self, stage: usize, item: ListItem) -> Option<usize> {
        if self.stages[stage].end != End::Open || !self.stages[stage].spec.takes(&item.label) {
            return None;
        }
        let known = self.tasks.len();
        let found = self.stages[stage].by_item.get(&(item.label.clone(), item.digest)).copied();
        if found.is_some_and(|index| self.tasks[index].listed) {
            return None;
        }
        let index = self.task_for(stage, item);
        debug_assert!(found == Some(index) || index == known);
        self.stages[stage].tasks.push(index);
        Some(index)
    }

    /// Lists the task for `item` of stage `stage`, and creates it if needed. Returns its index.
    fn task_for(&mut self, stage: usize, item: ListItem) -> usize {
        let tasks = &mut self.tasks;
        let index = *self.stages[stage].by_item.entry((item.label.clone(), item.digest)).or_insert_with(|| {
            let (label, digest) = (Some(item.label), Some(item.digest));
            tasks.push(Task { stage, label, item: digest, outputs: None, listed: false });
            tasks.len() - 1
        });
        tasks[index].listed = true;
        index
    }

    /// Records that an item of a running stage was committed, or that items left its list.
    pub(crate) fn apply_item(&mut self, index: usize, record: &ItemRecord) {
        let stage = self.tasks[index].stage;
        self.stages[stage].open.apply(record);
    }

    /// Records the outputs of task `index`.
    pub(crate) fn finish(&mut self, index: usize, outputs: BTreeMap<String, Output>) {
        let stage = self.tasks[index].stage;
        if self.stages[stage].spec.for_each.is_none() {
            self.stages[stage].end = End::Done(outputs.clone());
        }
        self.tasks[index].outputs = Some(outputs);
    }

    /// Ends the `for_each` stage `index` if its list is closed and every task is done. Returns
    /// whether it did.
    pub(crate) fn close(&mut self, index: usize) -> bool {
        let stage = &self.stages[index];
        let Some(list) = &stage.spec.for_each else { return false };
        if stage.end != End::Open || !self.is_closed(list) {
            return false;
        }
        if !stage.tasks.iter().all(|i| self.tasks[*i].outputs.is_some()) {
            return false;
        }
        let ports = stage.spec.description.contract.outputs.keys();
        let outputs = ports.map(|port| (port.clone(), Output::List(self.finished_items(index, port)))).collect();
        self.stages[index].end = End::Done(outputs);
        true
    }

    /// The failed stage that prevents stage `stage` from running.
    pub(crate) fn blocked_by(&self, stage: usize) -> Option<String> {
        self.stages[stage].spec.reads().find_map(|port| self.failed_stage(port))
    }

    /// Forgets the outputs of task `index`, since they are damaged: it has to run again.
    pub(crate) fn reopen(&mut self, index: usize) {
        let stage = self.tasks[index].stage;
        self.tasks[index].outputs = None;
        self.stages[stage].end = End::Open;
        self.stages[stage].open = Items::default();
    }

    /// What is known about the inputs of task `index`.
    ///
    /// # Errors
    /// An artifact is known, but can no longer be read.
    pub(crate) fn inputs(&self, index: usize, store: &Store) -> Result<Inputs, Box<DamagedInput>> {
        let task = &self.tasks[index];
        let item = task.item.map(|digest| (task.label.as_deref(), digest));
        self.stage_inputs(task.stage, item, store)
    }

    /// The inputs that all tasks of `for_each` stage `stage` share. Ports that take the item
    /// are empty.
    pub(crate) fn shared_inputs(&self, stage: usize, store: &Store) -> Result<Inputs, Box<DamagedInput>> {
        self.stage_inputs(stage, None, store)
    }

    /// The inputs of the task of stage `stage` for `item`.
    fn stage_inputs(
        &self,
        stage: usize,
        item: Option<(Option<&str>, ArtifactId)>,
        store: &Store,
    ) -> Result<Inputs, Box<DamagedInput>> {
        let spec = self.stages[stage].spec;
        if let Some(failed) = spec.reads().find_map(|port| self.failed_stage(port)) {
            return Ok(Inputs::Never(failed));
        }
        let mut ready = BTreeMap::new();
        let (mut stages, mut ports, mut remote) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (port, bindings) in &spec.inputs {
            let Some(declared) = spec.description.contract.inputs.get(port) else { continue };
            let mut found = Vec::new();
            for binding in bindings {
                match binding {
                    Binding::Path(path) => {
                        let digest = self.sources.artifact(path, declared.port_type);
                        found.extend(digest.map(|digest| Input { label: None, digest, maker: None }));
                    }
                    Binding::Remote(source) => match self.sources.locked_artifacts(source, declared) {
                        Some(digests) => {
                            found.extend(digests.into_iter().map(|digest| Input { label: None, digest, maker: None }));
                        }
                        None => {
                            remote.insert(source.clone());
                            ports.insert(port.clone());
                        }
                    },
                    Binding::Item => {
                        let (Some(list), Some((label, item))) = (&spec.for_each, item) else { continue };
                        let maker = self.maker(list, label);
                        let digest = self.part(store, list, item, declared.port_type, &maker)?;
                        found.push(Input { label: None, digest, maker });
                    }
                    Binding::Port(from) => match self.output(from) {
                        None => {
                            stages.insert(from.stage.clone());
                            ports.insert(port.clone());
                        }
                        Some(Output::Single(digest)) => {
                            let maker = self.maker(from, None);
                            let digest = self.part(store, from, *digest, declared.port_type, &maker)?;
                            found.push(Input { label: None, digest, maker });
                        }
                        Some(Output::List(items)) => {
                            for item in items {
                                let maker = self.maker(from, Some(&item.label));
                                let digest = self.part(store, from, item.digest, declared.port_type, &maker)?;
                                found.push(Input { label: Some(item.label.clone()), digest, maker });
                            }
                        }
                    },
                }
            }
            if !ports.contains(port) {
                ready.insert(port.clone(), found);
            }
        }
        Ok(match stages.is_empty() && remote.is_empty() {
            true => Inputs::Ready(ready),
            false => Inputs::Wait(Pending { stages, remote, ports, known: ready }),
        })
    }

    fn output(&self, port: &PortRef) -> Option<&Output> {
        match &self.stages[self.stage(&port.stage)?].end {
            End::Done(outputs) => outputs.get(&port.port),
            _ => None,
        }
    }

    fn failed_stage(&self, port: &PortRef) -> Option<String> {
        match &self.stages[self.stage(&port.stage)?].end {
            End::Never(name) => Some(name.clone()),
            _ => None,
        }
    }

    /// The task that made an artifact of `port`. `label` is the label of the artifact in a list.
    fn maker(&self, port: &PortRef, label: Option<&str>) -> Option<Place> {
        let stage = &self.stages[self.stage(&port.stage)?];
        let item = label.filter(|_| stage.spec.for_each.is_some()).map(str::to_owned);
        Some(Place { stage: port.stage.clone(), item })
    }

    /// The part of artifact `digest` of port `from` that a port of type `to` takes.
    fn part(
        &self,
        store: &Store,
        from: &PortRef,
        digest: ArtifactId,
        to: PortType,
        maker: &Option<Place>,
    ) -> Result<ArtifactId, Box<DamagedInput>> {
        let made =
            self.stage(&from.stage).and_then(|s| self.stages[s].spec.description.contract.outputs.get(&from.port));
        match made.and_then(|made| made.port_type.subtree_for(to)) {
            None => Ok(digest),
            Some(folder) => store
                .subtree(digest, folder, to)
                .map_err(|error| DamagedInput { maker: maker.clone(), artifact: digest, error }.into()),
        }
    }

    /// The key of the command of task `index` when the run started. `None` for a built-in stage.
    pub(crate) fn command(&self, index: usize) -> Option<&CommandKey> {
        self.sources.command(&self.stage_of(index).spec.uses)
    }

    /// The key of task `index` with these inputs.
    pub(crate) fn key(&self, index: usize, inputs: &BTreeMap<String, Vec<Input>>) -> Result<KeyRecord, RunError> {
        self.stage_key(self.tasks[index].stage, inputs)
    }

    /// Like [`Board::key`], for any task of stage `stage`.
    pub(crate) fn stage_key(&self, stage: usize, inputs: &BTreeMap<String, Vec<Input>>) -> Result<KeyRecord, RunError> {
        let stage = &self.stages[stage];
        let input = |i: &Input| KeyInput { label: i.label.clone(), digest: i.digest };
        let inputs = inputs.iter().map(|(port, list)| (port.clone(), list.iter().map(input).collect())).collect();
        let command = self.sources.command(&stage.spec.uses).cloned();
        let (description, params) = (&stage.spec.description, &stage.spec.params);
        let compute = stage_compute(stage.spec);
        Ok(KeyRecord::new(description, params, inputs, compute, command)?)
    }
}

/// The stages that `name` refers to, at least one. In a sweep, the name of a pipeline's stage
/// refers to that stage in every trial.
pub(crate) fn stages_named<'r>(resolved: &'r Resolved, name: &str) -> Result<Vec<&'r str>, RunError> {
    let found = resolved.named(name);
    if found.is_empty() {
        let known = resolved.stages.keys().map(str::to_owned).collect();
        return Err(RunError::UnknownStage { name: name.to_owned(), known });
    }
    Ok(found)
}

/// The stages of `resolved` in dependency order. With `targets`, only those and their
/// dependencies.
pub(crate) fn order(resolved: &Resolved, targets: &[String]) -> Result<Vec<String>, RunError> {
    // Most pipelines are written in dependency order. Checking that is much cheaper than building
    // the graph of, say, a hundred thousand stages.
    if targets.is_empty() && is_in_order(resolved) {
        return Ok(resolved.stages.keys().map(str::to_owned).collect());
    }
    let graph = Graph::new(resolved)?;
    let mut wanted = BTreeSet::new();
    for target in targets {
        for name in stages_named(resolved, target)? {
            wanted.insert(name);
            wanted.extend(graph.all_dependencies(name));
        }
    }
    let order = graph.order().into_iter().filter(|name| targets.is_empty() || wanted.contains(name));
    Ok(order.map(str::to_owned).collect())
}

/// Whether every stage comes after all stages that it reads.
fn is_in_order(resolved: &Resolved) -> bool {
    let mut seen: HashSet<&str> = HashSet::with_capacity(resolved.stages.len());
    resolved.stages.iter().all(|(name, stage)| {
        let known = stage.reads().all(|port| seen.contains(port.stage.as_str()));
        seen.insert(name);
        known
    })
}
