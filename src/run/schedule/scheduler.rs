//! The scheduler's loop, its cache lookups, and the execution of effects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use olmo_base::ActionKey;
use olmo_stage::Failure;

use crate::exec::{Allocation, Work};
use crate::key::KeyRecord;
use crate::run::api::{Options, StageFailure, Watch};
use crate::run::cache::{Cache, Lookup, Outputs};
use crate::run::error::RunError;
use crate::run::event::{Place, RunEvent, Used};
use crate::run::job::{Control, JobHandle, Message};
use crate::run::plan::board::{Board, DamagedInput, End as StageEnd, Input as TaskInput, Inputs};
use crate::run::record::RunRecord;
use crate::run::schedule::journal::Journal;
use crate::run::schedule::phase::{Effect, Input, Origin};
use crate::run::schedule::shutdown::Shutdown;
use crate::run::schedule::tracker::{Step, Tracker};
use crate::spec::Resolved;
use crate::store::KeyLock;

/// How often the damaged inputs of one task may be remade before the task fails.
const MAX_REPAIRS: u32 = 3;
/// Longest time between two checks of the deadlines.
const TICK: Duration = Duration::from_secs(1);

/// How the stages of a run ended.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// The signal that stopped the run.
    pub signal: Option<i32>,
    pub failures: Vec<StageFailure>,
    /// Whether every stage is done.
    pub complete: bool,
}

/// Stages that run even if their results are cached.
#[derive(Clone, Debug, Default)]
pub(crate) struct ForcedStages {
    pub all: bool,
    pub stages: BTreeSet<String>,
    /// Stages that are only read, and never run.
    pub except: BTreeSet<String>,
}

impl ForcedStages {
    pub(crate) fn contains(&self, stage: &str) -> bool {
        (self.all || self.stages.contains(stage)) && !self.except.contains(stage)
    }
}

/// The parts of the options and the experiment that the scheduler needs.
pub(super) struct Plan<'r> {
    pub(super) experiment: String,
    pub(super) root: PathBuf,
    pub(super) options: &'r Options,
    pub(super) forced: ForcedStages,
    /// Stages whose unfinished work is discarded.
    pub(super) fresh: BTreeSet<String>,
}

/// The resources that a task holds between its lookup and its end. Dropping it releases them.
pub(super) struct InFlight {
    pub(super) key: ActionKey,
    /// A result that existed before the lookup is ignored.
    pub(super) forced: bool,
    /// Set only once the task has its lock, since thousands of tasks may be queued.
    pub(super) prepared: Option<Box<Prepared>>,
    pub(super) lock: Option<KeyLock>,
    pub(super) allocation: Option<Allocation>,
    pub(super) job: Option<RunningJob>,
}

/// The inputs of a job, and the record of its key.
pub(super) struct Prepared {
    pub(super) inputs: BTreeMap<String, Vec<TaskInput>>,
    pub(super) record: KeyRecord,
}

/// The scheduler's end of a running job.
pub(super) struct RunningJob {
    pub(super) control: Sender<Control>,
    /// When each kind of frequent event was last recorded.
    pub(super) recorded: BTreeMap<&'static str, Instant>,
}

/// Messages from jobs and signals.
pub(super) struct Inbox {
    pub(super) sender: Sender<Message>,
    pub(super) receiver: Receiver<Message>,
    /// Number of threads that will still send a message.
    pub(super) threads: usize,
}

/// Decides what runs when. See [`crate::run::schedule`].
pub(crate) struct Scheduler<'r, 'w> {
    pub(super) plan: Plan<'r>,
    pub(super) tracker: Tracker<'w, 'r>,
    pub(super) in_flight: HashMap<usize, InFlight>,
    pub(super) cache: Cache,
    pub(super) journal: Journal<'r, 'w>,
    pub(super) inbox: Inbox,
    pub(super) shutdown: Shutdown,
    /// Stages of which a task ran in this run, to recognize an early cut-off.
    pub(super) ran: BTreeSet<usize>,
    pub(super) ending: Ending,
}

impl<'r, 'w> Scheduler<'r, 'w> {
    pub(crate) fn new(
        board: &'w mut Board<'r>,
        resolved: &'r Resolved,
        cache: Cache,
        record: &'r mut RunRecord,
        options: &'r Options,
        forced: ForcedStages,
        watch: &'w mut dyn Watch,
    ) -> Self {
        let (sender, receiver) = mpsc::channel();
        let fresh = options.fresh.iter().flat_map(|name| resolved.named(name)).map(str::to_owned).collect();
        Self {
            plan: Plan { experiment: resolved.experiment.clone(), root: resolved.root.clone(), options, forced, fresh },
            tracker: Tracker::new(board),
            in_flight: HashMap::new(),
            cache,
            journal: Journal::new(record, watch),
            inbox: Inbox { sender, receiver, threads: 0 },
            shutdown: Shutdown::default(),
            ran: BTreeSet::new(),
            ending: Ending::default(),
        }
    }

