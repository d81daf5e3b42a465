//! [`Scheduler`]: decides what is done next. It alone owns the state of a run; jobs and signals
//! send it messages, and it waits for nothing else.
//!
//! An instance whose inputs are known is looked up by its key: a hit is done. Else it queues
//! ([`super::queue`]). When it is its turn it takes the key's lock (a thread waits for it if
//! another process has it), then processors, memory and GPUs, then a job runs it. A stage that is
//! too large for what is free keeps those behind it from overtaking, so that it gets its turn.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use olmo_base::{Diagnose, Digest, failpoint};
use olmo_stage::{Event, Failure};

use super::board::{Board, DamagedInput, End as StageEnd, Input, Inputs};
use super::error::RunError;
use super::event::{Place, RunEvent, Used};
use super::job::{self, Control, End, Message, News, Teller};
use super::record::RunRecord;
use super::resources::{Machine, Occupied};
use super::{Options, StageFailure, Watch};
use crate::exec::attempt::{ItemRecord, Items, Work};
use crate::key::KeyRecord;
use crate::spec::Resolved;
use crate::store::{Action, ActionState, KeyLock, Output, Store, StoreError};

/// How often progress and metrics of one stage go into the record.
const SPARSE: Duration = Duration::from_secs(5);
/// How often a damaged artifact may be made again for one reader before that counts as a failure.
const REMAKES: u32 = 3;

/// Where an instance is on its way.
pub(super) enum Phase {
    /// Its inputs are not known, or it was not looked up yet.
    Idle,
    /// It is to run, and waits for its turn. It holds nothing: a fan of thousands would run out
    /// of open files.
    Missing(Ready),
    /// Another process has its key's lock; a thread waits for it.
    Locking(Ready),
    Queued(Ready, KeyLock),
    Running(Ready, Box<Running>),
    /// It failed, and begins again then.
    Resting(Instant),
    Done,
    Failed,
    Skipped,
    /// A signal stopped it.
    Stopped,
}

/// All that is known of an instance once its inputs are.
#[derive(Clone)]
pub(super) struct Ready {
    pub inputs: BTreeMap<String, Vec<Input>>,
    pub record: KeyRecord,
    pub key: Digest,
    /// A result that was there when it was looked up does not count.
    pub again: bool,
}

pub(super) struct Running {
    pub control: Sender<Control>,
    pub occupied: Occupied,
    pub shown: BTreeMap<&'static str, Instant>,
}

/// How the stages of a run ended.
#[derive(Debug, Default)]
pub struct Ending {
    /// The signal that asked for the end.
    pub signal: Option<i32>,
    pub failures: Vec<StageFailure>,
    /// Whether every stage is done.
    pub complete: bool,
}

/// See the module.
pub struct Scheduler<'r, 'w> {
    pub(super) board: &'w mut Board<'r>,
    pub(super) experiment: String,
    pub(super) root: PathBuf,
    pub(super) store: &'r Store,
    pub(super) record: &'r mut RunRecord,
    pub(super) options: &'r Options,
    watch: &'w mut dyn Watch,
    pub(super) machine: &'w mut Machine,
    pub(super) phases: Vec<Phase>,
    remakes: Vec<u32>,
    /// What was found whole in the store a moment ago, by key; forgotten once anything is damaged.
    hits: HashMap<Digest, BTreeMap<String, Output>>,
    /// How often each instance failed and was tried again.
    pub(super) tried: Vec<u32>,
    /// Stages that did something in this run, for telling a cut-off.
    pub(super) ran: BTreeSet<usize>,
    pub(super) fresh: BTreeSet<String>,
    /// Instances whose unfinished work was thrown away already.
    pub(super) freshened: BTreeSet<usize>,
    /// Instances of which it was said that they wait for other engines.
    pub(super) delayed: BTreeSet<usize>,
    again: Again,
    /// Instances that ran again though their result was there.
    did_again: BTreeSet<usize>,
    /// By stage; worked out when there is a choice.
    pub(super) weights: Option<Vec<f64>>,
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    /// Threads that will still send something.
    threads: usize,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) kill_at: Option<Instant>,
    pub(super) give_up_at: Option<Instant>,
    pub(super) ending: Ending,
    /// The record, or the leases, can no longer be used.
    broken: Option<RunError>,
}

/// Which stages run though their results are there.
#[derive(Clone, Debug, Default)]
pub struct Again {
    pub all: bool,
    pub stages: BTreeSet<String>,
    /// Never these: they are only read.
    pub but: BTreeSet<String>,
}

