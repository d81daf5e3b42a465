//! [`load()`]: an experiment file and everything it names, checked and resolved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use olmo_base::nearest;
use olmo_base::text::quoted;

use crate::compose::experiment;
use crate::compose::layers;
use crate::compose::params::{Layers, ParamSources};
use crate::compose::pipeline;
use crate::compose::setting::{self, Setting};
use crate::document::catalog::{Catalog, root_of};
use crate::graph;
use crate::read::diagnostic::{Diagnostic, Diagnostics};
use crate::read::node::{Content, Node};
use crate::read::reference::{Piece, PortRef, Reference};
use crate::read::source::{Problem, Session, Span, tidy};
use crate::resolve::ports::first_of;
use crate::resolve::resolved::{RESOLVED_FORMAT, Resolved};
use crate::resolve::resolver::Resolver;
use crate::resolve::when;
use crate::sweep::axes;
use crate::sweep::trials::{self, Expanded, Families};

/// Maximum number of reported circles: finding the place of each takes a walk over all references.
const MAX_CIRCLES: usize = 20;

/// How to load an experiment.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// `--profile NAME[,NAME]`: a later one overrides an earlier one. Without it, the experiment's
    /// `default_profile` applies.
    pub profile: Option<String>,
    /// The arguments `PATH=VALUE` of `--set`, in order; a later one overrides an earlier one.
    pub sets: Vec<String>,
    /// The arguments `PATH=[VALUE, …]` of `--sweep`: paths that are added to the sweep's grid, or
    /// replaced in it.
    pub sweeps: Vec<String>,
    /// Ignores the experiment's own sweep.
    pub no_sweep: bool,
    /// Whether to record where each value was written, which takes time.
    pub origins: bool,
    /// The current folder, absolute. FILE and paths in `sets` are relative to it.
    pub cwd: PathBuf,
}

/// A loaded experiment.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub resolved: Resolved,
    /// Path of each value (`params.lr`, `stages.train.with.lr`) → where it was written:
    /// `file:line:column`, `--set`, or `default of stage NAME`. Empty unless requested.
    pub origins: BTreeMap<String, String>,
}

/// Loads and checks the experiment in `file`. `builtin` are the built-in stages: pairs of name
/// and JSON text of an [`olmo_stage::Description`].
///
/// # Errors
/// All errors at once.
pub fn load(file: &Path, options: &LoadOptions, builtin: &[(&str, &str)]) -> Result<Loaded, Diagnostics> {
    let mut catalog = Catalog::builtin(builtin)?;
    let cwd = std::path::absolute(&options.cwd).unwrap_or_else(|_| options.cwd.clone());
    let mut session = Session::default();
    let loaded = read(&mut session, &mut catalog, file, options, &cwd);
    session.finish()?;
    loaded.ok_or_else(|| {
        let message = format!("`{}` cannot be loaded, and the reason was lost; this is a bug", file.display());
        Diagnostics::new(vec![Diagnostic::plain("spec::unreadable", message)])
    })
}

