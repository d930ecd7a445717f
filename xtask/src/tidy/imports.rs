//! Which module imports which, read from the code: `use`, and paths in between.
//!
//! A path counts for the module that defines what it names: re-exports are followed. Code under
//! `#[cfg(test)]` does not count.

use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use syn::visit::{self, Visit};

/// Segments of a path below the crate; the root is empty.
type ModulePath = Vec<String>;

/// One crate's modules, each a file, by their paths joined with `::`; the root is `crate`.
#[derive(Debug, Default)]
pub(super) struct Modules {
    modules: BTreeMap<ModulePath, Module>,
}

/// One file.
#[derive(Debug, Default)]
struct Module {
    /// Absolute paths that the file names.
    names: BTreeSet<ModulePath>,
    /// What a `use` calls an item, and where it comes from.
    imported: BTreeMap<String, ModulePath>,
    /// Modules of which everything is imported.
    globs: Vec<ModulePath>,
    /// Items that are defined here.
    items: BTreeSet<String>,
    /// Types that are defined here.
    types: BTreeSet<String>,
    /// Child modules that only tests have.
    for_tests: BTreeSet<String>,
}

impl Modules {
    /// Reads files of one crate: their paths below its `src`, and their texts.
    ///
    /// # Errors
    /// When a file is no Rust code.
    pub(super) fn read<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let files: Vec<_> = files
            .map(|(path, text)| (module_path(path), path, text))
            .collect();
        let known: BTreeSet<_> = files.iter().map(|(module, ..)| module.clone()).collect();
        let mut modules = BTreeMap::new();
        for (module, path, text) in files {
            let parsed = syn::parse_file(text).with_context(|| format!("cannot read {path}"))?;
            // `lib.rs` and `main.rs` are both the root.
            let mut reader = Reader {
                known: &known,
                here: module.clone(),
                module: modules.remove(&module).unwrap_or_default(),
                nested: 0,
            };
            reader.visit_file(&parsed);
            modules.insert(module, reader.module);
        }
        let for_tests: Vec<ModulePath> = modules
            .iter()
            .flat_map(|(path, module): (&ModulePath, &Module)| {
                let names = module.for_tests.iter();
                names.map(|name| path.iter().chain([name]).cloned().collect())
            })
            .collect();
        modules.retain(|path, _module| !for_tests.iter().any(|part| path.starts_with(part)));
        Ok(Self { modules })
    }

    /// Each import of one file by another.
    pub(super) fn imports(&self) -> BTreeSet<(String, String)> {
        let mut imports = BTreeSet::new();
        for (from, module) in &self.modules {
            for name in &module.names {
                let to = self.defines(name, 0);
                if to != *from && self.modules.contains_key(&to) {
                    imports.insert((joined(from), joined(&to)));
                }
            }
        }
        imports
    }

    /// Types, and the files that define them.
    pub(super) fn types(&self) -> impl Iterator<Item = (&str, String)> {
        self.modules.iter().flat_map(|(path, module)| {
            let names = module.types.iter();
            names.map(|name| (name.as_str(), joined(path)))
        })
    }

    /// The module that defines what a path names.
    fn defines(&self, path: &[String], depth: usize) -> ModulePath {
        let mut module = ModulePath::new();
        for (index, segment) in path.iter().enumerate() {
            let mut child = module.clone();
            child.push(segment.clone());
            if self.modules.contains_key(&child) {
                module = child;
                continue;
            }
            let rest = path.get(index + 1..).unwrap_or_default();
            if depth < 8
                && let Some(target) = self.reexported(&module, segment)
            {
                let target: Vec<_> = target.into_iter().chain(rest.iter().cloned()).collect();
                return self.defines(&target, depth + 1);
            }
            break;
        }
        module
    }

    /// Where a module has an item from that it does not define.
    fn reexported(&self, module: &ModulePath, item: &str) -> Option<ModulePath> {
        let module = self.modules.get(module)?;
        if module.items.contains(item) {
            return None;
        }
        if let Some(target) = module.imported.get(item) {
            return Some(target.clone());
        }
        module.globs.iter().find_map(|glob| {
            let source = self.modules.get(glob)?;
            let has = source.items.contains(item) || source.imported.contains_key(item);
            has.then(|| glob.iter().cloned().chain([item.to_owned()]).collect())
        })
    }
}

