//! [`Ledger`]: the resources that all engines on this machine use together, regardless of their
//! stores.
//!
//! ```text
//! /run/lock/olmo-pipe-v1/    (or /dev/shm/…, /tmp/…, or what OLMO_PIPE_LEASES names)
//!   ledger          held by flock while a process reads and changes the claims
//!   NAME.lease      one granted claim (JSON); held by flock by the engine that has it
//!   NAME.want       one waiting claim of an engine; held in the same way
//! ```
//!
//! A claim counts while its file is locked, so it never outlives its process, however that ends. It
//! also counts while the stage's supervisor holds its own lock, which the claim names. If an engine
//! is killed, its GPUs are therefore released only when the last process that uses them has ended.
//!
//! A claim is granted completely or not at all, while the ledger is locked. While an engine waits,
//! it holds nothing for that stage, so two engines cannot deadlock. Older waiting claims go first:
//! a later claim gets nothing that an older one waits for.
//!
//! All users of the machine share the folder, so nothing in it is trusted: links are not followed,
//! FIFOs and devices are not opened, claims have a maximum size, and waiting for a lock has a
//! timeout. A user can still claim more than it uses, but the claim names its process.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use olmo_base::files::{kind_name, open_regular};
use olmo_base::{LockedFile, lock};

use crate::exec::machine::claim::{Capacity, Claim, Shortage};
use crate::exec::machine::free::FreeResources;

/// Overrides the folder of the leases.
pub(super) const VARIABLE: &str = "OLMO_PIPE_LEASES";
const NAME: &str = "olmo-pipe-v1";
const LEDGER: &str = "ledger";
/// How long to wait for the lock of the ledger, which others hold for a fraction of a millisecond.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest claim file in bytes. One that names a thousand GPUs has 50,000.
const LARGEST_CLAIM: u64 = 1 << 18;
/// Maximum number of claims on one machine.
const MAX_CLAIMS: usize = 10_000;

/// The outcome of [`Ledger::take`].
#[derive(Debug)]
pub(super) enum ClaimOutcome {
    Granted {
        lease: Lease,
        /// Its GPUs, as a separate claim, since other stages may share them later.
        gpus: Option<Lease>,
    },
    /// Others hold the requested resources, or requested them earlier.
    Busy(Shortage),
}

/// A granted claim. Dropping it releases its resources.
#[derive(Debug)]
pub(super) struct Lease {
    /// The claimed GPUs.
    pub gpus: Vec<String>,
    _file: ClaimFile,
}

/// A waiting claim of this engine. Later claims must not overtake it. Dropping it withdraws it.
#[derive(Debug)]
pub(super) struct WaitingClaim {
    claim: Claim,
    file: ClaimFile,
}

/// A file in the ledger's folder, locked by this process.
#[derive(Debug)]
struct ClaimFile {
    path: PathBuf,
    _lock: LockedFile,
}

impl Drop for ClaimFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The claims of all engines on this machine.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    folder: PathBuf,
}

