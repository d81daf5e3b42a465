//! [`Tracker`]: the state of every task of a run, and which tasks may have changed.
//!
//! The tracker is pure: it starts nothing and reads neither the clock nor the store. The scheduler
//! feeds it [`Input`]s and executes the [`Effect`]s. The work is proportional to what changed: a
//! task is checked when its last missing input appears, not at every message.
//!
//! Invariants: the queue holds exactly the tasks in [`Phase::Queued`] and [`Phase::Locked`], the
//! timers those in [`Phase::Backoff`], and `running` those in [`Phase::Running`].

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use crate::exec::item_list::{ItemRecord, Items};
use crate::run::plan::board::{Board, End};
use crate::run::schedule::phase::{Context, Effect, Input, Phase};
use crate::run::schedule::queue::ReadyQueue;
use crate::spec::Binding;
use crate::store::ListItem;

/// The progress of one task.
#[derive(Debug, Default)]
pub(super) struct Instance {
    pub phase: Phase,
    /// How often it failed and was retried.
    pub retries: u32,
    /// How often a damaged input of it was remade.
    pub repairs: u32,
    /// Whether it was already run in spite of a cached result, which happens at most once.
    pub was_forced: bool,
    /// Whether its unfinished work was already discarded, which happens at most once.
    pub was_discarded: bool,
    /// Whether it was already reported that it waits for other engines.
    pub was_delayed: bool,
}

/// What the tracker knows about a stage.
#[derive(Debug, Default)]
struct StageProgress {
    /// Stages with an input port bound to this one, each once.
    consumers: Vec<usize>,
    /// `for_each` stages over a list of this stage.
    expands: Vec<usize>,
    /// Number of stages bound to its input ports that are not done.
    missing: usize,
    /// Whether a stage that it needs failed.
    is_blocked: bool,
    /// Number of listed tasks that are not settled.
    unsettled: usize,
    /// Items that joined the list since the last expansion.
    joined: Vec<ListItem>,
    /// Whether the list changed in another way, so that it has to be expanded as a whole.
    is_stale: bool,
}

/// A pending check of a stage. Checks of one stage run in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Todo {
    Expand,
    Check(usize),
    Settle,
}

/// The next thing for the scheduler to do.
#[derive(Debug)]
pub(super) enum Step {
    /// The inputs of this task may be known: look up its key.
    LookUp(usize),
    /// Execute the effects of a transition of this task.
    Execute(usize, Vec<Effect>),
    /// A `for_each` stage will get no more items, because another stage failed.
    StageSkipped { stage: usize, because: String },
}

/// Tracks the state of every task.
pub(super) struct Tracker<'w, 'r> {
    board: &'w mut Board<'r>,
    instances: Vec<Instance>,
    stages: Vec<StageProgress>,
    /// (stage, check), ordered by stage, so that makers come before consumers.
    todo: BTreeSet<(usize, Todo)>,
    /// Effects of transitions that the tracker caused itself.
    deferred: VecDeque<(usize, Vec<Effect>)>,
    queue: ReadyQueue,
    timers: BTreeSet<(Instant, usize)>,
    running: BTreeSet<usize>,
    is_stopping: bool,
}

impl<'w, 'r> Tracker<'w, 'r> {
    /// Tracks the stages of `board`, none of which has outputs yet.
    pub(super) fn new(board: &'w mut Board<'r>) -> Self {
        let mut stages: Vec<StageProgress> = board.stages.iter().map(|_| StageProgress::default()).collect();
        for (index, stage) in board.stages.iter().enumerate() {
            let bound = stage.spec.inputs.values().flatten().filter_map(|binding| match binding {
                Binding::Port(port) => board.stage(&port.stage),
                Binding::Path(_) | Binding::Remote(_) | Binding::Item => None,
            });
            // A set, since a stage may read hundreds of thousands of others.
            let makers: BTreeSet<usize> = bound.collect();
            stages[index].missing = makers.len();
            for maker in makers.into_iter() {
                stages[maker].consumers.push(index);
            }
            if let Some(list) = &stage.spec.for_each {
                stages[index].is_stale = true;
                if let Some(maker) = board.stage(&list.stage) {
                    stages[maker].expands.push(index);
                }
            } else {
                stages[index].unsettled = 1;
            }
        }
        let queue = ReadyQueue::new(board);
        let mut tracker = Self {
            board,
            instances: Vec::new(),
            stages,
            todo: BTreeSet::new(),
            deferred: VecDeque::new(),
            queue,
            timers: BTreeSet::new(),
            running: BTreeSet::new(),
            is_stopping: false,
        };
        tracker.add_instances();
        for stage in 0..tracker.stages.len() {
            match tracker.board.stages[stage].spec.for_each {
                Some(_) => tracker.mark(stage, Todo::Expand),
                None if tracker.stages[stage].missing == 0 => tracker.check_tasks(stage),
                None => {}
            }
        }
        tracker
    }

