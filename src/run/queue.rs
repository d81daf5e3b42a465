//! What the scheduler does with instances that are ready: who starts first, with what it
//! occupies, and when a failed one comes again.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use olmo_stage::Failure;

use super::event::RunEvent;
use super::job::Job;
use super::lease::Short;
use super::resources::{Asker, Occupied};
use super::scheduler::{Phase, Ready, Running, Scheduler};
use super::weight;
use crate::exec::supervise;
use crate::spec::FailureClass;
use crate::store::KeyLock;

/// How often leases are looked at that another engine has: it does not tell when it is done.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Scheduler<'_, '_> {
    /// Starts what is missing and fits: the longest way to the end first, else in the order of
    /// the stages. Nobody gets what one before it waits for. Returns whether something was done
    /// with no run of its own: another process had done it, or it failed.
    pub(super) fn start_queued(&mut self) -> bool {
        let mut queue: Vec<usize> = self.board.stages.iter().flat_map(|s| s.instances.iter().copied()).collect();
        queue.retain(|index| matches!(self.phases[*index], Phase::Missing(_) | Phase::Queued(..)));
        let mut settled = false;
        if queue.len() > 1 {
            let weights = self
                .weights
                .get_or_insert_with(|| weight::weights(self.board, &weight::past(self.store, &self.experiment)));
            // Stable: equal ones stay in the order of the stages.
            let weight = |index: &usize| weights[self.board.instances[*index].stage];
            queue.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
        }
        let mut blocked = Short::default();
        for index in queue {
            // Every stage takes a processor at least.
            if blocked.cpus {
                break;
            }
            let stage = &self.board.stages[self.board.instances[index].stage];
            let wants = stage.spec.resources;
            let lacks_memory = blocked.memory && wants.memory_mib > 0;
            // Another's GPUs may be shared whoever waits for free ones.
            let share = stage.spec.share.as_deref().and_then(|name| self.runs_with_gpus(index, name));
            if lacks_memory || (blocked.gpus && wants.gpus > 0 && share.is_none()) {
                continue;
            }
            if matches!(self.phases[index], Phase::Missing(_)) && !self.lock(index) {
                settled |= !matches!(self.phases[index], Phase::Locking(_));
                continue;
            }
            let Phase::Queued(ready, _) = &self.phases[index] else { continue };
            let asker = Asker {
                what: format!("{}: {}", self.experiment, self.board.place(index)),
                supervisor: self.store.work(ready.key).join(supervise::LOCK),
            };
            let first = blocked.is_nothing();
            let share = share.and_then(|index| match &self.phases[index] {
                Phase::Running(_, running) => Some(&running.occupied),
                _ => None,
            });
            match self.machine.take(&wants, share, &asker, first) {
                Ok(Ok(occupied)) => {
                    let Phase::Queued(ready, lock) = std::mem::replace(&mut self.phases[index], Phase::Idle) else {
                        continue;
                    };
                    self.start(index, ready, lock, occupied);
                }
                Ok(Err(short)) => {
                    blocked.cpus |= short.cpus;
                    blocked.memory |= short.memory;
                    blocked.gpus |= short.gpus;
                    self.tell_delayed(index, short);
                }
                Err(error) => {
                    self.record_failed(Some(error));
                    return false;
                }
            }
        }
        if blocked.is_nothing() {
            self.machine.forget_want();
        }
        settled
    }

    /// An instance of stage `name`, or of one of its trials, that runs and has GPUs: one that
    /// makes what instance `of` reads, if there is such.
    fn runs_with_gpus(&self, of: usize, name: &str) -> Option<usize> {
        let is_named = |stage: &str| stage == name || stage.split_once('@').is_some_and(|(base, _)| base == name);
        let stage = |index: usize| &self.board.stages[self.board.instances[index].stage];
        let reads = |index: &usize| stage(of).spec.reads().any(|port| port.stage == stage(*index).name);
        let runs = |phase: &Phase| matches!(phase, Phase::Running(_, r) if !r.occupied.grant.gpus.is_empty());
        let running = (0..self.phases.len()).filter(|i| runs(&self.phases[*i]) && is_named(&stage(*i).name));
        running.max_by_key(|index| (reads(index), std::cmp::Reverse(*index)))
    }

    /// Says once that an instance waits for other engines. That it waits for its own run is no news.
    fn tell_delayed(&mut self, index: usize, short: Short) {
        if short.holders.is_empty() || !self.delayed.insert(index) {
            return;
        }
        let words = [(short.cpus, "processors"), (short.memory, "memory"), (short.gpus, "GPUs")];
        let words = words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word.to_owned()).collect();
        let own = std::process::id();
        let holders = short.holders.into_iter().filter(|(pid, _)| *pid != own).collect();
        self.note(RunEvent::Delayed { place: self.board.place(index), short: words, holders });
    }

    fn start(&mut self, index: usize, ready: Ready, lock: KeyLock, occupied: Occupied) {
        let grant = occupied.grant.clone();
        tracing::debug!(place = %self.board.place(index), key = %ready.key, ?grant, "start");
        let stage = &self.board.stages[self.board.instances[index].stage];
        let (control, receiver) = mpsc::channel();
        let (folder, place) = (self.record.folder().to_owned(), self.board.place(index));
        let job = Job {
            store: self.store.clone(),
            key: ready.key,
            record: ready.record.clone(),
            lock,
            name: stage.name.clone(),
            spec: stage.spec.clone(),
            root: self.root.clone(),
            inputs: ready.inputs.clone(),
            grant,
            executor: self.options.executor.clone(),
            worker: self.options.worker.clone(),
            command: self.board.command(index).cloned(),
            // Thrown away once: what this run itself began is worth keeping.
            fresh: self.fresh.contains(&stage.name) && self.freshened.insert(index),
            grace: self.options.grace,
            log: Box::new(move |attempt| super::record::log_path(&folder, &place, attempt)),
            control: receiver,
            teller: self.teller(index),
        };
        self.ran.insert(self.board.instances[index].stage);
        self.phases[index] = Phase::Running(ready, Box::new(Running { control, occupied, shown: BTreeMap::new() }));
        if let Err(error) = self.spawn(move || job.run()) {
            self.not_started(index, &error);
        }
    }

    /// Lets a failed instance rest if it is to be tried again; else it has failed.
    pub(super) fn fail_or_retry(&mut self, index: usize, failure: Failure, class: FailureClass, log: Vec<String>) {
        let retry = self.board.stages[self.board.instances[index].stage].spec.retry.as_ref();
        let (tried, max) = (self.tried[index] + 1, retry.map_or(0, |retry| retry.max));
        match retry.and_then(|retry| retry.pause(tried, class)).filter(|_| !self.is_stopping()) {
            None => self.fail(index, failure, log),
            Some(pause) => {
                self.tried[index] = tried;
                self.phases[index] = Phase::Resting(Instant::now() + pause);
                let (place, pause_s) = (self.board.place(index), pause.as_secs());
                self.note(RunEvent::Retrying { place, failure, class, log, pause_s, tried, max });
            }
        }
    }

    /// Wakes those whose pause is over.
    pub(super) fn wake(&mut self) {
        for phase in &mut self.phases {
            if matches!(phase, Phase::Resting(until) if *until <= Instant::now()) {
                *phase = Phase::Idle;
            }
        }
    }

    /// Whether something will go on though no thread of this run works.
    pub(super) fn waits(&self) -> bool {
        !self.is_stopping()
            && self.phases.iter().any(|p| matches!(p, Phase::Missing(_) | Phase::Resting(_) | Phase::Queued(..)))
    }

    /// When there is something to look at, if nobody tells anything before.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let resting = self.phases.iter().filter_map(|phase| match phase {
            Phase::Resting(until) => Some(*until),
            _ => None,
        });
        let others = self.machine.waits_for_others().then(|| Instant::now() + LOOK_AGAIN);
        resting.chain(others).min()
    }
}
