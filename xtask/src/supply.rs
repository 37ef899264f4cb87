//! What is built in: licences, sources and build scripts as deny.toml allows them, and a bill of materials.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::run::{Result, cargo, output, root, run, target};

/// The only registry that packages come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// `cargo xtask supply`
pub(crate) fn supply() -> Result {
    let packages = packages()?;
    let policy =
        fs::read_to_string(root().join("deny.toml")).map_err(|error| format!("deny.toml: {error}"))?;
    let faults = faults(&packages, &policy);
    if !faults.is_empty() {
        return Err(format!("deny.toml does not allow:\n  {}", faults.join("\n  ")));
    }
    println!(
        "licences, sources and build scripts of {} packages are as deny.toml allows them",
        packages.len()
    );
    let mut version = Command::new("cargo-deny");
    version.arg("--version");
    if output(version).is_err() {
        println!("cargo-deny is not installed: advisories were not looked up");
        return Ok(());
    }
    let mut deny = Command::new("cargo-deny");
    deny.args(["check", "licenses", "sources", "bans"]).current_dir(root());
    run(deny)?;
    let mut advisories = Command::new("cargo-deny");
    advisories.args(["fetch", "db"]).current_dir(root());
    if let Err(why) = output(advisories) {
        println!("advisories were not looked up, for their database cannot be reached: {why}");
        return Ok(());
    }
    let mut deny = Command::new("cargo-deny");
    deny.args(["check", "advisories"]).current_dir(root());
    run(deny)
}

/// All packages that cargo may build, with all features, for all systems.
fn packages() -> Result<Vec<Value>> {
    let text = output(cargo(["metadata", "--format-version", "1", "--locked", "--all-features"]))?;
    let mut metadata: Value =
        serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))?;
    match metadata["packages"].take() {
        Value::Array(packages) => Ok(packages),
        _ => Err("cargo metadata lists no packages".into()),
    }
}

/// What is not as the policy has it, in words.
fn faults(packages: &[Value], policy: &str) -> Vec<String> {
    let licences: BTreeSet<_> = list(policy, "allow").into_iter().collect();
    let scripts: BTreeSet<_> = list(policy, "allow-build-scripts").into_iter().collect();
    let refused: BTreeSet<_> = list(policy, "deny").into_iter().collect();
    let (mut faults, mut found) = (Vec::new(), BTreeSet::new());
    for package in packages {
        let [name, version] = ["name", "version"].map(|field| package[field].as_str().unwrap_or_default());
        let licence = package["license"].as_str().unwrap_or_default();
        if !is_allowed(licence, &licences) {
            faults.push(format!("{name} {version}: its licence is `{licence}`"));
        }
        if refused.contains(name) {
            faults.push(format!("{name} {version}: it is denied"));
        }
        match package["source"].as_str() {
            None => continue, // our own
            Some(REGISTRY) => {}
            Some(source) => faults.push(format!("{name} {version}: it comes from {source}")),
        }
        let targets = package["targets"].as_array().into_iter().flatten();
        let mut kinds = targets.flat_map(|target| target["kind"].as_array().into_iter().flatten());
        if kinds.any(|kind| kind == "custom-build") {
            found.insert(name);
        }
    }
    let new = found.difference(&scripts).map(|name| {
        format!(
            "{name}: it has a build script that nobody has read yet: see that it fetches nothing, and add it"
        )
    });
    faults.extend(new);
    faults.extend(scripts.difference(&found).map(|name| format!("{name}: has no build script any more")));
    faults
}

/// The texts in quotes of an array in deny.toml.
fn list<'a>(policy: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("\n{name} = [");
    let Some((_, rest)) = policy.split_once(&start) else { return Vec::new() };
    let array = rest.split_once("\n]").map_or(rest, |(array, _)| array);
    array.split('"').skip(1).step_by(2).collect()
}

/// Whether a licence expression can be met with those allowed: any of what `OR` joins, all of what `AND` joins.
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let expression = expression.replace(" / ", " OR ").replace('/', " OR ");
    let (mut depth, mut parts) = (0_i32, vec![String::new()]);
    let mut joint = None;
    for word in expression.replace('(', " ( ").replace(')', " ) ").split_whitespace() {
        match word {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(word, "OR" | "AND") {
            // expressions that mix both without brackets are rare, and refused
            if joint.replace(word.to_owned()).is_some_and(|earlier| earlier != word) {
                return false;
            }
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            *part += if part.is_empty() { "" } else { " " };
            *part += word;
        }
    }
    match parts.as_slice() {
        [one] => match one.strip_prefix("( ").and_then(|one| one.strip_suffix(" )")) {
            Some(inner) => is_allowed(inner, allowed),
            None => allowed.contains(one.as_str()),
        },
        all if joint.as_deref() == Some("AND") => all.iter().all(|part| is_allowed(part, allowed)),
        any => any.iter().any(|part| is_allowed(part, allowed)),
    }
}

/// `cargo xtask sbom`: what the `mwa` binary is linked with, in CycloneDX.
pub(crate) fn sbom() -> Result {
    let text = output(cargo(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))?;
    let lock =
        fs::read_to_string(root().join("Cargo.lock")).map_err(|error| format!("Cargo.lock: {error}"))?;
    let bill = bill(&metadata, &lock, "mwa-host").ok_or("cargo metadata has no package mwa-host")?;
    let folder = target().join("sbom");
    let path = folder.join("mwa.cdx.json");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&path, format!("{bill:#}\n")))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let count = bill["components"].as_array().map_or(0, Vec::len);
    println!("wrote {}: {count} components, CycloneDX 1.5", path.display());
    Ok(())
}