    pub(super) fn board(&self) -> &Board<'r> {
        self.board
    }

    pub(super) fn instance(&self, task: usize) -> &Instance {
        &self.instances[task]
    }

    pub(super) fn instance_mut(&mut self, task: usize) -> &mut Instance {
        &mut self.instances[task]
    }

    pub(super) fn phase(&self, task: usize) -> Phase {
        self.instances[task].phase
    }

    pub(super) fn queue(&self) -> &ReadyQueue {
        &self.queue
    }

    /// Orders the queue by the weights of the stages.
    pub(super) fn weigh(&mut self, weights: &[f64]) {
        let board = &*self.board;
        self.queue.weigh(weights, |task| board.tasks[task].stage);
    }

    /// Running tasks, in order.
    pub(super) fn running(&self) -> impl Iterator<Item = usize> + '_ {
        self.running.iter().copied()
    }

    /// When the earliest pause ends.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether a task will start without any message, because it is queued or pauses.
    pub(super) fn is_waiting(&self) -> bool {
        self.queue.len() > 0 || !self.timers.is_empty()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Whether there is a next step.
    pub(super) fn has_steps(&self) -> bool {
        !self.todo.is_empty() || !self.deferred.is_empty()
    }

    /// Returns the next step, if any state may have changed.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        loop {
            if let Some((task, effects)) = self.deferred.pop_front() {
                return Some(Step::Execute(task, effects));
            }
            let (stage, todo) = self.todo.pop_first()?;
            match todo {
                Todo::Expand => self.expand(stage),
                Todo::Check(task) if self.can_look_up(stage, task) => return Some(Step::LookUp(task)),
                Todo::Check(_) => {}
                Todo::Settle => {
                    if let Some(because) = self.settle(stage) {
                        return Some(Step::StageSkipped { stage, because });
                    }
                }
            }
        }
    }

    fn can_look_up(&self, stage: usize, task: usize) -> bool {
        let progress = &self.stages[stage];
        !self.is_stopping
            && self.instances[task].phase == Phase::Idle
            && self.board.tasks[task].listed
            && (progress.is_blocked || progress.missing == 0)
    }

    /// Applies `input` to `task`. Returns the effects for the scheduler to execute.
    pub(super) fn on(&mut self, task: usize, input: Input) -> Vec<Effect> {
        let context = Context { stopping: self.is_stopping, listed: self.board.tasks[task].listed };
        let (phase, effects) = self.instances[task].phase.on(input, context);
        self.set_phase(task, phase);
        for effect in &effects {
            match effect {
                Effect::Publish { outputs, .. } => {
                    self.board.finish(task, outputs.clone());
                    self.announce_outputs(task);
                }
                Effect::Fail { .. } => {
                    let name = self.board.stage_of(task).name.clone();
                    self.end_without_outputs(task, name);
                }
                Effect::Skip { because } => self.end_without_outputs(task, because.clone()),
                Effect::Repair(damage) => {
                    if let Some(maker) = damage.maker.as_ref().and_then(|maker| self.board.task_at(maker)) {
                        self.reopen(maker);
                    }
                    self.mark(self.board.tasks[task].stage, Todo::Check(task));
                }
                _ => {}
            }
        }
        effects
    }

    fn set_phase(&mut self, task: usize, phase: Phase) {
        let before = std::mem::replace(&mut self.instances[task].phase, phase);
        if before == phase {
            return;
        }
        let (stage, listed) = (self.board.tasks[task].stage, self.board.tasks[task].listed);
        match (before.is_queued(), phase.is_queued()) {
            (false, true) => self.queue.insert(stage, task),
            (true, false) => self.queue.remove(stage, task),
            _ => {}
        }
        if let Phase::Backoff(at) = before {
            self.timers.remove(&(at, task));
        }
        if let Phase::Backoff(at) = phase {
            self.timers.insert((at, task));
        }
        if before == Phase::Running {
            self.running.remove(&task);
        }
        if phase == Phase::Running {
            self.running.insert(task);
        }
        if listed && before.is_settled() != phase.is_settled() {
            match phase.is_settled() {
                true => {
                    self.stages[stage].unsettled -= 1;
                    self.mark(stage, Todo::Settle);
                }
                false => self.stages[stage].unsettled += 1,
            }
        }
        if phase == Phase::Idle {
            self.mark(stage, Todo::Check(task));
        }
    }

    fn mark(&mut self, stage: usize, todo: Todo) {
        self.todo.insert((stage, todo));
    }

    /// Marks all idle tasks of `stage`.
    fn check_tasks(&mut self, stage: usize) {
        for task in &self.board.stages[stage].tasks {
            if self.instances[*task].phase == Phase::Idle {
                self.todo.insert((stage, Todo::Check(*task)));
            }
        }
    }

    fn add_instances(&mut self) {
        self.instances.resize_with(self.board.tasks.len(), Instance::default);
    }

    /// Propagates the outputs of task `task` to the stages that need them.
    fn announce_outputs(&mut self, task: usize) {
        let stage = self.board.tasks[task].stage;
        if self.board.stages[stage].spec.for_each.is_none() {
            return self.on_stage_done(stage);
        }
        if !self.board.tasks[task].listed {
            return;
        }
        for expands in self.stages[stage].expands.clone() {
            let Some(list) = &self.board.stages[expands].spec.for_each else { continue };
            if let Some(item) = self.board.finished_item(task, &list.port) {
                self.stages[expands].joined.push(item);
                self.mark(expands, Todo::Expand);
            }
        }
    }

    /// Tells the consumers of `stage` that all its outputs are known.
    fn on_stage_done(&mut self, stage: usize) {
        for consumer in self.stages[stage].consumers.clone() {
            self.stages[consumer].missing -= 1;
            if self.stages[consumer].missing == 0 {
                self.check_tasks(consumer);
            }
        }
        self.expand_consumers(stage);
    }

    /// Expands the stages over the lists of `stage` as a whole, after the lists changed.
    fn expand_consumers(&mut self, stage: usize) {
        for expands in self.stages[stage].expands.clone() {
            self.stages[expands].is_stale = true;
            self.mark(expands, Todo::Expand);
        }
    }

    /// Handles that task `task` failed or was skipped. Without `for_each`, its stage ends with it.
    /// A `for_each` stage ends in [`Tracker::settle`].
    fn end_without_outputs(&mut self, task: usize, because: String) {
        let stage = self.board.tasks[task].stage;
        if self.board.stages[stage].spec.for_each.is_none() {
            self.stage_ends_without_outputs(stage, because);
        }
    }

    fn stage_ends_without_outputs(&mut self, stage: usize, because: String) {
        self.board.stages[stage].end = End::Never(because);
        let affected = [self.stages[stage].consumers.clone(), self.stages[stage].expands.clone()].concat();
        for consumer in affected {
            self.stages[consumer].is_blocked = true;
            self.check_tasks(consumer);
            self.mark(consumer, Todo::Settle);
        }
    }

    /// Makes `task` run again, because its outputs are damaged.
    fn reopen(&mut self, task: usize) {
        if self.instances[task].phase != Phase::Done {
            return;
        }
        let stage = self.board.tasks[task].stage;
        if matches!(self.board.stages[stage].end, End::Done(_)) {
            for consumer in self.stages[stage].consumers.clone() {
                self.stages[consumer].missing += 1;
            }
        }
        self.board.reopen(task);
        self.expand_consumers(stage);
        // No effects: see `Phase::on`.
        self.on(task, Input::Reopen);
    }

    /// Gives a `for_each` stage one task for each item of its list.
    fn expand(&mut self, stage: usize) {
        let joined = std::mem::take(&mut self.stages[stage].joined);
        let (added, removed) = match std::mem::take(&mut self.stages[stage].is_stale) {
            true => {
                let expansion = self.board.expand(stage);
                (expansion.added, expansion.removed)
            }
            false => (joined.into_iter().filter_map(|item| self.board.append(stage, item)).collect(), Vec::new()),
        };
        self.add_instances();
        for task in added {
            let phase = self.instances[task].phase;
            self.stages[stage].unsettled += usize::from(!phase.is_settled());
            if phase == Phase::Idle {
                self.mark(stage, Todo::Check(task));
            }
            // If the task finished while its item was not listed, its outputs count again now.
            if phase == Phase::Done {
                self.announce_outputs(task);
            }
        }
        let list = self.board.stages[stage].spec.for_each.as_ref();
        let closed = list.is_some_and(|list| self.board.is_closed(list));
        let has_removed = !removed.is_empty();
        for task in removed {
            self.stages[stage].unsettled -= usize::from(!self.instances[task].phase.is_settled());
            self.apply_deferred(task, Input::Unlisted { closed });
        }
        if closed {
            let running = self.running.iter().copied();
            let unlisted =
                running.filter(|task| self.board.tasks[*task].stage == stage && !self.board.tasks[*task].listed);
            for task in unlisted.collect::<Vec<_>>() {
                self.apply_deferred(task, Input::Unlisted { closed });
            }
        }
        if has_removed {
            self.expand_consumers(stage);
        }
        self.mark(stage, Todo::Settle);
    }

    /// Applies an input that did not come from a message. Its effects become a later step.
    fn apply_deferred(&mut self, task: usize, input: Input) {
        let effects = self.on(task, input);
        // Pushed even if empty, so that the scheduler releases what the task held.
        self.deferred.push_back((task, effects));
    }

    /// Ends a `for_each` stage that can get no more tasks and whose tasks are all settled. If it
    /// was skipped, returns the failed stage that caused it.
    fn settle(&mut self, stage: usize) -> Option<String> {
        let list = self.board.stages[stage].spec.for_each.as_ref()?;
        if self.stages[stage].unsettled > 0 || self.board.stages[stage].end != End::Open {
            return None;
        }
        if self.board.close(stage) {
            self.on_stage_done(stage);
            return None;
        }
        let source = self.board.stage(&list.stage).map(|s| self.board.stages[s].end.clone());
        let is_over = matches!(source, Some(End::Done(_) | End::Never(_)));
        if !is_over {
            return None;
        }
        let tasks = &self.board.stages[stage].tasks;
        if tasks.iter().any(|task| self.instances[*task].phase == Phase::Failed) {
            let name = self.board.stages[stage].name.clone();
            self.stage_ends_without_outputs(stage, name);
            return None;
        }
        let because = self.board.blocked_by(stage)?;
        self.stage_ends_without_outputs(stage, because.clone());
        Some(because)
    }

    /// Handles an item that a running task reported, or items that left a list.
    pub(super) fn on_item(&mut self, task: usize, record: &ItemRecord) {
        let stage = self.board.tasks[task].stage;
        let joined = match record {
            ItemRecord::Added { port, label, artifact, .. } => match self.board.stages[stage].open.get(port, label) {
                None => Some((port.clone(), ListItem { label: label.clone(), digest: *artifact })),
                Some(known) if known == *artifact => return,
                Some(_) => None,
            },
            ItemRecord::Kept { .. } => None,
        };
        self.board.apply_item(task, record);
        let Some((port, item)) = joined else { return self.expand_consumers(stage) };
        for expands in self.stages[stage].expands.clone() {
            if self.board.stages[expands].spec.for_each.as_ref().is_some_and(|list| list.port == port) {
                self.stages[expands].joined.push(item.clone());
                self.mark(expands, Todo::Expand);
            }
        }
    }

    /// Sets the items that a running task has from earlier attempts.
    pub(super) fn set_items(&mut self, task: usize, items: Items) {
        let stage = self.board.tasks[task].stage;
        if self.board.stages[stage].spec.for_each.is_none() {
            self.board.stages[stage].open = items;
            self.expand_consumers(stage);
        }
    }

    /// Ends all pauses that are over at `now`.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some((at, task)) = self.timers.first().copied()
            && at <= now
        {
            self.apply_deferred(task, Input::PauseOver);
        }
    }

    /// Stops: from now on, no task starts.
    pub(super) fn stop(&mut self) {
        self.is_stopping = true;
        let waiting = self.timers.iter().map(|(_, task)| *task).chain(self.queue.tasks());
        for task in waiting.chain(self.running.iter().copied()).collect::<Vec<_>>() {
            self.apply_deferred(task, Input::Stop);
        }
    }
}
