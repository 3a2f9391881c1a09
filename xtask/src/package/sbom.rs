//! The bill of materials: what is linked into the programs, as CycloneDX 1.5 (ECMA-424).

use super::{NAME, VERSION, files};
use crate::cmd::{self, Cmd};
use crate::{dist, paths};
use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// `cargo metadata`, as far as it is read.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None` for what is linked, else `dev` or `build`.
    kind: Option<String>,
}

impl Package {
    fn is(&self, kind: &str) -> bool {
        self.targets.iter().any(|target| target.kind.iter().any(|one| one == kind))
    }

    fn has_program(&self) -> bool {
        self.targets.iter().any(|target| files::PROGRAMS.contains(&target.name.as_str()))
    }

    fn reference(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    fn component(&self, hashes: &BTreeMap<String, String>) -> Value {
        let kind = if self.has_program() { "application" } else { "library" };
        let reference = self.reference();
        let mut component = json!({ "type": kind, "bom-ref": reference });
        component["name"] = json!(self.name);
        component["version"] = json!(self.version);
        if let Some(license) = &self.license {
            // Cargo's old spelling of OR.
            let license = license.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ");
            component["licenses"] = json!([{ "expression": license }]);
        }
        if self.source.is_some() {
            component["purl"] = json!(format!("pkg:cargo/{}", purl(&reference)));
        }
        if let Some(hash) = hashes.get(&reference) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": hash }]);
        }
        component
    }
}

/// The document, of this time.
pub(super) fn make(time: i64) -> Result<Vec<u8>> {
    let mut cargo = Cmd::new("metadata", 300, cmd::cargo());
    cargo.args(["metadata", "--locked", "--format-version", "1"]);
    let text = cargo.args(["--filter-platform", &dist::host()?]).output()?;
    // Its messages are in the same log.
    let text = text.lines().find(|line| line.starts_with('{')).context("no metadata")?;
    let metadata: Metadata = serde_json::from_str(text).context("cargo metadata")?;
    let hashes = hashes(&fs::read_to_string(paths::root().join("Cargo.lock"))?)?;
    let document = document(&metadata, &hashes, &common()?, time)?;
    Ok(serde_json::to_vec_pretty(&document)?)
}

fn document(
    metadata: &Metadata,
    hashes: &BTreeMap<String, String>,
    common: &[Value],
    time: i64,
) -> Result<Value> {
    let packages: BTreeMap<_, _> = metadata.packages.iter().map(|p| (p.id.as_str(), p)).collect();
    let linked = linked(metadata, &packages);
    let mut components: Vec<_> = linked.keys().map(|id| packages[id].component(hashes)).collect();
    components.extend_from_slice(common);
    let mut dependencies: Vec<_> = linked
        .iter()
        .map(|(id, on)| {
            let on: BTreeSet<_> = on.iter().map(|id| packages[id].reference()).collect();
            json!({ "ref": packages[id].reference(), "dependsOn": on })
        })
        .collect();
    let programs = linked.keys().map(|id| packages[id]).filter(|package| package.has_program());
    let on: BTreeSet<_> = programs.map(Package::reference).collect();
    dependencies.push(json!({ "ref": NAME, "dependsOn": on }));
    components.sort_by_key(|component| component["bom-ref"].to_string());
    dependencies.sort_by_key(|dependency| dependency["ref"].to_string());
    let name = json!({ "type": "application", "bom-ref": NAME, "name": NAME, "version": VERSION });
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "timestamp": timestamp(time)?, "component": name },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// What the programs are linked of, each with what it needs itself.
fn linked<'a>(
    metadata: &'a Metadata,
    packages: &BTreeMap<&str, &'a Package>,
) -> BTreeMap<&'a str, Vec<&'a str>> {
    let nodes: BTreeMap<_, _> = metadata.resolve.nodes.iter().map(|n| (n.id.as_str(), n)).collect();
    let programs = metadata.packages.iter().filter(|package| package.has_program());
    let mut todo: Vec<_> = programs.map(|package| package.id.as_str()).collect();
    let mut linked = BTreeMap::new();
    while let Some(id) = todo.pop() {
        if linked.contains_key(id) {
            continue;
        }
        let is_linked = |dep: &&Dependency| {
            dep.dep_kinds.iter().any(|kind| kind.kind.is_none())
                && !packages[dep.pkg.as_str()].is("proc-macro")
        };
        let on: Vec<_> = nodes[id].deps.iter().filter(is_linked).map(|d| d.pkg.as_str()).collect();
        todo.extend(&on);
        linked.insert(id, on);
    }
    linked
}

