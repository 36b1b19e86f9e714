//! Owns the conversations of a run: who connects to whom, and what each end does with what it hears.

use std::time::Duration;

use landfall_core::ChunkId;
use landfall_core::join::{Milestone, RebaseCause};
use landfall_core::keyed::KeyedState;
use landfall_core::snapshot::Manifest;
use landfall_core::transfer::{DropReason, Outcome, RequestId};
use landfall_core::wire::{Ask, Message};

use super::fetched::AskedBy;
use super::here::Here;
use super::joining::{AGAIN_AFTER, is_new};
use super::line::{AskFrame, LINE, Need, Task};
use super::member::{Extent, Progress, violation};
use super::needs;
use super::world::{Event, LiveWorld};
use crate::checks::{Violation, broken};
use crate::content::STATE;
use crate::ground::Phase;
use crate::network::{ConnectionId, Delivery, End, MemberId};
use crate::pull::{Effect, Goal, Pull, Repeated};
use crate::source::{answer_ask, hello};
use crate::trouble::Trouble;

impl LiveWorld {
    pub(super) fn look(&mut self, connection: ConnectionId, end: End) -> Result<(), Violation> {
        let Some(at) = self.ground.network.get(connection) else { return Ok(()) };
        let (joiner, source, lane) = (at.joiner, at.source, at.lane);
        let listener = if end == End::Source { source } else { joiner };
        let paused_until = self.members[listener].paused_until;
        if paused_until > self.ground.now {
            self.ground.schedule_at(paused_until, Event::Look { connection, end });
            return Ok(());
        }
        match self.ground.network.receive(connection, end, self.ground.now) {
            Delivery::Nothing => return Ok(()),
            Delivery::NotBefore(at) => {
                self.ground.schedule_at(at, Event::Look { connection, end });
                return Ok(());
            }
            Delivery::Frame(frame) if end == End::Source => {
                let heard = self.source_hears(source, connection, &frame);
                self.settle(source, heard)?;
            }
            Delivery::Frame(frame) => {
                let heard = self.joiner_hears(joiner, source, lane, &frame);
                let heard = match heard {
                    Err(Trouble::Peer(why)) => {
                        self.ground.log.note(self.ground.now, format_args!("{joiner} breaks with {source}: {why}"));
                        self.figures.corrupt += 1;
                        self.part(joiner, source, lane)
                    }
                    heard => heard,
                };
                self.settle(joiner, heard)?;
                let served = self.serve(source, connection);
                self.settle(source, served)?;
            }
        }
        if let Some(at) = self.ground.network.look_next(connection, end, self.ground.now) {
            self.ground.schedule_at(at, Event::Look { connection, end });
        }
        Ok(())
    }

    fn send(&mut self, connection: ConnectionId, end: End, frame: Vec<u8>) {
        if let Some(at) = self.ground.network.send(connection, end, frame, self.ground.now) {
            self.ground.schedule_at(at, Event::Look { connection, end });
        }
    }

    /// Breaks a joiner's connections to a source: its line, or those of the bulk.
    pub(super) fn part(&mut self, joiner: MemberId, source: MemberId, lane: u32) -> Result<(), Trouble> {
        if lane == LINE {
            self.part_line(joiner);
            if let Some(joining) = &self.members[joiner].joining {
                let join = joining.number;
                self.ground.schedule(AGAIN_AFTER, Event::Line { member: joiner, join });
            }
            return Ok(());
        }
        let again_after = self.ground.random.millis(200, 2000);
        self.part_from(joiner, source, again_after);
        self.pump(joiner)
    }

    pub(super) fn part_line(&mut self, joiner: MemberId) {
        let Some(joining) = &mut self.members[joiner].joining else { return };
        if let Some((source, connection)) = joining.line.lose() {
            self.ground.network.close(connection);
            self.members[source].serving.forget(connection);
        }
    }

    pub(super) fn part_from(&mut self, joiner: MemberId, source: MemberId, again_after: Duration) {
        let clock = self.members[joiner].clock(self.ground.now);
        let bulk = self.members[joiner].joining.as_mut().and_then(|joining| joining.bulk.as_mut());
        let Some(bulk) = bulk else { return };
        let pull = bulk.number;
        for connection in bulk.lose(source, clock) {
            self.ground.network.close(connection);
            self.members[source].serving.forget(connection);
        }
        self.ground.schedule(again_after, Event::Connect { member: joiner, source, pull });
    }

