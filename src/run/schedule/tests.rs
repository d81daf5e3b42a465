//! Runs random pipelines on a simulated machine: messages arrive in any order, stages fail, and the
//! engine is stopped or killed and restarted. In all cases, every task that can run must run once,
//! after its inputs, and with the same outputs as in an undisturbed run.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use olmo_base::{ActionKey, ArtifactId, Digest};
use olmo_stage::{Description, Failure};
use proptest::prelude::*;

use crate::exec::item_list::{ItemRecord, Items};
use crate::run::cache::Outputs;
use crate::run::event::Used;
use crate::run::plan::board::{Board, DamagedInput, End, Inputs};
use crate::run::schedule::phase::{Effect, Input, Phase, Retry};
use crate::run::schedule::tracker::{Step, Tracker};
use crate::run::sources::Sources;
use crate::spec::{Binding, FailureClass, PortRef, Resolved, ResolvedStage};
use crate::store::{ListItem, Output, Store, StoreError};

/// A small random number generator. Proptest provides the seed; shrinking it finds no simpler case,
/// but is quick.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % sides.max(1)
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }
}

fn contract(text: &str) -> Arc<Description> {
    Arc::new(Description::of_command(serde_yaml::from_str(text).unwrap()))
}

/// A random pipeline: plain stages, stages that make lists, and `for_each` stages over those.
fn pipeline(dice: &mut Dice) -> Resolved {
    let plain = contract(
        "{stage: plain, version: 1, summary: s, inputs: {parts: {type: text, list: true}}, \
         outputs: {all: {type: text}}, command: {argv: [/bin/true]}}",
    );
    let lister = contract(
        "{stage: lister, version: 1, summary: s, inputs: {parts: {type: text, list: true}}, \
         outputs: {items: {type: text, list: true}}, command: {argv: [/bin/true]}}",
    );
    let each = contract(
        "{stage: each, version: 1, summary: s, inputs: {item: {type: text}, parts: {type: text, list: true}}, \
         outputs: {all: {type: text}}, command: {argv: [/bin/true]}}",
    );
    let mut stages: Vec<(String, ResolvedStage)> = Vec::new();
    for index in 0..1 + dice.roll(9) {
        let name = format!("s{index}");
        let port = |(name, stage): &(String, ResolvedStage)| {
            let port = if stage.uses == "lister" { "items" } else { "all" };
            PortRef { stage: name.clone(), port: port.into() }
        };
        let is_list = |(_, stage): &(String, ResolvedStage)| stage.uses == "lister" || stage.for_each.is_some();
        let lists: Vec<PortRef> = stages.iter().filter(|stage| is_list(stage)).map(port).collect();
        let for_each = (!lists.is_empty() && dice.chance(40)).then(|| lists[dice.roll(lists.len())].clone());
        let description = match for_each {
            Some(_) => &each,
            None if dice.chance(35) => &lister,
            None => &plain,
        };
        let mut parts = Vec::new();
        for other in &stages {
            if dice.chance(25) {
                parts.push(Binding::Port(port(other)));
            }
        }
        let mut inputs = BTreeMap::from([("parts".to_owned(), parts)]);
        if for_each.is_some() {
            inputs.insert("item".into(), vec![Binding::Item]);
        }
        let stage = ResolvedStage {
            uses: description.contract.stage.clone(),
            description: description.clone(),
            stage_dir: None,
            for_each,
            inputs,
            params: serde_json::json!({ "name": name }),
            resources: Default::default(),
            timeout_s: None,
            stall_s: None,
            retry: None,
            share: None,
            every: None,
        };
        stages.push((name, stage));
    }
    Resolved {
        format: 0,
        experiment: "test".into(),
        profile: None,
        source: String::new(),
        root: "/".into(),
        params: Default::default(),
        changed_params: BTreeSet::new(),
        stages: stages.into_iter().collect(),
        outputs: BTreeMap::new(),
        trials: Vec::new(),
        left_out: BTreeMap::new(),
        variables: BTreeMap::new(),
    }
}

