//! Owns what the server says about itself, in the words that Redis' clients and operators look for.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Desk;
use crate::command::{COMMANDS, Specification, specification};
use crate::glob;
use crate::replica::{Role, Standing};
use crate::reply::{Reply, Version};

/// Whose commands these are, as far as clients look at it before they use one.
const REDIS_VERSION: &str = "7.0.0";

fn text(text: impl Into<String>) -> Reply {
    Reply::Bulk(Bytes::from(text.into()))
}

/// The answer to `HELLO`.
pub(super) fn hello(version: Version, id: u64, standing: &Standing) -> Reply {
    let protocol = if version == Version::Resp3 { 3 } else { 2 };
    let fields = [
        ("server", Reply::text("redis")),
        ("version", Reply::text(REDIS_VERSION)),
        ("proto", Reply::Integer(protocol)),
        ("id", Reply::Integer(i64::try_from(id).unwrap_or(i64::MAX))),
        ("mode", Reply::text("standalone")),
        ("role", Reply::text(role(standing))),
        ("modules", Reply::Array(vec![])),
    ];
    Reply::Map(fields.into_iter().map(|(name, value)| (Reply::text(name), value)).collect())
}

fn role(standing: &Standing) -> &'static str {
    match standing.role {
        Role::Leader => "master",
        Role::Follower => "replica",
    }
}

/// The answer to `CONFIG GET`: settings that clients ask for and that have one answer here.
pub(super) fn settings(patterns: &[Bytes]) -> Reply {
    let wanted = SETTINGS
        .iter()
        .filter(|(name, _)| patterns.iter().any(|pattern| glob::matches_any_case(pattern, name.as_bytes())));
    Reply::Map(wanted.map(|(name, value)| (Reply::text(name), Reply::text(value))).collect())
}

const SETTINGS: &[(&str, &str)] = &[
    ("appendfsync", "always"),
    ("appendonly", "yes"),
    ("databases", "1"),
    ("maxmemory", "0"),
    ("maxmemory-policy", "noeviction"),
    ("proto-max-bulk-len", "1048576"),
    ("save", ""),
    ("timeout", "0"),
];

/// The answer to `COMMAND` and `COMMAND INFO`.
pub(super) fn commands(names: Option<&[Bytes]>) -> Reply {
    Reply::Array(match names {
        None => COMMANDS.iter().map(described).collect(),
        Some(names) => names.iter().map(|name| specification(name).map_or(Reply::Nothing, described)).collect(),
    })
}

pub(super) fn command_count() -> Reply {
    Reply::count(COMMANDS.len())
}

fn described(command: &Specification) -> Reply {
    let (first, last, step) = command.keys;
    let flags = command.flags.iter().map(|flag| Reply::Status(flag.name().into())).collect();
    let nothing = || Reply::Array(vec![]);
    Reply::Array(vec![
        Reply::text(command.name),
        Reply::Integer(command.arity),
        Reply::Array(flags),
        Reply::Integer(first),
        Reply::Integer(last),
        Reply::Integer(step),
        nothing(),
        nothing(),
        nothing(),
        nothing(),
    ])
}

/// The answer to `COMMAND DOCS`.
pub(super) fn documentation(names: &[Bytes]) -> Reply {
    let named = |command: &&Specification| {
        names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(command.name.as_bytes()))
    };
    let documented = COMMANDS.iter().filter(named).map(|command| {
        let summary = vec![(Reply::text("summary"), Reply::text(command.summary))];
        (Reply::text(command.name), Reply::Map(summary))
    });
    Reply::Map(documented.collect())
}

/// The line that `CLIENT LIST` and `CLIENT INFO` answer.
pub(super) fn client(id: u64, name: &[u8], version: Version) -> Reply {
    let protocol = if version == Version::Resp3 { 3 } else { 2 };
    text(format!("id={id} name={} db=0 resp={protocol}\n", String::from_utf8_lossy(name)))
}

/// The answer to `INFO`.
pub(super) fn info(sections: &[Bytes], desk: &Desk, standing: &Standing) -> Reply {
    let all = [
        ("Server", server(desk)),
        ("Clients", format!("connected_clients:{}\r\n", desk.connections.load(Ordering::Relaxed))),
        ("Stats", stats(desk)),
        ("Replication", replication(standing)),
    ];
    let is_wanted = |name: &str| {
        let named = |section: &Bytes| section.eq_ignore_ascii_case(name.as_bytes());
        let everything = ["all", "default", "everything"];
        let general = |section: &Bytes| everything.iter().any(|word| section.eq_ignore_ascii_case(word.as_bytes()));
        sections.is_empty() || sections.iter().any(|section| named(section) || general(section))
    };
    let wanted = all.into_iter().filter(|(name, _)| is_wanted(name));
    let parts: Vec<_> = wanted.map(|(name, lines)| format!("# {name}\r\n{lines}")).collect();
    text(parts.join("\r\n"))
}

fn server(desk: &Desk) -> String {
    let port = desk.address.rsplit_once(':').map_or("0", |(_, port)| port);
    format!(
        "redis_version:{REDIS_VERSION}\r\nlandfall_version:{}\r\nredis_mode:standalone\r\nprocess_id:{}\r\n\
         tcp_port:{port}\r\nuptime_in_seconds:{}\r\n",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        desk.started.elapsed().as_secs()
    )
}

fn stats(desk: &Desk) -> String {
    format!(
        "total_connections_received:{}\r\ntotal_commands_processed:{}\r\n",
        desk.connections_ever.load(Ordering::Relaxed),
        desk.commands.load(Ordering::Relaxed)
    )
}

fn replication(standing: &Standing) -> String {
    // Older than the rest of Redis' words, and what clients look for.
    let role = if standing.role == Role::Leader { "master" } else { "slave" };
    let leader = standing.leader.as_deref().and_then(|leader| leader.rsplit_once(':'));
    let link = match (standing.role, leader) {
        (Role::Follower, Some((host, port))) => format!("master_host:{host}\r\nmaster_port:{port}\r\n"),
        (Role::Follower, None) => "master_link_status:down\r\n".to_owned(),
        (Role::Leader, _) => String::new(),
    };
    format!("role:{role}\r\n{link}")
}