    /// Ends all connections of the bulk, and lets it go.
    pub(super) fn part_bulk(&mut self, joiner: MemberId) {
        for source in 0..self.members.len() {
            self.part_from(joiner, source, Duration::ZERO);
        }
        if let Some(joining) = &mut self.members[joiner].joining {
            joining.bulk = None;
        }
        for connection in self.ground.network.of(joiner) {
            let is_bulk = self.ground.network.get(connection).is_some_and(|at| at.joiner == joiner && at.lane != LINE);
            if is_bulk && let Some(closed) = self.ground.network.close(connection) {
                self.members[closed.source].serving.forget(connection);
            }
        }
    }

    fn source_hears(&mut self, source: MemberId, connection: ConnectionId, frame: &[u8]) -> Result<(), Trouble> {
        let message = Message::decode(frame).map_err(|error| violation(&error))?;
        let member = &mut self.members[source];
        let answer = match message {
            Message::Hello(_) => Some(hello()),
            Message::Ask(ask) => Some(answer_ask(&ask, &member.disk)?),
            Message::Fetch(fetch) => member.serving.take_fetch(connection, fetch).err().map(Message::Refusal),
            Message::Cancel { request } => {
                member.serving.take_cancel(connection, request);
                None
            }
            other => return broken(format!("a joiner said {other:?}"))?,
        };
        if let Some(answer) = answer {
            self.send(connection, End::Joiner, answer.encode());
        }
        self.serve(source, connection)
    }

    /// Sends what is owed, as long as the connection takes it.
    fn serve(&mut self, source: MemberId, connection: ConnectionId) -> Result<(), Trouble> {
        while self.ground.network.get(connection).is_some()
            && self.ground.network.bytes_to(connection, End::Joiner) < SEND_BYTES_MAX
        {
            let lies = self.ground.phase == Phase::Faults
                && self.members[source].is_liar
                && self.ground.random.chance(self.faults.lie);
            let member = &mut self.members[source];
            match member.serving.next_frame(connection, &member.disk, lies.then_some(&mut self.ground.random))? {
                Some(frame) => self.send(connection, End::Joiner, frame),
                None => break,
            }
        }
        Ok(())
    }

    fn joiner_hears(&mut self, joiner: MemberId, source: MemberId, lane: u32, frame: &[u8]) -> Result<(), Trouble> {
        let Ok(message) = Message::decode(frame) else { return Err(Trouble::Peer("no message")) };
        if lane == LINE { self.line_hears(joiner, message) } else { self.bulk_hears(joiner, (source, lane), message) }
    }

    fn bulk_hears(
        &mut self,
        joiner: MemberId,
        (source, lane): (MemberId, u32),
        message: Message<'_>,
    ) -> Result<(), Trouble> {
        let at = &mut self.members[joiner];
        let clock = at.clock(self.ground.now);
        let Some(bulk) = at.joining.as_mut().and_then(|joining| joining.bulk.as_mut()) else { return Ok(()) };
        match message {
            Message::Hello(_) => {}
            Message::Offer(offer) => {
                bulk.take_offer(source, &offer.manifest, self.scenario.lanes, &at.disk, clock)?;
            }
            Message::Item(item) => {
                let came = bulk.take_item((source, lane), item, &at.disk, clock)?;
                self.ground.log.note(self.ground.now, format_args!("{joiner} <- {source} {came}"));
                if let Some((id, bytes)) = bulk.last_came.take() {
                    at.came(id, bytes, AskedBy::Name)?;
                    self.check_wanted(joiner, id)?;
                    self.note_late(joiner, source);
                }
            }
            Message::Done { request } => bulk.take_done(RequestId(request), clock),
            _ => return Err(Trouble::Peer("a refusal, or what no source sends")),
        }
        self.pump(joiner)
    }

