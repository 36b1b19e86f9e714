//! What requests become, and what they are refused with.

use bytes::Bytes;

use super::*;
use crate::request::Cutter;

fn parsed(line: &str) -> Result<Command, String> {
    let mut cutter = Cutter::default();
    let input = Bytes::from(format!("{line}\n"));
    cutter.cut(&input).unwrap().unwrap();
    parse(cutter.arguments(&input)).map_err(|refusal| refusal.0.into_owned())
}

fn key() -> Bytes {
    Bytes::from_static(b"k")
}

#[track_caller]
fn check(line: &str, expected: Command) {
    assert_eq!(parsed(line), Ok(expected), "{line}");
}

#[track_caller]
fn check_refused(line: &str, expected: &str) {
    assert_eq!(parsed(line), Err(expected.to_owned()), "{line}");
}

fn set(deadline: Deadline, condition: Condition, answer: SetAnswer) -> Command {
    Command::Write(Write::Set(Set { key: key(), value: Bytes::from_static(b"v"), deadline, condition, answer }))
}

#[test]
fn set_and_its_relatives_are_one_command() {
    use {Condition::*, Deadline::*, Moment::*, SetAnswer::*};
    check("SET k v", set(Never, Always, Word));
    check("set k v ex 10 nx", set(At(FromNow(10_000)), IfAbsent, Word));
    check("SET k v PXAT 12 XX GET", set(At(Unix(12)), IfPresent, Previous));
    check("SET k v KEEPTTL", set(Keep, Always, Word));
    check("SETNX k v", set(Never, IfAbsent, Count));
    check("SETEX k 3 v", set(At(FromNow(3000)), Always, Word));
    check("PSETEX k 3 v", set(At(FromNow(3)), Always, Word));
    check("GETSET k v", set(Never, Always, Previous));
}

#[test]
fn options_that_do_not_fit_together_are_refused() {
    for line in [
        "SET k v NX XX",
        "SET k v EX 1 PX 1",
        "SET k v EX",
        "SET k v KEEPTTL EX 1",
        "SET k v EX 1 EX 1",
        "SET k v WHAT",
        "SCAN 0 COUNT 0",
        "SCAN 0 MATCH",
        "FLUSHALL NOW",
    ] {
        check_refused(line, texts::SYNTAX);
    }
    check_refused("EXPIRE k 1 NX XX", "ERR NX and XX, GT or LT options at the same time are not compatible");
    check_refused("EXPIRE k 1 GT LT", "ERR GT and LT options at the same time are not compatible");
    check_refused("EXPIRE k 1 MAYBE", "ERR Unsupported option MAYBE");
}

#[test]
fn numbers_outside_their_range_are_refused() {
    for line in ["INCRBY k x", "SET k v EX x", "SELECT x", "GETRANGE k 0 x", "INCRBY k 9223372036854775808"] {
        check_refused(line, texts::NOT_AN_INTEGER);
    }
    check_refused("DECRBY k -9223372036854775808", texts::DECREMENT_OVERFLOW);
    check_refused("SET k v EX 0", "ERR invalid expire time in 'set' command");
    check_refused("SETEX k -1 v", "ERR invalid expire time in 'setex' command");
    check_refused("EXPIRE k 9223372036854775807", "ERR invalid expire time in 'expire' command");
    check_refused("SELECT 1", "ERR DB index is out of range");
    check_refused("SCAN x", "ERR invalid cursor");
}

#[test]
fn the_count_of_arguments_is_checked() {
    for (line, name) in [
        ("GET", "get"),
        ("SET k", "set"),
        ("MSET k", "mset"),
        ("MSET a 1 b", "mset"),
        ("PING a b", "ping"),
        ("CONFIG GET", "config|get"),
        ("CLIENT SETNAME", "client|setname"),
        ("LANDFALL STATUS x", "landfall|status"),
        ("LANDFALL REMOVE", "landfall|remove"),
    ] {
        check_refused(line, &format!("ERR wrong number of arguments for '{name}' command"));
    }
}

#[test]
fn unknown_commands_are_named_with_what_came_after() {
    check_refused("NOPE", "ERR unknown command 'NOPE', with args beginning with: ");
    check_refused("Nope a b", "ERR unknown command 'Nope', with args beginning with: 'a' 'b' ");
    check_refused("CLIENT KILL", "ERR unknown subcommand 'KILL'. Try CLIENT HELP.");
}

#[test]
fn keys_and_values_beyond_their_limits_are_refused() {
    use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
    let check_lengths = |key: usize, value: usize| {
        let (key, value) = ("k".repeat(key), "v".repeat(value));
        let input = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len());
        let input = Bytes::from(input);
        let mut cutter = Cutter::default();
        cutter.cut(&input).unwrap().unwrap();
        parse(cutter.arguments(&input)).map_err(|refusal| refusal.0.into_owned()).err()
    };
    assert_eq!(check_lengths(KEY_BYTES_MAX, VALUE_BYTES_MAX), None);
    assert_eq!(check_lengths(KEY_BYTES_MAX + 1, 1).as_deref(), Some(texts::KEY_TOO_LONG));
    assert_eq!(check_lengths(1, VALUE_BYTES_MAX + 1).as_deref(), Some(texts::VALUE_TOO_LONG));
    assert!(texts::KEY_TOO_LONG.contains(&KEY_BYTES_MAX.to_string()), "the sentence names the limit");
    assert!(texts::WRITE_TOO_LARGE.contains(&crate::limits::WRITES_BYTES_MAX.to_string()));
}

#[test]
fn once_takes_one_write_and_cannot_be_nested() {
    let write = Write::Increment(key(), 1);
    check("LANDFALL ONCE s 7 INCR k", Command::Once(Once { session: Bytes::from_static(b"s"), sequence: 7, write }));
    let refusal = "ERR LANDFALL ONCE takes one command that writes";
    check_refused("LANDFALL ONCE s 7 GET k", refusal);
    check_refused("LANDFALL ONCE s 7 LANDFALL ONCE s 8 INCR k", refusal);
    check_refused("LANDFALL ONCE s -1 INCR k", texts::NOT_AN_INTEGER);
}

#[test]
fn every_command_of_the_table_is_found_by_its_name_in_any_letters() {
    for known in COMMANDS {
        let found = specification(known.name.to_ascii_uppercase().as_bytes()).unwrap();
        assert!(std::ptr::eq(found, known), "{} stands in the table twice", known.name);
        assert!(known.arity != 0 && !known.summary.is_empty(), "{}", known.name);
    }
}
