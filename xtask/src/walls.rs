//! Owns which crate may depend on which: the architecture, as far as cargo can see it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

/// Every edge between crates of the workspace. A new one needs a note in `docs/design/` and a line here.
const EDGES: &[(&str, &[&str])] = &[
    ("landfall-core", &[]),
    ("landfall-store", &["landfall-core"]),
    ("landfall-net", &["landfall-core"]),
    ("landfall", &["landfall-core", "landfall-net", "landfall-store"]),
    ("landfall-cli", &["landfall", "landfall-kv"]),
    ("landfall-raft", &["landfall", "landfall-store"]),
    ("landfall-kv", &["landfall-raft"]),
    ("landfall-sim", &["landfall-core", "landfall-net", "landfall-store"]),
    ("landfall-bench", &["landfall", "landfall-core", "landfall-net", "landfall-store"]),
    ("xtask", &[]),
];

/// What the core may use beside the standard library: sums, codecs and cuts, none of which waits. Whatever else it needs, its caller has.
const CORE_USES: &[&str] =
    &["blake3", "bytes", "gearhash", "lz4_flex", "memchr", "prost", "siphasher", "thiserror", "zstd-safe"];

/// What must not be reached from a crate, by however many steps, and why.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    (
        "landfall-core",
        &["tokio", "futures", "rand", "getrandom", "fastrand", "rustix", "socket2", "mio"],
        "the core never waits and never draws lots",
    ),
    ("landfall-store", &["tokio", "rustls", "landfall-net"], "the store knows no network"),
    ("landfall-net", &["redb", "landfall-store"], "the network knows no disk"),
    ("landfall", &["rusqlite", "clap", "indicatif"], "the library draws nothing and brings no database"),
];

/// Only one crypto provider may be in the graph: with two, rustls picks neither.
const CRYPTO_PROVIDERS_FORBIDDEN: &[&str] = &["ring", "openssl-sys", "native-tls"];

/// Names every wall that is broken.
pub(crate) fn check(metadata: &Value) -> Result<Vec<String>> {
    let graph = Graph::read(metadata)?;
    let mut broken = Vec::new();
    for name in &graph.members {
        let allowed = EDGES.iter().find(|(of, _)| of == name).map(|(_, allowed)| *allowed);
        let Some(allowed) = allowed else {
            broken.push(format!("crate {name} stands in no list of edges (xtask/src/walls.rs)"));
            continue;
        };
        for edge in graph.member_edges(name).filter(|edge| !allowed.contains(&edge.as_str())) {
            broken.push(format!("{name} depends on {edge}: no such edge is allowed"));
        }
    }
    for (name, forbidden, why) in FORBIDDEN {
        let reached = graph.reached_from(name);
        let found = forbidden.iter().filter(|forbidden| reached.contains(**forbidden));
        broken.extend(found.map(|found| format!("{name} reaches {found}: {why}")));
    }
    broken.extend(graph.uses_beyond("landfall-core", CORE_USES));
    let built = crate::built_packages()?;
    let crypto = CRYPTO_PROVIDERS_FORBIDDEN.iter().filter(|name| built.contains(**name));
    broken.extend(crypto.map(|name| format!("{name} is built: aws-lc-rs is the only crypto provider")));
    Ok(broken)
}

/// Normal dependencies by package name. Build and development dependencies do not ship.
struct Graph {
    members: BTreeSet<String>,
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read(metadata: &Value) -> Result<Self> {
        let names: BTreeMap<&str, &str> = array(&metadata["packages"])?
            .iter()
            .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
            .collect();
        let name = |id: &Value| Some((*names.get(id.as_str()?)?).to_owned());
        let members = array(&metadata["workspace_members"])?.iter().filter_map(name).collect();
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in array(&metadata["resolve"]["nodes"])? {
            let from = name(&node["id"]).context("a node without a package")?;
            let to = array(&node["deps"])?.iter().filter(|dependency| is_normal(dependency));
            edges.entry(from).or_default().extend(to.filter_map(|dependency| name(&dependency["pkg"])));
        }
        let mut graph = Self { members, edges };
        graph.keep_what_is_built();
        Ok(graph)
    }

    /// Cargo lists what only builds or tests too; only what a member reaches counts.
    fn keep_what_is_built(&mut self) {
        let mut built = BTreeSet::new();
        for member in &self.members {
            built.extend(self.reached_from(member));
        }
        self.edges.retain(|name, _| built.contains(name));
    }

    fn edges_of(&self, name: &str) -> impl Iterator<Item = &String> {
        self.edges.get(name).into_iter().flatten()
    }

    fn member_edges<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a String> {
        self.edges_of(name).filter(|edge| self.members.contains(*edge))
    }

    /// What a crate uses and stands not in `allowed`.
    fn uses_beyond(&self, name: &str, allowed: &[&str]) -> impl Iterator<Item = String> {
        let more = self.edges_of(name).filter(|used| !allowed.contains(&used.as_str()));
        more.map(move |used| format!("{name} uses {used}: it is not on the list of what it may use"))
    }

    fn reached_from(&self, name: &str) -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let mut waiting = vec![name.to_owned()];
        while let Some(next) = waiting.pop() {
            if reached.insert(next.clone()) {
                waiting.extend(self.edges_of(&next).cloned());
            }
        }
        reached
    }
}

fn is_normal(dependency: &Value) -> bool {
    dependency["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"].is_null())
}

pub(crate) fn array(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().context("cargo metadata has another form than expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        Graph {
            members: BTreeSet::from(["landfall-core".to_owned()]),
            edges: edges
                .iter()
                .map(|(from, to)| ((*from).to_owned(), to.iter().map(|to| (*to).to_owned()).collect()))
                .collect(),
        }
    }

    #[test]
    fn finds_what_is_reached_by_several_steps() {
        let graph = graph(&[("landfall-core", &["a"]), ("a", &["b"]), ("b", &["tokio"]), ("c", &["rand"])]);
        let reached = graph.reached_from("landfall-core");
        assert!(reached.contains("tokio"));
        assert!(!reached.contains("rand"));
    }

    #[test]
    fn finds_what_the_core_uses_beyond_its_list() {
        let graph = graph(&[("landfall-core", &["bytes", "clock"]), ("bytes", &["elsewhere"])]);
        let beyond: Vec<_> = graph.uses_beyond("landfall-core", CORE_USES).collect();
        assert_eq!(beyond, ["landfall-core uses clock: it is not on the list of what it may use"]);
    }
}
