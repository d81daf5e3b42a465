//! The stages of a resolved experiment as a directed graph without cycles.
//!
//! An edge leads from the stage that makes an artifact to the stage that reads it. All walks are
//! loops, never recursion, so that a chain of a hundred thousand stages cannot overflow the stack.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::fmt::{self, Write as _};

use petgraph::Direction;
use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

/// Stages that feed each other in a circle. The first is repeated at the end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Cycle {
    pub path: Vec<String>,
}

impl fmt::Display for Cycle {
    /// `a -> b -> a`: each stage feeds the next. A long circle is shortened in the middle.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        if self.path.len() <= SHOWN {
            return f.write_str(&self.path.join(" -> "));
        }
        let (start, end) = (&self.path[..SHOWN / 2], &self.path[self.path.len() - SHOWN / 2..]);
        write!(f, "{} -> … -> {}", start.join(" -> "), end.join(" -> "))
    }
}

/// Why stages cannot be ordered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    #[error("stages feed each other in a circle: {0}")]
    Cycle(Cycle),
    #[error("stage `{reader}` reads `{missing}`, which is no stage")]
    UnknownStage { reader: String, missing: String },
}

/// Stages and the edges between them.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Node weights are names; a node's index is the stage's place in the pipeline.
    inner: DiGraph<String, String>,
    places: HashMap<String, NodeIndex>,
}

impl Graph {
    /// The graph of stages `names` and edges (producer, reader, label).
    pub(crate) fn of<'a>(
        names: &[String],
        edges: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
    ) -> Result<Self, GraphError> {
        let mut inner = DiGraph::with_capacity(names.len(), names.len());
        let places: HashMap<String, NodeIndex> =
            names.iter().map(|name| (name.clone(), inner.add_node(name.clone()))).collect();
        for (from, to, label) in edges {
            let unknown =
                |missing: &str| GraphError::UnknownStage { reader: to.to_owned(), missing: missing.to_owned() };
            let (Some(&from), Some(&to)) = (places.get(from), places.get(to)) else { return Err(unknown(from)) };
            inner.add_edge(from, to, label.to_owned());
        }
        match circles(&inner).into_iter().next() {
            Some(cycle) => Err(GraphError::Cycle(cycle)),
            None => Ok(Self { inner, places }),
        }
    }

    /// The stages in an order in which each follows all stages that it reads. Ties are broken by the
    /// order of the pipeline.
    pub fn order(&self) -> Vec<&str> {
        let mut waiting: Vec<usize> =
            self.inner.node_indices().map(|n| self.inner.edges_directed(n, Direction::Incoming).count()).collect();
        let mut ready: BinaryHeap<Reverse<NodeIndex>> =
            self.inner.node_indices().filter(|n| waiting[n.index()] == 0).map(Reverse).collect();
        let mut order = Vec::with_capacity(waiting.len());
        while let Some(Reverse(node)) = ready.pop() {
            order.push(self.inner[node].as_str());
            for next in self.inner.neighbors(node) {
                waiting[next.index()] -= 1;
                if waiting[next.index()] == 0 {
                    ready.push(Reverse(next));
                }
            }
        }
        order
    }

    /// The stages that `stage` reads, in the pipeline's order; none if there is no such stage.
    pub fn dependencies(&self, stage: &str) -> Vec<&str> {
        self.near(stage, Direction::Incoming)
    }

    /// The stages that read `stage`, in the pipeline's order; none if there is no such stage.
    pub fn dependants(&self, stage: &str) -> Vec<&str> {
        self.near(stage, Direction::Outgoing)
    }

    /// All stages that `stage` needs, directly or not, in the pipeline's order, without itself.
    pub fn all_dependencies(&self, stage: &str) -> Vec<&str> {
        self.far(stage, Direction::Incoming)
    }

    /// All stages that need `stage`, directly or not, in the pipeline's order, without itself.
    pub fn all_dependants(&self, stage: &str) -> Vec<&str> {
        self.far(stage, Direction::Outgoing)
    }

    fn near(&self, stage: &str, direction: Direction) -> Vec<&str> {
        let Some(&node) = self.places.get(stage) else { return Vec::new() };
        let near: BTreeSet<NodeIndex> = self.inner.neighbors_directed(node, direction).collect();
        near.into_iter().map(|n| self.inner[n].as_str()).collect()
    }

    fn far(&self, stage: &str, direction: Direction) -> Vec<&str> {
        let Some(&start) = self.places.get(stage) else { return Vec::new() };
        let mut seen = BTreeSet::new();
        let mut open = vec![start];
        while let Some(node) = open.pop() {
            open.extend(self.inner.neighbors_directed(node, direction).filter(|&next| seen.insert(next)));
        }
        seen.into_iter().map(|n| self.inner[n].as_str()).collect()
    }

    /// The graph in Graphviz's DOT language, one edge for each artifact that is read.
    pub fn to_dot(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut out = String::from("digraph pipeline {\n  rankdir=LR;\n  node [shape=box];\n");
        for node in self.inner.node_weights() {
            // Writing to a string does not fail.
            let _ = writeln!(out, "  {};", quoted(node));
        }
        let mut lines: Vec<_> = self.inner.edge_references_sorted();
        lines.dedup();
        for (from, to, label) in lines {
            let (from, to) = (&self.inner[from], &self.inner[to]);
            let _ = writeln!(out, "  {} -> {} [label={}];", quoted(from), quoted(to), quoted(label));
        }
        out.push_str("}\n");
        out
    }
}