impl Again {
    pub fn holds(&self, stage: &str) -> bool {
        (self.all || self.stages.contains(stage)) && !self.but.contains(stage)
    }
}

impl<'r, 'w> Scheduler<'r, 'w> {
    #[expect(clippy::too_many_arguments, reason = "made in one place; each is something else")]
    pub fn new(
        board: &'w mut Board<'r>,
        resolved: &'r Resolved,
        store: &'r Store,
        record: &'r mut RunRecord,
        options: &'r Options,
        machine: &'w mut Machine,
        again: Again,
        watch: &'w mut dyn Watch,
    ) -> Self {
        let (sender, receiver) = mpsc::channel();
        Self {
            board,
            experiment: resolved.experiment.clone(),
            root: resolved.root.clone(),
            store,
            record,
            options,
            watch,
            machine,
            phases: Vec::new(),
            remakes: Vec::new(),
            hits: HashMap::new(),
            tried: Vec::new(),
            ran: BTreeSet::new(),
            fresh: options.fresh.iter().flat_map(|name| resolved.named(name)).map(str::to_owned).collect(),
            freshened: BTreeSet::new(),
            delayed: BTreeSet::new(),
            again,
            did_again: BTreeSet::new(),
            weights: None,
            sender,
            receiver,
            threads: 0,
            stop: Arc::default(),
            kill_at: None,
            give_up_at: None,
            ending: Ending::default(),
            broken: None,
        }
    }

    /// With what was found whole in the store a moment ago.
    pub fn knowing(self, hits: HashMap<Digest, BTreeMap<String, Output>>) -> Self {
        Self { hits, ..self }
    }

    /// Where signals are to be sent to.
    pub fn sender(&self) -> Sender<Message> {
        self.sender.clone()
    }

    /// Runs all there is to run.
    pub fn run(mut self) -> Result<Ending, RunError> {
        loop {
            self.advance();
            if self.threads == 0 && !self.waits() {
                break;
            }
            match self.next() {
                Some(Message::Job(index, news)) => self.hear(index, *news),
                Some(Message::Signal(signal)) => self.signal(signal),
                Some(Message::Save) => {
                    self.note(RunEvent::Saving);
                    self.tell_running(Control::Save);
                }
                None => self.overdue(),
            }
            if self.give_up_at.is_some_and(|at| Instant::now() >= at) {
                break;
            }
        }
        if let Some(error) = self.broken {
            return Err(error);
        }
        self.ending.complete = self.board.stages.iter().all(|s| matches!(s.end, StageEnd::Done(_)));
        Ok(self.ending)
    }

    /// The next message; `None` when a deadline passed.
    fn next(&mut self) -> Option<Message> {
        if let Ok(message) = self.receiver.try_recv() {
            return Some(message);
        }
        // Nothing to do for a moment: what happened goes to the disk, all at once.
        let synced = self.record.sync();
        self.record_failed(synced.err());
        let tick = Duration::from_secs(1);
        let deadline = [self.kill_at, self.give_up_at, self.next_look()].into_iter().flatten().min();
        let pause = deadline.map_or(tick, |at| at.saturating_duration_since(Instant::now()).min(tick));
        // The scheduler holds a sender itself: the channel never closes.
        self.receiver.recv_timeout(pause).ok()
    }

    /// Writes an event into the record and shows it.
    pub(super) fn note(&mut self, event: RunEvent) {
        self.watch.event(&event);
        self.keep(&event);
    }

    fn keep(&mut self, event: &RunEvent) {
        tracing::debug!(?event);
        let appended = self.record.append(event);
        self.record_failed(appended.err());
    }

    pub(super) fn record_failed(&mut self, error: Option<RunError>) {
        if let Some(error) = error.filter(|_| self.broken.is_none()) {
            self.broken = Some(error);
            // Running stages save their state; nothing new begins without a record.
            self.stop_all();
        }
    }

