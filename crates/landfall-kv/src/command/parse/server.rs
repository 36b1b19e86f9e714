//! Owns how the arguments are read of commands that walk the keys, concern the connection, or ask about the server.

use bytes::Bytes;

use super::{Parsed, QUOTED_MAX, is, number, parse, syntax, wrong_count};
use crate::command::texts::{NOT_AN_INTEGER, SYNTAX};
use crate::command::{Command, Connection, Flag, Once, Refusal, Server, Survey, integer, specification};
use crate::limits::SESSION_NAME_BYTES_MAX;
use crate::reply::Version;
use crate::request::Arguments;

// --- surveys ---

pub(in crate::command) fn scan(arguments: Arguments<'_>) -> Parsed {
    let cursor = std::str::from_utf8(arguments.raw(1)).ok().and_then(|text| text.parse().ok());
    let cursor = cursor.ok_or(Refusal::fixed("ERR invalid cursor"))?;
    let (mut pattern, mut count, mut kind) = (None, SCAN_COUNT, None);
    for index in (2..arguments.count()).step_by(2) {
        let option = arguments.raw(index);
        if index + 1 == arguments.count() {
            return syntax();
        }
        if is(option, "match") {
            pattern = Some(arguments.get(index + 1));
        } else if is(option, "count") {
            let wanted = number(arguments, index + 1)?;
            count = usize::try_from(wanted).ok().filter(|count| *count > 0).ok_or(Refusal::fixed(SYNTAX))?;
        } else if is(option, "type") {
            kind = Some(arguments.get(index + 1));
        } else {
            return syntax();
        }
    }
    Ok(Command::Survey(Survey::Scan { cursor, pattern, count, kind }))
}

/// How many keys a stretch looks at if nothing else is said.
const SCAN_COUNT: usize = 10;

pub(in crate::command) fn keys(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Survey(Survey::Keys(arguments.get(1))))
}

pub(in crate::command) fn count(_: Arguments<'_>) -> Parsed {
    Ok(Command::Survey(Survey::Count))
}

// --- the connection ---

pub(in crate::command) fn ping(arguments: Arguments<'_>) -> Parsed {
    match arguments.count() {
        1 => Ok(Command::Connection(Connection::Ping(None))),
        2 => Ok(Command::Connection(Connection::Ping(Some(arguments.get(1))))),
        _ => Err(wrong_count("ping")),
    }
}

pub(in crate::command) fn echo(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Connection(Connection::Echo(arguments.get(1))))
}

pub(in crate::command) fn hello(arguments: Arguments<'_>) -> Parsed {
    if arguments.count() == 1 {
        return Ok(Command::Connection(Connection::Hello(None, None)));
    }
    let version = match integer(arguments.raw(1)) {
        Some(2) => Version::Resp2,
        Some(3) => Version::Resp3,
        Some(_) => return Err(Refusal::fixed("NOPROTO unsupported protocol version")),
        None => return Err(Refusal::fixed("ERR Protocol version is not an integer or out of range")),
    };
    let mut name = None;
    let mut index = 2;
    while index < arguments.count() {
        let option = arguments.raw(index);
        if is(option, "setname") && index + 1 < arguments.count() {
            name = Some(connection_name(arguments.get(index + 1))?);
            index += 2;
        } else if is(option, "auth") && index + 2 < arguments.count() {
            return Err(Refusal::fixed(NO_PASSWORD));
        } else {
            let text = format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(option));
            return Err(Refusal(text.into()));
        }
    }
    Ok(Command::Connection(Connection::Hello(Some(version), name)))
}

const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you \
sure your configuration is correct?";

fn connection_name(name: Bytes) -> Result<Bytes, Refusal> {
    let plain = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    if plain && name.len() <= QUOTED_MAX {
        return Ok(name);
    }
    Err(Refusal::fixed("ERR Client names cannot contain spaces, newlines or special characters."))
}

pub(in crate::command) fn client(arguments: Arguments<'_>) -> Parsed {
    let (name, count) = (arguments.raw(1), arguments.count());
    let known: [(&str, i64); 7] =
        [("id", 2), ("getname", 2), ("setname", 3), ("setinfo", 4), ("info", 2), ("list", -2), ("no-evict", 3)];
    let Some((found, arity)) = known.into_iter().find(|(known, _)| is(name, known)) else {
        return Err(unknown_subcommand("CLIENT", name));
    };
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    if count != arity && !(arity < 0 && count >= -arity) {
        return Err(wrong_count(&format!("client|{found}")));
    }
    Ok(Command::Connection(match found {
        "id" => Connection::Id,
        "getname" => Connection::Name,
        "setname" => Connection::SetName(connection_name(arguments.get(2))?),
        "info" | "list" => Connection::Describe,
        _ => Connection::Accept,
    }))
}

