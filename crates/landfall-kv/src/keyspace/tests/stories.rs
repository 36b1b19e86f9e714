//! What the property tests do not reach: limits, sessions, the sweep's steps, and bytes that must never change.

use super::*;
use crate::command::{Once, texts};
use crate::limits::{REPLY_BYTES_MAX, SESSION_IDLE_MS_MAX, SESSION_REPLY_BYTES_MAX, VALUE_BYTES_MAX};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn set_for(key: &str, after_ms: i64) -> Step {
    Step::Write(Write::Set(Set {
        key: bytes(key),
        value: bytes("v"),
        deadline: Deadline::At(Moment::FromNow(after_ms)),
        condition: Condition::Always,
        answer: SetAnswer::Word,
    }))
}

fn once(sequence: u64, write: Write) -> Step {
    Step::Once(Once { session: bytes("s"), sequence, write })
}

fn done(time_ms: u64, step: &Step, state: &mut MemoryState) -> Reply {
    apply(time_ms, step, state).unwrap()
}

#[test]
fn a_sweep_takes_a_limited_number_and_the_next_one_the_rest() {
    let mut state = MemoryState::default();
    for number in 0..SWEPT_KEYS_MAX + 5 {
        done(START_MS, &set_for(&format!("key {number}"), 10), &mut state);
    }
    done(START_MS, &set_for("later", 11), &mut state);
    assert!(!is_sweep_due(START_MS + 9, &state).unwrap());
    assert_eq!(done(START_MS + 9, &Step::Sweep, &mut state), Reply::Integer(0));
    assert_eq!(done(START_MS + 10, &Step::Sweep, &mut state), Reply::count(SWEPT_KEYS_MAX));
    assert_eq!(done(START_MS + 10, &Step::Sweep, &mut state), Reply::count(5));
    assert!(!is_sweep_due(START_MS + 10, &state).unwrap());
    assert_eq!(state.section(Section::Data).len(), 1);
}

#[test]
fn a_sweep_spares_a_key_that_was_set_again() {
    let mut state = MemoryState::default();
    done(START_MS, &set_for("k", 10), &mut state);
    done(START_MS, &set_for("k", 20), &mut state);
    assert_eq!(
        done(START_MS + 10, &Step::Sweep, &mut state),
        Reply::Integer(1),
        "the index entry that no longer holds"
    );
    assert_eq!(state.section(Section::Data).len(), 1);
    assert_eq!(state.section(Section::Cache).len(), 1);
}

#[test]
fn an_append_beyond_the_limit_changes_nothing() {
    let mut state = MemoryState::default();
    let append = |length: usize| Step::Write(Write::Append(bytes("k"), vec![b'x'; length].into()));
    assert_eq!(done(START_MS, &append(VALUE_BYTES_MAX), &mut state), Reply::count(VALUE_BYTES_MAX));
    let before = state.clone();
    assert_eq!(done(START_MS, &append(1), &mut state), Reply::refused(texts::VALUE_TOO_LONG));
    assert_eq!(state, before);
}

/// Longest values that one reply holds.
const LONG_VALUES_MAX: usize = REPLY_BYTES_MAX / (VALUE_BYTES_MAX + 32);

fn with_a_long_value() -> MemoryState {
    let mut state = MemoryState::default();
    let long = Write::Append(bytes("long"), vec![b'x'; VALUE_BYTES_MAX].into());
    done(START_MS, &Step::Write(long), &mut state);
    state
}

#[test]
fn a_reply_of_many_values_is_refused_when_it_is_too_long() {
    let mut state = with_a_long_value();
    let mut many = |count| done(START_MS, &Step::Read(Read::GetMany(vec![bytes("long"); count])), &mut state);
    let Reply::Array(values) = many(LONG_VALUES_MAX) else { panic!("they fit") };
    assert_eq!(values.len(), LONG_VALUES_MAX);
    assert_eq!(many(LONG_VALUES_MAX + 1), Reply::error(texts::reply_too_long()));
}

#[test]
fn a_transaction_whose_replies_are_too_long_changes_nothing() {
    let mut state = with_a_long_value();
    let before = state.clone();
    let transaction = |reads: usize| {
        let changes = [Write::Increment(bytes("counter"), 1), Write::Persist(bytes("long"))].map(Step::Write);
        let reads = vec![Step::Read(Read::Get(bytes("long"))); reads];
        Step::Transaction(changes.into_iter().chain(reads).chain([set_for("last", 10)]).collect())
    };
    let refused = done(START_MS, &transaction(LONG_VALUES_MAX + 1), &mut state);
    assert_eq!(refused, Reply::error(texts::reply_too_long()));
    assert_eq!(state, before);
    let Reply::Array(replies) = done(START_MS, &transaction(LONG_VALUES_MAX - 1), &mut state) else {
        panic!("it fits")
    };
    assert_eq!((replies.len(), &replies[0]), (LONG_VALUES_MAX + 2, &Reply::Integer(1)));
    assert_ne!(state, before);
}