    /// Does all that can be done without waiting.
    fn advance(&mut self) {
        self.wake();
        loop {
            let mut changed = false;
            for stage in 0..self.board.stages.len() {
                changed |= self.board.spread(stage);
                while self.phases.len() < self.board.instances.len() {
                    self.phases.push(Phase::Idle);
                    self.remakes.push(0);
                    self.tried.push(0);
                }
                for index in self.board.stages[stage].instances.clone() {
                    if matches!(self.phases[index], Phase::Idle) && !self.is_stopping() {
                        changed |= self.try_begin(index);
                    }
                }
                changed |= self.board.close(stage) || self.settle(stage);
            }
            if changed {
                continue;
            }
            self.drop_uncounted();
            // What comes out of it without a run of its own may let others begin.
            if self.is_stopping() || !self.start_queued() {
                break;
            }
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends a `for_each` stage that will not be done: nothing more comes, and something failed,
    /// or its list will never be closed. Returns whether it did.
    fn settle(&mut self, stage: usize) -> bool {
        let Some(list) = &self.board.stages[stage].spec.for_each else { return false };
        let source = self.board.stage(&list.stage).map(|s| self.board.stages[s].end.clone());
        let over = |i: &usize| matches!(self.phases[*i], Phase::Done | Phase::Failed | Phase::Skipped);
        let instances = &self.board.stages[stage].instances;
        if self.board.stages[stage].end != StageEnd::Open || !instances.iter().all(over) {
            return false;
        }
        let failed = instances.iter().any(|i| matches!(self.phases[*i], Phase::Failed));
        let name = self.board.stages[stage].name.clone();
        match source {
            Some(StageEnd::Done(_) | StageEnd::Never(_)) if failed => {
                self.board.stages[stage].end = StageEnd::Never(name);
            }
            Some(StageEnd::Never(because)) => {
                self.board.stages[stage].end = StageEnd::Never(because.clone());
                self.note(RunEvent::Skipped { place: Place { stage: name, item: None }, because });
            }
            _ => return false,
        }
        true
    }

    /// Lets go of instances whose item left its list: one that waits for its turn gives its
    /// key's lock back; one that runs goes on, since the item often comes again, until the list
    /// is closed without it.
    fn drop_uncounted(&mut self) {
        for index in 0..self.phases.len() {
            if self.board.counts(index) {
                continue;
            }
            let stage = &self.board.stages[self.board.instances[index].stage];
            let closed = stage.spec.for_each.as_ref().is_some_and(|list| self.board.items(list).1);
            match &self.phases[index] {
                Phase::Missing(_) | Phase::Queued(..) | Phase::Resting(_) => self.phases[index] = Phase::Idle,
                Phase::Running(_, running) if closed => {
                    // A job that has ended does not listen any more.
                    let _ = running.control.send(Control::Kill);
                }
                _ => {}
            }
        }
    }

    /// Looks an instance up if its inputs are known. Returns whether something changed.
    fn try_begin(&mut self, index: usize) -> bool {
        match self.board.inputs(index, self.store) {
            Ok(Inputs::Wait(_)) => false,
            Ok(Inputs::Never(because)) => {
                self.phases[index] = Phase::Skipped;
                let place = self.board.place(index);
                if place.item.is_none() {
                    self.board.stages[self.board.instances[index].stage].end = StageEnd::Never(because.clone());
                    self.note(RunEvent::Skipped { place, because });
                }
                true
            }
            Ok(Inputs::Ready(inputs)) => {
                match self.look_up(index, inputs) {
                    Ok(()) => {}
                    Err(error) => self.fail(index, failure(&error), Vec::new()),
                }
                true
            }
            Err(damaged) => {
                let DamagedInput { maker, artifact, error } = *damaged;
                self.damaged(index, maker, artifact, error);
                true
            }
        }
    }

    fn look_up(&mut self, index: usize, inputs: BTreeMap<String, Vec<Input>>) -> Result<(), RunError> {
        let record = self.board.key(index, &inputs)?;
        let key = record.digest();
        let place = self.board.place(index);
        let again = self.again.holds(&place.stage) && self.did_again.insert(index);
        let known = match self.hits.get(&key) {
            Some(outputs) => Ok(outputs.clone()),
            None => match self.store.action_state(key)? {
                ActionState::Hit(action) => Ok(action.outputs),
                missing => Err(missing),
            },
        };
        match known {
            Ok(_) if again => {}
            Ok(outputs) => {
                let stages = inputs.values().flatten().filter_map(|i| self.board.stage(&i.maker.as_ref()?.stage));
                let cut_off = stages.collect::<BTreeSet<_>>().intersection(&self.ran).next().is_some();
                self.note(RunEvent::Cached { place, key, cut_off, outputs: outputs.clone() });
                self.clean(key);
                self.done(index, outputs);
                return Ok(());
            }
            Err(ActionState::Incomplete { artifact, .. }) => {
                let text =
                    format!("its earlier result {} is no longer whole in the store; made again", artifact.short());
                self.note(RunEvent::Message { place, level: "warning".into(), text });
            }
            Err(ActionState::Damaged { why }) => {
                let text = format!("the note of its earlier result is damaged ({why}); made again");
                self.note(RunEvent::Message { place, level: "warning".into(), text });
            }
            Err(ActionState::Absent | ActionState::Hit(_)) => {}
        }
        self.phases[index] = Phase::Missing(Ready { inputs, record, key, again });
        Ok(())
    }

    /// Takes the lock of a missing instance whose turn it is; true if it is ready to start. If
    /// another process has the lock, a thread waits for it.
    pub(super) fn lock(&mut self, index: usize) -> bool {
        let Phase::Missing(ready) = std::mem::replace(&mut self.phases[index], Phase::Idle) else { return false };
        let (key, again) = (ready.key, ready.again);
        let looked = self.store.lock_key(key).and_then(|lock| match lock {
            None => Ok(None),
            Some(lock) => Ok(Some((lock, self.store.action_state(key)?))),
        });
        match looked {
            Err(error) => self.fail(index, failure(&error.into()), Vec::new()),
            // Another process finished it since it was looked up.
            Ok(Some((_, ActionState::Hit(Action { outputs, .. })))) if !again => self.shared(index, key, outputs),
            Ok(Some((lock, _))) => {
                self.phases[index] = Phase::Queued(ready, lock);
                return true;
            }
            Ok(None) => {
                self.phases[index] = Phase::Locking(ready);
                let (store, stop, teller) = (self.store.clone(), self.stop.clone(), self.teller(index));
                if let Err(error) = self.spawn(move || job::lock(&store, key, again, &stop, &teller)) {
                    self.fail(index, failure(&error), Vec::new());
                }
            }
        }
        false
    }

    /// Another process did the work of instance `index`.
    fn shared(&mut self, index: usize, key: Digest, outputs: BTreeMap<String, Output>) {
        let (place, used) = (self.board.place(index), Used::default());
        self.note(RunEvent::Finished { place, key, shared: true, outputs: outputs.clone(), used });
        self.done(index, outputs);
    }

    /// Removes work that an engine left which died after it had finished.
    fn clean(&self, key: Digest) {
        let folder = self.store.work(key);
        if folder.exists()
            && let Ok(Some(_lock)) = self.store.lock_key(key)
        {
            // Nothing depends on it: what stays takes space until the next time.
            let _ = Work::at(folder).discard();
        }
    }

    pub(super) fn teller(&self, instance: usize) -> Teller {
        Teller { instance, to: self.sender.clone() }
    }

    pub(super) fn spawn(&mut self, work: impl FnOnce() + Send + 'static) -> Result<(), RunError> {
        std::thread::Builder::new().spawn(work).map_err(RunError::thread)?;
        self.threads += 1;
        Ok(())
    }

    /// Fails an instance for whose job the system gives no thread.
    pub(super) fn not_started(&mut self, index: usize, error: &RunError) {
        if let Phase::Running(_, running) = std::mem::replace(&mut self.phases[index], Phase::Idle) {
            self.machine.give(running.occupied);
        }
        self.fail(index, failure(error), Vec::new());
    }

    /// What a job tells.
    fn hear(&mut self, index: usize, news: News) {
        let place = self.board.place(index);
        match news {
            News::Waiting { holder } => {
                if let Phase::Locking(ready) = &self.phases[index] {
                    let key = ready.key;
                    self.note(RunEvent::Waiting { place, key, holder });
                }
            }
            News::Locked(lock) => {
                self.threads -= 1;
                if let Phase::Locking(ready) = std::mem::replace(&mut self.phases[index], Phase::Idle) {
                    // Stopping: the lock goes back, the instance stays as it was.
                    if !self.is_stopping() && self.board.counts(index) {
                        self.phases[index] = Phase::Queued(ready, lock);
                    }
                }
            }
            News::Shared(Action { outputs, .. }) => {
                self.threads -= 1;
                if let Phase::Locking(ready) = std::mem::replace(&mut self.phases[index], Phase::Idle) {
                    self.shared(index, ready.key, outputs);
                }
            }
            News::NotLocked(error) => {
                self.threads -= 1;
                match error {
                    Some(error) => self.fail(index, failure(&error.into()), Vec::new()),
                    None => self.phases[index] = Phase::Idle,
                }
            }
            News::Items(items) => self.set_items(index, items),
            News::Started { attempt, continues, after } => {
                if let Phase::Running(ready, _) = &self.phases[index] {
                    let key = ready.key;
                    self.note(RunEvent::Started { place, key, attempt, continues, after });
                    failpoint("run.stage_started");
                }
            }
            News::Item { record, step } => {
                self.board.item(index, &record);
                self.note(match record {
                    ItemRecord::Added { port, label, artifact, .. } => RunEvent::Item { place, port, label, artifact },
                    ItemRecord::Kept { port, keep, .. } => RunEvent::Resumed { place, step, port, keep },
                });
            }
            News::Told(event) => self.told(index, place, event),
            News::Ended(end) => {
                self.threads -= 1;
                self.ended(index, place, end);
            }
        }
    }

    fn set_items(&mut self, index: usize, items: Items) {
        let stage = self.board.instances[index].stage;
        if self.board.stages[stage].spec.for_each.is_none() {
            self.board.stages[stage].open = items;
        }
    }

    fn told(&mut self, index: usize, place: Place, event: Event) {
        let (kind, event) = match event {
            Event::Progress { done, total, unit, message } => {
                ("progress", RunEvent::Progress { place, done, total, unit, message })
            }
            Event::Metrics { step, values } => ("metrics", RunEvent::Metrics { place, step, values }),
            Event::Message { level, text } => return self.note(RunEvent::Message { place, level, text }),
            _ => return,
        };
        self.watch.event(&event);
        let Phase::Running(_, running) = &mut self.phases[index] else { return };
        let due = running.shown.get(kind).is_none_or(|at| at.elapsed() >= SPARSE);
        if due {
            running.shown.insert(kind, Instant::now());
            self.keep(&event);
        }
    }

    fn ended(&mut self, index: usize, place: Place, end: End) {
        let Phase::Running(ready, running) = std::mem::replace(&mut self.phases[index], Phase::Idle) else { return };
        self.machine.give(running.occupied);
        let counts = self.board.counts(index);
        match end {
            End::Succeeded { outputs, used } => {
                let key = ready.key;
                self.note(RunEvent::Finished { place, key, shared: false, outputs: outputs.clone(), used });
                self.done(index, outputs);
            }
            // Its item left the list meanwhile: nobody asks for it.
            End::Failed { .. } | End::Interrupted | End::Damaged { .. } if !counts => self.phases[index] = Phase::Idle,
            End::Failed { failure, class, log } => self.fail_or_retry(index, failure, class, log),
            End::Interrupted => {
                self.phases[index] = Phase::Stopped;
                self.note(RunEvent::Interrupted { place });
            }
            End::Damaged { artifact, error } => {
                let input = ready.inputs.values().flatten().find(|i| i.digest == artifact);
                let maker = input.and_then(|i| i.maker.clone());
                self.damaged(index, maker, artifact, error);
            }
        }
    }

    fn done(&mut self, index: usize, outputs: BTreeMap<String, Output>) {
        self.phases[index] = Phase::Done;
        self.board.finish(index, outputs);
    }

    pub(super) fn fail(&mut self, index: usize, failure: Failure, log: Vec<String>) {
        self.phases[index] = Phase::Failed;
        let place = self.board.place(index);
        // A for_each stage goes on with its other items: see `settle`.
        if place.item.is_none() {
            self.board.stages[self.board.instances[index].stage].end = StageEnd::Never(place.stage.clone());
        }
        self.ending.failures.push(StageFailure { place: place.clone(), failure: failure.clone() });
        self.note(RunEvent::Failed { place, failure, log });
        if self.options.fail_fast && !self.stop.load(Ordering::Relaxed) {
            self.stop_all();
        }
    }

    /// An input of `index` is damaged: its maker runs again, `index` waits for it.
    fn damaged(&mut self, index: usize, maker: Option<Place>, artifact: Digest, error: StoreError) {
        let made_by = maker.and_then(|maker| Some((self.board.at(&maker)?, maker)));
        self.remakes[index] += 1;
        self.hits.clear();
        match made_by {
            Some((made_by, maker)) if self.remakes[index] <= REMAKES => {
                let (place, why) = (self.board.place(index), error.to_string());
                self.note(RunEvent::Damaged { place, artifact, maker, why });
                self.phases[index] = Phase::Idle;
                if matches!(self.phases[made_by], Phase::Done) {
                    self.phases[made_by] = Phase::Idle;
                    self.board.reopen(made_by);
                }
            }
            _ => self.fail(index, failure(&error.into()), Vec::new()),
        }
    }
}

impl Teller {
    /// Sends `news`. Without a scheduler nobody wants to know; the process is ending.
    pub fn tell(&self, news: News) {
        let _ = self.to.send(Message::Job(self.instance, Box::new(news)));
    }
}

/// An error of the engine as the failure of a stage.
fn failure(error: &RunError) -> Failure {
    Failure { code: error.code().into(), message: error.to_string(), hint: error.hint() }
}
