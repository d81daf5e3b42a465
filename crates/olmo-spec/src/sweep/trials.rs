//! Makes the stages of all trials of a sweep.
//!
//! A stage whose definition (contract, params, resources and, transitively, inputs) is equal in
//! several trials is one stage. So each distinct set of values of a stage is resolved once
//! ([`Variant`]); every trial then looks up its stages by variant and by the stages before them.
//! Work and memory grow with the numbers of distinct stages and of trials, and nothing recurses.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::Value;

use crate::compose::layers::{self, StageSource};
use crate::compose::params::ParamSources;
use crate::compose::setting::Setting;
use crate::read::node::{Content, Node};
use crate::read::ordered::OrderedMap;
use crate::read::reference::{Piece, PortRef, Reference, has_reference, pieces};
use crate::resolve::resolved::{Binding, ResolvedStage, Trial};
use crate::resolve::resolver::Resolver;
use crate::sweep::axes::Sweep;

/// An experiment with its sweep expanded.
pub(crate) struct Expanded {
    pub stages: OrderedMap<ResolvedStage>,
    /// The outputs that all trials share.
    pub outputs: BTreeMap<String, PortRef>,
    pub trials: Vec<Trial>,
}

/// A stage as some trials have it. It still refers to stages by their names in the pipeline.
struct Variant {
    stage: ResolvedStage,
    /// The stages it reads that differ between trials, in the order of reading.
    reads: Vec<usize>,
    /// Number of stages made from it.
    users: usize,
    origins: BTreeMap<String, String>,
}

/// A stage of the pipeline in all its variants.
#[derive(Default)]
struct Family {
    /// The axes that affect it, directly or through its inputs.
    axes: BTreeSet<usize>,
    variants: Vec<Variant>,
    /// The variant of each trial; empty if all have the same.
    of_trial: Vec<u32>,
    /// Whether it may differ between trials, in itself or through its inputs.
    differs: bool,
    /// The stages made from it: variant and first trial of each.
    nodes: Vec<(u32, u32)>,
    /// By variant and by the nodes that it reads.
    known: HashMap<Vec<u32>, u32>,
    names: Vec<String>,
}

/// All stages in their variants.
pub(crate) struct Families<'s> {
    sweep: &'s Sweep,
    all: Vec<Family>,
}

impl<'s> Families<'s> {
    /// Resolves every distinct variant of every stage. Values come from the sweep, then from
    /// `settings`. Errors are reported.
    pub(crate) fn resolve(
        resolver: &mut Resolver<'_>,
        sources: &ParamSources<'_>,
        sweep: &'s Sweep,
        settings: &[Setting],
    ) -> Self {
        let mut values = ParamValues { sources, sweep, known: HashMap::new() };
        let mut all = Vec::with_capacity(resolver.stages.all.len());
        let stages = resolver.stages;
        for stage in &stages.all {
            let axes = axes_of(stage, sweep);
            let mut family = Family { differs: !axes.is_empty(), ..Family::default() };
            let mut seen: HashMap<Vec<u32>, Option<u32>> = HashMap::new();
            let mut equal: HashMap<u64, Vec<u32>> = HashMap::new();
            let count = if axes.is_empty() { 1 } else { sweep.trials() };
            for trial in 0..count {
                if resolver.session.is_full() {
                    break;
                }
                let row = sweep.row(trial);
                let slot = seen.entry(axes.iter().map(|&axis| row[axis]).collect());
                let variant = match slot {
                    Slot::Occupied(known) => *known.get(),
                    Slot::Vacant(free) => {
                        values.put(resolver, &axes, trial);
                        let source = with_settings(resolver, stage, sweep, &axes, trial, settings);
                        *free.insert(family.add(resolver, &source, &mut equal))
                    }
                };
                if !axes.is_empty() {
                    family.of_trial.push(variant.unwrap_or_default());
                }
            }
            family.axes = axes;
            all.push(family);
        }
        Self { sweep, all }
    }

