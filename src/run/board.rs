//! [`Board`]: the stages of an experiment with their instances, what each one's inputs are as
//! far as they are known, and so what can be done next. The planner fills it from the cache
//! alone, the scheduler while stages run. It starts nothing and reads no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use olmo_base::Digest;
use olmo_stage::contract::PortType;

use super::error::RunError;
use super::event::Place;
use super::sources::Sources;
use crate::exec::Backend;
use crate::exec::attempt::{ItemRecord, Items};
use crate::graph::Graph;
use crate::key::{CommandKey, KeyInput, KeyRecord};
use crate::spec::{Binding, PortRef, Resolved, ResolvedStage};
use crate::store::{ListItem, Output, Store, StoreError};

/// All stages, in the order of their dependencies.
pub struct Board<'r> {
    pub stages: Vec<Stage<'r>>,
    pub instances: Vec<Instance>,
    places: HashMap<String, usize>,
    sources: &'r Sources,
}

/// A stage with what it has made so far.
pub struct Stage<'r> {
    pub name: String,
    pub spec: &'r ResolvedStage,
    /// Indices of its instances that count; of a `for_each` stage in the order of the list.
    pub instances: Vec<usize>,
    pub end: End,
    /// Items of its list ports while it runs.
    pub open: Items,
}

/// Whether a stage is done.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Open,
    Done(BTreeMap<String, Output>),
    /// It failed, or it waits for one that did; the name of the first of them.
    Never(String),
}

/// One piece of work: a stage, or a `for_each` stage with one item.
pub struct Instance {
    pub stage: usize,
    pub label: Option<String>,
    /// The item of a `for_each` stage.
    pub item: Option<Digest>,
    /// What it made.
    pub outputs: Option<BTreeMap<String, Output>>,
}

/// One artifact that goes into an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub label: Option<String>,
    /// Of the artifact, or of the part of it that the port takes.
    pub digest: Digest,
    /// The instance that made it; `None` for data from outside.
    pub maker: Option<Place>,
}

/// What is known of an instance's inputs.
pub enum Inputs {
    /// All of them, by port.
    Ready(BTreeMap<String, Vec<Input>>),
    /// Other stages are to run first.
    Wait(Pending),
    /// This stage failed or was skipped.
    Never(String),
}

/// Inputs that are not all there yet.
pub struct Pending {
    /// The stages that make what is missing.
    pub stages: BTreeSet<String>,
    /// Remote sources that are not locked yet.
    pub remote: BTreeSet<String>,
    /// The ports that are not, or not wholly, known.
    pub ports: BTreeSet<String>,
    /// The others.
    pub known: BTreeMap<String, Vec<Input>>,
}

/// An input that is known, but damaged.
pub struct DamagedInput {
    pub maker: Option<Place>,
    pub artifact: Digest,
    pub error: StoreError,
}

impl<'r> Board<'r> {
    /// The stages `names` (in the order of their dependencies, and with all of them) of `resolved`.
    pub fn new(resolved: &'r Resolved, names: &[String], sources: &'r Sources) -> Self {
        let mut board = Self { stages: Vec::new(), instances: Vec::new(), places: HashMap::new(), sources };
        for name in names {
            let Some(spec) = resolved.stages.get(name) else { continue };
            let stage = board.stages.len();
            let mut instances = Vec::new();
            if spec.for_each.is_none() {
                instances.push(board.instances.len());
                board.instances.push(Instance { stage, label: None, item: None, outputs: None });
            }
            let open = Items::default();
            board.places.insert(name.clone(), stage);
            board.stages.push(Stage { name: name.clone(), spec, instances, end: End::Open, open });
        }
        board
    }

