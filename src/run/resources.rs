//! What the machine has, and who occupies it: [`Machine`] and [`Grant`].

use olmo_stage::contract::Resources;

use super::error::RunError;

/// The machine's processors, memory and GPUs, and which of them are free.
#[derive(Clone, Debug)]
pub struct Machine {
    cpus: u32,
    memory_mib: u64,
    gpus: Vec<String>,
    free_cpus: u32,
    free_memory_mib: u64,
    free_gpus: Vec<String>,
}

/// What a running stage occupies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Also the number of threads it may use.
    pub cpus: u32,
    pub memory_mib: u64,
    /// As CUDA_VISIBLE_DEVICES names them.
    pub gpus: Vec<String>,
}

impl Machine {
    /// This machine, as far as this process may use it.
    pub fn here() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        Self::new(cpus, memory_mib().unwrap_or(u64::MAX), gpus())
    }

    /// A machine with so much.
    pub fn new(cpus: u32, memory_mib: u64, gpus: Vec<String>) -> Self {
        Self { cpus, memory_mib, free_gpus: gpus.clone(), gpus, free_cpus: cpus, free_memory_mib: memory_mib }
    }

    /// Checks that a stage with `wants` can run when nothing else does.
    pub fn check(&self, stage: &str, wants: &Resources) -> Result<(), RunError> {
        let asked = [
            ("cpus", u64::from(wants.cpus), u64::from(self.cpus)),
            ("memory_mib", wants.memory_mib, self.memory_mib),
            ("gpus", u64::from(wants.gpus), self.gpus.len() as u64),
        ];
        match asked.into_iter().find(|(_, asked, there)| asked > there) {
            Some((what, asked, there)) => Err(RunError::TooMuch { stage: stage.into(), what, asked, there }),
            None => Ok(()),
        }
    }

    /// Takes what `wants` asks for, if it is free.
    pub fn take(&mut self, wants: &Resources) -> Option<Grant> {
        let cpus = if wants.cpus == 0 { self.cpus } else { wants.cpus };
        let gpus = wants.gpus as usize;
        if cpus > self.free_cpus || wants.memory_mib > self.free_memory_mib || gpus > self.free_gpus.len() {
            return None;
        }
        self.free_cpus -= cpus;
        self.free_memory_mib -= wants.memory_mib;
        Some(Grant { cpus, memory_mib: wants.memory_mib, gpus: self.free_gpus.drain(..gpus).collect() })
    }

    /// Takes `grant` back.
    pub fn give(&mut self, grant: Grant) {
        self.free_cpus += grant.cpus;
        self.free_memory_mib += grant.memory_mib;
        self.free_gpus.extend(grant.gpus);
        // The same devices go out first whatever ran before.
        let place = |gpu: &String| self.gpus.iter().position(|g| g == gpu);
        self.free_gpus.sort_by_key(place);
    }
}

/// Main memory in MiB that this process may use: the machine's, or its control group's if that
/// is less. `None` where the system does not say.
fn memory_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse::<u64>().ok()).map(|bytes| bytes >> 20);
    Some(group.map_or(machine, |limit| limit.min(machine)))
}

/// GPUs: those of CUDA_VISIBLE_DEVICES if it is set, else the NVIDIA devices there are.
fn gpus() -> Vec<String> {
    if let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") {
        // As CUDA does: the first entry that is no device ends the list.
        let entries = visible.split(',').map(str::trim);
        return entries.take_while(|e| !e.is_empty() && *e != "-1" && *e != "NoDevFiles").map(str::to_owned).collect();
    }
    let devices = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut numbers: Vec<u32> =
        devices.filter_map(|e| e.file_name().to_str()?.strip_prefix("nvidia")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(cpus: u32, memory_mib: u64, gpus: u32) -> Resources {
        Resources { cpus, gpus, memory_mib }
    }

    #[test]
    fn what_is_taken_is_not_given_twice() {
        let mut machine = Machine::new(4, 1000, vec!["0".into(), "1".into()]);
        let first = machine.take(&wants(3, 400, 1)).unwrap();
        assert_eq!(first.gpus, ["0"]);
        assert_eq!(machine.take(&wants(2, 0, 0)), None, "too few processors");
        assert_eq!(machine.take(&wants(1, 700, 0)), None, "too little memory");
        assert_eq!(machine.take(&wants(1, 0, 2)), None, "too few GPUs");
        let second = machine.take(&wants(1, 600, 1)).unwrap();
        assert_eq!(second.gpus, ["1"]);
        machine.give(first);
        machine.give(second);
        assert_eq!(machine.take(&wants(4, 1000, 2)).unwrap().gpus, ["0", "1"]);
    }

    #[test]
    fn zero_processors_are_all_of_them() {
        let mut machine = Machine::new(4, 1000, vec![]);
        assert_eq!(machine.take(&wants(0, 0, 0)).unwrap().cpus, 4);
        assert_eq!(machine.take(&wants(1, 0, 0)), None);
    }

    #[test]
    fn asking_for_more_than_there_is_names_what() {
        let machine = Machine::new(4, 1000, vec![]);
        let message = |r| machine.check("train", &r).unwrap_err().to_string();
        assert_eq!(message(wants(5, 0, 0)), "stage `train` asks for 5 cpus, and this machine has 4");
        assert!(message(wants(0, 2000, 0)).contains("2000 memory_mib"));
        assert!(message(wants(0, 0, 1)).contains("1 gpus"));
        assert!(machine.check("train", &wants(4, 1000, 0)).is_ok());
    }

    #[test]
    fn this_machine_has_something() {
        let mut machine = Machine::here();
        assert!(machine.take(&wants(1, 1, 0)).is_some());
    }
}