    /// The stages of all trials. `order` lists the pipeline's stages, each after all stages that it
    /// reads in any trial.
    pub(crate) fn expand(
        mut self,
        resolver: &mut Resolver<'_>,
        order: &[usize],
        outputs: BTreeMap<String, PortRef>,
    ) -> Expanded {
        let stages = resolver.stages;
        for &stage in order {
            let mut differing = Vec::new();
            for (at, variant) in self.all[stage].variants.iter().enumerate() {
                let read = variant.stage.reads().filter_map(|port| stages.place(&port.stage));
                differing.push((at, read.filter(|&read| self.all[read].differs).collect::<Vec<_>>()));
            }
            for (at, reads) in differing {
                for &read in &reads {
                    let inherited = self.all[read].axes.clone();
                    self.all[stage].axes.extend(inherited);
                }
                self.all[stage].differs |= !reads.is_empty();
                self.all[stage].variants[at].reads = reads;
            }
        }
        let differing: Vec<usize> = order.iter().copied().filter(|&stage| self.all[stage].differs).collect();
        // The node of each differing stage, trial by trial.
        let mut nodes: Vec<u32> = Vec::with_capacity(differing.len() * self.sweep.trials());
        let mut current = vec![0; self.all.len()];
        for trial in 0..self.sweep.trials() {
            for &stage in &differing {
                current[stage] = self.all[stage].node(trial, &current);
                nodes.push(current[stage]);
            }
        }
        self.name(stages);
        let (shared, varied): (BTreeMap<_, _>, BTreeMap<_, _>) = outputs
            .into_iter()
            .partition(|(_, port)| stages.place(&port.stage).is_none_or(|stage| self.all[stage].names.len() < 2));
        let trials = self.trials(stages, &differing, &nodes, &varied);
        self.origins_of(resolver, &trials);
        Expanded { stages: self.build(resolver), outputs: shared, trials }
    }

    /// Gives every node its name.
    fn name(&mut self, stages: &layers::Stages) {
        let labels = self.sweep.labels();
        let differs = self.sweep.differing();
        for (family, stage) in self.all.iter_mut().zip(&stages.all) {
            if family.nodes.is_empty() {
                family.nodes.extend(family.variants.iter().take(1).map(|_| (0, 0)));
            }
            let axes: Vec<usize> = family.axes.iter().copied().filter(|&axis| differs[axis]).collect();
            family.names = match family.nodes.len() {
                0 | 1 => vec![stage.name.clone()],
                _ => {
                    let label =
                        |&(_, trial): &(u32, u32)| labels.name(self.sweep.row(trial as usize), axes.iter().copied());
                    family.nodes.iter().map(|node| format!("{}@{}", stage.name, label(node))).collect()
                }
            };
        }
    }

    fn trials(
        &self,
        stages: &layers::Stages,
        differing: &[usize],
        nodes: &[u32],
        outputs: &BTreeMap<String, PortRef>,
    ) -> Vec<Trial> {
        let labels = self.sweep.labels();
        let differs = self.sweep.differing();
        let single = !differs.contains(&true);
        let axes: Vec<usize> = (0..differs.len()).filter(|&axis| differs[axis] || single).collect();
        let mut trials = Vec::with_capacity(self.sweep.trials());
        for trial in 0..self.sweep.trials() {
            let nodes = &nodes[trial * differing.len()..(trial + 1) * differing.len()];
            let own: BTreeMap<&str, &str> = differing
                .iter()
                .zip(nodes)
                .filter(|(stage, _)| self.all[**stage].names.len() > 1)
                .map(|(&stage, &node)| (stages.all[stage].name.as_str(), self.all[stage].names[node as usize].as_str()))
                .collect();
            let output = |(name, port): (&String, &PortRef)| {
                let stage = own.get(port.stage.as_str()).map_or(port.stage.clone(), |name| (*name).to_owned());
                (name.clone(), PortRef { stage, port: port.port.clone() })
            };
            trials.push(Trial {
                name: labels.name(self.sweep.row(trial), axes.iter().copied()),
                values: self.sweep.values(trial),
                outputs: outputs.iter().map(output).collect(),
                stages: own.into_iter().map(|(stage, name)| (stage.to_owned(), name.to_owned())).collect(),
            });
        }
        trials
    }

    /// Records where the values of the trials were written.
    fn origins_of(&self, resolver: &mut Resolver<'_>, trials: &[Trial]) {
        if resolver.origins.is_none() {
            return;
        }
        for (number, trial) in trials.iter().enumerate() {
            for (axis, &value) in self.sweep.axes.iter().zip(self.sweep.row(number)) {
                if let Some(node) = axis.values.get(value as usize) {
                    resolver.origin(&format!("trials.{}.{}", trial.name, axis.shown), node, None);
                }
            }
        }
    }

