//! The GPUs that this process may use, by UUID. It only lists them; [`super::lease`] decides who
//! gets which.

use std::path::Path;
use std::process::{Command, Stdio};

/// Overrides the list of the machine's GPUs: `GPU-a,GPU-b`. For tests, and for machines whose
/// driver cannot be queried.
pub(crate) const VARIABLE: &str = "OLMO_PIPE_GPUS";

/// The machine's GPUs that are visible according to CUDA_VISIBLE_DEVICES.
pub(crate) fn visible() -> Vec<String> {
    let listed = std::env::var(VARIABLE).ok();
    let all = || match &listed {
        Some(text) => entries(text),
        None => installed(),
    };
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(visible) => apply_visible(&visible, all),
        Err(_) => all(),
    }
}

fn entries(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|e| !e.is_empty()).map(str::to_owned).collect()
}

/// Applies `visible`, the value of CUDA_VISIBLE_DEVICES, as CUDA does: numbers follow the order of
/// the PCI bus, a UUID may be abbreviated, and the first entry that is not a device ends the list.
/// Parts of a GPU (`MIG-…`) are kept as they are. If the devices are not known, all names are.
fn apply_visible(visible: &str, all: impl FnOnce() -> Vec<String>) -> Vec<String> {
    let entries: Vec<&str> = visible.split(',').map(str::trim).collect();
    if matches!(entries.first(), None | Some(&"" | &"-1" | &"NoDevFiles")) {
        return Vec::new();
    }
    let all = all();
    let device = |entry: &&str| -> Option<String> {
        if entry.is_empty() || entry.starts_with('-') {
            return None;
        }
        if entry.starts_with("MIG-") || all.is_empty() {
            return Some((*entry).to_owned());
        }
        match entry.parse::<usize>() {
            Ok(number) => all.get(number).cloned(),
            Err(_) => {
                let mut matching = all.iter().filter(|uuid| uuid.starts_with(entry));
                matching.next().filter(|_| matching.next().is_none()).cloned()
            }
        }
    };
    let mut found: Vec<String> = Vec::new();
    for gpu in entries.iter().map_while(device) {
        if !found.contains(&gpu) {
            found.push(gpu);
        }
    }
    found
}

/// The installed NVIDIA devices, in the order of the PCI bus.
fn installed() -> Vec<String> {
    let driver = Path::new("/proc/driver/nvidia/gpus");
    let found = from_driver(driver);
    if !found.is_empty() {
        return found;
    }
    // A container may have the devices without the driver's folder.
    let any = std::fs::read_dir("/dev").into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        name.to_str().and_then(|n| n.strip_prefix("nvidia")).is_some_and(|n| n.parse::<u32>().is_ok())
    });
    if any { from_tool().unwrap_or_default() } else { Vec::new() }
}

/// Reads the UUIDs from the driver. `ADDRESS/information` has a line `GPU UUID: GPU-…`, and the
/// addresses sort in the order of the bus.
fn from_driver(folder: &Path) -> Vec<String> {
    let mut folders: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    folders.sort();
    let uuid = |folder: &std::path::PathBuf| -> Option<String> {
        let text = std::fs::read_to_string(folder.join("information")).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix("GPU UUID:"))?.trim();
        // Without permission, the driver shows question marks.
        (value.starts_with("GPU-") && !value.contains('?')).then(|| value.to_owned())
    };
    let uuids: Vec<_> = folders.iter().map(uuid).collect();
    // Devices without distinct names cannot be leased.
    uuids.into_iter().collect::<Option<Vec<_>>>().unwrap_or_default()
}

fn from_tool() -> Option<Vec<String>> {
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=uuid", "--format=csv,noheader"]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|o| o.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().map(str::trim).filter(|line| line.starts_with("GPU-")).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<String> {
        ["GPU-aa1", "GPU-ab2", "GPU-b03"].map(str::to_owned).to_vec()
    }

    #[test]
    fn visible_devices_are_read_as_cuda_reads_them() {
        for (text, expected) in [
            ("0,2", vec!["GPU-aa1", "GPU-b03"]),
            ("2,0", vec!["GPU-b03", "GPU-aa1"]),
            ("GPU-b,0", vec!["GPU-b03", "GPU-aa1"]),
            ("0,GPU-a,1", vec!["GPU-aa1"]),
            ("1,-1,0", vec!["GPU-ab2"]),
            ("1,7,0", vec!["GPU-ab2"]),
            ("1,1", vec!["GPU-ab2"]),
            ("", vec![]),
            ("-1", vec![]),
            ("NoDevFiles", vec![]),
            ("MIG-x", vec!["MIG-x"]),
        ] {
            assert_eq!(apply_visible(text, all), expected, "{text}");
        }
        assert_eq!(apply_visible("GPU-x,3", Vec::new), ["GPU-x", "3"], "unknown devices keep their names");
    }

    #[test]
    fn the_drivers_folder_lists_each_device() {
        let dir = tempfile::tempdir().unwrap();
        for (address, uuid) in [("0000:41:00.0", "GPU-2"), ("0000:0b:00.0", "GPU-1")] {
            std::fs::create_dir(dir.path().join(address)).unwrap();
            let text = format!("Model: \t\t NVIDIA H100\nIRQ:   \t\t 1\nGPU UUID: \t {uuid}\nVideo BIOS: \t x\n");
            std::fs::write(dir.path().join(address).join("information"), text).unwrap();
        }
        assert_eq!(from_driver(dir.path()), ["GPU-1", "GPU-2"]);
        std::fs::write(dir.path().join("0000:0b:00.0/information"), "GPU UUID: GPU-????????-????\n").unwrap();
        assert!(from_driver(dir.path()).is_empty());
    }
}
