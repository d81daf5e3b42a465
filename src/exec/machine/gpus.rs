//! The GPUs of this machine that this process may use, by UUID.

use std::path::Path;
use std::process::{Command, Stdio};

/// Lists the machine's GPUs in place of the driver: `GPU-a,GPU-b`. For tests, and for machines
/// whose driver this program cannot ask.
pub const VARIABLE: &str = "OLMO_PIPE_GPUS";

/// Those that CUDA_VISIBLE_DEVICES leaves of what the machine has.
pub fn visible() -> Vec<String> {
    let listed = std::env::var(VARIABLE).ok();
    let all = || match &listed {
        Some(text) => entries(text),
        None => installed(),
    };
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(visible) => chosen(&visible, all),
        Err(_) => all(),
    }
}

fn entries(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|e| !e.is_empty()).map(str::to_owned).collect()
}

/// What `visible`, the value of CUDA_VISIBLE_DEVICES, leaves: numbers count in the order of the
/// PCI bus, a UUID may be cut short, and, as in CUDA, the first entry that is no device ends the
/// list. Parts of a GPU (`MIG-…`), and all names where the devices are not known, stay as they are.
fn chosen(visible: &str, all: impl FnOnce() -> Vec<String>) -> Vec<String> {
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

/// The NVIDIA devices there are, in the order of the PCI bus.
fn installed() -> Vec<String> {
    let driver = Path::new("/proc/driver/nvidia/gpus");
    let found = from_driver(driver);
    if !found.is_empty() {
        return found;
    }
    // A container may hide the folder and still have the devices.
    let any = std::fs::read_dir("/dev").into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        name.to_str().and_then(|n| n.strip_prefix("nvidia")).is_some_and(|n| n.parse::<u32>().is_ok())
    });
    if any { from_tool().unwrap_or_default() } else { Vec::new() }
}

/// `ADDRESS/information` holds a line `GPU UUID: GPU-…`; the address sorts as the bus does.
fn from_driver(folder: &Path) -> Vec<String> {
    let mut folders: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    folders.sort();
    let uuid = |folder: &std::path::PathBuf| -> Option<String> {
        let text = std::fs::read_to_string(folder.join("information")).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix("GPU UUID:"))?.trim();
        // Without rights the driver shows question marks.
        (value.starts_with("GPU-") && !value.contains('?')).then(|| value.to_owned())
    };
    let uuids: Vec<_> = folders.iter().map(uuid).collect();
    // One that cannot be told from another cannot be leased.
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
            assert_eq!(chosen(text, all), expected, "{text}");
        }
        assert_eq!(chosen("GPU-x,3", Vec::new), ["GPU-x", "3"], "devices that are not known keep their names");
    }

    #[test]
    fn the_drivers_folder_names_each_device() {
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
