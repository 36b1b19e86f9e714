//! Owns the reads of a run: clients read at any member that serves, and what they see is what the model was at the member's position.

use std::time::Duration;

use bytes::Bytes;
use landfall_core::keyed::{ReadError, SectionId};

use super::deed::{CONFIG, DATA, RECENT};
use super::here::Here;
use super::line::{Need, Task};
use super::world::{Event, LiveWorld};
use crate::checks::{broken, check};
use crate::network::MemberId;
use crate::trouble::Trouble;

/// Clients; each never sees an older state than it saw before.
pub(super) const CLIENTS: usize = 3;

/// One read under way at a member.
#[derive(Debug, Clone)]
pub(super) struct Read {
    member: MemberId,
    life: u64,
    client: usize,
    section: SectionId,
    key: Bytes,
    /// One value, or so many entries.
    entries: Option<usize>,
    /// The member must have applied as much: the client has seen it.
    promised: u64,
}

/// How far a read is.
enum Tried {
    Done,
    /// The member has not applied what the client has seen.
    TooEarly,
    Needs(Need),
}

impl LiveWorld {
    /// A client reads somewhere.
    pub(super) fn read_somewhere(&mut self) -> Result<(), Trouble> {
        let again_after = self.ground.random.millis(20, 300);
        self.ground.schedule(again_after, Event::Read);
        let serving: Vec<_> = (0..self.members.len()).filter(|&member| self.serves(member)).collect();
        let Some(&member) = serving.get(self.ground.random.below(serving.len() as u64) as usize) else { return Ok(()) };
        let client = self.ground.random.below(CLIENTS as u64) as usize;
        let (section, key) = match self.ground.random.below(10) {
            0 => (CONFIG, format!("setting/{}", self.ground.random.below(40))),
            1 => (CONFIG, format!("sum/{}", self.ground.random.below(20))),
            2 => (RECENT, format!("key/{:05}", self.ground.random.below(self.scenario.content.keys))),
            _ => (DATA, format!("key/{:05}", self.ground.random.below(self.scenario.content.keys))),
        };
        let entries = self.ground.random.chance(200).then(|| self.ground.random.between(1, 30) as usize);
        let life = self.members[member].life;
        let read = Read { member, life, client, section, key: key.into(), entries, promised: self.seen[client] };
        self.reads_made += 1;
        let number = self.reads_made;
        self.reads.insert(number, read);
        self.try_read(number)
    }

    /// Does a member answer reads?
    pub(super) fn serves(&self, member: MemberId) -> bool {
        let at = &self.members[member];
        let is_joined = at.joining.as_ref().is_some_and(|joining| joining.is_adopted);
        at.is_up() && at.state.is_some() && (is_joined || (self.order.votes(member) && at.is_whole()))
    }

    /// Tries a read again, with what is here by now.
    pub(super) fn try_read(&mut self, number: u64) -> Result<(), Trouble> {
        let Some(read) = self.reads.get(&number).cloned() else { return Ok(()) };
        let at = &self.members[read.member];
        if at.life != read.life || !self.serves(read.member) {
            self.reads.remove(&number);
            return Ok(());
        }
        match self.tried(&read)? {
            Tried::Done => {
                self.seen[read.client] = self.seen[read.client].max(self.members[read.member].position().index);
                self.reads.remove(&number);
                self.figures.reads += 1;
            }
            Tried::TooEarly => self.ground.schedule(Duration::from_millis(30), Event::ReadAgain { number }),
            Tried::Needs(need) => {
                self.figures.faults_in += 1;
                let at = &mut self.members[read.member];
                let Some(joining) = &mut at.joining else {
                    return broken(format!("member {} has everything, and a read needs {need:?}", read.member))?;
                };
                joining.line.begin(Task::Read(number));
                let join = joining.number;
                self.ground.schedule(Duration::ZERO, Event::Line { member: read.member, join });
            }
        }
        Ok(())
    }

    /// What a read needs from the line.
    pub(super) fn read_need(&mut self, number: u64) -> Result<Need, Trouble> {
        let Some(read) = self.reads.get(&number).cloned() else { return Ok(Need::Nothing) };
        match self.tried(&read)? {
            Tried::Needs(need) => Ok(need),
            Tried::Done | Tried::TooEarly => Ok(Need::Nothing),
        }
    }

    fn tried(&self, read: &Read) -> Result<Tried, Trouble> {
        let at = &self.members[read.member];
        let Some(state) = &at.state else { return Ok(Tried::Done) };
        let index = state.position().index;
        if index < read.promised {
            return Ok(Tried::TooEarly);
        }
        let here = Here::new(&at.disk, &at.nodes);
        let (found, expected) = match read.entries {
            None => (
                state.get(&here, read.section, &read.key).map(|value| one(&read.key, value)),
                one(&read.key, self.model.get(read.section, &read.key, index)),
            ),
            Some(entries) => (
                state.scan(&here, read.section, &read.key, entries),
                self.model.scan(read.section, &read.key, entries, index),
            ),
        };
        here.failed()?;
        match found {
            Ok(found) => {
                let is_excused = at.diverged.is_some();
                check(is_excused || found == expected, || {
                    format!("member {} at {index} answers {read:?} with {found:?} instead of {expected:?}", read.member)
                })?;
                Ok(Tried::Done)
            }
            Err(ReadError::Missing(missing)) => Ok(Tried::Needs(Need::of(missing))),
            // It says so, instead of answering with what it does not have.
            Err(ReadError::NotHeld { section }) if !at.sections.has(&section) => Ok(Tried::Done),
            Err(error) => broken(format!("member {} answers {read:?} with {error}", read.member))?,
        }
    }

    /// Everything that a member holds is the model's at its position.
    pub(super) fn check_all(&self, member: MemberId) -> Result<(), Trouble> {
        let at = &self.members[member];
        let Some(state) = &at.state else { return broken(format!("member {member} has no state"))? };
        let index = state.position().index;
        for section in self.schema.ids() {
            let here = Here::new(&at.disk, &at.nodes);
            let found = state.scan(&here, section, &[], usize::MAX);
            here.failed()?;
            let name = &self.schema.section(section).name;
            if !at.sections.has(name) {
                let is_told = matches!(&found, Err(ReadError::NotHeld { section }) if section == name);
                check(is_told, || format!("member {member} does not hold {name}, and reads {found:?} of it"))?;
                continue;
            }
            let expected = self.model.scan(section, &[], usize::MAX, index);
            check(found.as_ref() == Ok(&expected), || {
                format!("member {member} at {index} is not what the model is, in section {}", section.0)
            })?;
        }
        let log_hash = self.order.log_hash(index);
        Ok(check(state.log_hash() == log_hash, || format!("member {member} has another log hash at {index}"))?)
    }
}

fn one(key: &Bytes, value: Option<Bytes>) -> Vec<(Bytes, Bytes)> {
    value.map(|value| (key.clone(), value)).into_iter().collect()
}
