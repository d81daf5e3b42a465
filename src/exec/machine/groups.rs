//! Control groups: the memory limit of this process, and which processes share its limits. It only
//! reads them.
//!
//! A process is in one group of the unified hierarchy (version 2), in one group for each controller
//! (version 1), or both. The limits of all parent groups apply as well, so the lowest limit counts.

use std::path::{Path, PathBuf};

/// The limits of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Lowest memory limit, in bytes.
    pub memory: Option<u64>,
    /// All groups that have a limit, with the limit. Equal for processes that share all limits.
    pub groups: Vec<String>,
}

/// A mounted hierarchy of groups, with the group of this process in it.
struct Hierarchy {
    mount: PathBuf,
    /// Path of the group below `mount`.
    group: PathBuf,
    /// `None` for version 2.
    controllers: Option<Vec<String>>,
}

/// The lowest memory limit of this process's control groups, in bytes.
pub fn memory_limit() -> Option<u64> {
    Limits::current().memory
}

impl Limits {
    /// Reads the limits of this process.
    pub(super) fn current() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::read(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
    }

    /// Reads the limits of a process, given the content of its `/proc/PID/cgroup` and
    /// `/proc/PID/mountinfo`.
    fn read(groups: &str, mounts: &str) -> Self {
        let mut limits = Self::default();
        for hierarchy in hierarchies(groups, mounts) {
            limits.add(&hierarchy);
        }
        limits
    }

    fn add(&mut self, hierarchy: &Hierarchy) {
        let has = |controller: &str| hierarchy.controllers.as_ref().is_none_or(|c| c.iter().any(|c| c == controller));
        // A process without its own namespace sees the full path of its group.
        for group in hierarchy.group.ancestors() {
            let folder = hierarchy.mount.join(group);
            let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok().map(|t| t.trim().replace(' ', "/"));
            let (memory, cpu) = match hierarchy.controllers {
                None => (text("memory.max"), text("cpu.max").filter(|t| !t.starts_with("max"))),
                Some(_) => (
                    text("memory.limit_in_bytes").filter(|_| has("memory")),
                    text("cpu.cfs_quota_us").filter(|t| has("cpu") && !t.starts_with('-')),
                ),
            };
            let memory = memory.and_then(|text| text.parse::<u64>().ok()).filter(|bytes| *bytes < UNLIMITED);
            if let Some(bytes) = memory {
                self.memory = Some(self.memory.map_or(bytes, |least| least.min(bytes)));
                self.groups.push(format!("memory {} {bytes}", folder.display()));
            }
            if let Some(quota) = cpu {
                self.groups.push(format!("cpu {} {quota}", folder.display()));
            }
        }
    }
}

/// Larger limits mean "no limit", which version 1 writes as a number close to 2^63.
const UNLIMITED: u64 = 1 << 60;

/// Finds the mounted hierarchies in `mounts`, and the group of the process in each of them in
/// `groups`.
fn hierarchies(groups: &str, mounts: &str) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        // ID PARENT MAJOR:MINOR ROOT MOUNT OPTIONS [TAGS] - TYPE SOURCE SUPER-OPTIONS
        let Some((head, tail)) = line.split_once(" - ") else { continue };
        let (head, tail): (Vec<&str>, Vec<&str>) = (head.split(' ').collect(), tail.split(' ').collect());
        let (Some(root), Some(mount), Some(kind)) = (head.get(3), head.get(4), tail.first()) else { continue };
        let options: Vec<&str> = tail.last().into_iter().flat_map(|options| options.split(',')).collect();
        let of_process = groups.lines().find_map(|line| {
            // NUMBER:CONTROLLERS:GROUP
            let mut parts = line.splitn(3, ':');
            let (_, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
            let same = match *kind {
                "cgroup2" => controllers.is_empty(),
                "cgroup" => !controllers.is_empty() && controllers.split(',').all(|c| options.contains(&c)),
                _ => false,
            };
            let controllers = (*kind == "cgroup").then(|| controllers.split(',').map(str::to_owned).collect());
            same.then_some((group, controllers))
        });
        let Some((group, controllers)) = of_process else { continue };
        let (root, group) = (Path::new(root), Path::new(group));
        // The mount of a container starts at the container's group.
        let group = group.strip_prefix(root).or_else(|_| group.strip_prefix("/")).unwrap_or(Path::new(""));
        found.push(Hierarchy { mount: unescape(mount), group: group.to_owned(), controllers });
    }
    found
}

