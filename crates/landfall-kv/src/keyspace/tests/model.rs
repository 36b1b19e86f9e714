//! The reference: what Redis' documentation says of each command, on one plain map. Expired keys vanish at once.

use std::collections::BTreeMap;

use super::*;

#[derive(Debug, Default)]
pub(super) struct Model {
    keys: BTreeMap<Bytes, Entry>,
}

impl Model {
    pub(super) fn expire(&mut self, time_ms: u64) {
        self.keys.retain(|_, entry| entry.deadline_ms.is_none_or(|deadline| deadline > time_ms));
    }

    pub(super) fn content(&self) -> Vec<(Bytes, Entry)> {
        self.keys.iter().map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }

    pub(super) fn apply(&mut self, time_ms: u64, step: &Step) -> Reply {
        let reply = match step {
            Step::Write(write) => self.write(time_ms, write),
            Step::Read(read) => self.read(time_ms, read),
            _ => Reply::Nothing,
        };
        self.expire(time_ms);
        reply
    }

    fn write(&mut self, time_ms: u64, write: &Write) -> Reply {
        match write {
            Write::Set(set) => self.set(time_ms, set),
            Write::SetMany(pairs, condition) => self.set_many(pairs, *condition),
            Write::Delete(keys) => Reply::count(keys.iter().filter(|key| self.keys.remove(*key).is_some()).count()),
            Write::Take(key) => Reply::bulk_or_nothing(self.keys.remove(key).map(|entry| entry.value)),
            Write::Increment(key, by) => self.increment(key, *by),
            Write::Append(key, more) => {
                let entry = self.keys.entry(key.clone()).or_insert_with(|| stays(&[]));
                entry.value = [&entry.value[..], more].concat().into();
                Reply::count(entry.value.len())
            }
            Write::Expire(key, moment, condition) => self.expire_key(time_ms, key, *moment, *condition),
            Write::Persist(key) => {
                let had = self.keys.get_mut(key).and_then(|entry| entry.deadline_ms.take());
                Reply::Integer(had.is_some().into())
            }
            Write::Flush => {
                self.keys.clear();
                Reply::Ok
            }
        }
    }

    fn set(&mut self, time_ms: u64, set: &Set) -> Reply {
        let before = self.keys.get(&set.key).cloned();
        let done = match set.condition {
            Condition::Always => true,
            Condition::IfAbsent => before.is_none(),
            Condition::IfPresent => before.is_some(),
        };
        if done {
            let deadline_ms = match set.deadline {
                Deadline::Never => None,
                Deadline::Keep => before.as_ref().and_then(|entry| entry.deadline_ms),
                Deadline::At(moment) => Some(absolute(time_ms, moment) as u64),
            };
            self.keys.insert(set.key.clone(), Entry { value: set.value.clone(), deadline_ms });
        }
        match (set.answer, done) {
            (SetAnswer::Previous, _) => Reply::bulk_or_nothing(before.map(|entry| entry.value)),
            (SetAnswer::Count, done) => Reply::Integer(i64::from(done)),
            (SetAnswer::Word, true) => Reply::Ok,
            (SetAnswer::Word, false) => Reply::Nothing,
        }
    }

    fn set_many(&mut self, pairs: &[(Bytes, Bytes)], condition: Condition) -> Reply {
        let only_new = condition == Condition::IfAbsent;
        if only_new && pairs.iter().any(|(key, _)| self.keys.contains_key(key)) {
            return Reply::Integer(0);
        }
        self.keys.extend(pairs.iter().map(|(key, value)| (key.clone(), stays(value))));
        if only_new { Reply::Integer(1) } else { Reply::Ok }
    }

    fn increment(&mut self, key: &Bytes, by: i64) -> Reply {
        let entry = self.keys.get(key).cloned().unwrap_or_else(|| stays(b"0"));
        let text = std::str::from_utf8(&entry.value).unwrap_or("x");
        // A number is what writing it again gives back.
        let number = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
        let Some(number) = number else { return Reply::refused("ERR value is not an integer or out of range") };
        let sum = i128::from(number) + i128::from(by);
        let Ok(sum) = i64::try_from(sum) else {
            return Reply::refused("ERR increment or decrement would overflow");
        };
        self.keys.insert(key.clone(), Entry { value: sum.to_string().into(), ..entry });
        Reply::Integer(sum)
    }

    fn expire_key(&mut self, time_ms: u64, key: &Bytes, moment: Moment, condition: ExpireCondition) -> Reply {
        let Some(entry) = self.keys.get_mut(key) else { return Reply::Integer(0) };
        let old = entry.deadline_ms.map_or(i128::MAX, i128::from);
        let new = absolute(time_ms, moment);
        let refused = match condition.present {
            Some(Present::No) => old != i128::MAX,
            Some(Present::Yes) => old == i128::MAX,
            None => false,
        } || match condition.order {
            Some(Order::Later) => new <= old,
            Some(Order::Earlier) => new >= old,
            None => false,
        };
        if refused {
            return Reply::Integer(0);
        }
        entry.deadline_ms = Some(new.max(0) as u64);
        Reply::Integer(1)
    }

    fn read(&self, time_ms: u64, read: &Read) -> Reply {
        let value = |key: &Bytes| Reply::bulk_or_nothing(self.keys.get(key).map(|entry| entry.value.clone()));
        match read {
            Read::Get(key) => value(key),
            Read::GetMany(keys) => Reply::Array(keys.iter().map(value).collect()),
            Read::Exists(keys) => Reply::count(keys.iter().filter(|key| self.keys.contains_key(*key)).count()),
            Read::Length(key) => Reply::count(self.keys.get(key).map_or(0, |entry| entry.value.len())),
            Read::Range(key, start, end) => {
                let whole = self.keys.get(key).map(|entry| entry.value.to_vec()).unwrap_or_default();
                let count = whole.len() as i64;
                let place = |index: i64| if index < 0 { index + count } else { index };
                let part = whole.iter().enumerate();
                // Redis clamps a negative end that lies before the start of the value to its first byte.
                let (start, end) =
                    if *start < 0 && *end < 0 && start > end { (1, 0) } else { (place(*start), place(*end).max(0)) };
                let inside = part.filter(|(index, _)| (start..=end).contains(&(*index as i64)));
                Reply::Bulk(inside.map(|(_, byte)| *byte).collect::<Vec<_>>().into())
            }
            Read::TimeLeft(key, unit) => Reply::Integer(match self.keys.get(key).map(|entry| entry.deadline_ms) {
                None => -2,
                Some(None) => -1,
                Some(Some(deadline)) if *unit == Unit::Milliseconds => (deadline - time_ms) as i64,
                // To the nearest second.
                Some(Some(deadline)) => ((deadline - time_ms) as i64 + 500) / 1000,
            }),
            Read::Kind(key) => Reply::Status(if self.keys.contains_key(key) { "string" } else { "none" }.into()),
        }
    }
}

fn stays(value: &[u8]) -> Entry {
    Entry { value: Bytes::copy_from_slice(value), deadline_ms: None }
}

fn absolute(time_ms: u64, moment: Moment) -> i128 {
    match moment {
        Moment::FromNow(after) => i128::from(time_ms) + i128::from(after),
        Moment::Unix(at) => i128::from(at),
    }
}