    fn line_hears(&mut self, joiner: MemberId, message: Message<'_>) -> Result<(), Trouble> {
        let at = &mut self.members[joiner];
        let clock = at.clock(self.ground.now);
        let Some(joining) = &mut at.joining else { return Ok(()) };
        match message {
            Message::Hello(_) => return Ok(()),
            Message::Offer(offer) => {
                if let Some(manifest) = joining.line.take_offer(Some(&offer.manifest))? {
                    at.disk.put(&manifest, None)?;
                }
            }
            Message::Refusal(_) => {
                joining.line.take_offer(None)?;
            }
            Message::Item(item) => {
                let here = Here::new(&at.disk, &at.nodes);
                let came = joining.line.take_item(item, &at.disk, &here, clock)?;
                let what = came.as_ref().map_or("nothing".to_owned(), |(chunk, _)| chunk.id().short().to_string());
                self.ground.log.note(self.ground.now, format_args!("{joiner} <= {what}"));
                let Some((chunk, asked)) = came else { return Ok(()) };
                at.came(chunk.id(), chunk.bytes().len() as u64, asked)?;
                return Ok(self.check_wanted(joiner, chunk.id())?);
            }
            Message::Done { request } => {
                if joining.line.take_done(request, clock) {
                    // The next source may have it.
                    self.part_line(joiner);
                }
            }
            _ => return Err(Trouble::Peer("what no source sends")),
        }
        self.line(joiner)
    }

    /// Lets the line ask for what its tasks need.
    pub(super) fn line(&mut self, member: MemberId) -> Result<(), Trouble> {
        let clock = self.members[member].clock(self.ground.now);
        let Some(joining) = &mut self.members[member].joining else { return Ok(()) };
        let number = joining.number;
        if joining.line.is_silent(clock) {
            self.ground.log.note(self.ground.now, format_args!("{member} leaves a silent source"));
            self.part_line(member);
        }
        let Some(joining) = &self.members[member].joining else { return Ok(()) };
        for task in joining.line.idle() {
            let need = self.need(member, task)?;
            match need {
                Need::Nothing => self.task_done(member, task)?,
                Need::Patience => {}
                need => self.ask_on_line(member, task, need)?,
            }
            if self.members[member].joining.as_ref().is_none_or(|joining| joining.number != number) {
                return Ok(());
            }
        }
        self.schedule_line(member, Duration::from_secs(1));
        Ok(())
    }

    /// A look at the line later, unless one is due sooner.
    fn schedule_line(&mut self, member: MemberId, after: Duration) {
        let Some(joining) = &mut self.members[member].joining else { return };
        let join = joining.number;
        if !joining.line.tasks.is_empty() && is_new(&mut joining.line_at, self.ground.now, self.ground.now + after) {
            self.ground.schedule(after, Event::Line { member, join });
        }
    }

    fn ask_on_line(&mut self, member: MemberId, task: Task, need: Need) -> Result<(), Trouble> {
        let Some((source, connection)) = self.line_source(member, task)? else { return Ok(()) };
        let at = &mut self.members[member];
        let clock = at.clock(self.ground.now);
        let Some(joining) = &mut at.joining else { return Ok(()) };
        let here = Here::new(&at.disk, &at.nodes);
        let frame = match joining.line.ask(task, need, &here, clock) {
            Some(AskFrame::Manifest(wanted)) => Message::Ask(ask_for(wanted)).encode(),
            Some(AskFrame::Fetch(frame)) => frame,
            None => return Ok(()),
        };
        here.failed()?;
        self.ground.log.note(self.ground.now, format_args!("{member} asks {source} for {task:?}"));
        self.send(connection, End::Source, frame);
        Ok(())
    }

    /// The source that is asked for a task, with a connection to it.
    fn line_source(&mut self, member: MemberId, task: Task) -> Result<Option<(MemberId, ConnectionId)>, Trouble> {
        let Some(joining) = &self.members[member].joining else { return Ok(None) };
        let lacking = joining.line.tasks.get(&task).map(|pending| pending.lacking.clone()).unwrap_or_default();
        if let Some((source, connection)) = joining.line.source.filter(|(source, _)| !lacking.contains(source)) {
            return Ok(Some((source, connection)));
        }
        if joining.line.source.is_some() {
            if joining.line.tasks.values().any(|pending| pending.is_asked) {
                // Others wait for answers of this one.
                return Ok(None);
            }
            self.part_line(member);
        }
        let reachable = |&source: &MemberId| {
            source != member
                && self.knows(member, source)
                && self.members[source].is_up()
                && self.ground.network.parted_until(member, source, self.ground.now).is_none()
        };
        let may_have: Vec<_> = (0..self.members.len()).filter(|source| !lacking.contains(source)).collect();
        let able: Vec<_> = may_have.iter().copied().filter(reachable).collect();
        let Some(joining) = &mut self.members[member].joining else { return Ok(None) };
        let able: Vec<_> = able.into_iter().filter(|&source| joining.line.trusts(source)).collect();
        if able.is_empty() {
            if !lacking.is_empty() {
                joining.line.tasks.entry(task).or_default().lacking.clear();
                self.nobody_has(member, task)?;
            }
            self.schedule_line(member, AGAIN_AFTER);
            return Ok(None);
        }
        let source = able[self.ground.random.below(able.len() as u64) as usize];
        let connection = self.ground.network.connect(member, source, LINE);
        if let Some(joining) = &mut self.members[member].joining {
            joining.line.source = Some((source, connection));
        }
        self.send(connection, End::Source, hello().encode());
        Ok(Some((source, connection)))
    }

