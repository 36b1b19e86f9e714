//! Owns the table of commands: names, how many arguments, and what `COMMAND` tells clients about them.

use super::parse::{self, Parser};

/// What there is to know about one command.
#[derive(Debug)]
pub struct Specification {
    /// Its name in small letters.
    pub name: &'static str,
    /// How many arguments with the name; negative: at least as many.
    pub arity: i64,
    /// What kind of command it is.
    pub flags: &'static [Flag],
    /// Where its keys are: the first, the last (negative: from the end), and the step between them; zeros for none.
    pub keys: (i64, i64, i64),
    /// What it is for, in a line.
    pub summary: &'static str,
    pub(super) parse: Parser,
}

/// What clients want to know before they send a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// Changes keys.
    Write,
    /// Looks at keys.
    ReadOnly,
    /// Costs little.
    Fast,
    /// For operators.
    Admin,
    /// Not within a transaction.
    NoMulti,
}

impl Flag {
    /// Its name in Redis' list.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::ReadOnly => "readonly",
            Self::Fast => "fast",
            Self::Admin => "admin",
            Self::NoMulti => "no_multi",
        }
    }
}

impl Specification {
    /// May a request with so many arguments, the name included, be this command?
    pub fn accepts(&self, count: usize) -> bool {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if self.arity >= 0 { count == self.arity } else { count >= -self.arity }
    }
}

/// Finds a command by its name, in whatever letters.
pub fn specification(name: &[u8]) -> Option<&'static Specification> {
    COMMANDS.iter().find(|known| known.name.len() == name.len() && known.name.as_bytes().eq_ignore_ascii_case(name))
}

const fn command(
    name: &'static str,
    arity: i64,
    flags: &'static [Flag],
    keys: (i64, i64, i64),
    parse: Parser,
    summary: &'static str,
) -> Specification {
    Specification { name, arity, flags, keys, summary, parse }
}

use Flag::{Admin, Fast, NoMulti, ReadOnly, Write};

const NONE: (i64, i64, i64) = (0, 0, 0);
const ONE: (i64, i64, i64) = (1, 1, 1);
const ALL: (i64, i64, i64) = (1, -1, 1);
const PAIRS: (i64, i64, i64) = (1, -1, 2);

