//! Commands against a reference that is written another way: one map from key to value and deadline, swept at once.

mod model;
mod stories;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::command::{Condition, Deadline, ExpireCondition, Moment, Order, Present, Set, SetAnswer, Unit, Write};
use crate::limits::SWEPT_KEYS_MAX;
use model::Model;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Replies and content are the reference's at every moment, and the index never loses a deadline.
    #[test]
    fn commands_do_what_the_reference_does(history in prop::collection::vec((0_u64..400, step()), 1..80)) {
        let (mut state, mut model, mut time_ms) = (MemoryState::default(), Model::default(), START_MS);
        for (pause_ms, step) in history {
            time_ms += pause_ms;
            model.expire(time_ms);
            let reply = apply(time_ms, &step, &mut state).unwrap();
            let expected = model.apply(time_ms, &step);
            if step != Step::Sweep {
                prop_assert_eq!(reply, expected, "{:?} at {}", step, time_ms);
            }
            prop_assert_eq!(live(time_ms, &state), model.content());
            check_index(&state)?;
        }
        sweep_all(time_ms, &mut state);
        prop_assert_eq!(state.section(Section::Data).len(), model.content().len(), "a sweep leaves nothing expired");
    }

    /// A record that was applied in one go or step by step leaves the same state.
    #[test]
    fn a_transaction_is_its_steps_at_one_instant(steps in prop::collection::vec(step(), 1..10)) {
        let (mut together, mut apart) = (MemoryState::default(), MemoryState::default());
        let one = apply(START_MS, &Step::Transaction(steps.clone()), &mut together).unwrap();
        let each = steps.iter().map(|step| apply(START_MS, step, &mut apart).unwrap()).collect();
        prop_assert_eq!(&one, &Reply::Array(each));
        prop_assert_eq!(&together, &apart);
        let mut tried = MemoryState::default();
        prop_assert_eq!(transaction::try_first(START_MS, &steps, &mut tried).unwrap(), one);
        prop_assert_eq!(tried, together);
    }

    /// What is tried first sees itself, and what it does is what would have been done at once.
    #[test]
    fn what_is_tried_first_is_done_as_if_it_were_not(
        before in prop::collection::vec(step(), 0..10),
        steps in prop::collection::vec((0_u64..400, prop::collection::vec(step(), 1..6)), 1..6),
    ) {
        let (mut direct, mut time_ms) = (MemoryState::default(), START_MS);
        before.iter().for_each(|step| drop(apply(time_ms, step, &mut direct).unwrap()));
        let mut tried = direct.clone();
        for (pause_ms, steps) in steps {
            time_ms += pause_ms;
            let expected = transaction::carry_out_directly(time_ms, &steps, &mut direct).unwrap();
            prop_assert_eq!(transaction::try_first(time_ms, &steps, &mut tried).unwrap(), expected);
            prop_assert_eq!(&tried, &direct);
        }
    }

    /// Whatever the state, a reply is as long as its step said at most.
    #[test]
    fn a_reply_is_never_longer_than_its_step_allows(history in prop::collection::vec(step(), 1..40)) {
        let mut state = MemoryState::default();
        for step in history {
            let reply = apply(START_MS, &step, &mut state).unwrap();
            prop_assert!(reply.bytes_max() <= step.reply_bytes_max(), "{:?} answers {:?}", step, reply);
        }
    }
}

pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// What a client would see.
fn live(time_ms: u64, state: &MemoryState) -> Vec<(Bytes, Entry)> {
    let entries = state.section(Section::Data).into_iter();
    let entries = entries.map(|(key, stored)| (key, Entry::decode(&stored).expect("only entries are stored")));
    entries.filter(|(_, entry)| entry.is_live(time_ms)).collect()
}

/// Each deadline stands in the index, or the key would stay for ever.
fn check_index(state: &MemoryState) -> Result<(), TestCaseError> {
    let index = state.section(Section::Cache);
    for (key, stored) in state.section(Section::Data) {
        if let Some(deadline_ms) = Entry::decode(&stored).and_then(|entry| entry.deadline_ms) {
            let indexed = (deadline_key(deadline_ms, &key), Bytes::new());
            prop_assert!(index.contains(&indexed), "{:?} has no place in the index", key);
        }
    }
    Ok(())
}