#[test]
fn a_session_does_each_command_once() {
    let mut state = MemoryState::default();
    let increment = || Write::Increment(bytes("k"), 1);
    assert_eq!(done(START_MS, &once(1, increment()), &mut state), Reply::Integer(1));
    assert_eq!(done(START_MS + 5, &once(1, increment()), &mut state), Reply::Integer(1), "answered, not done again");
    assert_eq!(done(START_MS + 5, &once(2, increment()), &mut state), Reply::Integer(2));
    assert!(done(START_MS + 5, &once(1, increment()), &mut state).is_error());
    assert_eq!(state.section(Section::Inflight).len(), 2, "one record and its deadline");
}

#[test]
fn a_session_keeps_every_kind_of_reply_that_a_write_gives() {
    let mut state = MemoryState::default();
    let set = |value: Bytes, condition, answer| {
        Write::Set(Set { key: bytes("k"), value, deadline: Deadline::Never, condition, answer })
    };
    let long = Bytes::from(vec![b'x'; SESSION_REPLY_BYTES_MAX + 1]);
    let writes = [
        set(bytes("a\r\nb"), Condition::Always, SetAnswer::Word),
        set(bytes("no"), Condition::IfAbsent, SetAnswer::Word),
        Write::Increment(bytes("k"), 1),
        set(long, Condition::Always, SetAnswer::Previous),
    ];
    for (sequence, write) in (1..).zip(writes) {
        let first = done(START_MS, &once(sequence, write.clone()), &mut state);
        assert_eq!(done(START_MS, &once(sequence, write), &mut state), first);
    }
    let take = || once(9, Write::Take(bytes("k")));
    assert!(!done(START_MS, &take(), &mut state).is_error());
    assert!(done(START_MS, &take(), &mut state).is_error(), "a reply beyond the limit is not kept, and says so");
}

#[test]
fn a_session_that_nobody_uses_is_forgotten() {
    let mut state = MemoryState::default();
    done(START_MS, &once(1, Write::Increment(bytes("k"), 1)), &mut state);
    done(START_MS + 7, &once(2, Write::Increment(bytes("k"), 1)), &mut state);
    let end_ms = START_MS + 7 + SESSION_IDLE_MS_MAX;
    assert!(!is_sweep_due(end_ms - 1, &state).unwrap());
    sweep_all(end_ms, &mut state);
    assert_eq!(state.section(Section::Inflight), []);
}

/// Steps stand in logs on disk: what one version wrote, the next must read.
#[test]
fn the_bytes_of_steps_never_change() {
    let key = || bytes("k");
    let set = Set {
        key: key(),
        value: bytes("v"),
        deadline: Deadline::At(Moment::FromNow(1000)),
        condition: Condition::IfAbsent,
        answer: SetAnswer::Word,
    };
    let expire = ExpireCondition { present: Some(Present::Yes), order: Some(Order::Later) };
    let steps = [
        (Step::Write(Write::Set(set)), "81a17781a17395c4016bc40176 81a16181a166cd03e8 a16e a177"),
        (
            Step::Write(Write::SetMany(vec![(key(), bytes("v"))], Condition::Always)),
            "81a17781a16d92 9192c4016bc40176 a161",
        ),
        (Step::Write(Write::Delete(vec![key()])), "81a17781a16491c4016b"),
        (Step::Write(Write::Take(key())), "81a17781a174c4016b"),
        (Step::Write(Write::Increment(key(), -1)), "81a17781a16992c4016bff"),
        (Step::Write(Write::Append(key(), bytes("v"))), "81a17781a16192c4016bc40176"),
        (Step::Write(Write::Expire(key(), Moment::Unix(5), expire)), "81a17781a16593c4016b 81a17505 92a179a167"),
        (Step::Write(Write::Persist(key())), "81a17781a170c4016b"),
        (Step::Write(Write::Flush), "81a177a166"),
        (
            Step::Transaction(vec![Step::Read(Read::Get(key())), Step::Say(Reply::Ok)]),
            "81a17492 81a17281a167c4016b 81a173a16b",
        ),
        (once(7, Write::Flush), "81a16f93c4017307a166"),
        (Step::Sweep, "a178"),
    ];
    for (step, expected) in steps {
        let encoded: String = rmp_serde::to_vec(&step).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(encoded, expected.replace(' ', ""), "{step:?}");
    }
}