/// Edges in an order that does not depend on how they were added.
trait SortedEdges {
    fn edge_references_sorted(&self) -> Vec<(NodeIndex, NodeIndex, &str)>;
}

impl SortedEdges for DiGraph<String, String> {
    fn edge_references_sorted(&self) -> Vec<(NodeIndex, NodeIndex, &str)> {
        let mut edges: Vec<_> =
            self.raw_edges().iter().map(|edge| (edge.source(), edge.target(), edge.weight.as_str())).collect();
        edges.sort_unstable();
        edges
    }
}

/// The circles among stages `names` with `edges` (producer, reader): for each group of stages that
/// all feed each other, the shortest circle through its first stage. Unknown names are ignored.
pub fn cycles<'a>(names: &[String], edges: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Cycle> {
    let mut inner = DiGraph::new();
    let places: HashMap<&str, NodeIndex> =
        names.iter().map(|name| (name.as_str(), inner.add_node(name.clone()))).collect();
    for (from, to) in edges {
        if let (Some(&from), Some(&to)) = (places.get(from), places.get(to)) {
            inner.add_edge(from, to, String::new());
        }
    }
    circles(&inner)
}

fn circles(graph: &DiGraph<String, String>) -> Vec<Cycle> {
    let mut groups: Vec<BTreeSet<NodeIndex>> =
        kosaraju_scc(graph).into_iter().map(|group| group.into_iter().collect()).collect();
    groups.sort();
    let circle = |group: &BTreeSet<NodeIndex>| {
        let start = *group.first()?;
        if group.len() == 1 && !graph.contains_edge(start, start) {
            return None;
        }
        shortest_circle(graph, group, start)
    };
    groups.iter().filter_map(circle).collect()
}

