//! The code is layered: no file imports a file that imports it back, and neither does any folder;
//! no folder has too many files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// Maximum number of files in a folder, including its `mod.rs`.
const FILES: usize = 13;

/// The module path of a file, below its crate: `run::plan::board`.
type Module = Vec<String>;

/// What a file imports and re-exports.
#[derive(Default)]
struct Imports {
    /// The modules that the file declares. Paths may begin with their names.
    children: BTreeSet<String>,
    /// The absolute paths in the code, except in tests.
    paths: BTreeSet<Module>,
    /// The absolute path of each imported name.
    names: BTreeMap<String, Module>,
}

/// Collects [`Imports`] of one file.
struct Collector {
    module: Module,
    imports: Imports,
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg = attribute.path().is_ident("cfg");
        is_cfg && attribute.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
    })
}

impl Collector {
    /// The absolute form of `path`, if it stays in the crate.
    fn absolute(&self, path: &[String]) -> Option<Module> {
        let mut base = self.module.clone();
        let rest = match path.first()?.as_str() {
            "crate" => {
                base.clear();
                &path[1..]
            }
            "self" => &path[1..],
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                base.truncate(base.len().checked_sub(ups)?);
                &path[ups..]
            }
            first if self.imports.children.contains(first) => path,
            _ => return None,
        };
        base.extend(rest.iter().cloned());
        Some(base)
    }

    fn use_tree(&mut self, tree: &syn::UseTree, prefix: &[String]) {
        match tree {
            syn::UseTree::Path(path) => {
                let prefix = [prefix, &[path.ident.to_string()]].concat();
                self.use_tree(&path.tree, &prefix);
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(tree, prefix)),
            syn::UseTree::Glob(_) => {
                self.imports.paths.extend(self.absolute(prefix));
            }
            syn::UseTree::Name(name) => self.imported(prefix, &name.ident.to_string(), &name.ident.to_string()),
            syn::UseTree::Rename(rename) => {
                self.imported(prefix, &rename.ident.to_string(), &rename.rename.to_string());
            }
        }
    }

    fn imported(&mut self, prefix: &[String], name: &str, alias: &str) {
        let path = if name == "self" { prefix.to_vec() } else { [prefix, &[name.to_owned()]].concat() };
        let alias = if alias == "self" { prefix.last().cloned().unwrap_or_default() } else { alias.to_owned() };
        if let Some(path) = self.absolute(&path) {
            self.imports.paths.insert(path.clone());
            self.imports.names.insert(alias, path);
        }
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            _ => return syn::visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    /// An inline module belongs to the file.
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if let Some((_, items)) = &item.content {
            self.module.push(item.ident.to_string());
            for item in items {
                self.visit_item(item);
            }
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if parts.len() > 1
            && let Some(path) = self.absolute(&parts)
        {
            self.imports.paths.insert(path);
        }
        syn::visit::visit_path(self, path);
    }
}

/// The files of one crate.
struct Crate {
    files: BTreeMap<Module, (PathBuf, Imports)>,
}