    /// The stages under their final names, by which they refer to each other.
    fn build(mut self, resolver: &mut Resolver<'_>) -> OrderedMap<ResolvedStage> {
        let stages = resolver.stages;
        // The inputs of each node, before the variants are consumed.
        let mut read: Vec<Vec<HashMap<usize, u32>>> = Vec::with_capacity(self.all.len());
        for family in &mut self.all {
            let mut of_nodes = vec![HashMap::new(); family.nodes.len()];
            for (key, &node) in &family.known {
                let reads = &family.variants[key[0] as usize].reads;
                of_nodes[node as usize] = reads.iter().copied().zip(key[1..].iter().copied()).collect();
            }
            for &(variant, _) in &family.nodes {
                family.variants[variant as usize].users += 1;
            }
            read.push(of_nodes);
        }
        let names: Vec<Vec<String>> = self.all.iter().map(|family| family.names.clone()).collect();
        let mut built = Vec::with_capacity(names.iter().map(Vec::len).sum());
        for (at, family) in self.all.into_iter().enumerate() {
            let mut variants: Vec<(Option<ResolvedStage>, usize, BTreeMap<String, String>)> =
                family.variants.into_iter().map(|v| (Some(v.stage), v.users, v.origins)).collect();
            for (node, ((variant, _), name)) in family.nodes.iter().zip(&names[at]).enumerate() {
                let (stage, users, origins) = &mut variants[*variant as usize];
                *users -= 1;
                let taken = if *users == 0 { stage.take() } else { stage.clone() };
                let Some(mut stage) = taken else { continue };
                let rename = |port: &mut PortRef| {
                    if let Some(place) = stages.place(&port.stage)
                        && let Some(&node) = read[at][node].get(&place)
                    {
                        port.stage.clone_from(&names[place][node as usize]);
                    }
                };
                stage.for_each.iter_mut().for_each(rename);
                for binding in stage.inputs.values_mut().flatten() {
                    if let Binding::Port(port) = binding {
                        rename(port);
                    }
                }
                if let Some(all) = &mut resolver.origins {
                    let old = format!("stages.{}.", stages.all[at].name);
                    let new = |path: &str| path.strip_prefix(&old).map(|rest| format!("stages.{name}.{rest}"));
                    all.extend(origins.iter().filter_map(|(path, place)| Some((new(path)?, place.clone()))));
                }
                built.push((name.clone(), stage));
            }
        }
        built.into_iter().collect()
    }
}

impl Family {
    /// Resolves a variant, or finds an equal one.
    fn add(
        &mut self,
        resolver: &mut Resolver<'_>,
        source: &StageSource,
        equal: &mut HashMap<u64, Vec<u32>>,
    ) -> Option<u32> {
        let (edges, outer) = (resolver.edges.len(), resolver.origins.as_mut().map(std::mem::take));
        let stage = resolver.stage(source);
        let origins = std::mem::replace(&mut resolver.origins, outer).unwrap_or_default();
        if !self.variants.is_empty() {
            // Edges that several variants have are recorded once.
            let new = resolver.edges.split_off(edges);
            for edge in new {
                let known = |old: &&(usize, usize, _)| (old.0, old.1) == (edge.0, edge.1);
                if !resolver.edges.iter().rev().take(64).any(|old| known(&old)) {
                    resolver.edges.push(edge);
                }
            }
        }
        let stage = stage?;
        let same = equal.entry(fingerprint(&stage)).or_default();
        if let Some(&known) = same.iter().find(|&&known| self.variants[known as usize].stage == stage) {
            return Some(known);
        }
        let variant = self.variants.len() as u32;
        same.push(variant);
        self.variants.push(Variant { stage, reads: Vec::new(), users: 0, origins });
        Some(variant)
    }

    /// The node of `trial`, whose nodes of the stages before this one are `current`.
    fn node(&mut self, trial: usize, current: &[u32]) -> u32 {
        let variant = self.of_trial.get(trial).copied().unwrap_or_default();
        let reads = self.variants.get(variant as usize).map_or(&[][..], |variant| variant.reads.as_slice());
        let mut key = Vec::with_capacity(1 + reads.len());
        key.push(variant);
        key.extend(reads.iter().map(|&read| current[read]));
        let next = self.nodes.len() as u32;
        let node = *self.known.entry(key).or_insert(next);
        if node == next {
            self.nodes.push((variant, trial as u32));
        }
        node
    }
}

/// The stages `0..count` in an order in which each follows its inputs by `edges` (producer,
/// reader), which have no circle.
pub(crate) fn order(count: usize, edges: impl Iterator<Item = (usize, usize)>) -> Vec<usize> {
    let (mut readers, mut waiting) = (vec![Vec::new(); count], vec![0usize; count]);
    for (from, to) in edges {
        readers[from].push(to);
        waiting[to] += 1;
    }
    let mut order: Vec<usize> = (0..count).filter(|&stage| waiting[stage] == 0).collect();
    let mut at = 0;
    while let Some(&stage) = order.get(at) {
        for &reader in &readers[stage] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                order.push(reader);
            }
        }
        at += 1;
    }
    order
}