/// Groups of files that import each other in a circle, each sorted.
pub(super) fn circles(imports: &BTreeSet<(String, String)>) -> Vec<Vec<String>> {
    let mut reaches: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let files: BTreeSet<&str> = imports
        .iter()
        .flat_map(|(from, to)| [from.as_str(), to.as_str()])
        .collect();
    for file in &files {
        let mut reached = BTreeSet::new();
        let mut todo = vec![*file];
        while let Some(next) = todo.pop() {
            for (from, to) in imports {
                if from == next && reached.insert(to.as_str()) {
                    todo.push(to);
                }
            }
        }
        reaches.insert(file, reached);
    }
    let both = |a: &str, b: &str| {
        let reaches = |from: &str, to: &str| reaches.get(from).is_some_and(|set| set.contains(to));
        reaches(a, b) && reaches(b, a)
    };
    let mut circles: BTreeSet<Vec<String>> = BTreeSet::new();
    for file in &files {
        let circle: Vec<_> = files.iter().filter(|second| both(file, second)).collect();
        if !circle.is_empty() {
            circles.insert(circle.into_iter().map(|file| (*file).to_owned()).collect());
        }
    }
    circles.into_iter().collect()
}

/// `daemon/start.rs` → `daemon::start`; `lib.rs` and `main.rs` → the root.
fn module_path(file: &str) -> ModulePath {
    let path = Path::new(file).with_extension("");
    let segments = path.iter().map(|part| part.to_string_lossy().into_owned());
    let mut segments: Vec<_> = segments.collect();
    if matches!(segments.last().map(String::as_str), Some("lib" | "main")) {
        segments.pop();
    }
    segments
}

fn joined(path: &[String]) -> String {
    if path.is_empty() {
        return "crate".to_owned();
    }
    path.join("::")
}

/// Reads one file.
struct Reader<'a> {
    known: &'a BTreeSet<ModulePath>,
    here: ModulePath,
    module: Module,
    /// How many modules written out in the file are around.
    nested: usize,
}

impl Reader<'_> {
    /// A path as it is written, from the root of the crate; `None` for one that leads to another crate, or
    /// to what has been imported already.
    fn absolute(&self, written: &[String]) -> Option<ModulePath> {
        let mut base = self.here.clone();
        let mut up = 0;
        let mut rest = written;
        match written.split_first() {
            Some((first, after)) if first == "crate" => {
                base.clear();
                rest = after;
            }
            Some((first, after)) if first == "self" => rest = after,
            Some((first, _)) if first == "super" => {
                while let Some((first, after)) = rest.split_first()
                    && first == "super"
                {
                    up += 1;
                    rest = after;
                }
            }
            Some((first, _)) => {
                let mut child = base.clone();
                child.push(first.clone());
                if !self.known.contains(&child) {
                    return None;
                }
            }
            None => return None,
        }
        for _ in self.nested..up {
            base.pop();
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    fn use_tree(&mut self, tree: &syn::UseTree, before: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.use_tree(&path.tree, before);
                before.pop();
            }
            syn::UseTree::Name(name) => self.imported(before, &name.ident, &name.ident),
            syn::UseTree::Rename(renamed) => {
                self.imported(before, &renamed.ident, &renamed.rename);
            }
            syn::UseTree::Glob(_) => {
                if let Some(path) = self.absolute(before) {
                    self.module.names.insert(path.clone());
                    self.module.globs.push(path);
                }
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, before);
                }
            }
        }
    }

    fn imported(&mut self, before: &[String], item: &syn::Ident, name: &syn::Ident) {
        let mut path = before.to_vec();
        if item != "self" {
            path.push(item.to_string());
        }
        if let Some(path) = self.absolute(&path) {
            self.module.names.insert(path.clone());
            if self.nested == 0 {
                self.module.imported.insert(name.to_string(), path);
            }
        }
    }

    fn defined(&mut self, name: &syn::Ident, is_type: bool) {
        if self.nested == 0 {
            self.module.items.insert(name.to_string());
            if is_type {
                self.module.types.insert(name.to_string());
            }
        }
    }
}

