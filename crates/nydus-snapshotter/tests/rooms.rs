//! The program's modules: none imports another that imports it, however far around, and no file is
//! long. A module and the ones in it are one here.

use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Lines of a file, at most.
const LONGEST: usize = 400;

type Module = Vec<String>;

/// All modules with their text, without comments and tests.
fn modules() -> BTreeMap<Module, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    for entry in walkdir::WalkDir::new(&source).into_iter().map(Result::unwrap) {
        let path = entry.path().strip_prefix(&source).unwrap().with_extension("");
        let mut module: Module =
            path.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
        if entry.file_type().is_dir() || module.last().is_some_and(|name| name == "tests") {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        assert!(text.lines().count() <= LONGEST, "{path:?} has over {LONGEST} lines");
        let _ = module.pop_if(|name| ["mod", "lib", "main"].contains(&name.as_str()));
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().lines();
        let code: Vec<_> = code.filter(|line| !line.trim().starts_with("//")).collect();
        modules.entry(module).or_insert_with(String::new).push_str(&code.join(" "));
    }
    modules
}

/// The paths in a text, those in braces one by one.
fn paths(text: &str) -> Vec<Module> {
    let path = Regex::new(r"\b(?:crate|super)(?:::\w+)*(?:::\{[^{}]*\})?").unwrap();
    let nested = Regex::new(r"::\{[^{}]*\}").unwrap();
    let outer = Regex::new(r"::\{[^{};]*::\{").unwrap();
    // Braces in braces: what is in the inner ones are items, mostly, and their module stays.
    let mut flat = text.to_owned();
    while let Some(outer) = outer.find(&flat).map(|found| found.end()) {
        let inner = nested.find_at(&flat, outer - 3).expect("braces match").range();
        flat.replace_range(inner, "");
    }
    let mut all = Vec::new();
    for found in path.find_iter(&flat).map(|found| found.as_str()) {
        let (prefix, list) = found.split_once("::{").unwrap_or((found, ""));
        for name in list.trim_end_matches('}').split(',') {
            let words = prefix.split("::").chain(name.trim().split("::"));
            all.push(words.filter(|word| !word.is_empty()).map(str::to_owned).collect());
        }
    }
    all
}

/// The module that a path in `from` leads to.
fn resolve(from: &Module, path: &Module, all: &BTreeMap<Module, String>) -> Module {
    let mut module = from.clone();
    for word in path {
        match word.as_str() {
            "crate" => module.clear(),
            "super" => drop(module.pop()),
            name => {
                module.push(name.to_owned());
                if !all.contains_key(&module) {
                    module.pop();
                    return module;
                }
            }
        }
    }
    module
}

#[test]
fn no_circles() {
    let all = modules();
    let mut imports: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (from, text) in &all {
        for to in paths(text).iter().map(|path| resolve(from, path, &all)) {
            // The two that stand side by side.
            let same = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
            if same < from.len() && same < to.len() {
                imports.entry(from[..=same].into()).or_default().insert(to[..=same].into());
            }
        }
    }
    assert!(imports.len() > 20 && imports.contains_key(&vec!["snapshots".to_owned()]));
    // Those that import nothing that is left go, until nothing goes.
    while !imports.is_empty() {
        let left: BTreeSet<_> = imports.keys().cloned().collect();
        let ends = |to: &BTreeSet<Module>| to.is_disjoint(&left);
        imports.retain(|_, to| !ends(to));
        assert!(imports.len() < left.len(), "a circle is among {left:?}");
    }
}