fn sweep_all(time_ms: u64, state: &mut MemoryState) {
    while is_sweep_due(time_ms, state).unwrap() {
        let before = state.clone();
        apply(time_ms, &Step::Sweep, state).unwrap();
        assert_ne!(*state, before, "a sweep that is due removes something");
    }
}

/// Few keys, so that commands meet each other.
fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::from_static(b"9223372036854775800")),
        (-20_i64..20).prop_map(|number| Bytes::from(number.to_string())),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from),
    ]
}

fn moment() -> impl Strategy<Value = Moment> {
    let near = -500_i64..1500;
    let unix = near.clone().prop_map(|offset| Moment::Unix(START_MS as i64 + offset));
    prop_oneof![near.prop_map(Moment::FromNow), unix, Just(Moment::Unix(-5)), Just(Moment::FromNow(i64::MAX / 4))]
}

fn condition() -> impl Strategy<Value = Condition> {
    prop::sample::select(vec![Condition::Always, Condition::IfAbsent, Condition::IfPresent])
}

fn set() -> impl Strategy<Value = Write> {
    let deadline = prop_oneof![
        Just(Deadline::Never),
        Just(Deadline::Keep),
        (1_i64..1500).prop_map(|after| Deadline::At(Moment::FromNow(after)))
    ];
    let answer = prop::sample::select(vec![SetAnswer::Word, SetAnswer::Count, SetAnswer::Previous]);
    (key(), value(), deadline, condition(), answer).prop_map(|(key, value, deadline, condition, answer)| {
        Write::Set(Set { key, value, deadline, condition, answer })
    })
}

fn expire_condition() -> impl Strategy<Value = ExpireCondition> {
    let present = prop::sample::select(vec![None, Some(Present::No), Some(Present::Yes)]);
    let order = prop::sample::select(vec![None, Some(Order::Later), Some(Order::Earlier)]);
    (present, order).prop_map(|(present, order)| ExpireCondition { present, order })
}

fn write() -> impl Strategy<Value = Write> {
    let keys = || prop::collection::vec(key(), 1..4);
    let set_many = prop::sample::select(vec![Condition::Always, Condition::IfAbsent]);
    prop_oneof![
        6 => set(),
        1 => (prop::collection::vec((key(), value()), 1..4), set_many).prop_map(|(pairs, when)| Write::SetMany(pairs, when)),
        2 => keys().prop_map(Write::Delete),
        1 => key().prop_map(Write::Take),
        2 => (key(), prop_oneof![-3_i64..20, Just(i64::MAX), Just(i64::MIN)]).prop_map(|(key, by)| Write::Increment(key, by)),
        2 => (key(), value()).prop_map(|(key, more)| Write::Append(key, more)),
        3 => (key(), moment(), expire_condition()).prop_map(|(key, moment, when)| Write::Expire(key, moment, when)),
        1 => key().prop_map(Write::Persist),
        1 => Just(Write::Flush),
    ]
}

fn read_command() -> impl Strategy<Value = Read> {
    let keys = || prop::collection::vec(key(), 1..4);
    prop_oneof![
        key().prop_map(Read::Get),
        keys().prop_map(Read::GetMany),
        keys().prop_map(Read::Exists),
        key().prop_map(Read::Length),
        (key(), -15_i64..15, -15_i64..15).prop_map(|(key, start, end)| Read::Range(key, start, end)),
        (key(), prop::sample::select(vec![Unit::Seconds, Unit::Milliseconds]))
            .prop_map(|(key, unit)| Read::TimeLeft(key, unit)),
        key().prop_map(Read::Kind),
    ]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![6 => write().prop_map(Step::Write), 3 => read_command().prop_map(Step::Read), 1 => Just(Step::Sweep)]
}

proptest! {
    #[test]
    fn a_step_never_takes_more_of_the_log_than_it_weighs(steps in prop::collection::vec(step(), 1..6)) {
        for step in steps.iter().cloned().chain([Step::Transaction(steps.clone())]) {
            let encoded = rmp_serde::to_vec(&step).unwrap();
            prop_assert!(encoded.len() <= step.weight(), "{:?}: {} > {}", step, encoded.len(), step.weight());
            prop_assert_eq!(rmp_serde::from_slice::<Step>(&encoded).unwrap(), step);
        }
    }
}
