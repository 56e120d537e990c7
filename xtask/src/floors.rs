//! Which crate may import which: read from `cargo metadata`, so nobody has to believe a page.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Crates by floor. A crate imports only lower floors; those on one floor never each other.
const FLOORS: &[(u32, &[&str])] = &[
    (0, &["weir-base"]),
    (1, &["weir-log", "weir-format", "weir-sketch"]),
    (2, &["weir-storage", "weir-catalog"]),
    (3, &["weir-plan"]),
    (4, &["weir-sql", "weir-dataflow", "weir-function", "weir-connect"]),
    (5, &["weir-engine"]),
    (6, &["weir-wire"]),
    (7, &["weir-server"]),
];

/// Above all floors: may import anything, nobody imports them but tests.
const OUTSIDE: &[&str] = &["weir-testkit", "weir-inputs", "xtask"];

/// What a crate must not reach, directly or through others (a prefix ends in `*`).
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("weir-base", &["arrow*", "datafusion*", "tokio"]),
    ("weir-log", &["arrow*", "parquet", "datafusion*"]),
    ("weir-format", &["datafusion*"]),
    ("weir-sketch", &["datafusion*", "tokio"]),
    ("weir-storage", &["datafusion*"]),
    ("weir-catalog", &["datafusion*"]),
    ("weir-plan", &["datafusion", "datafusion-sql", "datafusion-physical-plan"]),
    ("weir-dataflow", &["datafusion", "datafusion-sql", "datafusion-physical-plan"]),
];

pub fn check() -> Result<Vec<String>, String> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .map_err(|e| format!("could not run cargo metadata: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata printed no JSON: {e}"))?;
    let graph = Graph::read(&metadata).ok_or("cargo metadata has another shape than expected")?;
    let mut problems = graph.wrong_floors();
    problems.extend(graph.forbidden());
    Ok(problems)
}

/// Normal and build dependencies by package id.
struct Graph {
    names: BTreeMap<String, String>,
    edges: BTreeMap<String, Vec<String>>,
    members: BTreeSet<String>,
}

impl Graph {
    fn read(metadata: &Value) -> Option<Graph> {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let names = metadata["packages"]
            .as_array()?
            .iter()
            .map(|p| Some((text(&p["id"])?, text(&p["name"])?)))
            .collect::<Option<_>>()?;
        let members = metadata["workspace_members"].as_array()?.iter().map(text).collect::<Option<_>>()?;
        let mut edges = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array()? {
            let deps = node["deps"]
                .as_array()?
                .iter()
                .filter(|d| {
                    let kinds = d["dep_kinds"].as_array();
                    kinds.is_none_or(|ks| ks.iter().any(|k| k["kind"].as_str() != Some("dev")))
                })
                .map(|d| text(&d["pkg"]))
                .collect::<Option<_>>()?;
            edges.insert(text(&node["id"])?, deps);
        }
        Some(Graph { names, edges, members })
    }

    fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.names.get(id).map_or(id, String::as_str)
    }

    fn wrong_floors(&self) -> Vec<String> {
        let floor = |name: &str| FLOORS.iter().find(|(_, crates)| crates.contains(&name)).map(|(f, _)| *f);
        let mut problems = Vec::new();
        for id in &self.members {
            let name = self.name(id);
            let Some(own) = floor(name) else {
                if !OUTSIDE.contains(&name) {
                    problems.push(format!("crate {name} has no floor: add it to xtask/src/floors.rs"));
                }
                continue;
            };
            for dep in self.edges.get(id).into_iter().flatten() {
                let dep_name = self.name(dep);
                let problem = match floor(dep_name) {
                    Some(below) if below >= own => {
                        format!("{name} (floor {own}) imports {dep_name} (floor {below})")
                    }
                    None if OUTSIDE.contains(&dep_name) => {
                        format!("{name} imports {dep_name} outside of tests")
                    }
                    _ => continue,
                };
                problems.push(problem);
            }
        }
        problems
    }

    fn forbidden(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for id in &self.members {
            let Some((name, banned)) = FORBIDDEN.iter().find(|(n, _)| *n == self.name(id)) else { continue };
            for reached in self.reach(id) {
                let hit = banned.iter().any(|b| match b.strip_suffix('*') {
                    Some(prefix) => reached.starts_with(prefix),
                    None => reached == *b,
                });
                if hit {
                    problems.push(format!("{name} must build without {reached}"));
                }
            }
        }
        problems
    }

    fn reach<'a>(&'a self, from: &'a str) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        let mut todo = vec![from];
        while let Some(id) = todo.pop() {
            for dep in self.edges.get(id).into_iter().flatten() {
                if seen.insert(dep.as_str()) {
                    todo.push(dep);
                }
            }
        }
        seen.into_iter().map(|id| self.name(id)).collect()
    }
}