/// The values of swept params, each distinct one computed once.
struct ParamValues<'a> {
    sources: &'a ParamSources<'a>,
    sweep: &'a Sweep,
    /// By param and the indices of the values of its axes.
    known: HashMap<(usize, Vec<u32>), Node>,
}

impl ParamValues<'_> {
    /// Sets the params that `axes` change to the values of `trial`.
    fn put(&mut self, resolver: &mut Resolver<'_>, axes: &BTreeSet<usize>, trial: usize) {
        let row = self.sweep.row(trial);
        let mut by_param: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &axis in axes {
            let path = &self.sweep.axes[axis].path;
            let param = (path[0].0 == "params").then(|| self.sources.place(&path[1].0)).flatten();
            if let Some(param) = param {
                by_param.entry(param).or_default().push(axis);
            }
        }
        for (param, axes) in by_param {
            let key = (param, axes.iter().map(|&axis| row[axis]).collect());
            let value = self.known.entry(key).or_insert_with(|| {
                self.sources.value(resolver.session, param, &self.sweep.settings(trial, axes.iter().copied()))
            });
            resolver.params.set(param, value.clone());
        }
    }
}

/// `stage` with the settings of `trial`, then those of the command line.
fn with_settings(
    resolver: &mut Resolver<'_>,
    stage: &StageSource,
    sweep: &Sweep,
    axes: &BTreeSet<usize>,
    trial: usize,
    settings: &[Setting],
) -> StageSource {
    let own = axes.iter().copied().filter(|&axis| sweep.axes[axis].path[0].0 == "stages");
    let own = sweep.settings(trial, own);
    let mut stage = stage.clone();
    layers::set(resolver.session, &mut stage, own.iter().chain(settings));
    stage
}

/// The axes that change `stage` directly: its own, and those of the params that it, or a value of
/// its axes, refers to.
fn axes_of(stage: &StageSource, sweep: &Sweep) -> BTreeSet<usize> {
    let mut names = BTreeSet::new();
    let parts = stage.with.iter().chain(&stage.resources).map(|entry| &entry.value);
    let care = [&stage.timeout, &stage.stall, &stage.retry, &stage.share].into_iter().flatten();
    parts.chain(care).for_each(|node| params_named(node, &mut names));
    let on = |axis: &usize, root: &str, name: &str| {
        let path = &sweep.axes[*axis].path;
        path[0].0 == root && path[1].0 == name
    };
    let own: Vec<usize> = (0..sweep.axes.len()).filter(|axis| on(axis, "stages", &stage.name)).collect();
    for &axis in &own {
        sweep.axes[axis].values.iter().for_each(|value| params_named(value, &mut names));
    }
    let of_params = (0..sweep.axes.len()).filter(|axis| names.iter().any(|name| on(axis, "params", name)));
    of_params.chain(own.iter().copied()).collect()
}

/// Adds the params to which `node` refers.
fn params_named(node: &Node, names: &mut BTreeSet<String>) {
    match &node.content {
        Content::String(text) if has_reference(text) => {
            for piece in pieces(text).into_iter().flatten() {
                if let Piece::Reference(Reference::Param(path), _) = piece {
                    names.extend(path.into_iter().next());
                }
            }
        }
        Content::Array(items) => items.iter().for_each(|item| params_named(item, names)),
        Content::Object(entries) => entries.iter().for_each(|entry| params_named(&entry.value, names)),
        _ => {}
    }
}

/// A hash that is equal for equal stages.
fn fingerprint(stage: &ResolvedStage) -> u64 {
    fn add(value: &Value, hasher: &mut DefaultHasher) {
        match value {
            Value::Null => 0u8.hash(hasher),
            Value::Bool(value) => value.hash(hasher),
            Value::Number(number) => number.hash(hasher),
            Value::String(text) => text.hash(hasher),
            Value::Array(items) => items.iter().for_each(|item| add(item, hasher)),
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                key.hash(hasher);
                add(value, hasher);
            }),
        }
    }
    let mut hasher = DefaultHasher::new();
    add(&stage.params, &mut hasher);
    stage.timeout_s.hash(&mut hasher);
    stage.reads().for_each(|port| port.hash(&mut hasher));
    hasher.finish()
}