fn unknown_subcommand(command: &str, name: &[u8]) -> Refusal {
    let name = String::from_utf8_lossy(&name[..name.len().min(QUOTED_MAX)]);
    Refusal(format!("ERR unknown subcommand '{name}'. Try {command} HELP.").into())
}

pub(in crate::command) fn select(arguments: Arguments<'_>) -> Parsed {
    match number(arguments, 1)? {
        0 => Ok(Command::Connection(Connection::Select)),
        _ => Err(Refusal::fixed("ERR DB index is out of range")),
    }
}

pub(in crate::command) fn allow_stale_reads(_: Arguments<'_>) -> Parsed {
    Ok(Command::Connection(Connection::AllowStaleReads))
}

pub(in crate::command) fn forbid_stale_reads(_: Arguments<'_>) -> Parsed {
    Ok(Command::Connection(Connection::ForbidStaleReads))
}

pub(in crate::command) fn begin(_: Arguments<'_>) -> Parsed {
    Ok(Command::Connection(Connection::Begin))
}

pub(in crate::command) fn execute(_: Arguments<'_>) -> Parsed {
    Ok(Command::Connection(Connection::Execute))
}

pub(in crate::command) fn discard(_: Arguments<'_>) -> Parsed {
    Ok(Command::Connection(Connection::Discard))
}

pub(in crate::command) fn quit(_: Arguments<'_>) -> Parsed {
    Ok(Command::Connection(Connection::Quit))
}

// --- the server ---

pub(in crate::command) fn describe(arguments: Arguments<'_>) -> Parsed {
    Ok(Command::Server(Server::Describe(arguments.from(1).iter().collect())))
}

pub(in crate::command) fn config(arguments: Arguments<'_>) -> Parsed {
    let name = arguments.raw(1);
    if !is(name, "get") {
        return Err(unknown_subcommand("CONFIG", name));
    }
    if arguments.count() < 3 {
        return Err(wrong_count("config|get"));
    }
    Ok(Command::Server(Server::Settings(arguments.from(2).iter().collect())))
}

pub(in crate::command) fn command_list(arguments: Arguments<'_>) -> Parsed {
    let names = || arguments.from(2).iter().collect();
    let Some(name) = (arguments.count() > 1).then(|| arguments.raw(1)) else {
        return Ok(Command::Server(Server::Commands(None)));
    };
    if is(name, "count") {
        Ok(Command::Server(Server::CommandCount))
    } else if is(name, "info") {
        Ok(Command::Server(Server::Commands(Some(names()).filter(|names: &Vec<Bytes>| !names.is_empty()))))
    } else if is(name, "docs") {
        Ok(Command::Server(Server::CommandDocumentation(names())))
    } else {
        Err(unknown_subcommand("COMMAND", name))
    }
}

pub(in crate::command) fn landfall(arguments: Arguments<'_>) -> Parsed {
    let (name, count) = (arguments.raw(1), arguments.count());
    if is(name, "status") && count == 2 {
        return Ok(Command::Server(Server::Status));
    }
    if is(name, "audit") && count == 2 {
        return Ok(Command::Server(Server::Audit));
    }
    if is(name, "once") && count > 4 {
        return once(arguments);
    }
    if is(name, "remove") && count == 3 {
        let member = u64::try_from(number(arguments, 2)?).map_err(|_| Refusal::fixed(NOT_AN_INTEGER))?;
        return Ok(Command::Server(Server::Remove(member)));
    }
    if ["status", "audit", "once", "remove"].iter().any(|known| is(name, known)) {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        return Err(wrong_count(&format!("landfall|{name}")));
    }
    Err(unknown_subcommand("LANDFALL", name))
}

/// `LANDFALL ONCE session sequence command …`
fn once(arguments: Arguments<'_>) -> Parsed {
    let session = arguments.get(2);
    if session.is_empty() || session.len() > SESSION_NAME_BYTES_MAX {
        return Err(Refusal::fixed("ERR a session's name has 1 to 64 bytes"));
    }
    let sequence = u64::try_from(number(arguments, 3)?).map_err(|_| Refusal::fixed(NOT_AN_INTEGER))?;
    let inner = arguments.from(4);
    // Checked before it is read: otherwise a stranger could nest this command deeper than the stack is.
    let other = specification(inner.raw(0)).is_some_and(|known| !known.flags.contains(&Flag::Write));
    if other {
        return Err(Refusal::fixed(ONE_WRITE));
    }
    match parse(inner)? {
        Command::Write(write) => Ok(Command::Once(Once { session, sequence, write })),
        _ => Err(Refusal::fixed(ONE_WRITE)),
    }
}

const ONE_WRITE: &str = "ERR LANDFALL ONCE takes one command that writes";
