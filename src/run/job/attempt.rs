//! Runs one attempt of a [`Job`] and commits its outputs to the store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use olmo_base::{ArtifactId, Diagnose as _, failpoint, journal};
use olmo_stage::{Event, Failure, InputItem, MessageLevel, Request, protocol};

use crate::exec::attempt::{Attempt, Work, check_folders};
use crate::exec::backend::{stage_compute, worker_path};
use crate::exec::supervise::Exit;
use crate::exec::{Ended, ExecError, Launch, Process, command};
use crate::run::event::Used;
use crate::run::job::items::{ItemLog, item_damaged};
use crate::run::job::judge::{self, StopReason, Verdict, judge};
use crate::run::job::message::{Control, End, JobEvent};
use crate::run::job::stopped::{Stopped, damaged, failed};
use crate::run::job::task::Job;
use crate::run::sources::{command_files, command_key};
use crate::spec::FailureClass;
use crate::store::{Action, Handover, Output, SourceStamps, StoreError};

/// How often the events of a running stage are read.
const TICK: Duration = Duration::from_millis(40);

impl Job {
    /// Runs the attempt, releases the lock, and reports the end.
    pub(crate) fn run(self) {
        let scheduler = self.scheduler.clone();
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.attempt()));
        // The lock is released only now, so a process waiting for it finds the result in the store.
        drop(self.lock);
        let end = ran.unwrap_or_else(|_| End::Failed {
            failure: Failure {
                code: "run::panic".into(),
                message: "the engine's thread for this stage panicked".into(),
                hint: Some("this is a bug in olmo-pipe; the lines above show where".into()),
            },
            class: FailureClass::Error,
            log: Vec::new(),
        });
        scheduler.send(JobEvent::Ended(end));
    }

    fn attempt(&self) -> End {
        let work = Work::at(self.store.work(self.key));
        let since = Instant::now();
        let mut attempt: Option<Attempt> = None;
        let ended = self.try_attempt(&work, &mut attempt);
        match &attempt {
            // A log that cannot be kept must not hide how the attempt ended.
            Some(attempt) if attempt.was_started() => attempt.keep_log(&(self.log)(attempt.number)),
            // No process was started, so it does not count as an attempt.
            Some(attempt) => {
                let _ = std::fs::remove_dir_all(&attempt.folder);
            }
            None => {}
        }
        let log = || attempt.as_ref().map(Attempt::log_tail).unwrap_or_default();
        match ended {
            Ok((outputs, exit)) => {
                failpoint("run.stage_committed");
                // If this fails, the next process that looks up the key removes what is left.
                let _ = work.discard();
                let wall_s = since.elapsed().as_secs_f64();
                let used = Used { wall_s, cpu_s: exit.cpu_s, max_rss_kib: exit.max_rss_kib };
                End::Succeeded { outputs, used }
            }
            Err(Stopped::Failed(failure, class)) => End::Failed { failure, class, log: log() },
            Err(Stopped::Interrupted) => End::Interrupted,
            Err(Stopped::Damaged(artifact, error)) => End::Damaged { artifact, error: *error },
        }
    }

    fn try_attempt(
        &self,
        work: &Work,
        attempt: &mut Option<Attempt>,
    ) -> Result<(BTreeMap<String, Output>, Exit), Stopped> {
        work.wait_for_processes()?;
        if self.fresh {
            work.discard()?;
        }
        // The stamps are taken before `prepare` checks the content, so any later change shows up in
        // a stamp.
        let stamps = self.stamp_sources()?;
        let stamps_json = serde_json::to_vec(&stamps).unwrap_or_default();
        if work.has_attempts() && work.last_stamps()?.is_some_and(|before| before != stamps_json) {
            let text = "a source was written to after an earlier attempt started, which may have read other content: \
                        its work is discarded";
            self.scheduler.send(JobEvent::Stage(Event::Message { level: MessageLevel::Warning, text: text.into() }));
            work.discard()?;
        }
        let mut items = self.recover(work)?;
        let continues = work.has_attempts() && !self.is_command();
        let attempt: &Attempt = attempt.insert(work.next_attempt()?);
        attempt.write_stamps(&stamps_json)?;
        let launch = self.prepare(work, attempt, &mut items)?;
        let after = items.iter().filter_map(|(_, list)| list.last()).map(|(label, _)| label.clone()).next();
        match self.control.try_recv() {
            Err(TryRecvError::Empty) => {}
            Ok(_) | Err(TryRecvError::Disconnected) => return Err(Stopped::Interrupted),
        }
        let process = self.executor.start(&launch)?;
        self.scheduler.send(JobEvent::Started { attempt: attempt.number, continues, after });
        let followed = self.follow(work, attempt, &mut items, process)?;
        let exit = self.judge(attempt, followed)?;
        let outputs = self.commit(work, attempt, &mut items, &stamps)?;
        Ok((outputs, exit))
    }

    /// The inputs that were not made by a stage of the run.
    fn sources(&self) -> impl Iterator<Item = ArtifactId> {
        self.inputs.values().flatten().filter(|input| input.maker.is_none()).map(|input| input.digest)
    }

    /// Stamps of the local files that the stage reads in place. A built-in stage reads its sources
    /// in place. A command gets copies of the sources, but reads its own files in place.
    fn stamp_sources(&self) -> Result<SourceStamps, Stopped> {
        let mut stamps = SourceStamps::default();
        if self.is_command() {
            for path in command_files(&self.name, &self.spec, &self.root)?.values() {
                stamps.add(path).map_err(ExecError::io("look at", path))?;
            }
        } else {
            self.sources().try_for_each(|artifact| self.store.stamp_sources(artifact, &mut stamps))?;
        }
        Ok(stamps)
    }

    /// Fills the attempt's folder and returns the process to launch.
    fn prepare(&self, work: &Work, attempt: &Attempt, items: &mut ItemLog) -> Result<Launch, Stopped> {
        let command = self.is_command();
        let how = if command { Handover::Copy } else { Handover::Link };
        let mut handed: BTreeMap<String, Vec<InputItem>> = BTreeMap::new();
        for (port, inputs) in &self.inputs {
            let folder = attempt.input(command, port);
            let list = self.contract().inputs.get(port).is_some_and(|p| p.list);
            for (index, input) in inputs.iter().enumerate() {
                let name = input.label.clone().unwrap_or_else(|| index.to_string());
                let path = if list { folder.join(name) } else { folder.clone() };
                self.store.materialize(input.digest, &path, how).map_err(|e| damaged(input.digest, e))?;
                handed.entry(port.clone()).or_default().push(InputItem { label: input.label.clone(), path });
            }
        }
        for port in self.contract().outputs.keys() {
            if command {
                create_folder(attempt.output(true, port))?;
            }
        }
        let (folder, argv, environment) = if command {
            let stage_dir = self.spec.stage_dir.clone().unwrap_or_default();
            let present = |port: &str| self.inputs.get(port).is_some_and(|list| !list.is_empty());
            let argv = command::arguments(self.contract(), &self.spec.params, &present, &stage_dir)?;
            (
                create_folder(attempt.command_folder())?,
                argv,
                command::environment(self.contract(), &attempt.temporary())?,
            )
        } else {
            attempt.write_request(&self.request(work, attempt, handed, items)?)?;
            let worker = worker_path(stage_compute(&self.spec), &self.worker);
            let argv = vec![worker.into_os_string(), "run".into(), attempt.folder.clone().into_os_string()];
            let environment = command::worker_environment(self.grant.cpus as usize, &attempt.temporary());
            (attempt.folder.clone(), argv, environment)
        };
        Ok(Launch {
            attempt: attempt.folder.clone(),
            folder,
            argv,
            environment,
            ranks: self.ranks(),
            grant: self.grant.clone(),
        })
    }

    /// Number of processes that run the stage together.
    fn ranks(&self) -> u32 {
        self.contract().ranks(&self.spec.resources)
    }

    fn request(
        &self,
        work: &Work,
        attempt: &Attempt,
        inputs: BTreeMap<String, Vec<InputItem>>,
        items: &mut ItemLog,
    ) -> Result<Request, Stopped> {
        let earlier = self.hand_items(work, attempt, items)?;
        let outputs = &self.contract().outputs;
        Ok(Request {
            protocol: protocol::PROTOCOL_VERSION,
            stage: self.contract().stage.clone(),
            version: self.contract().version,
            params: self.spec.params.clone(),
            inputs,
            outputs: outputs.iter().filter(|(_, port)| !port.list).map(|(name, _)| name.clone()).collect(),
            state_dir: work.state_dir()?,
            items: earlier,
            threads: self.grant.cpus as usize,
            ranks: self.ranks(),
            compute: stage_compute(&self.spec),
        })
    }

    /// Follows the process to its end.
    fn follow(
        &self,
        work: &Work,
        attempt: &Attempt,
        items: &mut ItemLog,
        mut process: Box<dyn Process>,
    ) -> Result<Followed, Stopped> {
        let mut events = journal::Tail::<Event>::new(&attempt.events());
        let deadline = self.spec.timeout_s.and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
        let mut stop_reason = None;
        let mut memory_hint = None;
        let mut kill_at: Option<Instant> = None;
        let mut activity = Activity::new(attempt.log());
        let (mut is_up, mut to_save) = (false, false);
        loop {
            // Poll for the end before reading events, so that events written before the end are
            // read.
            let ended = process.wait(TICK)?;
            // A command writes no events, so a file of that name is ignored.
            while !self.is_command() {
                let new_events = self.next_events(attempt, &mut events)?;
                let is_last_batch = new_events.is_empty();
                for event in new_events {
                    activity.record();
                    match event {
                        Event::Item { .. } | Event::Resumed { .. } => {
                            if let Some(lost) = self.apply_event(work, attempt, items, &event)? {
                                return Err(item_damaged(&lost));
                            }
                        }
                        Event::Started { .. } => is_up = true,
                        Event::MemoryHint { text } => memory_hint = Some(text),
                        Event::Unknown => {}
                        event => self.scheduler.send(JobEvent::Stage(event)),
                    }
                }
                // While the process runs, further events can wait for the next tick.
                if is_last_batch || ended.is_none() {
                    break;
                }
            }
            if let Some(ended) = ended {
                return Ok(Followed { ended, stop_reason, memory_hint });
            }
            match self.control.try_recv() {
                Ok(Control::Terminate) if stop_reason.is_none() => {
                    stop_reason = Some(StopReason::Stop);
                    process.terminate();
                }
                // A command may not handle SIGUSR1, and the default action would end it.
                Ok(Control::Save) => to_save = !self.is_command(),
                Ok(Control::Terminate) | Err(TryRecvError::Empty) => {}
                Ok(Control::Kill) | Err(TryRecvError::Disconnected) => {
                    stop_reason.get_or_insert(StopReason::Stop);
                    process.kill();
                }
            }
            // Before the worker has started its stage, there is nothing to save, and the signal
            // would end the process.
            if is_up && std::mem::take(&mut to_save) {
                process.save();
            }
            if stop_reason.is_none() {
                let late = deadline.filter(|at| Instant::now() >= *at).and(self.spec.timeout_s);
                let silent = self.spec.stall_s.filter(|s| activity.idle_time() >= Duration::from_secs(*s));
                stop_reason = late
                    .map(|seconds| StopReason::Timeout { seconds })
                    .or(silent.map(|seconds| StopReason::Stalled { seconds }));
                if stop_reason.is_some() {
                    kill_at = Some(Instant::now() + self.grace);
                    process.terminate();
                }
            }
            if kill_at.is_some_and(|at| Instant::now() >= at) {
                process.kill();
            }
        }
    }

    /// Reads the events that were appended since the last call.
    fn next_events(&self, attempt: &Attempt, events: &mut journal::Tail<Event>) -> Result<Vec<Event>, Stopped> {
        events.next_records().map_err(|error| {
            let message = format!("its events cannot be read: {}: {error}", attempt.events().display());
            let hint = "run the same command again; if it happens again, check the disk and its file system";
            failed("stage::events_damaged", message, Some(hint))
        })
    }

    /// Decides whether the process succeeded, and if not, why.
    fn judge(&self, attempt: &Attempt, followed: Followed) -> Result<Exit, Stopped> {
        let Followed { ended, stop_reason, memory_hint } = followed;
        let command = self.is_command();
        let result = if command { None } else { attempt.result()? };
        let log = attempt.log_tail();
        match judge(judge::End {
            ended,
            stop_reason,
            command,
            result,
            log: &log,
            memory_hint: memory_hint.as_deref(),
            folder: &attempt.folder,
        }) {
            Verdict::Done(exit) => Ok(exit),
            Verdict::Interrupted => Err(Stopped::Interrupted),
            Verdict::Failed(failure, class) => Err(Stopped::Failed(failure, class)),
        }
    }

    /// Commits the outputs to the store, then the action.
    fn commit(
        &self,
        work: &Work,
        attempt: &Attempt,
        items: &mut ItemLog,
        stamps: &SourceStamps,
    ) -> Result<BTreeMap<String, Output>, Stopped> {
        // The stage must have read the content that its key names. If a source changed while it
        // ran, its outputs must not be stored under that key.
        self.sources().try_for_each(|artifact| self.store.check_sources(artifact))?;
        if command_key(&self.name, &self.spec, &self.root)? != self.command {
            let hint = Some("run the same command again, and do not edit the stage's files while it runs");
            return Err(failed("stage::files_changed", "a file of the stage changed while it ran", hint));
        }
        self.store.check_stamps(stamps)?;
        let command = self.is_command();
        let mut outputs = BTreeMap::new();
        for (port, declared) in &self.contract().outputs {
            if !declared.list {
                check_folders(&attempt.folder, &attempt.output(command, port))
                    .map_err(|why| failed("stage::output_replaced", format!("its output `{port}`: {why}"), None))?;
                let digest =
                    self.store.commit_tree(declared.port_type, &attempt.output(command, port)).map_err(|e| {
                        let no_files = matches!(&e, StoreError::NoFiles { .. }) || e.is_missing_file();
                        let message = format!("it succeeded, but made no files for its output `{port}`");
                        if no_files { failed("stage::no_output", message, e.hint().as_deref()) } else { e.into() }
                    })?;
                outputs.insert(port.clone(), Output::Single(digest));
                continue;
            }
            let list = self.commit_list(work, attempt, items, port)?;
            outputs.insert(port.clone(), Output::List(list));
        }
        self.store.commit_action(self.key, &Action::new(self.record.clone(), outputs.clone()))?;
        Ok(outputs)
    }
}

/// What the engine learned about a process from its start to its end.
struct Followed {
    ended: Ended,
    /// Why the engine stopped it, if it did.
    stop_reason: Option<StopReason>,
    /// How to need less memory, if the stage reported that.
    memory_hint: Option<String>,
}

/// When a stage last showed activity: it wrote an event, or its log grew.
struct Activity {
    log: PathBuf,
    size: u64,
    at: Instant,
}

impl Activity {
    fn new(log: PathBuf) -> Self {
        Self { log, size: 0, at: Instant::now() }
    }

    fn record(&mut self) {
        self.at = Instant::now();
    }

    fn idle_time(&mut self) -> Duration {
        let size = std::fs::metadata(&self.log).map_or(0, |m| m.len());
        if size != self.size {
            self.size = size;
            self.record();
        }
        self.at.elapsed()
    }
}

fn create_folder(folder: PathBuf) -> Result<PathBuf, ExecError> {
    std::fs::create_dir_all(&folder).map_err(ExecError::io("make the folder", &folder))?;
    Ok(folder)
}