    /// What a task of the line needs next.
    fn need(&mut self, member: MemberId, task: Task) -> Result<Need, Trouble> {
        if let Task::Read(number) = task {
            return self.read_need(number);
        }
        if task == Task::Apply {
            return self.apply_need(member);
        }
        let at = &self.members[member];
        let Some(joining) = &at.joining else { return Ok(Need::Nothing) };
        let here = at.here();
        let need = match task {
            Task::Manifest(id) if at.disk.read(id)?.is_some() => Need::Nothing,
            Task::Manifest(id) => Need::Manifest(id),
            Task::Vital(of) | Task::Upper(of) | Task::Hot(of) => {
                let Some(chunk) = joining.manifests.get(&of) else { return Ok(Need::Patience) };
                let manifest = Manifest::decode(chunk.bytes()).map_err(|error| violation(&error))?;
                match task {
                    Task::Vital(_) => needs::vital(&here, at.disk.store(), &manifest, &at.sections)?,
                    Task::Upper(_) => needs::upper(&here, &manifest, &at.sections)?,
                    _ => needs::hot(&here, at.disk.store(), &manifest, &joining.hot_keys)?,
                }
            }
            Task::Apply | Task::Read(_) => Need::Nothing,
        };
        here.failed()?;
        Ok(need)
    }

    fn apply_need(&mut self, member: MemberId) -> Result<Need, Trouble> {
        match self.apply_one(member)? {
            Progress::Needs(missing) => Ok(Need::of(missing)),
            Progress::Idle | Progress::Applied(_) => Ok(Need::Nothing),
        }
    }

    /// The bulk of a snapshot is fetched from everybody.
    pub(super) fn begin_bulk(&mut self, member: MemberId, of: ChunkId) -> Result<(), Trouble> {
        self.part_bulk(member);
        self.joins_made += 1;
        let number = self.joins_made;
        let at = &mut self.members[member];
        let clock = at.clock(self.ground.now);
        let base = at.base.as_ref().filter(|base| base.extent != Extent::Filling).map(|base| base.manifest.clone());
        let (sections, storing) = (at.sections.clone(), self.scenario.storing);
        let goal = Goal { version: 0, snapshot: of, base, sections, repeated: Repeated::Any, storing };
        let bulk = Pull::begin(number, goal, &at.disk, clock)?;
        if let Some(joining) = &mut at.joining {
            (joining.bulk, joining.bulk_at) = (bulk, None);
        }
        for source in (0..self.members.len()).filter(|&source| source != member) {
            let after = self.ground.random.millis(1, 200);
            self.ground.schedule(after, Event::Connect { member, source, pull: number });
        }
        self.pump(member)
    }

    pub(super) fn connect(&mut self, member: MemberId, source: MemberId, number: u64) -> Result<(), Trouble> {
        let bulk = self.members[member].joining.as_ref().and_then(|joining| joining.bulk.as_ref());
        let Some(bulk) = bulk.filter(|bulk| bulk.number == number && !bulk.is_connected(source)) else { return Ok(()) };
        if !self.knows(member, source) {
            return Ok(());
        }
        let wanted = bulk.snapshot;
        if !self.members[source].is_up() || self.ground.network.parted_until(member, source, self.ground.now).is_some()
        {
            let again_after = self.ground.random.millis(200, 1000);
            self.ground.schedule(again_after, Event::Connect { member, source, pull: number });
            return Ok(());
        }
        for lane in 0..self.scenario.lanes {
            let connection = self.ground.network.connect(member, source, lane);
            let bulk = self.members[member].joining.as_mut().and_then(|joining| joining.bulk.as_mut());
            bulk.expect("just seen").connected(source, lane, connection);
            self.send(connection, End::Source, hello().encode());
            self.send(connection, End::Source, Message::Ask(ask_for(wanted)).encode());
        }
        Ok(())
    }

