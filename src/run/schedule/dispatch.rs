//! Starts tasks: takes key locks, requests resources, and launches jobs.

use std::collections::{BTreeMap, HashSet};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use olmo_stage::Failure;

use crate::exec::{Admission, AdmissionRequest, Shortage, supervise};
use crate::run::cache::{Cache, Lookup};
use crate::run::error::RunError;
use crate::run::event::RunEvent;
use crate::run::job::{self, Job};
use crate::run::plan::board::Inputs;
use crate::run::schedule::phase::{Input, Phase};
use crate::run::schedule::scheduler::{Prepared, RunningJob, Scheduler};
use crate::run::schedule::{queue, weight};

/// How often resources that another engine holds are requested again. Other engines send no message
/// when they release them.
const REQUEST_INTERVAL: Duration = Duration::from_millis(100);

impl Scheduler<'_, '_> {
    /// Starts the queued tasks that fit. The task with the longest path to the end of the run comes
    /// first; ties keep the order of the stages. No task gets resources that an earlier one waits
    /// for.
    pub(super) fn dispatch(&mut self) {
        if self.tracker.queue().len() > 1 && !self.tracker.queue().is_weighed() {
            let past = weight::past_wall_times(self.cache.store(), &self.plan.experiment);
            let weights = weight::weights(self.tracker.board(), &past);
            self.tracker.weigh(&weights);
        }
        let mut short = Shortage::default();
        let mut closed = HashSet::new();
        while let Some((task, class)) = self.tracker.queue().first(&closed) {
            let (wants, share) = {
                let class = self.tracker.queue().class(class);
                (class.resources, class.share.clone())
            };
            // What another stage has may be shared even if an earlier task waits for free resources.
            let share = share.and_then(|name| self.running(task, &name, wants.gpus));
            let lacks_memory = short.memory && wants.memory_mib > 0;
            // Every task needs at least one CPU.
            let lacks_others = short.cpus || (short.gpus && wants.gpus > 0);
            if lacks_memory || (lacks_others && share.is_none()) {
                closed.insert(class);
                continue;
            }
            if self.tracker.phase(task) == Phase::Queued {
                self.lock(task);
            }
            if self.tracker.phase(task) != Phase::Locked {
                continue;
            }
            match self.admit(task, share, short.is_empty()) {
                Ok(Admission::Granted(allocation)) => {
                    if let Some(held) = self.in_flight.get_mut(&task) {
                        held.allocation = Some(allocation);
                    }
                    self.apply(task, Input::Admitted);
                }
                Ok(Admission::Short(lacking)) => {
                    // Others do not wait for what only this one may share.
                    short.cpus |= lacking.cpus && share.is_none();
                    short.memory |= lacking.memory;
                    short.gpus |= lacking.gpus;
                    closed.insert(class);
                    self.report_delay(task, lacking);
                }
                Err(error) => {
                    self.journal.keep_error(Some(error));
                    self.stop_if_broken();
                    return;
                }
            }
        }
        if short.is_empty() {
            self.plan.options.executor.withdraw();
        }
    }

    fn admit(&self, task: usize, share: Option<usize>, is_first: bool) -> Result<Admission, RunError> {
        let work = self.in_flight.get(&task).map(|held| self.cache.store().work(held.key)).unwrap_or_default();
        let shared = share.and_then(|other| self.in_flight.get(&other)?.allocation.as_ref());
        let request = AdmissionRequest {
            resources: self.tracker.board().stage_of(task).spec.resources,
            share: shared.map(|allocation| &allocation.grant),
            stage: format!("{}: {}", self.plan.experiment, self.place(task)),
            supervisor: work.join(supervise::LOCK),
            is_first,
        };
        Ok(self.plan.options.executor.admit(&request)?)
    }

    /// A running task, with GPUs if `gpus` is not 0, that belongs to stage `name` or to one of its
    /// trials. Prefers one that makes an input of task `of`.
    fn running(&self, of: usize, name: &str, gpus: u32) -> Option<usize> {
        let board = self.tracker.board();
        let is_named = |stage: &str| stage == name || stage.split_once('@').is_some_and(|(base, _)| base == name);
        let has_enough = |task: &usize| {
            let allocation = self.in_flight.get(task).and_then(|held| held.allocation.as_ref());
            allocation.is_some_and(|allocation| gpus == 0 || !allocation.grant.gpus.is_empty())
        };
        let found = self.tracker.running().filter(|task| is_named(&board.stage_of(*task).name)).filter(has_enough);
        queue::choose_shared(found.map(|task| {
            let made_by = |port: &crate::spec::PortRef| port.stage == board.stage_of(task).name;
            (board.stage_of(of).spec.reads().any(made_by), task)
        }))
    }