/// The state that survives an engine, and the rules of the simulated stages.
struct World {
    resolved: Resolved,
    names: Vec<String>,
    sources: Sources,
    /// Never read, since no port of the pipelines takes a part of an artifact.
    store: &'static Store,
    results: HashMap<ActionKey, Outputs>,
    /// List items of unfinished work.
    unfinished: HashMap<ActionKey, Vec<(String, ArtifactId)>>,
    /// How often the stage with each key ran.
    executions: HashMap<ActionKey, u32>,
    /// How often a result was damaged.
    damages: u32,
    /// Percentage of keys whose stage always fails, and of attempts that fail once.
    broken: u8,
    flaky: usize,
    /// Percentage of steps at which the engine is killed or stopped, and of launches that find a
    /// damaged input.
    kills: usize,
    stops: usize,
    damaging: usize,
}

/// A message on its way to the engine.
enum Report {
    Items(Items),
    Item(ItemRecord),
    Ended(Input),
}

#[derive(Debug, PartialEq)]
enum Life {
    Ended,
    Stopped,
    Killed,
}

impl World {
    fn is_broken(&self, key: ActionKey) -> bool {
        key.hex().as_bytes()[..4].iter().fold(0u32, |sum, byte| sum * 31 + u32::from(*byte)) % 100
            < u32::from(self.broken)
    }

    /// The items that the stage with key `key` makes, in order.
    fn items(key: ActionKey) -> Vec<(String, ArtifactId)> {
        let count = key.hex().as_bytes()[7] as usize % 5;
        (0..count).map(|i| (format!("i{i}"), ArtifactId::new(Digest::of(format!("{key}{i}").as_bytes())))).collect()
    }

    fn outputs(stage: &ResolvedStage, key: ActionKey) -> Outputs {
        let list = || Self::items(key).into_iter().map(|(label, digest)| ListItem { label, digest }).collect();
        match stage.uses.as_str() {
            "lister" => Outputs::from([("items".to_owned(), Output::List(list()))]),
            _ => Outputs::from([("all".to_owned(), Output::Single(ArtifactId::new(Digest::of(key.hex().as_bytes()))))]),
        }
    }

    fn commit(&mut self, key: ActionKey, outputs: &Outputs) {
        assert!(self.results.insert(key, outputs.clone()).is_none(), "a result was made twice");
        *self.executions.entry(key).or_default() += 1;
        self.unfinished.remove(&key);
    }

