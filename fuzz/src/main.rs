//! `olmo-fuzz TARGET [--seconds N] [--seed N] [--grow FOLDER]`: runs a target on mutated inputs, and keeps
//! those that reach code which no input before them reached.
//!
//! `scripts/fuzz` builds it so that the crates of this project count what they execute (LLVM's
//! SanitizerCoverage, which stable rustc passes through). Without these counts it mutates blindly.
//!
//! A panic or a hang ends it with exit code 1 and the input in `fuzz/found/`.

mod coverage;
mod mutate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, panic, thread};

use mutate::Mutator;
use olmo_base::Digest;
use olmo_fuzz::TARGETS;

/// Maximum CPU time of one input; more counts as a hang. Unlike wall time, it does not depend on how
/// busy the machine is.
const MAX_CPU: Duration = Duration::from_secs(10);
/// Maximum wall time of one input; more means that it is blocked.
const MAX_WALL: Duration = Duration::from_secs(600);
/// Bytes of the longest input.
const LARGEST: usize = 1 << 16;
/// Bytes of memory that the process may have.
const MEMORY: u64 = 6 << 30;

/// The input that is running, for the report of a hang.
static CURRENT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// Inputs that have begun, and whether one is running (the lowest bit).
static BEGUN: AtomicU64 = AtomicU64::new(0);

struct Options {
    target: String,
    seconds: u64,
    seed: u64,
    /// Where inputs that reach new code are kept.
    grow: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            eprintln!(
                "{problem}\nusage: olmo-fuzz TARGET [--seconds N] [--seed N] [--grow FOLDER]\ntargets: {}",
                names.join(", ")
            );
            return ExitCode::from(2);
        }
    };
    let Some((_, target)) = TARGETS.iter().find(|(name, _)| *name == options.target) else {
        eprintln!("there is no target `{}`", options.target);
        return ExitCode::from(2);
    };
    limit_memory();
    watch_for_hangs(options.target.clone());
    // The panic itself is reported with its input.
    panic::set_hook(Box::new(|_| {}));
    match fuzz(&options, *target) {
        Ok(report) => {
            println!("{}: {report}", options.target);
            ExitCode::SUCCESS
        }
        Err((input, message)) => {
            let kept = keep(&options.target, &input);
            eprintln!("{}: panic: {message}\nthe input is in {}", options.target, kept.display());
            ExitCode::FAILURE
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let target = arguments.next().ok_or("a target is missing")?;
    let mut options = Options { target, seconds: 60, seed: 1, grow: None };
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name}: `{value}` is no number"));
        match name.as_str() {
            "--seconds" => options.seconds = number()?,
            "--seed" => options.seed = number()?,
            "--grow" => options.grow = Some(value.into()),
            _ => return Err(format!("unknown option {name}")),
        }
    }
    Ok(options)
}

/// Runs the committed inputs, then mutations of all that reached something new. An error is the input that panicked, and why.
fn fuzz(options: &Options, target: fn(&[u8])) -> Result<String, (Vec<u8>, String)> {
    let mut seen = coverage::Seen::default();
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    let grown = options.grow.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let mut paths: Vec<PathBuf> = grown.map(|entry| entry.path()).collect();
    paths.extend(olmo_fuzz::inputs(&options.target));
    paths.sort();
    paths.dedup();
    for input in paths.into_iter().filter_map(|path| fs::read(path).ok()) {
        run(target, &input)?;
        seen.add_new();
        inputs.push(input);
    }
    if inputs.is_empty() {
        inputs.push(Vec::new());
    }
    let (since, committed) = (Instant::now(), inputs.len());
    let mut mutator = Mutator::new(options.seed);
    let mut executions = 0u64;
    while since.elapsed().as_secs() < options.seconds {
        let mut input = mutator.choose(&inputs).to_vec();
        mutator.mutate(&mut input, &inputs);
        input.truncate(LARGEST);
        run(target, &input)?;
        executions += 1;
        if seen.add_new() {
            if let Some(folder) = &options.grow {
                let name = Digest::of(&input).to_string();
                let _ = fs::create_dir_all(folder).and_then(|()| fs::write(folder.join(&name[..16]), &input));
            }
            inputs.push(input);
        }
    }
    let speed = executions as f64 / since.elapsed().as_secs_f64().max(0.001);
    let found = inputs.len() - committed;
    Ok(format!(
        "{executions} inputs in {} s ({speed:.0} a second), {} edges of {}, {found} inputs that reached something new beside {committed}",
        options.seconds,
        seen.edges(),
        coverage::edges()
    ))
}

/// Runs `target` on `input`.
fn run(target: fn(&[u8]), input: &[u8]) -> Result<(), (Vec<u8>, String)> {
    if let Ok(mut current) = CURRENT.lock() {
        current.clear();
        current.extend_from_slice(input);
    }
    BEGUN.fetch_add(1, Ordering::SeqCst);
    coverage::reset();
    let result = panic::catch_unwind(|| target(input));
    BEGUN.fetch_add(1, Ordering::SeqCst);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        (input.to_vec(), text.unwrap_or_else(|| "without a message".into()))
    })
}

/// Keeps an input that does harm; where.
fn keep(target: &str, input: &[u8]) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("found");
    let path = folder.join(format!("{target}-{}", &Digest::of(input).to_string()[..16]));
    let _ = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, input));
    path
}

/// Ends the process if one input takes too long.
fn watch_for_hangs(target: String) {
    thread::spawn(move || {
        let mut last = (0, Instant::now(), cpu_time());
        loop {
            thread::sleep(Duration::from_millis(500));
            let begun = BEGUN.load(Ordering::SeqCst);
            if begun != last.0 {
                last = (begun, Instant::now(), cpu_time());
                continue;
            }
            let (wall, cpu) = (last.1.elapsed(), cpu_time().saturating_sub(last.2));
            if begun % 2 == 1 && (cpu > MAX_CPU || wall > MAX_WALL) {
                let input = CURRENT.lock().map(|current| current.clone()).unwrap_or_default();
                eprintln!(
                    "{target}: an input took {} s of CPU time in {} s; it is in {}",
                    cpu.as_secs(),
                    wall.as_secs(),
                    keep(&target, &input).display()
                );
                std::process::exit(1);
            }
        }
    });
}

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes the struct, which lives until it returns.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// More memory than this ends the process: an input must not ask for all there is.
fn limit_memory() {
    let limit = libc::rlimit { rlim_cur: MEMORY, rlim_max: MEMORY };
    // SAFETY: setrlimit reads the struct, which lives until it returns.
    unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
}
