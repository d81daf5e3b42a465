//! Queries NVIDIA's driver and its GPUs for `olmo-pipe doctor`.

use std::process::{Command, Stdio};

use serde::Serialize;

/// Oldest major version of the driver that CUDA 13 supports.
pub(super) const LEAST_DRIVER: u32 = 580;

/// A GPU visible to this process. Fields that `nvidia-smi` does not report are `None`.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct Device {
    pub uuid: String,
    pub name: Option<String>,
    pub memory_bytes: Option<u64>,
    /// For example `9.0`.
    pub compute_capability: Option<String>,
}

/// Describes the GPUs whose UUIDs are `visible`, in that order.
pub(super) fn devices(visible: &[String]) -> Vec<Device> {
    if visible.is_empty() {
        return Vec::new();
    }
    // Old versions of nvidia-smi do not know the last field.
    let listed =
        ask("uuid,name,memory.total,compute_cap").or_else(|| ask("uuid,name,memory.total")).unwrap_or_default();
    parse_devices(visible, &listed)
}

fn parse_devices(visible: &[String], listed: &str) -> Vec<Device> {
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split(',').map(str::trim).collect()).collect();
    let device = |uuid: &String| {
        let line = lines.iter().find(|line| line.first() == Some(&uuid.as_str()));
        let field = |place: usize| line.and_then(|line| line.get(place)).filter(|text| !text.starts_with('['));
        Device {
            uuid: uuid.clone(),
            name: field(1).map(|&name| name.to_owned()),
            memory_bytes: field(2).and_then(|mib| mib.parse::<u64>().ok()).map(|mib| mib << 20),
            compute_capability: field(3).map(|&text| text.to_owned()),
        }
    };
    visible.iter().map(device).collect()
}

/// Version of the driver, from `nvidia-smi` or else from the kernel.
pub(super) fn driver() -> Option<String> {
    let word = |text: String| text.split_whitespace().find(|word| is_version(word)).map(str::to_owned);
    let kernel = || std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    ask("driver_version").and_then(word).or_else(|| kernel().and_then(word))
}

/// Whether `driver` is too old for CUDA 13. A version that cannot be parsed counts as new enough.
pub(super) fn is_old(driver: &str) -> bool {
    driver.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major < LEAST_DRIVER)
}

fn ask(fields: &str) -> Option<String> {
    let mut command = Command::new("nvidia-smi");
    command.args([&format!("--query-gpu={fields}"), "--format=csv,noheader,nounits"]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether `word` is a version such as `580.65.06`.
fn is_version(word: &str) -> bool {
    word.contains('.') && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_version_is_told_from_other_words() {
        let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x@y)";
        assert_eq!(text.split_whitespace().find(|word| is_version(word)), Some("580.65.06"));
        assert!(!is_version("1..2") && !is_version("12") && !is_version("v1.2"));
        assert!(is_old("570.124.06") && !is_old("580.65.06") && !is_old("?"));
    }

    #[test]
    fn a_gpu_is_found_by_its_uuid_and_may_keep_what_it_does_not_tell() {
        let listed = "GPU-b, NVIDIA H100 80GB HBM3, 81559, 9.0\nGPU-a, NVIDIA X, [N/A], [N/A]\nGPU-c, Old, 100\n";
        let found = parse_devices(&["GPU-a", "GPU-b", "GPU-c", "MIG-1"].map(str::to_owned), listed);
        let short = |d: &Device| (d.name.clone(), d.memory_bytes, d.compute_capability.clone());
        assert_eq!(short(&found[0]), (Some("NVIDIA X".into()), None, None));
        assert_eq!(short(&found[1]), (Some("NVIDIA H100 80GB HBM3".into()), Some(81559 << 20), Some("9.0".into())));
        assert_eq!(short(&found[2]), (Some("Old".into()), Some(100 << 20), None));
        assert_eq!(short(&found[3]), (None, None, None));
    }
}