impl Crate {
    fn read(source: &Path) -> Self {
        let mut files = BTreeMap::new();
        for path in rust_files(source) {
            let relative = path.strip_prefix(source).unwrap().with_extension("");
            let mut module: Module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
                module.pop();
            }
            let syntax = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
            let mut imports = Imports::default();
            for item in &syntax.items {
                if let syn::Item::Mod(item) = item {
                    imports.children.insert(item.ident.to_string());
                }
            }
            let mut collector = Collector { module: module.clone(), imports };
            syntax.items.iter().for_each(|item| collector.visit_item(item));
            // A program beside a library is no module of it.
            if !path.ends_with("main.rs") {
                files.insert(module, (path, collector.imports));
            }
        }
        Self { files }
    }

    /// The file that defines `path`, after following re-exports.
    fn definition(&self, path: &[String], depth: usize) -> Option<&Module> {
        let length = (0..=path.len()).rev().find(|length| self.files.contains_key(&path[..*length]))?;
        let (module, (_, imports)) = self.files.get_key_value(&path[..length])?;
        let Some(name) = path.get(length).filter(|_| depth < 8) else { return Some(module) };
        if let Some(behind) = imports.names.get(name)
            && *behind != path
        {
            return self.definition(&[behind, &path[length + 1..]].concat(), depth + 1);
        }
        Some(module)
    }

    fn edges(&self) -> BTreeSet<(&Path, &Path)> {
        let mut edges = BTreeSet::new();
        for (module, (path, imports)) in &self.files {
            for used in &imports.paths {
                if let Some(target) = self.definition(used, 0).filter(|target| *target != module) {
                    edges.insert((path.as_path(), self.files[target].0.as_path()));
                }
            }
        }
        edges
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The edges that are part of a cycle: the start of each can be reached from its end.
fn cyclic<T: Ord + Copy>(edges: &BTreeSet<(T, T)>) -> Vec<(T, T)> {
    let mut targets: BTreeMap<T, Vec<T>> = BTreeMap::new();
    for (from, to) in edges {
        targets.entry(*from).or_default().push(*to);
    }
    let is_reached = |goal: T, start: T| {
        let mut seen = BTreeSet::from([start]);
        let mut open = vec![start];
        while let Some(at) = open.pop() {
            let next = targets.get(&at).map_or(&[][..], Vec::as_slice);
            open.extend(next.iter().filter(|next| seen.insert(**next)));
        }
        seen.contains(&goal)
    };
    edges.iter().copied().filter(|(from, to)| is_reached(*from, *to)).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The `src` folders of all crates.
fn sources() -> Vec<PathBuf> {
    let mut sources = vec![root().join("src")];
    for group in ["crates", "stages"] {
        for entry in fs::read_dir(root().join(group)).unwrap() {
            sources.push(entry.unwrap().path().join("src"));
        }
    }
    sources.retain(|source| source.is_dir());
    sources.sort();
    assert!(sources.len() > 15, "{sources:?}");
    sources
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut circles = Vec::new();
    let mut count = 0;
    for source in sources() {
        let files = Crate::read(&source);
        let edges = files.edges();
        count += edges.len();
        circles.extend(cyclic(&edges).into_iter().map(|(from, to)| format!("{} -> {}", shown(from), shown(to))));
    }
    assert!(count > 500, "imports were read: {count}");
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn no_folders_import_each_other_in_a_circle() {
    let mut circles = Vec::new();
    for source in sources() {
        let files = Crate::read(&source);
        let edges = files.edges();
        let folders: BTreeSet<&Path> = files
            .files
            .values()
            .flat_map(|(path, _)| path.ancestors().skip(1))
            .filter(|f| f.starts_with(&source))
            .collect();
        for folder in folders {
            // The entries of `folder`, and what they import of each other. Its face is none of them.
            let entry = |path: &Path| {
                let below = path.strip_prefix(folder).ok()?;
                let first = below.components().next()?.as_os_str().to_owned();
                (!matches!(first.to_str(), Some("mod.rs" | "lib.rs"))).then_some(first)
            };
            let within: BTreeSet<_> = edges.iter().filter_map(|(from, to)| Some((entry(from)?, entry(to)?))).collect();
            let names: BTreeSet<_> =
                within.iter().filter(|(from, to)| from != to).map(|(a, b)| (a.as_os_str(), b.as_os_str())).collect();
            for (from, to) in cyclic(&names) {
                circles.push(format!("{}: {} -> {}", shown(folder), from.display(), to.display()));
            }
        }
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn no_folder_has_too_many_files() {
    let mut counts: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for source in sources() {
        for file in rust_files(&source) {
            *counts.entry(file.parent().unwrap().to_owned()).or_default() += 1;
        }
    }
    let full: Vec<String> = counts
        .iter()
        .filter(|(_, count)| **count > FILES)
        .map(|(folder, n)| format!("{}: {n}", shown(folder)))
        .collect();
    assert!(full.is_empty(), "{}", full.join("\n"));
}

#[test]
fn the_test_itself_finds_circles() {
    let edges = BTreeSet::from([(1, 2), (2, 3), (3, 2), (3, 4)]);
    assert_eq!(cyclic(&edges), [(2, 3), (3, 2)]);
}