    /// The channel for signals.
    pub(crate) fn sender(&self) -> Sender<Message> {
        self.inbox.sender.clone()
    }

    /// Runs every stage that has to run.
    ///
    /// # Errors
    /// The record of the run or the machine's leases can no longer be used.
    pub(crate) fn run(mut self) -> Result<Ending, RunError> {
        loop {
            self.advance();
            if self.inbox.threads == 0 && !self.tracker.is_waiting() {
                break;
            }
            match self.next_message() {
                Some(Message::Job(task, event)) => self.on_job_event(task, *event),
                Some(Message::Signal(signal)) => self.on_signal(signal),
                Some(Message::Save) => self.save_all(),
                None => self.on_deadline(),
            }
            if self.shutdown.should_give_up(Instant::now()) {
                break;
            }
        }
        if let Some(error) = self.journal.take_error() {
            return Err(error);
        }
        self.ending.complete = self.tracker.board().stages.iter().all(|s| matches!(s.end, StageEnd::Done(_)));
        Ok(self.ending)
    }

    /// The next message; `None` when a deadline has passed.
    fn next_message(&mut self) -> Option<Message> {
        if let Ok(message) = self.inbox.receiver.try_recv() {
            return Some(message);
        }
        // The scheduler is idle, so sync all recent events to disk at once.
        self.journal.sync();
        self.stop_if_broken();
        let deadline =
            [self.shutdown.deadline(), self.next_deadline(), self.journal.next_sync()].into_iter().flatten().min();
        let pause = deadline.map_or(TICK, |at| at.saturating_duration_since(Instant::now()).min(TICK));
        // The scheduler holds a sender itself, so the channel never closes.
        self.inbox.receiver.recv_timeout(pause).ok()
    }

    /// Writes an event to the record and reports it to the watcher.
    pub(super) fn emit(&mut self, event: RunEvent) {
        self.journal.emit(event);
        self.stop_if_broken();
    }

    /// Does everything that is possible without waiting.
    fn advance(&mut self) {
        self.tracker.wake(Instant::now());
        loop {
            while let Some(step) = self.tracker.next_step() {
                match step {
                    Step::LookUp(task) => self.look_up(task),
                    Step::Execute(task, effects) => self.execute(task, effects),
                    Step::StageSkipped { stage, because } => {
                        let place = Place { stage: self.tracker.board().stages[stage].name.clone(), item: None };
                        self.emit(RunEvent::Skipped { place, because });
                    }
                }
            }
            if self.tracker.is_stopping() {
                break;
            }
            self.dispatch();
            // Results of other processes and failed starts may allow further tasks to start.
            if !self.tracker.has_steps() {
                break;
            }
        }
    }

    /// Applies an input to a task and executes the effects.
    pub(super) fn apply(&mut self, task: usize, input: Input) {
        let effects = self.tracker.on(task, input);
        self.execute(task, effects);
    }

    fn execute(&mut self, task: usize, effects: Vec<Effect>) {
        // Release the task's resources first, so that they are free for the effects below.
        let held = match self.tracker.phase(task).is_in_flight() {
            true => None,
            false => self.in_flight.remove(&task),
        };
        let key = held.as_ref().map(|held| held.key);
        drop(held);
        for effect in effects {
            match effect {
                Effect::WaitForLock => self.wait_for_lock(task),
                Effect::Launch => self.launch(task),
                Effect::Terminate => self.control(task, Control::Terminate),
                Effect::Kill => self.control(task, Control::Kill),
                Effect::Publish { outputs, origin } => self.on_published(task, key, outputs, origin),
                Effect::Fail { failure, log } => self.on_failed(task, failure, log),
                Effect::Retry { failure, class, log, retry } => {
                    let (place, pause_s) = (self.place(task), retry.pause.as_secs());
                    let (tried, max) = (retry.number, retry.max);
                    self.tracker.instance_mut(task).retries = retry.number;
                    self.emit(RunEvent::Retrying { place, failure, class, log, pause_s, tried, max });
                }
                Effect::Skip { because } => {
                    let place = self.place(task);
                    // A `for_each` stage has one event for all its tasks: `Step::StageSkipped`.
                    if place.item.is_none() {
                        self.emit(RunEvent::Skipped { place, because });
                    }
                }
                Effect::Interrupt => {
                    let place = self.place(task);
                    self.emit(RunEvent::Interrupted { place });
                }
                Effect::Repair(damage) => {
                    let (place, why) = (self.place(task), damage.error.to_string());
                    if let Some(maker) = damage.maker {
                        self.emit(RunEvent::Damaged { place, artifact: damage.artifact, maker, why });
                    }
                }
            }
        }
    }