/// What cargo does not know of: the libraries of compiler and system.
fn common() -> Result<Vec<Value>> {
    let compiler = Cmd::new("rustc-version", 60, "rustc").arg("--version").output()?;
    let compiler = compiler.split(' ').nth(1).context("rustc --version")?.to_owned();
    let mut query = Cmd::new("libc-version", 60, "dpkg-query");
    let libc = query.args(["-W", "-f", "${source:Version}", "libc6-dev"]).output()?;
    let library = |(name, version, license): (&str, &str, &str)| {
        let reference = format!("{name}@{version}");
        json!({
            "type": "library", "bom-ref": reference, "name": name, "version": version,
            "licenses": [{ "expression": license }],
            "purl": format!("pkg:generic/{}", purl(&reference)),
        })
    };
    let libraries = [
        ("rust-std", &*compiler, "MIT OR Apache-2.0"),
        ("glibc", libc.trim(), "LGPL-2.1-or-later"),
    ];
    Ok(libraries.map(library).into())
}

/// `NAME@VERSION` as a package URL has it.
fn purl(reference: &str) -> String {
    reference.replace('+', "%2B")
}

/// SHA-256 of each package's source, by its name and version.
fn hashes(lock: &str) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Locked {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).context("Cargo.lock")?;
    let entry = |one: Locked| Some((format!("{}@{}", one.name, one.version), one.checksum?));
    Ok(lock.package.into_iter().filter_map(entry).collect())
}

/// RFC 3339.
fn timestamp(time: i64) -> Result<String> {
    let mut date = Cmd::new("timestamp", 60, "date");
    let text = date.args(["-u", &format!("--date=@{time}"), "+%Y-%m-%dT%H:%M:%SZ"]).output()?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use cyclonedx_bom::prelude::{Bom, Validate};

    #[test]
    fn is_a_valid_document_of_what_is_linked() {
        let bytes = super::make(1_700_000_000).expect("a document");
        assert_eq!(super::make(1_700_000_000).expect("a document"), bytes);
        let bom = Bom::parse_from_json_v1_5(&*bytes).expect("CycloneDX 1.5");
        assert!(bom.validate().passed(), "{:?}", bom.validate());
        let time = bom.metadata.and_then(|metadata| metadata.timestamp).expect("a time");
        assert_eq!(time.to_string(), "2023-11-14T22:13:20Z");
        let components = bom.components.expect("components").0;
        let names: Vec<_> = components.iter().map(|one| one.name.to_string()).collect();
        for name in ["nydus-overlayfs", "overlay-mount", "tonic", "clap", "ring", "glibc"] {
            assert!(names.iter().any(|one| one == name), "{name} is missing");
        }
        // Of tests, of the build, macros, and of other programs.
        for name in
            ["clap_mangen", "cyclonedx-bom", "prost-build", "serde_derive", "vm-shim", "xtask"]
        {
            assert!(!names.iter().any(|one| one == name), "{name} is not linked");
        }
        let known = |one: &&cyclonedx_bom::prelude::Component| one.purl.is_some();
        for one in components.iter().filter(known) {
            assert!(one.licenses.is_some(), "{:?} has no licence", one.name);
        }
        assert_eq!(bom.dependencies.expect("a graph").0.len(), components.len() - 1);
    }
}
