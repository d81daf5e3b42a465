//! [`load()`]: an experiment file and everything it names, checked and resolved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::catalog::{Catalog, root_of};
use super::check::{Subject, check};
use super::diagnostic::{Diagnostic, Diagnostics, quoted};
use super::layers;
use super::nearest;
use super::node::{Content, Node};
use super::ordered::OrderedMap;
use super::params::{self, Layers};
use super::pipeline::{self, with_article};
use super::reference::{Piece, Reference};
use super::resolve::Resolver;
use super::resolved::{PortRef, RESOLVED_FORMAT, Resolved};
use super::setting::{self, Setting};
use super::source::{Problem, Session, Span, tidy};
use super::{schema, yaml};
use crate::graph;

/// How to load an experiment.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// `--profile NAME`; the experiment's `default_profile` if none.
    pub profile: Option<String>,
    /// The arguments `PATH=VALUE` of `--set`, in order; a later one goes before an earlier one.
    pub sets: Vec<String>,
    /// Whether [`Loaded::origins`] is wanted.
    pub origins: bool,
    /// The current folder, absolute: what FILE and paths in `sets` are relative to.
    pub cwd: PathBuf,
}

/// An experiment as loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub resolved: Resolved,
    /// Path of each value (`params.lr`, `stages.train.with.lr`) → where it was written:
    /// `file:line:column`, `--set`, or `default of stage NAME`. Empty if not asked for.
    pub origins: BTreeMap<String, String>,
}

/// Loads and checks the experiment in `file`. `builtin` are the built-in stages: pairs of name
/// and JSON text of an [`olmo_stage::Description`].
///
/// # Errors
/// Everything that is wrong, all at once.
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
    let experiment = yaml::read(session, number)?;
    if not_an_experiment(session, &experiment) {
        return None;
    }
    check(session, &schema::experiment(), &experiment, Subject { path: "", params_of: None });

    let folder = path.parent().unwrap_or(Path::new("/"));
    let root = root_of(folder, cwd);
    if root.to_str().is_none() {
        session.report(Problem::new(
            "spec::unreadable",
            None,
            format!("the path of the project is not UTF-8: {}", root.display()),
        ));
    }
    catalog.look_up(folder, &root);
    let uses = experiment.get("uses")?;
    let beside = file.parent().unwrap_or(Path::new(""));
    let pipeline = pipeline::read(session, catalog, &beside.join(uses.as_str()?), cwd, Some(uses.span))?;

    let profile = profile(session, &experiment, options);
    let layers = Layers { experiment: &experiment, profile: profile.as_deref(), settings: &settings, uses: uses.span };
    let params = params::compute(session, &pipeline.params, &layers);
    let stages = layers::stages(session, catalog, &pipeline.node, &experiment, &settings, cwd);
    let outputs = layers::outputs(session, &pipeline.node, &experiment, &settings);

    let mut resolver = Resolver {
        session,
        params: &params,
        stages: &stages,
        edges: Vec::new(),
        origins: options.origins.then(BTreeMap::new),
    };
    for (name, node) in params.iter() {
        resolver.origin(&format!("params.{name}"), node, None);
    }
    let resolved: OrderedMap<_> =
        stages.all.iter().filter_map(|stage| Some((stage.name.clone(), resolver.stage(stage)?))).collect();
    let mut landing = BTreeMap::new();
    for entry in &outputs {
        if let Some(port) = output(&mut resolver, &entry.value) {
            resolver.origin(&format!("outputs.{}", entry.key), &entry.value, None);
            landing.insert(entry.key.clone(), port);
        }
    }
    let (edges, origins) = (resolver.edges, resolver.origins.unwrap_or_default());
    cycles(session, stages.names(), &edges);
    let resolved = Resolved {
        format: RESOLVED_FORMAT,
        experiment: experiment.get("experiment")?.as_str()?.to_owned(),
        profile,
        source: shown,
        root,
        params: params.to_json(),
        stages: resolved,
        outputs: landing,
    };
    Some(Loaded { resolved, origins })
}

/// Reports a file of another kind: its many unknown keys would say nothing.
fn not_an_experiment(session: &mut Session, node: &Node) -> bool {
    if node.get("experiment").is_some() {
        return false;
    }
    let Some(other) = ["pipeline", "stage"].into_iter().find_map(|key| node.entry(key)) else { return false };
    let message = format!("an experiment is expected here; this is {}", with_article(&other.key));
    let help = "write an experiment with `experiment: NAME` and `uses:` this pipeline".to_owned();
    let problem = Problem::new("spec::not_an_experiment", other.key_span, message);
    session.report(if other.key == "pipeline" { problem.help(help) } else { problem });
    true
}

/// The profile in force: the one asked for, else the default one, which must exist in any case.
fn profile(session: &mut Session, experiment: &Node, options: &LoadOptions) -> Option<String> {
    let node = experiment.get("default_profile");
    let default = node.and_then(|node| known_profile(session, experiment, node.as_str()?, node.span));
    let Some(name) = &options.profile else { return default };
    let source = session.add("--profile".to_owned(), name.clone(), PathBuf::from("/"));
    known_profile(session, experiment, name, Span { source, start: 0, end: name.len() as u32 })
}

/// `name` if there is such a profile; one that is not is reported at `span`.
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

/// The port that lands under a name in `out/`.
fn output(resolver: &mut Resolver<'_>, node: &Node) -> Option<PortRef> {
    let Content::String(text) = &node.content else { return output_form(resolver, node) };
    let pieces = resolver.pieces(node, text)?;
    let [Piece::Reference(Reference::Port(port), range)] = pieces.as_slice() else {
        return output_form(resolver, node);
    };
    let span = resolver.part(node, range.clone());
    resolver.output(port, span)?;
    Some(port.clone())
}

/// Reports an output of another form, if it comes from the command line: files were checked.
fn output_form(resolver: &mut Resolver<'_>, node: &Node) -> Option<PortRef> {
    if resolver.session.source(node.span.source).is_some_and(|source| source.shown == "--set") {
        let message = format!("an output is a reference like \"${{stages.STAGE.PORT}}\", not {}", node.described());
        resolver.session.report(Problem::new("spec::bad_reference", node.span, message));
    }
    None
}

/// Reports each circle of stages at the reference that closes it.
fn cycles<'a>(session: &mut Session, names: impl Iterator<Item = &'a str>, edges: &[(String, String, Span)]) {
    let names: Vec<String> = names.map(str::to_owned).collect();
    let pairs = edges.iter().map(|(from, to, _)| (from.as_str(), to.as_str()));
    for cycle in graph::cycles(&names, pairs) {
        // The last step comes back to the first stage: the reference that stands there closes the circle.
        let [.., from, to] = cycle.path.as_slice() else { continue };
        let span = edges.iter().find(|(f, t, _)| f == from && t == to).map(|(_, _, span)| *span);
        let message = format!("stages feed each other in a circle: {cycle}");
        let mut problem = Problem::new("spec::cycle", span, message).label(format!("`{to}` reads `{from}` here"));
        for step in cycle.path.windows(2).take(cycle.path.len().saturating_sub(2)).take(8) {
            if let Some((from, to, at)) = edges.iter().find(|(f, t, _)| *f == step[0] && *t == step[1]) {
                problem = problem.note_at(format!("`{to}` reads `{from}`"), Some(*at));
            }
        }
        session.report(problem.help("leave out one of these references".to_owned()));
    }
}