    fn on_published(&mut self, task: usize, key: Option<ActionKey>, outputs: Outputs, origin: Origin) {
        let Some(key) = key else { return };
        let place = self.place(task);
        match origin {
            Origin::Cache { cut_off } => {
                self.emit(RunEvent::Cached { place, key, cut_off, outputs });
                self.discard_finished_work(key);
            }
            Origin::OtherProcess => {
                self.emit(RunEvent::Finished { place, key, shared: true, outputs, used: Used::default() });
            }
            Origin::Ran(used) => self.emit(RunEvent::Finished { place, key, shared: false, outputs, used }),
        }
    }

    fn on_failed(&mut self, task: usize, failure: Failure, log: Vec<String>) {
        let place = self.place(task);
        self.ending.failures.push(StageFailure { place: place.clone(), failure: failure.clone() });
        self.emit(RunEvent::Failed { place, failure, log });
        if self.plan.options.fail_fast && !self.tracker.is_stopping() {
            self.stop_all();
        }
    }

    /// Looks a task up in the cache if its inputs are known.
    pub(super) fn look_up(&mut self, task: usize) {
        let input = match self.tracker.board().inputs(task, self.cache.store()) {
            // The task is marked again when its last missing input appears.
            Ok(Inputs::Wait(_)) => return,
            Ok(Inputs::Never(because)) => Input::Blocked { because },
            Ok(Inputs::Ready(inputs)) => match self.look_up_key(task, inputs) {
                Ok(input) => input,
                Err(error) => Input::EngineFailed(Failure::from(&error)),
            },
            Err(damage) => self.on_damaged_input(task, damage),
        };
        self.apply(task, input);
    }

    fn look_up_key(&mut self, task: usize, inputs: BTreeMap<String, Vec<TaskInput>>) -> Result<Input, RunError> {
        let board = self.tracker.board();
        let record = board.key(task, &inputs)?;
        let key = record.digest();
        let is_forced = self.plan.forced.contains(&board.stage_of(task).name);
        let forced = is_forced && !std::mem::replace(&mut self.tracker.instance_mut(task).was_forced, true);
        let found = self.cache.lookup(key)?;
        let warning = match &found {
            Lookup::Hit(_) | Lookup::Absent => None,
            Lookup::Incomplete { artifact } => Some(format!(
                "its earlier result {} is no longer complete in the store; it runs again",
                artifact.short()
            )),
            Lookup::Damaged { why } => {
                Some(format!("the cache entry of its earlier result is damaged ({why}); it runs again"))
            }
        };
        if let Some(text) = warning {
            let place = self.place(task);
            self.emit(RunEvent::Message { place, level: olmo_stage::MessageLevel::Warning, text });
        }
        let input = match found {
            Lookup::Hit(outputs) if !forced => {
                let board = self.tracker.board();
                let mut makers = inputs.values().flatten().filter_map(|input| input.maker.as_ref());
                let cut_off =
                    makers.any(|maker| board.stage(&maker.stage).is_some_and(|stage| self.ran.contains(&stage)));
                Input::Hit { outputs, cut_off }
            }
            _ => Input::Miss,
        };
        let held = InFlight { key, forced, prepared: None, lock: None, allocation: None, job: None };
        self.in_flight.insert(task, held);
        Ok(input)
    }

    /// Handles a damaged input of `task`: its maker runs again, unless that has happened too often.
    pub(super) fn on_damaged_input(&mut self, task: usize, damage: Box<DamagedInput>) -> Input {
        self.cache.distrust();
        let maker = damage.maker.as_ref().and_then(|maker| self.tracker.board().task_at(maker));
        let instance = self.tracker.instance_mut(task);
        instance.repairs += 1;
        let give_up = maker.is_none() || instance.repairs > MAX_REPAIRS;
        Input::Damaged { damage, give_up }
    }

    /// Removes the unfinished work of an engine that died after its stage had finished.
    fn discard_finished_work(&self, key: ActionKey) {
        let folder = self.cache.store().work(key);
        if folder.exists()
            && let Ok(Some(_lock)) = self.cache.store().lock_key(key)
        {
            // If this fails, the work only takes up space until the next lookup.
            let _ = Work::at(folder).discard();
        }
    }

    pub(super) fn place(&self, task: usize) -> Place {
        self.tracker.board().place(task)
    }

    pub(super) fn handle(&self, task: usize) -> JobHandle {
        JobHandle { task, to: self.inbox.sender.clone() }
    }

    pub(super) fn spawn(&mut self, work: impl FnOnce() + Send + 'static) -> Result<(), RunError> {
        std::thread::Builder::new().spawn(work).map_err(RunError::thread)?;
        self.inbox.threads += 1;
        Ok(())
    }

    /// Sends `control` to the job of `task`.
    pub(super) fn control(&self, task: usize, control: Control) {
        if let Some(job) = self.in_flight.get(&task).and_then(|held| held.job.as_ref()) {
            // Fails only if the job has ended, and then there is nothing to control.
            let _ = job.control.send(control);
        }
    }
}
