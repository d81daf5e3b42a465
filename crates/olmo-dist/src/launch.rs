//! [`Launch`]: what the launcher of this process says about its rank in the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::DistError;
use crate::rendezvous::{Join, Limits, Rendezvous, Secret};
use crate::world::World;

/// Which launcher started this rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    OlmoPipe,
    Torchrun,
    Srun,
}

/// How this process was started.
#[derive(Clone, Debug)]
pub struct Launch {
    pub launcher: Launcher,
    pub world: World,
    /// Where the ranks meet, if the launcher says so.
    pub rendezvous: Option<Rendezvous>,
    pub secret: Option<Secret>,
    /// The name or the address of the network interface to listen on.
    pub interface: Option<String>,
    pub limits: Limits,
}

/// The variables that each launcher sets: rank, size, local rank, local size.
const OURS: [&str; 4] =
    ["OLMO_PIPE_RANK", "OLMO_PIPE_WORLD_SIZE", "OLMO_PIPE_LOCAL_RANK", "OLMO_PIPE_LOCAL_WORLD_SIZE"];
const TORCHRUN: [&str; 4] = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"];

impl Launch {
    /// Reads the environment. `None` if no launcher started this process.
    ///
    /// | launcher | variables |
    /// |---|---|
    /// | ours | `OLMO_PIPE_RANK`, `_WORLD_SIZE`, `_LOCAL_RANK`, `_LOCAL_WORLD_SIZE` |
    /// | `torchrun` | `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT` |
    /// | `srun` | `SLURM_PROCID`, `SLURM_NTASKS`, `SLURM_LOCALID`, `SLURM_NODEID`, `SLURM_TASKS_PER_NODE` |
    ///
    /// The first launcher of this list that has set its variables counts, because `srun` may start
    /// `torchrun`. These variables are read whatever the launcher is:
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `OLMO_PIPE_RENDEZVOUS` | where the ranks meet: an absolute folder, or `HOST:PORT`; replaces `MASTER_ADDR` |
    /// | `OLMO_PIPE_RANK_SECRET` | the secret of the run |
    /// | `OLMO_PIPE_INTERFACE` | the network interface to listen on, by name or address |
    /// | `OLMO_PIPE_RANK_JOIN_S`, `_DEAD_S`, `_LATE_S` | the [`Limits`], in seconds |
    ///
    /// # Errors
    /// All problems of an environment that is incomplete or contradictory.
    pub fn from_env() -> Result<Option<Self>, DistError> {
        Self::read(&|name| std::env::var(name).ok())
    }

    /// Like [`Launch::from_env`], with the variables from `get`.
    ///
    /// # Errors
    /// As for [`Launch::from_env`].
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, DistError> {
        let mut reader = Reader { get, problems: Vec::new() };
        let ours = reader.world(OURS);
        let torchrun = reader.world(TORCHRUN);
        // srun sets SLURM_STEP_ID for what it starts. A batch script has the other variables, too,
        // although it is no rank.
        let srun = if reader.get("SLURM_STEP_ID").is_some() { reader.srun() } else { None };
        if let (Some(ours), Some(torchrun)) = (ours, torchrun)
            && (ours.rank, ours.size) != (torchrun.rank, torchrun.size)
        {
            let problem = format!(
                "OLMO_PIPE_RANK says rank {} of {}, but RANK says rank {} of {}",
                ours.rank, ours.size, torchrun.rank, torchrun.size
            );
            reader.problems.push(problem);
        }
        let launchers = [(ours, Launcher::OlmoPipe), (torchrun, Launcher::Torchrun), (srun, Launcher::Srun)];
        let found = launchers.into_iter().find_map(|(world, launcher)| Some((world?, launcher)));
        let rendezvous = if found.is_some() { reader.rendezvous() } else { None };
        let secret = reader.get("OLMO_PIPE_RANK_SECRET").map(|secret| Secret::new(secret.as_bytes()));
        let interface = reader.get("OLMO_PIPE_INTERFACE");
        let limits = if found.is_some() { reader.limits() } else { Limits::default() };
        if !reader.problems.is_empty() {
            return Err(DistError::Environment { problems: reader.problems });
        }
        Ok(found.map(|(world, launcher)| Self { launcher, world, rendezvous, secret, interface, limits }))
    }

