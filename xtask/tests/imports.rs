//! The import graph of every crate has no circle.
//!
//! A node is a file, an arrow a name that one file takes from another, re-exports followed to where the name is defined. What a
//! module takes from the modules around it (`super`) is no arrow: it is part of them.

#![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Item, ItemMod, UseTree,
    visit::{self, Visit},
};

/// A crate's modules, the root first.
struct Crate {
    modules: Vec<Module>,
}

struct Module {
    file: PathBuf,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    /// Names that it hands on, and the paths that they stand for.
    exports: BTreeMap<String, Vec<String>>,
    /// Paths that stand in it.
    paths: Vec<Vec<String>>,
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg = attribute.path().is_ident("cfg");
        is_cfg
            && attribute
                .meta
                .require_list()
                .is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

/// All paths of a `use`, each with the name that it gives.
fn leaves(tree: &UseTree, before: &[String], found: &mut Vec<(String, Vec<String>)>) {
    let with = |name: &dyn ToString| [before, &[name.to_string()]].concat();
    match tree {
        UseTree::Path(path) => leaves(&path.tree, &with(&path.ident), found),
        UseTree::Name(name) if name.ident == "self" => {
            found.push((before.last().cloned().unwrap_or_default(), before.to_vec()));
        }
        UseTree::Name(name) => found.push((name.ident.to_string(), with(&name.ident))),
        UseTree::Rename(name) => {
            let path = if name.ident == "self" {
                before.to_vec()
            } else {
                with(&name.ident)
            };
            found.push((name.rename.to_string(), path));
        }
        UseTree::Glob(_) => found.push(("*".to_owned(), before.to_vec())),
        UseTree::Group(group) => group.items.iter().for_each(|item| leaves(item, before, found)),
    }
}

/// Collects the paths of a file that stand outside of tests.
#[derive(Default)]
struct Paths {
    paths: Vec<Vec<String>>,
    exports: BTreeMap<String, Vec<String>>,
    /// Inline modules around what is visited.
    depth: usize,
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_test(&module.attrs) {
            self.depth += 1;
            visit::visit_item_mod(self, module);
            self.depth -= 1;
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut found = Vec::new();
        leaves(&item.tree, &[], &mut found);
        for (name, mut path) in found {
            // `super` in an inline module is the file that it stands in.
            if self.depth > 0 && path.first().is_some_and(|first| first == "super") {
                path[0] = "self".to_owned();
            }
            self.exports.insert(name, path.clone());
            self.paths.push(path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        let begins = segments
            .first()
            .is_some_and(|it| ["crate", "super", "self"].contains(&it.as_str()));
        if begins && segments.len() > 1 && self.depth == 0 {
            self.paths.push(segments);
        }
        visit::visit_path(self, path);
    }
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut this = Self { modules: Vec::new() };
        this.add(root.to_path_buf(), root.parent().unwrap(), None);
        this
    }

    /// Adds the module of a file whose children are files of a directory.
    fn add(&mut self, file: PathBuf, directory: &Path, parent: Option<usize>) -> usize {
        let parsed = syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap();
        let mut paths = Paths::default();
        paths.visit_file(&parsed);
        let number = self.modules.len();
        self.modules.push(Module {
            file,
            parent,
            children: BTreeMap::new(),
            exports: paths.exports,
            paths: paths.paths,
        });
        for item in &parsed.items {
            let Item::Mod(module) = item else { continue };
            if module.content.is_some() || is_test(&module.attrs) {
                continue;
            }
            let name = module.ident.to_string();
            let child = directory.join(format!("{name}.rs"));
            assert!(
                child.exists(),
                "{} declares {name}, and {} is not there",
                self.modules[number].file.display(),
                child.display()
            );
            let child = self.add(child, &directory.join(&name), Some(number));
            self.modules[number].children.insert(name, child);
        }
        number
    }

    /// The module that defines what a path names, seen from a module; none if it is another crate's.
    fn resolve(&self, from: usize, path: &[String], hops: usize) -> Option<usize> {
        let mut at = from;
        let mut has_begun = false;
        for (place, segment) in path.iter().enumerate() {
            let module = &self.modules[at];
            match segment.as_str() {
                "crate" => at = 0,
                "self" => {}
                "super" => at = module.parent?,
                name => {
                    if let Some(child) = module.children.get(name) {
                        at = *child;
                    } else if let Some(export) = module
                        .exports
                        .get(name)
                        .filter(|_| hops < 16 && (has_begun || place == 0))
                    {
                        let onward = [export, &path[place + 1..]].concat();
                        // A name that stands for itself is this module's own, or another crate's.
                        if export.len() == 1 {
                            return has_begun.then_some(at);
                        }
                        return self.resolve(at, &onward, hops + 1);
                    } else if has_begun {
                        return Some(at);
                    } else {
                        return None;
                    }
                }
            }
            has_begun = true;
        }
        Some(at)
    }

    fn is_around(&self, outer: usize, inner: usize) -> bool {
        let mut at = Some(inner);
        while let Some(module) = at {
            if module == outer {
                return true;
            }
            at = self.modules[module].parent;
        }
        false
    }

    fn arrows(&self) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut arrows: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (from, module) in self.modules.iter().enumerate() {
            let all = module.paths.iter().filter_map(|path| self.resolve(from, path, 0));
            let others = all.filter(|to| *to != from && !self.is_around(*to, from));
            arrows.entry(from).or_default().extend(others);
        }
        arrows
    }