    pub(super) fn inspected(&mut self, member: MemberId, number: u64, leaf: ChunkId) -> Result<(), Trouble> {
        let at = &mut self.members[member];
        let bulk = at.joining.as_mut().and_then(|joining| joining.bulk.as_mut());
        let Some(bulk) = bulk.filter(|bulk| bulk.number == number) else { return Ok(()) };
        bulk.inspect(leaf, &at.disk)?;
        self.pump(member)
    }

    /// Lets a joiner do what its transfer commands.
    pub(super) fn pump(&mut self, member: MemberId) -> Result<(), Trouble> {
        let at = &mut self.members[member];
        let clock = at.clock(self.ground.now);
        let Some(bulk) = at.joining.as_mut().and_then(|joining| joining.bulk.as_mut()) else { return Ok(()) };
        let pumped = bulk.pump(&at.disk, clock);
        let (number, wakes_at) = (bulk.number, bulk.wakes_at(clock));
        for effect in std::mem::take(&mut bulk.outbox) {
            match effect {
                Effect::Send(connection, frame) => self.send(connection, End::Source, frame),
                Effect::Drop(source, reason) => {
                    self.ground.log.note(self.ground.now, format_args!("{member} drops {source}: {reason}"));
                    let again_after = match reason {
                        DropReason::Stalled => Duration::from_secs(2),
                        DropReason::Corrupt => Duration::from_secs(8),
                    };
                    self.part_from(member, source, again_after);
                }
                Effect::Inspect(leaf) => {
                    let after = self.ground.random.millis(0, 20);
                    self.ground.schedule(after, Event::Inspected { member, pull: number, leaf });
                }
            }
        }
        match pumped? {
            Outcome::Running => {
                let joining = self.members[member].joining.as_mut();
                if let (Some(at), Some(joining)) = (wakes_at, joining)
                    && is_new(&mut joining.bulk_at, self.ground.now, self.ground.now + at.since(clock))
                {
                    self.ground.schedule(at.since(clock), Event::Wake { member, pull: number });
                }
                Ok(())
            }
            Outcome::Complete => self.complete(member),
            Outcome::Stuck(stuck) => {
                self.ground.log.note(self.ground.now, format_args!("{member} is stuck: {stuck}"));
                self.figures.stuck += 1;
                self.stuck(member)
            }
        }
    }

    /// Nobody gives the rest: there may be something newer, or somebody may come back.
    fn stuck(&mut self, member: MemberId) -> Result<(), Trouble> {
        let joining = self.members[member].joining.as_ref();
        let Some((join, of)) = joining.and_then(|joining| Some((joining.number, joining.bulk.as_ref()?.snapshot)))
        else {
            return Ok(());
        };
        self.part_bulk(member);
        let cause = RebaseCause::Gone;
        self.ground.schedule(AGAIN_AFTER, Event::Newer { member, join, cause });
        self.ground.schedule(AGAIN_AFTER * 2, Event::BulkAgain { member, join, of });
        Ok(())
    }

    /// The bulk is fetched again, if it is still what is wanted.
    pub(super) fn bulk_again(&mut self, member: MemberId, of: ChunkId) -> Result<(), Trouble> {
        let Some(joining) = &self.members[member].joining else { return Ok(()) };
        let is_wanted = joining.join.snapshot().is_some_and(|snapshot| snapshot.id == of)
            && joining.join.reached(Milestone::Viable).is_some()
            && joining.join.reached(Milestone::Complete).is_none();
        if joining.bulk.is_some() || joining.rebase.is_some() || !is_wanted {
            return Ok(());
        }
        self.begin_bulk(member, of)
    }

    pub(super) fn wake(&mut self, member: MemberId, number: u64) -> Result<(), Trouble> {
        let at = &mut self.members[member];
        let clock = at.clock(self.ground.now);
        let bulk = at.joining.as_mut().and_then(|joining| joining.bulk.as_mut());
        let Some(bulk) = bulk.filter(|bulk| bulk.number == number) else { return Ok(()) };
        bulk.wake(clock);
        self.pump(member)
    }

    /// Bytes that changes of a member take which are in no snapshot.
    pub(super) fn overlay_bytes(&self, member: MemberId) -> u64 {
        self.members[member].state.as_ref().map_or(0, KeyedState::overlay_bytes)
    }
}

fn ask_for(wanted: ChunkId) -> Ask {
    Ask { state: STATE.to_owned(), snapshot_wanted: Some(wanted.to_bytes()), ..Ask::default() }
}

/// What waits on a connection before a source stops to send.
const SEND_BYTES_MAX: usize = 128 * 1024;