/// Decodes a path in `mountinfo`, which writes a space as `\\040`.
fn unescape(path: &str) -> PathBuf {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn the_lowest_limit_of_all_parent_groups_applies_in_version_2() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("with space");
        write(
            &root,
            &[
                ("slurm/memory.max", "8000000\n"),
                ("slurm/job/memory.max", "4000000\n"),
                ("slurm/job/cpu.max", "200000 100000\n"),
                ("slurm/job/step/memory.max", "max\n"),
                ("slurm/job/step/cpu.max", "max 100000\n"),
                ("other/memory.max", "1\n"),
            ],
        );
        let shown = root.display().to_string().replace(' ', "\\040");
        let mounts = format!("35 24 0:30 / {shown} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
        let limits = Limits::read("0::/slurm/job/step\n", &mounts);
        assert_eq!(limits.memory, Some(4_000_000));
        assert_eq!(limits.groups.len(), 3, "{limits:?}");
        // Another step of the job shares the limits, another job does not.
        assert_eq!(Limits::read("0::/slurm/job/step2\n", &mounts), limits);
        assert_ne!(Limits::read("0::/slurm/job2\n", &mounts), limits);
        assert_eq!(Limits::read("0::/\n", &mounts), Limits::default());
    }

    #[test]
    fn the_lowest_limit_of_all_parent_groups_applies_in_version_1() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &[
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/job/memory.limit_in_bytes", "41943040\n"),
                ("memory/job/step/memory.limit_in_bytes", "9223372036854771712\n"),
                ("cpu/job/cpu.cfs_quota_us", "150000\n"),
                ("cpu/job/step/cpu.cfs_quota_us", "-1\n"),
            ],
        );
        let root = dir.path().display();
        let mounts = format!(
            "30 24 0:26 / {root}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             31 24 0:27 / {root}/memory rw - cgroup cgroup rw,memory\n\
             32 24 0:28 / {root}/none rw - tmpfs tmpfs rw\n"
        );
        let limits = Limits::read("4:memory:/job/step\n3:cpu,cpuacct:/job/step\n1:name=systemd:/x\n0::/x\n", &mounts);
        assert_eq!(limits.memory, Some(41_943_040));
        assert_eq!(limits.groups.len(), 2, "{limits:?}");
    }

    #[test]
    fn the_mount_of_a_container_may_start_at_its_group() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[("memory.max", "5000\n"), ("inner/memory.max", "max\n")]);
        let mounts = format!("35 24 0:30 /docker/abc {} ro - cgroup2 cgroup rw\n", dir.path().display());
        assert_eq!(Limits::read("0::/docker/abc/inner\n", &mounts).memory, Some(5000));
        assert_eq!(Limits::read("0::/docker/abc\n", &mounts).memory, Some(5000));
        // In its own namespace, the process sees its group as the root.
        let mounts = format!("35 24 0:30 / {} ro - cgroup2 cgroup rw\n", dir.path().display());
        assert_eq!(Limits::read("0::/\n", &mounts).memory, Some(5000));
    }

    #[test]
    fn malformed_files_set_no_limits() {
        for (groups, mounts) in [("", ""), ("0::", "x"), ("a:b", "1 2 3 / /x - cgroup2 c rw"), ("::", " - ")] {
            assert_eq!(Limits::read(groups, mounts), Limits::default(), "{groups:?}");
        }
    }
}