    /// Runs an engine until it ends, stops or is killed.
    fn live(&mut self, dice: &mut Dice) -> (Life, Vec<(String, End)>) {
        let (resolved, names, sources) = (self.resolved.clone(), self.names.clone(), self.sources.clone());
        let mut board = Board::new(&resolved, &names, &sources);
        let mut tracker = Tracker::new(&mut board);
        let mut keys: HashMap<usize, ActionKey> = HashMap::new();
        let mut mail: BTreeMap<usize, VecDeque<Report>> = BTreeMap::new();
        let mut effects: VecDeque<(usize, Effect)> = VecDeque::new();
        let slots = 1 + dice.roll(3);
        loop {
            // Do everything that is possible without waiting.
            loop {
                if let Some((task, effect)) = effects.pop_front() {
                    match effect {
                        Effect::Launch => self.launch(dice, &tracker, task, keys[&task], &mut mail),
                        Effect::Terminate => {
                            mail.insert(task, VecDeque::from([Report::Ended(Input::Interrupted)]));
                        }
                        Effect::Repair(damage) => assert!(damage.maker.is_some()),
                        _ => {}
                    }
                } else if let Some(step) = tracker.next_step() {
                    match step {
                        Step::Execute(task, more) => effects.extend(more.into_iter().map(|effect| (task, effect))),
                        Step::StageSkipped { .. } => {}
                        Step::LookUp(task) => {
                            let input = match tracker.board().inputs(task, self.store).unwrap() {
                                Inputs::Wait(_) => panic!("task {task} is looked up before its inputs are known"),
                                Inputs::Never(because) => Input::Blocked { because },
                                Inputs::Ready(inputs) => {
                                    let key = tracker.board().key(task, &inputs).unwrap().digest();
                                    keys.insert(task, key);
                                    match self.results.get(&key) {
                                        Some(outputs) => Input::Hit { outputs: outputs.clone(), cut_off: false },
                                        None => Input::Miss,
                                    }
                                }
                            };
                            effects.extend(tracker.on(task, input).into_iter().map(|effect| (task, effect)));
                        }
                    }
                } else if !tracker.is_stopping()
                    && tracker.running().count() < slots
                    && let Some((task, _)) = tracker.queue().first(&Default::default())
                {
                    if tracker.phase(task) == Phase::Queued {
                        let board = tracker.board();
                        let key = match board.inputs(task, self.store).unwrap() {
                            Inputs::Ready(inputs) => Some(board.key(task, &inputs).unwrap().digest()),
                            Inputs::Wait(_) | Inputs::Never(_) => None,
                        };
                        let is_same = key == Some(keys[&task]);
                        assert!(tracker.on(task, if is_same { Input::LockTaken } else { Input::Outdated }).is_empty());
                        if !is_same {
                            continue;
                        }
                    }
                    effects.extend(tracker.on(task, Input::Admitted).into_iter().map(|effect| (task, effect)));
                } else {
                    break;
                }
            }
            if dice.chance(self.kills) {
                // Jobs may have committed results without the engine receiving their message.
                for task in tracker.running().collect::<Vec<_>>() {
                    let key = keys[&task];
                    let stage = tracker.board().stage_of(task).spec;
                    if dice.chance(30) && !self.is_broken(key) && !self.results.contains_key(&key) {
                        self.commit(key, &Self::outputs(stage, key));
                    }
                }
                return (Life::Killed, Vec::new());
            }
            if dice.chance(self.stops) && !tracker.is_stopping() {
                tracker.stop();
                continue;
            }
            if mail.is_empty() {
                match tracker.next_timer() {
                    Some(at) if !tracker.is_stopping() => {
                        tracker.wake(at);
                        continue;
                    }
                    _ if tracker.is_waiting() => panic!("the queue holds tasks, and nothing runs"),
                    _ => break,
                }
            }
            // Deliver the next message of a random job. The messages of one job stay in order.
            let tasks: Vec<usize> = mail.keys().copied().collect();
            let task = tasks[dice.roll(tasks.len())];
            let reports = mail.get_mut(&task).unwrap();
            let report = reports.pop_front();
            if reports.is_empty() {
                mail.remove(&task);
            }
            match report.unwrap() {
                Report::Items(items) => tracker.set_items(task, items),
                Report::Item(record) => {
                    if let ItemRecord::Added { label, artifact, .. } = &record {
                        self.unfinished.entry(keys[&task]).or_default().push((label.clone(), *artifact));
                    }
                    tracker.on_item(task, &record);
                }
                Report::Ended(input) => {
                    if let Input::Succeeded { outputs, .. } = &input {
                        self.commit(keys[&task], outputs);
                    }
                    effects.extend(tracker.on(task, input).into_iter().map(|effect| (task, effect)));
                }
            }
        }
        let life = if tracker.is_stopping() { Life::Stopped } else { Life::Ended };
        for task in 0..tracker.board().tasks.len() {
            let phase = tracker.phase(task);
            assert!(!phase.is_in_flight(), "task {task} is left {phase:?}");
            if life == Life::Ended && tracker.board().tasks[task].listed {
                assert!(phase.is_settled(), "task {task} is lost: {phase:?}");
            }
        }
        (life, board.stages.iter().map(|stage| (stage.name.clone(), stage.end.clone())).collect())
    }