/// The bill of materials of a package of the workspace: what its normal dependencies bring, on any system.
fn bill(metadata: &Value, lock: &str, package: &str) -> Option<Value> {
    let by_id: BTreeMap<&str, &Value> =
        metadata["packages"].as_array()?.iter().filter_map(|it| Some((it["id"].as_str()?, it))).collect();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()?
        .iter()
        .filter_map(|it| Some((it["id"].as_str()?, it)))
        .collect();
    let checksums = checksums(lock);
    let is_wanted = |id: &&str| by_id[*id]["name"] == package && by_id[*id]["source"].is_null();
    let top = by_id.keys().copied().find(is_wanted)?;
    let (mut edges, mut todo) = (BTreeMap::new(), vec![top]);
    while let Some(id) = todo.pop() {
        if edges.contains_key(id) {
            continue;
        }
        let dependencies = nodes.get(id)?["deps"].as_array()?.iter();
        let is_linked = |dependency: &&Value| {
            let mut kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
            kinds.any(|kind| kind["kind"].is_null())
        };
        let linked: BTreeSet<&str> =
            dependencies.filter(is_linked).filter_map(|it| it["pkg"].as_str()).collect();
        todo.extend(linked.iter().copied());
        edges.insert(id, linked);
    }
    let address = |id: &str| format!("pkg:cargo/{}@{}", text(by_id[id], "name"), text(by_id[id], "version"));
    let component = |id: &str| {
        let package = by_id[id];
        let [name, version] = ["name", "version"].map(|field| text(package, field));
        let mut component = json!({
            "type": if id == top { "application" } else { "library" },
            "bom-ref": address(id),
            "name": name,
            "version": version,
            "licenses": [{ "expression": text(package, "license").replace(" / ", " OR ").replace('/', " OR ") }],
            "purl": address(id),
        });
        if let Some(checksum) = checksums.get(&(name, version)) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        component
    };
    let parts: Vec<_> = edges.keys().filter(|id| **id != top).map(|id| component(id)).collect();
    let depends = |(id, on): (&&str, &BTreeSet<&str>)| json!({ "ref": address(id), "dependsOn": on.iter().map(|id| address(id)).collect::<BTreeSet<_>>() });
    Some(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": component(top) },
        "components": parts,
        "dependencies": edges.iter().map(depends).collect::<Vec<_>>(),
    }))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// SHA-256 of each package's archive in the registry, by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    fn field<'a>(package: &'a str, name: &str) -> Option<&'a str> {
        let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
        line?.strip_suffix('"')
    }
    let packages = lock.split("[[package]]").skip(1);
    let checksum =
        |package| Some(((field(package, "name")?, field(package, "version")?), field(package, "checksum")?));
    packages.filter_map(checksum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> String {
        fs::read_to_string(root().join("deny.toml")).unwrap()
    }

    #[test]
    fn the_policy_is_read_and_what_it_does_not_allow_is_told() {
        let policy = policy();
        assert!(list(&policy, "allow").contains(&"MIT") && list(&policy, "deny").contains(&"curl"));
        let script = list(&policy, "allow-build-scripts")[0].to_owned();
        let package = |name: &str, license: &str, source: &str, kind: &str| {
            json!({ "name": name, "version": "1.0.0", "license": license, "source": source,
                    "targets": [{ "kind": [kind] }] })
        };
        let told = |package: Value| {
            let all = faults(&[package], &policy);
            all.into_iter().filter(|fault| !fault.ends_with("any more")).collect::<Vec<_>>()
        };
        assert!(told(package(&script, "MIT OR GPL-3.0", REGISTRY, "custom-build")).is_empty());
        assert_eq!(told(package("x", "GPL-3.0", REGISTRY, "lib")).len(), 1);
        assert_eq!(told(package("curl", "MIT", REGISTRY, "lib")).len(), 1);
        assert_eq!(told(package("x", "MIT", "git+https://example.org/x", "lib")).len(), 1);
        assert_eq!(told(package("x", "MIT", REGISTRY, "custom-build")).len(), 1);
    }

    #[test]
    fn licence_expressions_are_met_by_what_is_allowed() {
        let allowed = BTreeSet::from(["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]);
        for (expression, is) in [
            ("MIT", true),
            ("Apache-2.0/MIT", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(MIT OR Apache-2.0) AND BSD-3-Clause", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
            ("GPL-3.0", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(expression, &allowed), is, "{expression}");
        }
    }

    #[test]
    fn the_bill_of_materials_names_each_component_once_and_nothing_else() {
        let metadata = output(cargo(["metadata", "--format-version", "1", "--locked"])).unwrap();
        let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
        let bill = bill(&serde_json::from_str(&metadata).unwrap(), &lock, "mwa-host").unwrap();
        assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
        let components = bill["components"].as_array().unwrap();
        let mut known = BTreeSet::from([text(&bill["metadata"]["component"], "bom-ref")]);
        for component in components {
            assert!(known.insert(text(component, "bom-ref")), "{component} is there twice");
            let is_ours = text(component, "name").starts_with("mwa");
            let hash = component["hashes"][0]["content"].as_str().unwrap_or_default();
            assert!(
                is_ours || hash.len() == 64 && hash.bytes().all(|c| c.is_ascii_hexdigit()),
                "{component}"
            );
            assert_ne!(text(&component["licenses"][0], "expression"), "");
        }
        for edge in bill["dependencies"].as_array().unwrap() {
            let on = edge["dependsOn"].as_array().unwrap().iter().map(|it| it.as_str().unwrap());
            assert!(on.chain([text(edge, "ref")]).all(|name| known.contains(name)), "{edge}");
        }
        let names: Vec<_> = components.iter().map(|component| text(component, "name")).collect();
        assert!(names.contains(&"safetensors") && !names.contains(&"criterion"), "{names:?}");
    }
}