    /// The first circle that there is: its files, in order.
    fn circle(&self) -> Option<Vec<String>> {
        let arrows = self.arrows();
        let mut done = BTreeSet::new();
        for start in 0..self.modules.len() {
            let mut trail = Vec::new();
            if let Some(circle) = follow(start, &arrows, &mut trail, &mut done) {
                let name = |module: &usize| self.modules[*module].file.display().to_string();
                return Some(circle.iter().map(name).collect());
            }
        }
        None
    }
}

fn follow(
    at: usize,
    arrows: &BTreeMap<usize, BTreeSet<usize>>,
    trail: &mut Vec<usize>,
    done: &mut BTreeSet<usize>,
) -> Option<Vec<usize>> {
    if let Some(place) = trail.iter().position(|it| *it == at) {
        return Some(trail[place..].to_vec());
    }
    if !done.contains(&at) {
        trail.push(at);
        for to in &arrows[&at] {
            if let Some(circle) = follow(*to, arrows, trail, done) {
                return Some(circle);
            }
        }
        trail.pop();
        done.insert(at);
    }
    None
}

/// The roots of all crates of the workspace: libraries and binaries.
fn roots(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if !path.is_dir() || name == "target" || name.to_string_lossy().starts_with('.') {
            continue;
        }
        if path.join("Cargo.toml").exists() {
            let source = path.join("src");
            found.extend(
                ["lib.rs", "main.rs"]
                    .map(|root| source.join(root))
                    .into_iter()
                    .filter(|it| it.exists()),
            );
            for binary in fs::read_dir(source.join("bin")).into_iter().flatten().flatten() {
                let main = binary.path().join("main.rs");
                let root = if main.exists() { main } else { binary.path() };
                if root.extension().is_some_and(|it| it == "rs") {
                    found.push(root);
                }
            }
            roots(&path, found);
        }
    }
}

#[test]
fn no_crate_has_a_circle_of_imports() {
    let mut found = Vec::new();
    roots(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut found);
    assert!(found.len() > 10, "{found:?}");
    let circles: Vec<_> = found.iter().filter_map(|root| Crate::read(root).circle()).collect();
    assert!(circles.is_empty(), "circles of imports: {circles:#?}");
}

#[test]
fn a_circle_is_found_also_through_a_name_that_is_handed_on() {
    let directory = std::env::temp_dir().join(format!("lvx-imports-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
    write("lib.rs", "mod a;\nmod b;\npub use b::B;\n");
    write("a.rs", "use crate::B;\npub struct A(B);\n");
    write("b.rs", "pub struct B;\n");
    assert_eq!(Crate::read(&directory.join("lib.rs")).circle(), None);
    write("b.rs", "pub struct B;\nfn f(_: crate::a::A) {}\n");
    let circle = Crate::read(&directory.join("lib.rs")).circle();
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(circle.map(|files| files.len()), Some(2));
}
