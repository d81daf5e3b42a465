//! [`ReadyQueue`]: queued tasks, in the order in which they should start.
//!
//! Tasks that request the same resources form a class. If one of them does not fit, neither do the
//! others, so finding the next task takes time proportional to the number of classes, not of tasks.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};

use olmo_stage::contract::Resources;

use crate::run::plan::board::Board;

/// The request that the tasks of a class have in common.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Class {
    pub resources: Resources,
    /// The stage whose GPUs and CPUs they may share.
    pub share: Option<String>,
}

/// Tasks that are ready to run, by class and rank.
#[derive(Debug)]
pub(super) struct ReadyQueue {
    classes: Vec<Class>,
    /// By class: (rank of the stage, task).
    waiting: Vec<BTreeSet<(u32, usize)>>,
    /// The first task of each class: (rank, task, class).
    heads: BTreeSet<(u32, usize, usize)>,
    /// Class of each stage.
    class_of: Vec<u32>,
    /// Rank of each stage. Smaller ranks start first. Until [`ReadyQueue::weigh`] is called, the
    /// ranks follow the order of the stages.
    ranks: Vec<u32>,
    is_weighed: bool,
    len: usize,
}

impl ReadyQueue {
    pub(super) fn new(board: &Board<'_>) -> Self {
        let mut classes: Vec<Class> = Vec::new();
        let mut known: HashMap<_, u32> = HashMap::new();
        let class_of = board.stages.iter().map(|stage| {
            let (resources, share) = (stage.spec.resources, &stage.spec.share);
            let Resources { cpus, gpus, memory_mib, ranks: _ } = resources;
            *known.entry((cpus, gpus, memory_mib, share)).or_insert_with(|| {
                classes.push(Class { resources, share: share.clone() });
                classes.len() as u32 - 1
            })
        });
        let class_of: Vec<u32> = class_of.collect();
        let waiting = vec![BTreeSet::new(); classes.len()];
        let ranks = (0..board.stages.len() as u32).collect();
        let heads = BTreeSet::new();
        Self { classes, waiting, heads, class_of, ranks, is_weighed: false, len: 0 }
    }

    pub(super) fn insert(&mut self, stage: usize, task: usize) {
        self.change(stage, |tasks, rank| tasks.insert((rank, task)));
    }

    pub(super) fn remove(&mut self, stage: usize, task: usize) {
        self.change(stage, |tasks, rank| tasks.remove(&(rank, task)));
    }

    fn change(&mut self, stage: usize, change: impl FnOnce(&mut BTreeSet<(u32, usize)>, u32) -> bool) {
        let class = self.class_of[stage] as usize;
        let tasks = &mut self.waiting[class];
        let (head, len) = (tasks.first().copied(), tasks.len());
        change(tasks, self.ranks[stage]);
        self.len = self.len + tasks.len() - len;
        let new_head = tasks.first().copied();
        if head != new_head {
            head.map(|(rank, task)| self.heads.remove(&(rank, task, class)));
            new_head.map(|(rank, task)| self.heads.insert((rank, task, class)));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn class(&self, class: usize) -> &Class {
        &self.classes[class]
    }

    /// The task that should start next, and its class. Skips the classes in `closed`.
    pub(super) fn first(&self, closed: &HashSet<usize>) -> Option<(usize, usize)> {
        let mut open = self.heads.iter().filter(|(_, _, class)| !closed.contains(class));
        open.next().map(|(_, task, class)| (*task, *class))
    }

    /// All tasks, in no particular order.
    pub(super) fn tasks(&self) -> Vec<usize> {
        self.waiting.iter().flatten().map(|(_, task)| *task).collect()
    }

    /// Whether [`ReadyQueue::weigh`] was called.
    pub(super) fn is_weighed(&self) -> bool {
        self.is_weighed
    }

    /// Orders the stages by `weights`, heaviest first. Stages of equal weight keep their order.
    pub(super) fn weigh(&mut self, weights: &[f64], stage_of: impl Fn(usize) -> usize) {
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
        for (rank, stage) in order.into_iter().enumerate() {
            self.ranks[stage] = rank as u32;
        }
        self.is_weighed = true;
        for tasks in &mut self.waiting {
            *tasks = std::mem::take(tasks).into_iter().map(|(_, task)| (self.ranks[stage_of(task)], task)).collect();
        }
        let heads = self.waiting.iter().enumerate();
        self.heads =
            heads.filter_map(|(class, tasks)| tasks.first().map(|(rank, task)| (*rank, *task, class))).collect();
    }
}

/// Chooses the running task whose GPUs are shared. `candidates` holds (makes an input, task).
/// Prefers a task that makes an input, then the first one.
pub(super) fn choose_shared(candidates: impl Iterator<Item = (bool, usize)>) -> Option<usize> {
    candidates.max_by_key(|(makes_input, task)| (*makes_input, Reverse(*task))).map(|(_, task)| task)
}