/// The shortest path from `start` to itself inside `group`.
fn shortest_circle(graph: &DiGraph<String, String>, group: &BTreeSet<NodeIndex>, start: NodeIndex) -> Option<Cycle> {
    let mut came_from: HashMap<NodeIndex, NodeIndex> = HashMap::new();
    let mut open = VecDeque::from([start]);
    while let Some(node) = open.pop_front() {
        let next: BTreeSet<NodeIndex> = graph.neighbors(node).filter(|n| group.contains(n)).collect();
        if next.contains(&start) {
            let mut path = vec![graph[start].clone(), graph[node].clone()];
            let mut at = node;
            while at != start {
                at = *came_from.get(&at)?;
                path.push(graph[at].clone());
            }
            path.reverse();
            // A stage that feeds itself has already been pushed twice.
            if node == start {
                path.truncate(2);
            }
            return Some(Cycle { path });
        }
        for other in next {
            if other != start && !came_from.contains_key(&other) {
                came_from.insert(other, node);
                open.push_back(other);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|&name| name.to_owned()).collect()
    }

    fn graph(all: &[&str], edges: &[(&str, &str)]) -> Graph {
        Graph::of(&names(all), edges.iter().map(|&(from, to)| (from, to, "x"))).unwrap()
    }

    fn shown(all: &[&str], edges: &[(&str, &str)]) -> Vec<String> {
        cycles(&names(all), edges.iter().copied()).iter().map(Cycle::to_string).collect()
    }

    #[test]
    fn a_stage_comes_after_all_it_reads_and_else_in_the_pipelines_order() {
        let graph = graph(&["e", "d", "c", "b", "a"], &[("a", "e"), ("b", "d"), ("a", "d"), ("c", "a")]);
        assert_eq!(graph.order(), ["c", "b", "a", "e", "d"]);
    }

    #[test]
    fn neighbours_are_found_near_and_far() {
        let graph = graph(&["a", "b", "c", "d", "e"], &[("a", "b"), ("b", "c"), ("a", "c"), ("d", "c"), ("a", "b")]);
        assert_eq!(graph.dependencies("c"), ["a", "b", "d"]);
        assert_eq!(graph.dependants("a"), ["b", "c"]);
        assert_eq!(graph.all_dependencies("c"), ["a", "b", "d"]);
        assert_eq!(graph.all_dependants("a"), ["b", "c"]);
        assert!(graph.all_dependants("e").is_empty() && graph.dependencies("nobody").is_empty());
    }

    #[test]
    fn a_circle_is_named_by_its_way() {
        assert_eq!(shown(&["a", "b", "c"], &[("a", "b"), ("b", "a"), ("b", "c")]), ["a -> b -> a"]);
        assert_eq!(shown(&["a"], &[("a", "a")]), ["a -> a"]);
        assert_eq!(shown(&["a", "b", "c"], &[("a", "b"), ("b", "c"), ("c", "a"), ("c", "b")]), ["a -> b -> c -> a"]);
        assert_eq!(
            shown(&["a", "b", "c", "d"], &[("d", "c"), ("c", "d"), ("b", "a"), ("a", "b")]),
            ["a -> b -> a", "c -> d -> c"]
        );
        assert!(shown(&["a", "b"], &[("a", "b"), ("zzz", "a")]).is_empty());
    }

    #[test]
    fn an_edge_to_nowhere_is_an_error() {
        let error = Graph::of(&names(&["a"]), [("b", "a", "x")].into_iter()).unwrap_err();
        assert_eq!(error.to_string(), "stage `a` reads `b`, which is no stage");
    }

    #[test]
    fn a_chain_of_a_hundred_thousand_stages_does_not_overflow_a_small_stack() {
        let test = || {
            let all: Vec<String> = (0..100_000).map(|i| format!("s{i}")).collect();
            // Against the pipeline's order, so that nothing is in place by luck.
            let edges = || all.windows(2).map(|pair| (pair[1].as_str(), pair[0].as_str()));
            let graph = Graph::of(&all, edges().map(|(from, to)| (from, to, "x"))).unwrap();
            assert_eq!(graph.order().first(), Some(&"s99999"));
            assert_eq!(graph.all_dependencies("s0").len(), 99_999);
            let closed = cycles(&all, edges().chain([("s0", "s99999")]));
            assert_eq!(closed[0].path.len(), 100_001);
            assert!(closed[0].to_string().len() < 200);
        };
        std::thread::Builder::new().stack_size(256 * 1024).spawn(test).unwrap().join().unwrap();
    }

    #[test]
    fn dot_text_is_stable_and_escaped() {
        let graph =
            Graph::of(&names(&["b", "a"]), [("a", "b", "z"), ("a", "b", "y\""), ("a", "b", "z")].into_iter()).unwrap();
        let expected = concat!(
            "digraph pipeline {\n  rankdir=LR;\n  node [shape=box];\n  \"b\";\n  \"a\";\n",
            "  \"a\" -> \"b\" [label=\"y\\\"\"];\n  \"a\" -> \"b\" [label=\"z\"];\n}\n"
        );
        assert_eq!(graph.to_dot(), expected);
    }
}