impl Ledger {
    /// Opens the ledger of this machine and creates it if needed. The error names the folder.
    pub(super) fn open() -> Result<Self, (PathBuf, io::Error)> {
        if let Some(folder) = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from) {
            return Self::at(&folder).map_err(|e| (folder, e));
        }
        let mut first = None;
        for place in ["/run/lock", "/dev/shm", "/tmp"] {
            let folder = Path::new(place).join(NAME);
            match Self::at(&folder) {
                Ok(ledger) => return Ok(ledger),
                Err(e) => drop(first.get_or_insert((folder, e))),
            }
        }
        Err(first.unwrap_or_else(|| (NAME.into(), io::ErrorKind::NotFound.into())))
    }

    /// Opens the ledger in `folder`, which is created for all users if needed.
    pub(super) fn at(folder: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(folder).is_err() {
            match fs::create_dir(folder) {
                // All users may add claims. With the sticky bit, only the owner can remove a claim.
                Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o1777))?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        if !fs::symlink_metadata(folder)?.is_dir() {
            return Err(io::Error::other("it is not a folder"));
        }
        let ledger = Self { folder: folder.to_owned() };
        drop(ledger.lock()?);
        Ok(ledger)
    }

    /// Path of the ledger's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Locks the ledger itself.
    fn lock(&self) -> io::Result<LockedFile> {
        let path = self.folder.join(LEDGER);
        let open = |create| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(create).mode(0o666);
            let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path)?;
            let kind = file.metadata()?.file_type();
            match kind.is_file() {
                true => Ok(file),
                false => Err(io::Error::other(format!("its `{LEDGER}` is {}, not a regular file", kind_name(kind)))),
            }
        };
        // Try without O_CREAT first: in a sticky folder, Linux rejects it for a file of another
        // user.
        let file = match open(false) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => match open(true) {
                Ok(file) => {
                    file.set_permissions(Permissions::from_mode(0o666))?;
                    file
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => open(false)?,
                Err(e) => return Err(e),
            },
            other => other?,
        };
        lock_with_timeout(file)
    }

    /// Grants `claim` if it fits. If it does not fit and `want` is given, the claim is recorded as
    /// waiting, so that later claims do not overtake it. Once it is granted, the waiting claim is
    /// withdrawn.
    pub(super) fn take(
        &self,
        claim: &Claim,
        capacity: &Capacity,
        want: Option<&mut Option<WaitingClaim>>,
    ) -> io::Result<ClaimOutcome> {
        let guard = self.lock()?;
        let mine = want.as_ref().and_then(|want| want.as_ref()).map(|want| &want.file.path);
        let all = self.claims(mine)?;
        let since = want.as_ref().and_then(|want| want.as_ref()).map_or(u64::MAX, |want| want.claim.since);
        let mut free = FreeResources::new(capacity, claim, &all);
        let mut older: Vec<&Claim> =
            all.iter().filter(|(granted, c)| !granted && c.since < since).map(|(_, c)| c).collect();
        older.sort_by_key(|c| c.since);
        let mut short = Shortage::default();
        for older in older {
            short.holders.extend(free.reserve(older, &mut short.cpus, &mut short.memory, claim));
        }
        let gpus = free.find_shortage(claim, &mut short);
        if short.is_empty() {
            let gpus = match gpus.is_empty() {
                true => None,
                false => Some(self.add(&Claim { cpus: 0, memory_mib: 0, gpus, ..claim.clone() }, "lease")?),
            };
            let rest = self.add(&Claim { gpus: Vec::new(), ..claim.clone() }, "lease")?;
            if let Some(want) = want {
                *want = None;
            }
            drop(guard);
            return Ok(ClaimOutcome::Granted { lease: rest, gpus });
        }
        let in_the_way = all.iter().filter(|(granted, other)| *granted && free.competes(claim, other, &short));
        let in_the_way: Vec<_> = in_the_way.map(|(_, other)| (other.pid, other.what.clone())).collect();
        short.holders.extend(in_the_way);
        short.holders.sort();
        short.holders.dedup();
        if let Some(want) = want
            && want.as_ref().is_none_or(|want| want.claim.supervisor != claim.supervisor)
        {
            let claim = Claim { since: now(), ..claim.clone() };
            let Lease { _file: file, .. } = self.add(&claim, "want")?;
            *want = Some(WaitingClaim { claim, file });
        }
        Ok(ClaimOutcome::Busy(short))
    }

    /// All active claims, each with whether it is granted. Claims of dead processes are removed.
    fn claims(&self, mine: Option<&PathBuf>) -> io::Result<Vec<(bool, Claim)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let granted = match path.extension().and_then(|e| e.to_str()) {
                Some("lease") => true,
                Some("want") => false,
                _ => continue,
            };
            if mine == Some(&path) {
                continue;
            }
            if found.len() >= MAX_CLAIMS {
                return Err(io::Error::other(format!("it holds more than {MAX_CLAIMS} claims")));
            }
            let file = match open_regular(&path) {
                Ok(file) => file,
                // Not a claim. Removing it succeeds if this user owns it.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                    let _ = fs::remove_file(&path);
                    continue;
                }
                // It was just removed, or another user made it unreadable. Either way it does not
                // count.
                Err(_) => continue,
            };
            let alive = lock::is_file_locked(&file);
            let owner = file.metadata()?.uid();
            match read_claim(&file) {
                Some(claim) if alive || (granted && is_locked(&claim.supervisor, owner)) => {
                    found.push((granted, claim));
                }
                _ if !alive => drop(fs::remove_file(&path)),
                _ => {}
            }
        }
        Ok(found)
    }

    fn add(&self, claim: &Claim, kind: &str) -> io::Result<Lease> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{}-{:x}-{count}.{kind}", std::process::id(), now()));
        // Lock the file before others can open and lock it.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let lock = lock_with_timeout(file.try_clone()?).inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })?;
        let locked = ClaimFile { path, _lock: lock };
        file.write_all(&serde_json::to_vec(claim)?)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        Ok(Lease { gpus: claim.gpus.clone(), _file: locked })
    }
}