    /// The index of stage `name`.
    pub fn stage(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// Which piece of work instance `index` is.
    pub fn place(&self, index: usize) -> Place {
        let instance = &self.instances[index];
        Place { stage: self.stages[instance.stage].name.clone(), item: instance.label.clone() }
    }

    /// The instance at `place`, among those that count.
    pub fn at(&self, place: &Place) -> Option<usize> {
        let stage = &self.stages[self.stage(&place.stage)?];
        stage.instances.iter().copied().find(|i| self.instances[*i].label == place.item)
    }

    /// The items of the list `port` so far, and whether it is closed.
    pub fn items(&self, port: &PortRef) -> (Vec<ListItem>, bool) {
        let Some(index) = self.stage(&port.stage) else { return (Vec::new(), false) };
        let stage = &self.stages[index];
        match &stage.end {
            End::Done(outputs) => match outputs.get(&port.port) {
                Some(Output::List(items)) => (items.clone(), true),
                Some(Output::Single(_)) | None => (Vec::new(), true),
            },
            _ if stage.spec.for_each.is_some() => (self.collected(index, &port.port), false),
            _ => {
                let item = |(label, digest): &(String, Digest)| ListItem { label: label.clone(), digest: *digest };
                (stage.open.of(&port.port).iter().map(item).collect(), false)
            }
        }
    }

    /// What the finished instances of a `for_each` stage made in `port`.
    fn collected(&self, stage: usize, port: &str) -> Vec<ListItem> {
        let made = |index: &usize| {
            let instance = &self.instances[*index];
            match instance.outputs.as_ref()?.get(port)? {
                Output::Single(digest) => Some(ListItem { label: instance.label.clone()?, digest: *digest }),
                Output::List(_) => None,
            }
        };
        self.stages[stage].instances.iter().filter_map(made).collect()
    }

    /// Gives the `for_each` stage `index` one instance for each item of its list. An instance
    /// whose item is still there, or is there again, stays as it is. Returns whether something changed.
    pub fn spread(&mut self, index: usize) -> bool {
        let Some(list) = &self.stages[index].spec.for_each else { return false };
        if self.stages[index].end != End::Open {
            return false;
        }
        let (items, _) = self.items(list);
        let mut wanted = Vec::with_capacity(items.len());
        for item in items {
            let known = self.instances.iter().position(|i| {
                i.stage == index && i.label.as_deref() == Some(&item.label) && i.item == Some(item.digest)
            });
            wanted.push(known.unwrap_or_else(|| {
                let (label, digest) = (Some(item.label), Some(item.digest));
                self.instances.push(Instance { stage: index, label, item: digest, outputs: None });
                self.instances.len() - 1
            }));
        }
        let changed = self.stages[index].instances != wanted;
        self.stages[index].instances = wanted;
        changed
    }

    /// Whether instance `index` counts: its item has not left the list.
    pub fn counts(&self, index: usize) -> bool {
        self.stages[self.instances[index].stage].instances.contains(&index)
    }

    /// An item of a running stage is safe, or some left its list.
    pub fn item(&mut self, instance: usize, record: &ItemRecord) {
        let stage = self.instances[instance].stage;
        self.stages[stage].open.apply(record);
    }

    /// Notes what instance `index` made.
    pub fn finish(&mut self, index: usize, outputs: BTreeMap<String, Output>) {
        let stage = self.instances[index].stage;
        if self.stages[stage].spec.for_each.is_none() {
            self.stages[stage].end = End::Done(outputs.clone());
        }
        self.instances[index].outputs = Some(outputs);
    }

    /// Ends the `for_each` stage `index` if its list is closed and every instance is done.
    /// Returns whether it did.
    pub fn close(&mut self, index: usize) -> bool {
        let stage = &self.stages[index];
        let Some(list) = &stage.spec.for_each else { return false };
        let all_done = stage.instances.iter().all(|i| self.instances[*i].outputs.is_some());
        if stage.end != End::Open || !all_done || !self.items(list).1 {
            return false;
        }
        let ports = stage.spec.description.contract.outputs.keys();
        let outputs = ports.map(|port| (port.clone(), Output::List(self.collected(index, port)))).collect();
        self.stages[index].end = End::Done(outputs);
        true
    }

    /// Forgets what instance `index` made, since it is damaged: it is to be made again.
    pub fn reopen(&mut self, index: usize) {
        let stage = self.instances[index].stage;
        self.instances[index].outputs = None;
        self.stages[stage].end = End::Open;
        self.stages[stage].open = Items::default();
    }

    /// What is known of the inputs of instance `index`. The inner error: an artifact is known,
    /// but can no longer be read.
    pub fn inputs(&self, index: usize, store: &Store) -> Result<Inputs, Box<DamagedInput>> {
        let instance = &self.instances[index];
        let item = instance.item.map(|digest| (instance.label.as_deref(), digest));
        self.stage_inputs(instance.stage, item, store)
    }

    /// The inputs that all instances of `for_each` stage `stage` share. Ports that take the item
    /// are empty.
    pub fn shared_inputs(&self, stage: usize, store: &Store) -> Result<Inputs, Box<DamagedInput>> {
        self.stage_inputs(stage, None, store)
    }

    /// The inputs of the instance of stage `stage` for `item`.
    fn stage_inputs(
        &self,
        stage: usize,
        item: Option<(Option<&str>, Digest)>,
        store: &Store,
    ) -> Result<Inputs, Box<DamagedInput>> {
        let spec = self.stages[stage].spec;
        if let Some(failed) = spec.reads().find_map(|port| self.never(port)) {
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
                    Binding::Remote(source) => match self.sources.of_remote(source, declared) {
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

    fn never(&self, port: &PortRef) -> Option<String> {
        match &self.stages[self.stage(&port.stage)?].end {
            End::Never(name) => Some(name.clone()),
            _ => None,
        }
    }

    /// Who made an artifact of `port`; `label` is its place in a list.
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
        digest: Digest,
        to: PortType,
        maker: &Option<Place>,
    ) -> Result<Digest, Box<DamagedInput>> {
        let made =
            self.stage(&from.stage).and_then(|s| self.stages[s].spec.description.contract.outputs.get(&from.port));
        match made.and_then(|made| made.port_type.subtree_for(to)) {
            None => Ok(digest),
            Some(folder) => store
                .subtree(digest, folder, to)
                .map_err(|error| DamagedInput { maker: maker.clone(), artifact: digest, error }.into()),
        }
    }

    /// What the command of instance `index` was made of when the run began.
    pub fn command(&self, index: usize) -> Option<&CommandKey> {
        self.sources.command(&self.stages[self.instances[index].stage].spec.uses)
    }

    /// The key of instance `index` with these inputs.
    pub fn key(&self, index: usize, inputs: &BTreeMap<String, Vec<Input>>) -> Result<KeyRecord, RunError> {
        self.stage_key(self.instances[index].stage, inputs)
    }

    /// As [`Board::key`], of any instance of stage `stage`.
    pub fn stage_key(&self, stage: usize, inputs: &BTreeMap<String, Vec<Input>>) -> Result<KeyRecord, RunError> {
        let stage = &self.stages[stage];
        let input = |i: &Input| KeyInput { label: i.label.clone(), digest: i.digest };
        let inputs = inputs.iter().map(|(port, list)| (port.clone(), list.iter().map(input).collect())).collect();
        let command = self.sources.command(&stage.spec.uses).cloned();
        let (description, params) = (&stage.spec.description, &stage.spec.params);
        let backend = Backend::of_stage(stage.spec);
        Ok(KeyRecord::new(description, params, inputs, Some(backend.name()), Some(backend.precision(params)), command)?)
    }
}

/// The stages that a person means by `name`, at least one.
pub fn named<'r>(resolved: &'r Resolved, name: &str) -> Result<Vec<&'r str>, RunError> {
    let found = resolved.named(name);
    if found.is_empty() {
        let known = resolved.stages.keys().map(str::to_owned).collect();
        return Err(RunError::UnknownStage { name: name.to_owned(), known });
    }
    Ok(found)
}

/// The stages of `resolved` in the order of their dependencies, first come first; with
/// `targets`, only those and what they need.
pub fn order(resolved: &Resolved, targets: &[String]) -> Result<Vec<String>, RunError> {
    // As most pipelines are written; a graph of a hundred thousand stages takes its time.
    if targets.is_empty() && is_in_order(resolved) {
        return Ok(resolved.stages.keys().map(str::to_owned).collect());
    }
    let graph = Graph::new(resolved)?;
    let mut wanted = BTreeSet::new();
    for target in targets {
        for name in named(resolved, target)? {
            wanted.insert(name);
            wanted.extend(graph.all_dependencies(name));
        }
    }
    let order = graph.order().into_iter().filter(|name| targets.is_empty() || wanted.contains(name));
    Ok(order.map(str::to_owned).collect())
}

/// Whether every stage stands behind all that it reads.
fn is_in_order(resolved: &Resolved) -> bool {
    let mut seen: HashSet<&str> = HashSet::with_capacity(resolved.stages.len());
    resolved.stages.iter().all(|(name, stage)| {
        let known = stage.reads().all(|port| seen.contains(port.stage.as_str()));
        seen.insert(name);
        known
    })
}