/// Every command, those first that are asked for most: a name is looked for from the start.
#[rustfmt::skip]
pub static COMMANDS: &[Specification] = &[
    command("get", 2, &[ReadOnly, Fast], ONE, parse::get, "The value of a key"),
    command("set", -3, &[Write], ONE, parse::set, "Sets a value: EX PX EXAT PXAT KEEPTTL NX XX GET"),
    command("mget", -2, &[ReadOnly, Fast], ALL, parse::get_many, "The values of several keys"),
    command("mset", -3, &[Write], PAIRS, parse::set_many, "Sets several values at one instant"),
    command("incr", 2, &[Write, Fast], ONE, parse::increment, "Adds one to a number"),
    command("del", -2, &[Write], ALL, parse::delete, "Removes keys"),
    command("exists", -2, &[ReadOnly, Fast], ALL, parse::exists, "How many of these keys there are"),
    command("incrby", 3, &[Write, Fast], ONE, parse::increment_by, "Adds to a number"),
    command("decr", 2, &[Write, Fast], ONE, parse::decrement, "Takes one from a number"),
    command("decrby", 3, &[Write, Fast], ONE, parse::decrement_by, "Takes from a number"),
    command("append", 3, &[Write, Fast], ONE, parse::append, "Adds to the end of a value"),
    command("strlen", 2, &[ReadOnly, Fast], ONE, parse::length, "The length of a value"),
    command("getrange", 4, &[ReadOnly], ONE, parse::range, "A part of a value"),
    command("setnx", 3, &[Write, Fast], ONE, parse::set_if_absent, "Sets a value unless there is one"),
    command("setex", 4, &[Write], ONE, parse::set_seconds, "Sets a value for some seconds"),
    command("psetex", 4, &[Write], ONE, parse::set_milliseconds, "Sets a value for some milliseconds"),
    command("getset", 3, &[Write, Fast], ONE, parse::get_set, "Sets a value and answers the one before"),
    command("getdel", 2, &[Write, Fast], ONE, parse::take, "Removes a key and answers its value"),
    command("msetnx", -3, &[Write], PAIRS, parse::set_many_if_absent, "Sets several values if there is none of them"),
    command("unlink", -2, &[Write, Fast], ALL, parse::delete, "Removes keys"),
    command("touch", -2, &[ReadOnly, Fast], ALL, parse::exists, "How many of these keys there are"),
    command("expire", -3, &[Write, Fast], ONE, parse::expire, "Removes a key after some seconds: NX XX GT LT"),
    command("pexpire", -3, &[Write, Fast], ONE, parse::expire_milliseconds, "Removes a key after some milliseconds"),
    command("expireat", -3, &[Write, Fast], ONE, parse::expire_at, "Removes a key at a second since 1970"),
    command("pexpireat", -3, &[Write, Fast], ONE, parse::expire_at_milliseconds, "Removes a key at a millisecond since 1970"),
    command("ttl", 2, &[ReadOnly, Fast], ONE, parse::time_left, "Seconds that a key has left"),
    command("pttl", 2, &[ReadOnly, Fast], ONE, parse::time_left_milliseconds, "Milliseconds that a key has left"),
    command("persist", 2, &[Write, Fast], ONE, parse::persist, "Lets a key stay for good"),
    command("type", 2, &[ReadOnly, Fast], ONE, parse::kind, "What kind of value a key has"),
    command("scan", -2, &[ReadOnly, NoMulti], NONE, parse::scan, "Walks the keys, a stretch at a time: MATCH COUNT TYPE"),
    command("keys", 2, &[ReadOnly, NoMulti], NONE, parse::keys, "All keys that look like a pattern"),
    command("dbsize", 1, &[ReadOnly, NoMulti], NONE, parse::count, "How many keys there are"),
    command("flushall", -1, &[Write], NONE, parse::flush, "Removes everything"),
    command("flushdb", -1, &[Write], NONE, parse::flush, "Removes everything"),
    command("ping", -1, &[Fast], NONE, parse::ping, "Says that the server is here"),
    command("echo", 2, &[Fast], NONE, parse::echo, "Says it again"),
    command("hello", -1, &[Fast, NoMulti], NONE, parse::hello, "Opens the conversation in a version of the protocol"),
    command("client", -2, &[NoMulti], NONE, parse::client, "About this connection: ID GETNAME SETNAME SETINFO INFO LIST"),
    command("select", 2, &[Fast], NONE, parse::select, "Chooses the database: there is one, number 0"),
    command("readonly", 1, &[Fast, NoMulti], NONE, parse::allow_stale_reads, "Reads may be answered by this member alone, as old as its state is"),
    command("readwrite", 1, &[Fast, NoMulti], NONE, parse::forbid_stale_reads, "Reads are linearizable again"),
    command("multi", 1, &[Fast], NONE, parse::begin, "Begins a transaction"),
    command("exec", 1, &[], NONE, parse::execute, "Carries a transaction out, as one record of the log"),
    command("discard", 1, &[Fast], NONE, parse::discard, "Drops a transaction"),
    command("quit", -1, &[Fast], NONE, parse::quit, "Ends the connection"),
    command("info", -1, &[NoMulti], NONE, parse::describe, "What operators look at"),
    command("config", -2, &[Admin, NoMulti], NONE, parse::config, "Settings: GET"),
    command("command", -1, &[NoMulti], NONE, parse::command_list, "The commands that there are: COUNT INFO DOCS"),
    command("landfall", -2, &[Admin, NoMulti], NONE, parse::landfall, "STATUS of this member, AUDIT of all, REMOVE member, ONCE session sequence command"),
];