    /// Starts the job of `task` by deciding everything that it will report.
    fn launch(
        &mut self,
        dice: &mut Dice,
        tracker: &Tracker<'_, '_>,
        task: usize,
        key: ActionKey,
        mail: &mut BTreeMap<usize, VecDeque<Report>>,
    ) {
        assert!(!mail.contains_key(&task), "task {task} runs twice at a time");
        assert!(!self.results.contains_key(&key), "task {task} runs although its result exists");
        let Ok(Inputs::Ready(inputs)) = tracker.board().inputs(task, self.store) else {
            panic!("task {task} runs before its inputs");
        };
        assert_eq!(tracker.board().key(task, &inputs).unwrap().digest(), key, "task {task} runs with other inputs");
        let stage = tracker.board().stage_of(task).spec;
        let mut reports = VecDeque::new();
        // Only single outputs are damaged, since their makers can be found by their digest.
        let victim = inputs.values().flatten().find(|input| {
            self.results.values().any(|outputs| outputs.get("all") == Some(&Output::Single(input.digest)))
        });
        if let Some(input) = victim.filter(|_| dice.chance(self.damaging)) {
            self.results.retain(|_, outputs| outputs.get("all") != Some(&Output::Single(input.digest)));
            self.damages += 1;
            let error = StoreError::NoArtifact { artifact: input.digest };
            let damage = DamagedInput { maker: input.maker.clone(), artifact: input.digest, error };
            reports.push_back(Report::Ended(Input::Damaged { damage: Box::new(damage), give_up: false }));
            mail.insert(task, reports);
            return;
        }
        let failure = Failure { code: "a::b".into(), message: "m".into(), hint: None };
        let attempt_failed = |retry| Input::AttemptFailed {
            failure: failure.clone(),
            class: FailureClass::Error,
            log: Vec::new(),
            retry,
        };
        if stage.uses == "lister" {
            let mut items = Items::default();
            let earlier = self.unfinished.entry(key).or_default();
            // Some of the unfinished items may be lost.
            let kept = dice.roll(earlier.len() + 1);
            earlier.truncate(if dice.chance(20) { kept } else { earlier.len() });
            for (label, artifact) in earlier.iter() {
                items.apply(&added(label, *artifact));
            }
            let rest = World::items(key).split_off(earlier.len());
            reports.push_back(Report::Items(items));
            let stops_after = dice.roll(rest.len() + 1);
            let fails = self.is_broken(key) || dice.chance(self.flaky);
            let reported = if fails { &rest[..stops_after] } else { &rest[..] };
            reports.extend(reported.iter().map(|(label, artifact)| Report::Item(added(label, *artifact))));
        }
        let end = if self.is_broken(key) {
            attempt_failed(None)
        } else if dice.chance(self.flaky) {
            let pause = Duration::from_millis(dice.roll(1000) as u64);
            attempt_failed(Some(Retry { at: Instant::now() + pause, pause, number: 1, max: 1000 }))
        } else {
            // All items are reported before the end.
            if stage.uses == "lister" {
                let reported = self.unfinished[&key].len()
                    + reports.iter().filter(|report| matches!(report, Report::Item(_))).count();
                let rest = World::items(key).split_off(reported);
                reports.extend(rest.iter().map(|(label, artifact)| Report::Item(added(label, *artifact))));
            }
            Input::Succeeded { outputs: Self::outputs(stage, key), used: Used::default() }
        };
        reports.push_back(Report::Ended(end));
        mail.insert(task, reports);
    }
}

fn added(label: &str, artifact: ArtifactId) -> ItemRecord {
    ItemRecord::Added { attempt: 1, port: "items".into(), label: label.into(), artifact }
}

/// Runs the pipeline of `seed` to its end. Returns how each stage ended, the world, and the number
/// of damaged results.
fn ends(seed: u64, broken: u8, trouble: bool) -> (Vec<(String, End)>, World, u32) {
    static STORE: LazyLock<(tempfile::TempDir, Store)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    });
    let resolved = pipeline(&mut Dice(seed));
    let mut dice = Dice(seed ^ u64::from(trouble));
    let mut percent = |most: usize| if trouble { dice.roll(most) } else { 0 };
    let (flaky, kills, stops, damaging) = (percent(30), percent(8), percent(4), percent(10));
    let mut world = World {
        names: resolved.stages.keys().map(str::to_owned).collect(),
        resolved,
        sources: Sources::default(),
        store: &STORE.1,
        results: HashMap::new(),
        unfinished: HashMap::new(),
        executions: HashMap::new(),
        damages: 0,
        broken,
        flaky,
        kills,
        stops,
        damaging,
    };
    for life in 0.. {
        // Stop causing trouble after a while, since a run might otherwise never end.
        if life == 30 {
            (world.kills, world.stops, world.damaging) = (0, 0, 0);
        }
        let (life, ends) = world.live(&mut dice);
        if life == Life::Ended {
            let damages = world.damages;
            return (ends, world, damages);
        }
    }
    unreachable!()
}

proptest! {
    #[test]
    fn no_stage_is_lost_run_twice_or_started_before_its_inputs(seed in any::<u64>(), broken in 0u8..30) {
        let (expected, calm, _) = ends(seed, broken, false);
        let (found, world, damages) = ends(seed, broken, true);
        for ((name, expected), (_, found)) in expected.iter().zip(&found) {
            match (expected, found) {
                (End::Done(expected), End::Done(found)) => prop_assert_eq!(expected, found, "stage {}", name),
                // If several stages failed, which one is named depends on the order.
                (End::Never(_), End::Never(_)) => {}
                _ => prop_assert!(false, "stage {}: {:?}, not {:?}", name, found, expected),
            }
        }
        prop_assert!(calm.executions.values().all(|times| *times == 1));
        prop_assert!(world.executions.values().map(|times| times - 1).sum::<u32>() <= damages);
    }
}