    /// What this rank needs to join the others, who must have the same `facts`.
    ///
    /// # Errors
    /// The environment has no secret or no place to meet.
    pub fn join(&self, facts: BTreeMap<String, String>) -> Result<Join, DistError> {
        let (world, interface, limits) = (self.world, self.interface.clone(), self.limits);
        if let (Some(rendezvous), Some(secret)) = (self.rendezvous.clone(), self.secret.clone()) {
            return Ok(Join { world, rendezvous, secret, facts, interface, limits });
        }
        let mut problems = Vec::new();
        if self.rendezvous.is_none() {
            let names = "neither OLMO_PIPE_RENDEZVOUS nor MASTER_ADDR is set";
            problems.push(format!("{names}: the {} ranks need a folder or an address to meet", world.size));
        }
        if self.secret.is_none() {
            let how = "set it to the same random text on all ranks (`openssl rand -hex 32`)";
            problems.push(format!("OLMO_PIPE_RANK_SECRET is not set: {how}"));
        }
        Err(DistError::Environment { problems })
    }
}

struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.get)(name).filter(|value| !value.is_empty())
    }

    fn number(&mut self, name: &str) -> Option<usize> {
        let value = self.get(name)?;
        let number = value.parse().ok();
        if number.is_none() {
            self.problems.push(format!("{name} is {}, not a number", olmo_base::text::quoted(&value)));
        }
        number
    }

    /// Reads four variables that are set together: rank, size, local rank, local size.
    fn world(&mut self, names: [&str; 4]) -> Option<World> {
        let missing: Vec<&str> = names.into_iter().filter(|name| self.get(name).is_none()).collect();
        if missing.len() == names.len() {
            return None;
        }
        let set: Vec<&str> = names.into_iter().filter(|name| !missing.contains(name)).collect();
        if !missing.is_empty() {
            self.problems.push(format!("{} is set, but {} is not", set.join(", "), missing.join(", ")));
        }
        let [rank, size, local_rank, local_size] = names.map(|name| self.number(name));
        self.check(names, World { rank: rank?, size: size?, local_rank: local_rank?, local_size: local_size? })
    }

    fn check(&mut self, names: [&str; 4], world: World) -> Option<World> {
        let before = self.problems.len();
        let World { rank, size, local_rank, local_size } = world;
        for (index, rank, size) in [(0, rank, size), (2, local_rank, local_size)] {
            if rank >= size {
                let problem = format!("{} is {rank}, but {} is {size}", names[index], names[index + 1]);
                self.problems.push(format!("{problem}: ranks are numbered from 0"));
            }
        }
        if local_size > size {
            self.problems.push(format!("{} is {local_size}, more than {} ({size})", names[3], names[1]));
        }
        (self.problems.len() == before).then_some(world)
    }

    fn srun(&mut self) -> Option<World> {
        let first_set = |names: [&'static str; 2]| names.into_iter().find(|name| self.get(name).is_some());
        let size_name = first_set(["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"]).unwrap_or("SLURM_NTASKS");
        let tasks_name =
            first_set(["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"]).unwrap_or("SLURM_TASKS_PER_NODE");
        let names = ["SLURM_PROCID", size_name, "SLURM_LOCALID", tasks_name];
        for name in names.into_iter().chain(["SLURM_NODEID"]) {
            if self.get(name).is_none() {
                self.problems.push(format!("SLURM_STEP_ID is set, but {name} is not"));
            }
        }
        let [rank, size, local_rank] = ["SLURM_PROCID", size_name, "SLURM_LOCALID"].map(|name| self.number(name));
        let node = self.number("SLURM_NODEID")?;
        let tasks = self.get(tasks_name)?;
        let Some(local_size) = tasks_on_node(&tasks, node) else {
            self.problems.push(format!("{tasks_name} is `{tasks}`, which has no number for node {node}"));
            return None;
        };
        self.check(names, World { rank: rank?, size: size?, local_rank: local_rank?, local_size })
    }

    fn limits(&mut self) -> Limits {
        let default = Limits::default();
        let mut limit = |name: &str, default: Duration| match self.number(name) {
            Some(0) => {
                self.problems.push(format!("{name} is 0: it must be at least 1 second"));
                default
            }
            Some(seconds) => Duration::from_secs(seconds as u64),
            None => default,
        };
        Limits {
            join: limit("OLMO_PIPE_RANK_JOIN_S", default.join),
            dead: limit("OLMO_PIPE_RANK_DEAD_S", default.dead),
            late: limit("OLMO_PIPE_RANK_LATE_S", default.late),
        }
    }

    fn rendezvous(&mut self) -> Option<Rendezvous> {
        if let Some(place) = self.get("OLMO_PIPE_RENDEZVOUS") {
            if place.starts_with('/') {
                return Some(Rendezvous::Folder(PathBuf::from(place)));
            }
            if place.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
                self.problems
                    .push(format!("OLMO_PIPE_RENDEZVOUS is `{place}`, neither an absolute path nor HOST:PORT"));
            }
            return Some(Rendezvous::Address(place));
        }
        match (self.get("MASTER_ADDR"), self.number("MASTER_PORT")) {
            (Some(host), Some(port)) => {
                // torchrun itself listens on this port if its agent keeps the store.
                let is_taken = self.get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
                let port = port + usize::from(is_taken);
                if port > usize::from(u16::MAX) {
                    self.problems.push(format!("MASTER_PORT leads to the port {port}, which does not exist"));
                }
                let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
                Some(Rendezvous::Address(format!("{host}:{port}")))
            }
            (Some(_), None) => {
                self.problems.push("MASTER_ADDR is set, but MASTER_PORT is not".into());
                None
            }
            (None, Some(_)) => {
                self.problems.push("MASTER_PORT is set, but MASTER_ADDR is not".into());
                None
            }
            (None, None) => None,
        }
    }
}