/// Locks `file`. Fails if another process holds the lock for too long.
fn lock_with_timeout(file: File) -> io::Result<LockedFile> {
    LockedFile::from_file_within(file, LOCK_TIMEOUT, Duration::from_micros(200))?
        .ok_or_else(|| io::Error::other(format!("another process has held its lock for {} s", LOCK_TIMEOUT.as_secs())))
}

/// Reads the claim in a file. Returns `None` if it is not a claim.
fn read_claim(file: &File) -> Option<Claim> {
    let mut text = Vec::new();
    file.take(LARGEST_CLAIM + 1).read_to_end(&mut text).ok()?;
    if text.len() as u64 > LARGEST_CLAIM { None } else { serde_json::from_slice(&text).ok() }
}

/// Whether a supervisor of user `owner` holds the lock `path`. The path comes from a claim, which
/// any user can write, so only a file that `owner` owns is opened.
fn is_locked(path: &Path, owner: u32) -> bool {
    let Ok(metadata) = fs::symlink_metadata(path) else { return false };
    if !metadata.is_file() || metadata.uid() != owner {
        return false;
    }
    lock::is_locked(path)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity() -> Capacity {
        Capacity { domain: "d".into(), cpus: 4, memory_mib: 1000, host_cpus: 6, host_memory_mib: 1500 }
    }

    fn claim(cpus: u32, memory_mib: u64, gpu_count: usize, what: &str) -> Claim {
        let gpus = ["GPU-a", "GPU-b"].map(str::to_owned).to_vec();
        let domain = "d".to_owned();
        Claim {
            pid: 1,
            domain,
            cpus,
            memory_mib,
            gpus,
            gpu_count,
            what: what.into(),
            supervisor: what.into(),
            since: 0,
        }
    }

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(&dir.path().join("leases")).unwrap();
        (dir, ledger)
    }

    fn granted(taken: ClaimOutcome) -> (Lease, Option<Lease>) {
        match taken {
            ClaimOutcome::Granted { lease, gpus } => (lease, gpus),
            ClaimOutcome::Busy(short) => panic!("{short:?}"),
        }
    }

    fn short(taken: ClaimOutcome) -> Shortage {
        match taken {
            ClaimOutcome::Granted { lease, gpus } => panic!("granted {lease:?} {gpus:?}"),
            ClaimOutcome::Busy(short) => short,
        }
    }

    #[test]
    fn claimed_resources_are_not_granted_until_they_are_released() {
        let (_dir, ledger) = ledger();
        let (first, first_gpus) = granted(ledger.take(&claim(3, 400, 1, "a"), &capacity(), None).unwrap());
        assert_eq!(first_gpus.as_ref().unwrap().gpus, ["GPU-a"]);
        let busy = |c: Claim| short(ledger.take(&c, &capacity(), None).unwrap());
        assert!(busy(claim(2, 0, 0, "b")).cpus);
        assert!(busy(claim(1, 700, 0, "b")).memory);
        let gang = busy(claim(1, 0, 2, "b"));
        assert!(gang.gpus && gang.holders == [(1, "a".to_owned())], "{gang:?}");
        let (_second, second_gpus) = granted(ledger.take(&claim(1, 600, 1, "b"), &capacity(), None).unwrap());
        assert_eq!(second_gpus.unwrap().gpus, ["GPU-b"]);
        drop((first, first_gpus));
        let (_third, third_gpus) = granted(ledger.take(&claim(3, 0, 1, "c"), &capacity(), None).unwrap());
        assert_eq!(third_gpus.unwrap().gpus, ["GPU-a"]);
    }

    #[test]
    fn domains_share_only_the_machine() {
        let (_dir, ledger) = ledger();
        let _first = granted(ledger.take(&claim(4, 0, 0, "a"), &capacity(), None).unwrap());
        let other = |cpus| Claim { domain: "e".into(), ..claim(cpus, 0, 0, "b") };
        let capacity = Capacity { domain: "e".into(), ..capacity() };
        assert!(short(ledger.take(&other(3), &capacity, None).unwrap()).cpus, "six CPUs in total");
        granted(ledger.take(&other(2), &capacity, None).unwrap());
    }

    #[test]
    fn an_older_waiting_claim_goes_before_a_later_smaller_one() {
        let (_dir, ledger) = ledger();
        let (running, gpus) = granted(ledger.take(&claim(1, 0, 1, "small"), &capacity(), None).unwrap());
        let (mut gang, mut late) = (None, None);
        short(ledger.take(&claim(1, 0, 2, "gang"), &capacity(), Some(&mut gang)).unwrap());
        assert!(gang.is_some());
        let overtaking = short(ledger.take(&claim(1, 0, 1, "late"), &capacity(), Some(&mut late)).unwrap());
        assert!(overtaking.gpus, "a GPU is free, but the gang waits for it");
        // Others can have what the gang does not wait for.
        granted(ledger.take(&claim(2, 0, 0, "cpu only"), &capacity(), None).unwrap());
        drop((running, gpus));
        short(ledger.take(&claim(1, 0, 1, "late"), &capacity(), Some(&mut late)).unwrap());
        let (_gang, gpus) = granted(ledger.take(&claim(1, 0, 2, "gang"), &capacity(), Some(&mut gang)).unwrap());
        assert_eq!(gpus.as_ref().unwrap().gpus, ["GPU-a", "GPU-b"]);
        assert!(gang.is_none(), "the waiting claim is withdrawn");
        drop(gpus);
        granted(ledger.take(&claim(1, 0, 1, "late"), &capacity(), Some(&mut late)).unwrap());
    }

    #[test]
    fn a_claim_whose_process_is_gone_counts_only_while_its_supervisor_lives() {
        let (dir, ledger) = ledger();
        let supervisor = dir.path().join("supervisor.lock");
        let lock = File::create(&supervisor).unwrap();
        lock.lock().unwrap();
        let dead = Claim { cpus: 4, supervisor, ..claim(4, 0, 0, "dead") };
        fs::write(ledger.folder.join("9-9-9.lease"), serde_json::to_vec(&dead).unwrap()).unwrap();
        fs::write(ledger.folder.join("9-9-8.lease"), "{ half").unwrap();
        fs::write(ledger.folder.join("9-9-7.want"), serde_json::to_vec(&dead).unwrap()).unwrap();
        assert!(short(ledger.take(&claim(1, 0, 0, "a"), &capacity(), None).unwrap()).cpus);
        lock.unlock().unwrap();
        granted(ledger.take(&claim(4, 0, 0, "a"), &capacity(), None).unwrap());
        assert_eq!(fs::read_dir(&ledger.folder).unwrap().count(), 1, "dead claims are removed");
    }

    #[test]
    fn many_threads_never_get_more_than_the_capacity() {
        use std::sync::atomic::AtomicI64;
        let (_dir, ledger) = ledger();
        let (cpus, gpus) = (AtomicI64::new(0), AtomicI64::new(0));
        std::thread::scope(|scope| {
            for n in 0..4u32 {
                let (ledger, cpus, gpus) = (&ledger, &cpus, &gpus);
                scope.spawn(move || {
                    let mut want = None;
                    for round in 0..20u32 {
                        let ask = claim(1 + (n + round) % 4, 0, (n as usize + round as usize) % 3, &format!("{n}"));
                        let held = loop {
                            match ledger.take(&ask, &capacity(), Some(&mut want)).unwrap() {
                                ClaimOutcome::Granted { lease, gpus } => break (lease, gpus),
                                ClaimOutcome::Busy(_) => std::thread::sleep(Duration::from_millis(1)),
                            }
                        };
                        let now = cpus.fetch_add(ask.cpus.into(), Ordering::SeqCst) + i64::from(ask.cpus);
                        let now_gpus = gpus.fetch_add(ask.gpu_count as i64, Ordering::SeqCst) + ask.gpu_count as i64;
                        assert!(now <= 4 && now_gpus <= 2, "{now} {now_gpus}");
                        cpus.fetch_sub(ask.cpus.into(), Ordering::SeqCst);
                        gpus.fetch_sub(ask.gpu_count as i64, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
    }

    fn fifo(path: &Path) {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }

    /// Puts FIFOs, links, folders and huge files in place of claims and supervisors' locks.
    #[test]
    fn files_that_are_not_claims_are_neither_opened_nor_counted() {
        let (dir, ledger) = ledger();
        fifo(&ledger.folder.join("x.lease"));
        fifo(&ledger.folder.join("x.want"));
        fs::create_dir(ledger.folder.join("folder.lease")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", ledger.folder.join("link.lease")).unwrap();
        let huge = File::create(ledger.folder.join("huge.lease")).unwrap();
        huge.set_len(1 << 40).unwrap();
        // A claim whose supervisor lock is not a regular file.
        for (n, kind) in ["fifo", "device", "folder"].into_iter().enumerate() {
            let supervisor = match kind {
                "fifo" => dir.path().join("supervisor"),
                "device" => "/dev/zero".into(),
                _ => dir.path().to_owned(),
            };
            if kind == "fifo" {
                fifo(&supervisor);
            }
            let dead = Claim { supervisor, ..claim(4, 0, 0, "dead") };
            fs::write(ledger.folder.join(format!("9-9-{n}.lease")), serde_json::to_vec(&dead).unwrap()).unwrap();
        }
        granted(ledger.take(&claim(4, 0, 0, "a"), &capacity(), None).unwrap());
        let left: Vec<_> = fs::read_dir(&ledger.folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "the ledger and the folder: {left:?}");
    }

    #[test]
    fn anything_but_a_file_in_the_place_of_the_ledger_is_an_error() {
        let (dir, ledger) = ledger();
        let path = ledger.folder.join(LEDGER);
        for kind in ["fifo", "link", "folder"] {
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
            match kind {
                "fifo" => fifo(&path),
                "link" => std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap(),
                _ => fs::create_dir(&path).unwrap(),
            }
            assert!(ledger.take(&claim(1, 0, 0, "a"), &capacity(), None).is_err(), "{kind}");
            assert!(!dir.path().join("elsewhere").exists());
        }
    }

    #[test]
    fn a_file_in_the_place_of_the_folder_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "").unwrap();
        assert!(Ledger::at(&path).is_err());
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        assert!(Ledger::at(&dir.path().join("link")).is_err(), "a link could lead anywhere");
    }
}