    /// Takes the key lock of a queued task. If another process holds it, a thread waits for it.
    fn lock(&mut self, task: usize) {
        let prepared = self.prepare(task);
        let Some(held) = self.in_flight.get_mut(&task) else { return };
        held.prepared = prepared.filter(|prepared| prepared.record.digest() == held.key);
        if held.prepared.is_none() {
            return self.apply(task, Input::Outdated);
        }
        let store = self.cache.store();
        let taken = store.lock_key(held.key).and_then(|lock| match lock {
            None => Ok(Input::LockBusy),
            Some(lock) => match self.cache.lookup(held.key)? {
                // Another process has made the result since the lookup.
                Lookup::Hit(outputs) if !held.forced => Ok(Input::Shared(outputs)),
                _ => {
                    held.lock = Some(lock);
                    Ok(Input::LockTaken)
                }
            },
        });
        let input = taken.unwrap_or_else(|error| Input::EngineFailed(Failure::from(&error)));
        self.apply(task, input);
    }

    /// The inputs and the key record for the job of `task`, if all inputs are known and readable.
    fn prepare(&self, task: usize) -> Option<Box<Prepared>> {
        let board = self.tracker.board();
        let Ok(Inputs::Ready(inputs)) = board.inputs(task, self.cache.store()) else { return None };
        let record = board.key(task, &inputs).ok()?;
        Some(Box::new(Prepared { inputs, record }))
    }

    pub(super) fn wait_for_lock(&mut self, task: usize) {
        let Some(held) = self.in_flight.get(&task) else { return };
        let (key, forced, cache) = (held.key, held.forced, Cache::new(self.cache.store()));
        let (stop, handle) = (self.shutdown.flag(), self.handle(task));
        if let Err(error) = self.spawn(move || job::wait_for_lock(&cache, key, forced, &stop, &handle)) {
            self.apply(task, Input::EngineFailed(Failure::from(&error)));
        }
    }

    /// Reports once that a task waits for other engines. Waiting for tasks of the same run is not
    /// reported.
    fn report_delay(&mut self, task: usize, short: Shortage) {
        if short.holders.is_empty() || std::mem::replace(&mut self.tracker.instance_mut(task).was_delayed, true) {
            return;
        }
        let words = [(short.cpus, "processors"), (short.memory, "memory"), (short.gpus, "GPUs")];
        let words = words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word.to_owned()).collect();
        let own = std::process::id();
        let holders = short.holders.into_iter().filter(|(pid, _)| *pid != own).collect();
        let place = self.place(task);
        self.emit(RunEvent::Delayed { place, short: words, holders });
    }

    /// Starts the job of an admitted task.
    pub(super) fn launch(&mut self, task: usize) {
        let handle = self.handle(task);
        let place = self.place(task);
        let log = self.journal.log_paths(place.clone());
        let (name, spec) = {
            let stage = self.tracker.board().stage_of(task);
            (stage.name.clone(), stage.spec.clone())
        };
        let command = self.tracker.board().command(task).cloned();
        let stage = self.tracker.board().tasks[task].stage;
        // Discard earlier work only once, so that work of this run is kept for a retry.
        let fresh = self.plan.fresh.contains(&name)
            && !std::mem::replace(&mut self.tracker.instance_mut(task).was_discarded, true);
        let Some(held) = self.in_flight.get_mut(&task) else { return };
        let (Some(lock), Some(prepared)) = (held.lock.take(), held.prepared.as_ref()) else { return };
        let grant = held.allocation.as_ref().map(|allocation| allocation.grant.clone()).unwrap_or_default();
        tracing::debug!(%place, key = %held.key, ?grant, "start");
        let (control, receiver) = mpsc::channel();
        held.job = Some(RunningJob { control, recorded: BTreeMap::new() });
        let job = Job {
            store: self.cache.store().clone(),
            key: held.key,
            record: prepared.record.clone(),
            lock,
            name,
            spec,
            root: self.plan.root.clone(),
            inputs: prepared.inputs.clone(),
            grant,
            executor: self.plan.options.executor.clone(),
            worker: self.plan.options.worker.clone(),
            command,
            fresh,
            grace: self.plan.options.grace,
            log: Box::new(log),
            control: receiver,
            scheduler: handle,
        };
        self.ran.insert(stage);
        if let Err(error) = self.spawn(move || job.run()) {
            self.apply(task, Input::EngineFailed(Failure::from(&error)));
        }
    }

    /// When there is something to do even if no message arrives.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let others = self.plan.options.executor.is_waiting().then(|| Instant::now() + REQUEST_INTERVAL);
        self.tracker.next_timer().into_iter().chain(others).min()
    }
}