fn read(
    session: &mut Session,
    catalog: &mut Catalog,
    file: &Path,
    options: &LoadOptions,
    cwd: &Path,
) -> Option<Loaded> {
    let shown = file.to_string_lossy().into_owned();
    let path = tidy(&cwd.join(file));
    let number = session.read(&path, shown.clone(), None)?;
    let settings: Vec<Setting> = options.sets.iter().filter_map(|text| setting::read(session, text, cwd)).collect();
    let files = experiment::read(session, number, &path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let root = root_of(folder, cwd);
    if root.to_str().is_none() {
        session.report(Problem::new(
            "spec::unreadable",
            None,
            format!("the path of the project is not UTF-8: {}", root.display()),
        ));
    }
    for file in files.iter().rev() {
        let folder = session.source(file.span.source)?.base.clone();
        catalog.look_up(&folder, &root_of(&folder, cwd));
    }
    let experiment = experiment::merged(&files);
    let uses = experiment.get("uses")?;
    let beside = PathBuf::from(&session.source(uses.span.source)?.shown);
    let beside = beside.parent().unwrap_or(Path::new("")).join(uses.as_str()?);
    let pipeline = pipeline::read(session, catalog, &beside, cwd, Some(uses.span))?;

    let default_profile = default_profile(session, &experiment);
    let profiles = profiles(session, &experiment, options);
    let layers = Layers { experiment: &experiment, profiles, settings: &settings, uses: uses.span };
    let lists: Vec<Setting> = options.sweeps.iter().filter_map(|text| setting::read_list(session, text, cwd)).collect();
    let written = experiment.get("sweep").filter(|_| !options.no_sweep);
    let sweep = axes::read(session, written, &lists, &settings);
    let swept = |name: &str| sweep.as_ref().is_some_and(|sweep| sweep.changes_param(name));
    let mut sources = ParamSources::new(session, &pipeline.params, layers);
    let first = sweep.as_ref().map_or_else(Vec::new, |sweep| sweep.settings(0, 0..sweep.axes.len()));
    if let Some((name, condition)) = default_profile.filter(|_| options.profile.is_none()) {
        let holds = condition.is_none_or(|node| {
            // Problems with the values are reported when the params are read with the profile.
            let params = session.quietly(|session| sources.all(session, &first));
            when::holds(session, &params, &node, &swept)
        });
        if holds {
            sources.use_profile(name);
        }
    }
    let params = sources.all(session, &first);
    let mut stages = layers::stages(session, catalog, &pipeline.node, &files, &settings, cwd);
    let left_out = when::left_out(session, &params, &stages, &swept);
    stages.leave_out(left_out);
    let outputs = layers::outputs(session, &pipeline.node, &files, &settings);
    if let Some(sweep) = &sweep {
        axes::check_targets(session, sweep, &sources, &stages);
    }

    let origins = options.origins.then(BTreeMap::new);
    let mut resolver = Resolver { session, params, stages: &stages, edges: Vec::new(), origins };
    let mut plain = serde_json::Map::new();
    for (name, node) in resolver.params.clone().iter().filter(|(name, _)| !swept(name)) {
        resolver.origin(&format!("params.{name}"), node, None);
        plain.insert(name.to_owned(), node.to_json());
    }
    let mut landing = BTreeMap::new();
    for entry in &outputs {
        if let Some(port) = output(&mut resolver, &entry.value, &entry.key) {
            resolver.origin(&format!("outputs.{}", entry.key), &entry.value, None);
            landing.insert(entry.key.clone(), port);
        }
    }
    let expanded = match &sweep {
        None => {
            let all = stages.all.iter();
            let resolved = all.filter_map(|stage| Some((stage.name.clone(), resolver.stage(stage)?))).collect();
            cycles(resolver.session, stages.names(), &resolver.edges);
            Expanded { stages: resolved, outputs: landing, trials: Vec::new() }
        }
        Some(sweep) => {
            let families = Families::resolve(&mut resolver, &sources, sweep, &settings);
            cycles(resolver.session, stages.names(), &resolver.edges);
            if resolver.session.errors() > 0 {
                return None;
            }
            let order = trials::order(stages.all.len(), resolver.edges.iter().map(|(from, to, _)| (*from, *to)));
            families.expand(&mut resolver, &order, landing)
        }
    };
    let origins = resolver.origins.unwrap_or_default();
    let resolved = Resolved {
        format: RESOLVED_FORMAT,
        experiment: experiment.get("experiment")?.as_str()?.to_owned(),
        profile: (!sources.profiles().is_empty()).then(|| sources.profiles().join(",")),
        source: shown,
        root,
        changed_params: plain.keys().filter(|name| sources.is_set(name)).cloned().collect(),
        params: plain,
        stages: expanded.stages,
        outputs: expanded.outputs,
        trials: expanded.trials,
        left_out: when::reasons(&stages),
        variables: session.variables.clone(),
    };
    Some(Loaded { resolved, origins })
}

/// The default profile, which must exist even if its condition does not hold, and the condition.
fn default_profile(session: &mut Session, experiment: &Node) -> Option<(String, Option<Node>)> {
    let node = experiment.get("default_profile")?;
    let (name, condition) = match &node.content {
        Content::Object(_) => (node.get("profile")?, Some(node.get("when")?.clone())),
        _ => (node, None),
    };
    Some((known_profile(session, experiment, name.as_str()?, name.span)?, condition))
}

/// The profiles that `--profile` names, weakest first.
fn profiles(session: &mut Session, experiment: &Node, options: &LoadOptions) -> Vec<String> {
    let Some(text) = &options.profile else { return Vec::new() };
    let source = session.add("--profile".to_owned(), text.clone(), PathBuf::from("/"));
    let mut start = 0;
    let mut profiles = Vec::new();
    for name in text.split(',') {
        let span = Span { source, start, end: start + name.len() as u32 };
        profiles.extend(known_profile(session, experiment, name, span));
        start += name.len() as u32 + 1;
    }
    profiles
}

/// `name` if there is such a profile. An unknown one is reported at `span`.
fn known_profile(session: &mut Session, experiment: &Node, name: &str, span: Span) -> Option<String> {
    let profiles = experiment.get("profiles").map_or(&[][..], Node::entries);
    if profiles.iter().any(|entry| entry.key == name) {
        return Some(name.to_owned());
    }
    let message = format!("the experiment has no profile {}", quoted(name));
    let help = nearest::help(name, profiles.iter().map(|entry| entry.key.as_str()));
    session.report(Problem::new("spec::unknown_profile", span, message).help(help));
    None
}

/// The port that is exported under a name in `out/`.
fn output(resolver: &mut Resolver<'_>, node: &Node, name: &str) -> Option<PortRef> {
    if let Some(nodes) = first_of(node) {
        let chosen = resolver.first(nodes, node.span, name)?;
        // Null exports nothing.
        return if chosen.is_null() { None } else { output(resolver, &chosen, name) };
    }
    let Content::String(text) = &node.content else { return output_form(resolver, node) };
    let pieces = resolver.pieces(node, text)?;
    let [Piece::Reference(Reference::Port(port), range)] = pieces.as_slice() else {
        return output_form(resolver, node);
    };
    let span = resolver.part(node, range.clone());
    resolver.output(port, span)?;
    Some(port.clone())
}

/// Reports an output of another form if it comes from the command line. Files were checked before.
fn output_form(resolver: &mut Resolver<'_>, node: &Node) -> Option<PortRef> {
    if resolver.session.source(node.span.source).is_some_and(|source| source.shown == "--set") {
        let message = format!("an output is a reference like \"${{stages.STAGE.PORT}}\", not {}", node.described());
        resolver.session.report(Problem::new("spec::bad_reference", node.span, message));
    }
    None
}

/// Reports each circle of stages at the reference that closes it.
fn cycles<'a>(session: &mut Session, names: impl Iterator<Item = &'a str>, edges: &[(usize, usize, Span)]) {
    // In most pipelines every stage reads only stages before it.
    if edges.iter().all(|(from, to, _)| from < to) {
        return;
    }
    let names: Vec<String> = names.map(str::to_owned).collect();
    let pairs = edges.iter().map(|(from, to, _)| (names[*from].as_str(), names[*to].as_str()));
    let circles = graph::cycles(&names, pairs);
    let place = |from: &str, to: &str| {
        edges.iter().find(|(f, t, _)| names[*f] == from && names[*t] == to).map(|(_, _, span)| *span)
    };
    for cycle in circles.iter().take(MAX_CIRCLES) {
        // The last step returns to the first stage: its reference closes the circle.
        let [.., from, to] = cycle.path.as_slice() else { continue };
        let message = format!("stages feed each other in a circle: {cycle}");
        let mut problem =
            Problem::new("spec::cycle", place(from, to), message).label(format!("`{to}` reads `{from}` here"));
        for step in cycle.path.windows(2).take(cycle.path.len().saturating_sub(2)).take(8) {
            if let Some(at) = place(&step[0], &step[1]) {
                problem = problem.note_at(format!("`{}` reads `{}`", step[1], step[0]), Some(at));
            }
        }
        session.report(problem.help("leave out one of these references".to_owned()));
    }
}