/// The number of tasks on node `node`, from Slurm's list of counts: `2(x3),1` is 2, 2, 2, 1.
fn tasks_on_node(list: &str, node: usize) -> Option<usize> {
    let mut first = 0usize;
    for entry in list.split(',') {
        let (count, times) = match entry.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')')?.parse().ok()?),
            None => (entry, 1usize),
        };
        first = first.checked_add(times)?;
        if node < first {
            return count.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Launch>, String> {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Launch::read(&get).map_err(|error| error.to_string())
    }

    const TORCHRUN: [(&str, &str); 6] = [
        ("RANK", "3"),
        ("WORLD_SIZE", "8"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("MASTER_ADDR", "node1"),
        ("MASTER_PORT", "29500"),
    ];

    #[test]
    fn each_launcher_is_understood() {
        assert!(read(&[]).unwrap().is_none());
        let launch = read(&TORCHRUN).unwrap().unwrap();
        assert_eq!(launch.launcher, Launcher::Torchrun);
        assert_eq!(launch.world, World { rank: 3, size: 8, local_rank: 1, local_size: 2 });
        assert_eq!(launch.rendezvous, Some(Rendezvous::Address("node1:29500".into())));
        let agent = [&TORCHRUN[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat();
        assert_eq!(read(&agent).unwrap().unwrap().rendezvous, Some(Rendezvous::Address("node1:29501".into())));

        let slurm = [
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "6"),
            ("SLURM_NTASKS", "7"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_NODEID", "3"),
            ("SLURM_TASKS_PER_NODE", "2(x3),1"),
        ];
        let launch = read(&slurm).unwrap().unwrap();
        assert_eq!(launch.launcher, Launcher::Srun);
        assert_eq!(launch.world, World { rank: 6, size: 7, local_rank: 0, local_size: 1 });
        let error = launch.join(BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("OLMO_PIPE_RENDEZVOUS nor") && error.contains("RANK_SECRET is not set"), "{error}");
        // A batch script is no rank.
        assert!(read(&slurm[1..]).unwrap().is_none());
        // torchrun under srun, and our variables.
        assert_eq!(read(&[&slurm[..], &TORCHRUN].concat()).unwrap().unwrap().world.size, 8);
        let ours = [
            ("OLMO_PIPE_RANK", "0"),
            ("OLMO_PIPE_WORLD_SIZE", "2"),
            ("OLMO_PIPE_LOCAL_RANK", "0"),
            ("OLMO_PIPE_LOCAL_WORLD_SIZE", "2"),
            ("OLMO_PIPE_RENDEZVOUS", "/attempt/ranks"),
            ("OLMO_PIPE_RANK_SECRET", "s"),
        ];
        let launch = read(&[&ours[..], &slurm].concat()).unwrap().unwrap();
        assert_eq!((launch.launcher, launch.world.size), (Launcher::OlmoPipe, 2));
        assert_eq!(launch.rendezvous, Some(Rendezvous::Folder("/attempt/ranks".into())));
        assert!(launch.join(BTreeMap::new()).is_ok());
        let launch = read(&[&ours[..], &[("OLMO_PIPE_RANK_LATE_S", "7")]].concat()).unwrap().unwrap();
        assert_eq!((launch.limits.late, launch.limits.dead), (Duration::from_secs(7), Limits::default().dead));
        assert!(read(&[&ours[..], &[("OLMO_PIPE_RANK_DEAD_S", "0")]].concat()).unwrap_err().contains("at least 1"));
    }

    #[test]
    fn incomplete_and_contradictory_environments_are_refused() {
        let error = |variables: &[(&str, &str)]| read(variables).unwrap_err();
        assert!(error(&TORCHRUN[..2]).contains("RANK, WORLD_SIZE is set, but LOCAL_RANK, LOCAL_WORLD_SIZE is not"));
        assert!(error(&TORCHRUN[..5]).contains("MASTER_ADDR is set, but MASTER_PORT is not"));
        let mut wrong = TORCHRUN;
        wrong[0].1 = "8";
        wrong[3].1 = "9";
        let both = error(&wrong);
        assert!(
            both.contains("RANK is 8, but WORLD_SIZE is 8") && both.contains("is 9, more than WORLD_SIZE"),
            "{both}"
        );
        wrong[0].1 = "three";
        assert!(error(&wrong).contains("RANK is `three`, not a number"));
        let ours = [
            ("OLMO_PIPE_RANK", "0"),
            ("OLMO_PIPE_WORLD_SIZE", "8"),
            ("OLMO_PIPE_LOCAL_RANK", "0"),
            ("OLMO_PIPE_LOCAL_WORLD_SIZE", "2"),
        ];
        assert!(error(&[&ours[..], &TORCHRUN].concat()).contains("rank 0 of 8, but RANK says rank 3 of 8"));
        assert!(error(&[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0")]).contains("SLURM_LOCALID is not"));
    }

    #[test]
    fn slurm_lists_of_counts_are_read() {
        let counts: Vec<_> = (0..6).map(|node| tasks_on_node("2(x3),1,4", node)).collect();
        assert_eq!(counts, [Some(2), Some(2), Some(2), Some(1), Some(4), None]);
        assert_eq!(tasks_on_node("2(x", 0), None);
        assert_eq!(tasks_on_node("x", 0), None);
    }
}
