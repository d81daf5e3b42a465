//! Handles the messages from jobs.

use std::time::Instant;

use olmo_base::failpoint;
use olmo_stage::{Event, Failure};

use crate::exec::item_list::ItemRecord;
use crate::run::event::RunEvent;
use crate::run::job::{End, JobEvent};
use crate::run::plan::board::DamagedInput;
use crate::run::schedule::journal;
use crate::run::schedule::phase::{Input, Phase, Retry};
use crate::run::schedule::scheduler::Scheduler;
use crate::spec::FailureClass;

impl Scheduler<'_, '_> {
    pub(super) fn on_job_event(&mut self, task: usize, event: JobEvent) {
        match event {
            JobEvent::Waiting { holder } => {
                if let Some(held) = self.in_flight.get(&task) {
                    let (place, key) = (self.place(task), held.key);
                    self.emit(RunEvent::Waiting { place, key, holder });
                }
            }
            JobEvent::Locked(lock) => {
                self.inbox.threads -= 1;
                if let Some(held) = self.in_flight.get_mut(&task) {
                    held.lock = Some(lock);
                }
                self.apply(task, Input::LockTaken);
            }
            JobEvent::Shared(outputs) => {
                self.inbox.threads -= 1;
                self.apply(task, Input::Shared(outputs));
            }
            JobEvent::NotLocked(error) => {
                self.inbox.threads -= 1;
                self.apply(
                    task,
                    match error {
                        Some(error) => Input::EngineFailed(Failure::from(&error)),
                        None => Input::LockGivenUp,
                    },
                );
            }
            JobEvent::Items(items) => self.tracker.set_items(task, items),
            JobEvent::Started { attempt, continues, after } => {
                if let Some(held) = self.in_flight.get(&task) {
                    let (place, key) = (self.place(task), held.key);
                    self.emit(RunEvent::Started { place, key, attempt, continues, after });
                    failpoint("run.stage_started");
                }
            }
            JobEvent::Item { record, step } => {
                let place = self.place(task);
                self.tracker.on_item(task, &record);
                self.emit(match record {
                    ItemRecord::Added { port, label, artifact, .. } => RunEvent::Item { place, port, label, artifact },
                    ItemRecord::Kept { port, keep, .. } => RunEvent::Resumed { place, step, port, keep },
                });
            }
            JobEvent::Stage(event) => self.on_stage_event(task, event),
            JobEvent::Ended(end) => {
                self.inbox.threads -= 1;
                if self.tracker.phase(task) == Phase::Running {
                    self.on_ended(task, end);
                }
            }
        }
    }

    /// Reports progress and metrics at full rate, but records only a sample of them.
    fn on_stage_event(&mut self, task: usize, event: Event) {
        let place = self.place(task);
        let (kind, event) = match event {
            Event::Progress { done, total, unit, message } => {
                ("progress", RunEvent::Progress { place, done, total, unit, message })
            }
            Event::Metrics { step, values } => ("metrics", RunEvent::Metrics { place, step, values }),
            Event::Message { level, text } => return self.emit(RunEvent::Message { place, level, text }),
            _ => return,
        };
        self.journal.show(&event);
        let Some(job) = self.in_flight.get_mut(&task).and_then(|held| held.job.as_mut()) else { return };
        if journal::is_due(job.recorded.get(kind)) {
            job.recorded.insert(kind, Instant::now());
            self.journal.write(&event);
            self.stop_if_broken();
        }
    }

    fn on_ended(&mut self, task: usize, end: End) {
        let input = match end {
            End::Succeeded { outputs, used } => Input::Succeeded { outputs, used },
            End::Failed { failure, class, log } => {
                let retry = self.retry(task, class);
                Input::AttemptFailed { failure, class, log, retry }
            }
            End::Interrupted => Input::Interrupted,
            // Once its item has left the list, the damage does not matter: see `Phase::on`.
            End::Damaged { .. } if !self.tracker.board().tasks[task].listed => Input::Interrupted,
            End::Damaged { artifact, error } => {
                let prepared = self.in_flight.get(&task).and_then(|held| held.prepared.as_ref());
                let mut inputs = prepared.into_iter().flat_map(|prepared| prepared.inputs.values().flatten());
                let maker = inputs.find(|input| input.digest == artifact).and_then(|input| input.maker.clone());
                self.on_damaged_input(task, Box::new(DamagedInput { maker, artifact, error }))
            }
        };
        self.apply(task, input);
    }

    /// Decides whether and when a failed task is retried.
    fn retry(&self, task: usize, class: FailureClass) -> Option<Retry> {
        let rule = self.tracker.board().stage_of(task).spec.retry.as_ref()?;
        let number = self.tracker.instance(task).retries + 1;
        let pause = rule.pause(number, class)?;
        Some(Retry { at: Instant::now() + pause, pause, number, max: rule.max })
    }
}