impl Visit<'_> for Reader<'_> {
    fn visit_item(&mut self, item: &syn::Item) {
        if attributes(item).iter().any(is_for_tests) {
            if let syn::Item::Mod(module) = item
                && module.content.is_none()
            {
                self.module.for_tests.insert(module.ident.to_string());
            }
            return;
        }
        match item {
            syn::Item::Struct(item) => self.defined(&item.ident, true),
            syn::Item::Enum(item) => self.defined(&item.ident, true),
            syn::Item::Union(item) => self.defined(&item.ident, true),
            syn::Item::Trait(item) => self.defined(&item.ident, true),
            syn::Item::Type(item) => self.defined(&item.ident, true),
            syn::Item::Fn(item) => self.defined(&item.sig.ident, false),
            syn::Item::Const(item) => self.defined(&item.ident, false),
            syn::Item::Static(item) => self.defined(&item.ident, false),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, module: &syn::ItemMod) {
        self.nested += 1;
        visit::visit_item_mod(self, module);
        self.nested -= 1;
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        self.use_tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let segments = path.segments.iter();
        let segments: Vec<_> = segments.map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1
            && let Some(path) = self.absolute(&segments)
        {
            self.module.names.insert(path);
        }
        visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &syn::Visibility) {} // `pub(in path)` imports nothing
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// `#[cfg(test)]`, also beside other conditions.
fn is_for_tests(attribute: &syn::Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    let words = list.tokens.to_string();
    list.path.is_ident("cfg")
        && !words.contains("not")
        && words
            .split(|c: char| !c.is_alphanumeric())
            .any(|word| word == "test")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(files: &[(&str, &str)]) -> Vec<String> {
        let modules = Modules::read(files.iter().copied()).unwrap();
        let imports = modules.imports();
        let lines = imports.iter().map(|(from, to)| format!("{from} → {to}"));
        lines.collect()
    }

    #[test]
    fn imports_of_every_form_are_found_and_those_of_tests_are_not() {
        let found = imports(&[
            (
                "lib.rs",
                "pub mod a; pub mod b; pub mod c; pub mod d; #[cfg(any(test, unix))] mod e;",
            ),
            ("main.rs", "fn main() {}"),
            ("e.rs", "use crate::a;"),
            (
                "a.rs",
                "use crate::b::{self, B}; mod nested { use super::super::c::C; }",
            ),
            (
                "a/child.rs",
                "fn f() -> super::super::d::D { crate::c::make() }",
            ),
            (
                "b.rs",
                "pub struct B; #[cfg(test)] mod tests { use crate::d::D; }",
            ),
            (
                "c.rs",
                "pub struct C; pub fn make() {} use std::fmt; #[cfg(all(test, unix))] use crate::a;",
            ),
            (
                "d.rs",
                "pub struct D; #[cfg(not(test))] use super::b::B as Other;",
            ),
        ]);
        assert_eq!(
            found,
            ["a → b", "a → c", "a::child → c", "a::child → d", "d → b"]
        );
    }

    #[test]
    fn a_re_export_counts_for_the_module_that_defines_the_item() {
        let found = imports(&[
            ("lib.rs", "mod facade; mod user;"),
            (
                "facade.rs",
                "mod one; mod two; pub use one::One; pub use two::*; pub struct Own;",
            ),
            ("facade/one.rs", "pub struct One;"),
            ("facade/two.rs", "use super::One; pub struct Two;"),
            ("user.rs", "use crate::facade::{One, Own, Two};"),
        ]);
        assert_eq!(
            found,
            [
                "facade → facade::one",
                "facade → facade::two",
                "facade::two → facade::one",
                "user → facade",
                "user → facade::one",
                "user → facade::two"
            ]
        );
    }

    #[test]
    fn a_circle_is_found_once_and_a_chain_is_none() {
        let edges = |list: &[(&str, &str)]| -> BTreeSet<_> {
            let owned = list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            owned.collect()
        };
        assert_eq!(
            circles(&edges(&[("a", "b"), ("b", "c")])),
            Vec::<Vec<String>>::new()
        );
        let found = circles(&edges(&[
            ("a", "b"),
            ("b", "c"),
            ("c", "a"),
            ("c", "d"),
            ("e", "a"),
        ]));
        assert_eq!(found, [["a", "b", "c"]]);
    }

    #[test]
    fn types_are_listed_with_their_modules() {
        let files = [
            ("lib.rs", "struct A; mod m;"),
            ("m.rs", "enum B {} type C = u8;"),
        ];
        let modules = Modules::read(files.iter().copied()).unwrap();
        let types: Vec<_> = modules.types().collect();
        let own = |module: &str| module.to_owned();
        assert_eq!(
            types,
            [("A", own("crate")), ("B", own("m")), ("C", own("m"))]
        );
    }
}
