//! [`Provenance`]: the full recipe of an artifact: what the stage that made it was, down to every
//! param and the digest of every input, and in which runs, when, where and with what code it ran.

use std::collections::BTreeMap;

use olmo_base::Digest;
use olmo_stage::PortType;
use serde::Serialize;

use crate::artifacts::error::ReferenceError;
use crate::artifacts::made::RunMade;
use crate::key::KeyRecord;
use crate::run::{self, Environment, Place, Used};
use crate::store::{Output, Store};

/// The full recipe of an artifact.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Provenance {
    pub artifact: Digest,
    #[serde(rename = "type")]
    pub artifact_type: PortType,
    pub bytes: u64,
    /// The stages that made it; none for a source, or if the store has forgotten it.
    pub makers: Vec<Maker>,
}

/// A finished stage that made an artifact.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Maker {
    pub key: Digest,
    /// The port that the artifact came out of.
    pub port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Everything that can change the result: stage, version, params, inputs, backend, precision.
    pub record: KeyRecord,
    /// When and where it ran. None: its run's record is gone, or it came in from another store.
    pub makings: Vec<Making>,
}

/// One time that a stage ran to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Making {
    pub run: String,
    pub experiment: String,
    pub place: Place,
    pub attempt: Option<u32>,
    /// Milliseconds since 1970.
    pub started_ms: Option<u64>,
    pub finished_ms: u64,
    pub used: Option<Used>,
    /// `None`: the engine was killed before it had noted it.
    pub environment: Option<Environment>,
}

/// When each key was carried out, from the records of all runs.
pub(super) struct Makings(BTreeMap<Digest, Vec<Making>>);

impl Makings {
    pub fn read(store: &Store) -> Result<Self, ReferenceError> {
        let mut makings: BTreeMap<Digest, Vec<Making>> = BTreeMap::new();
        for made in RunMade::all(store)? {
            let environments = Environment::read(&run::folder(store, &made.state.id)).unwrap_or_default();
            for piece in made.pieces {
                let (Some(key), Some(finished_ms)) = (piece.key, piece.finished_ms) else { continue };
                let started = piece.started_ms.unwrap_or(finished_ms);
                let environment = environments.iter().rev().find(|e| e.at <= started).or(environments.first());
                makings.entry(key).or_default().push(Making {
                    run: made.state.id.to_string(),
                    experiment: made.state.experiment.clone(),
                    place: piece.place,
                    attempt: piece.attempt,
                    started_ms: piece.started_ms,
                    finished_ms,
                    used: piece.used,
                    environment: environment.cloned(),
                });
            }
        }
        Ok(Self(makings))
    }

    /// The first one first.
    pub fn of(&self, key: Digest) -> &[Making] {
        self.0.get(&key).map(Vec::as_slice).unwrap_or_default()
    }
}

impl Provenance {
    /// Reads the recipe of `artifact`.
    pub fn of(store: &Store, artifact: Digest) -> Result<Self, ReferenceError> {
        let manifest = store.manifest(artifact)?;
        let makings = Makings::read(store)?;
        let mut makers = Vec::new();
        for key in store.action_keys()? {
            let Some(action) = store.recorded_action(key) else { continue };
            let place = action.outputs.iter().find_map(|(port, output)| match output {
                Output::Single(digest) => (*digest == artifact).then(|| (port.clone(), None)),
                Output::List(items) => {
                    let item = items.iter().find(|item| item.digest == artifact)?;
                    Some((port.clone(), Some(item.label.clone())))
                }
            });
            let Some((port, label)) = place else { continue };
            makers.push(Maker { key, port, label, record: action.key, makings: makings.of(key).to_vec() });
        }
        // The one that ran first made it; the others only gave the same bytes.
        let first = |maker: &Maker| maker.makings.first().map_or(u64::MAX, |m| m.finished_ms);
        makers.sort_by_key(|maker| (first(maker), maker.key));
        let (artifact_type, bytes) = (manifest.artifact_type, manifest.bytes());
        Ok(Self { artifact, artifact_type, bytes, makers })
    }
}

/// `2026-01-31T23:59:59.123Z`, from milliseconds since 1970.
pub(super) fn time(ms: u64) -> String {
    let seconds = olmo_base::units::utc(ms / 1000);
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), ms % 1000)
}
