//! Owns the conversations of a run: who connects to whom, and what each end does with what it hears.

use std::time::Duration;

use landfall_core::ChunkId;
use landfall_core::transfer::RequestId;
use landfall_core::wire::{Ask, Message};

use crate::checks::Violation;
use crate::content::STATE;
use crate::ground::Phase;
use crate::network::{ConnectionId, Delivery, End, MemberId};
use crate::source::{answer_ask, hello};
use crate::trouble::Trouble;
use crate::world::{Event, World};

impl World {
    pub(crate) fn look(&mut self, connection: ConnectionId, end: End) -> Result<(), Violation> {
        let Some(at) = self.ground.network.get(connection) else { return Ok(()) };
        let (joiner, source, lane) = (at.joiner, at.source, at.lane);
        match self.ground.network.receive(connection, end, self.ground.now) {
            Delivery::Nothing => return Ok(()),
            Delivery::NotBefore(at) => {
                self.ground.schedule_at(at, Event::Look { connection, end });
                return Ok(());
            }
            Delivery::Frame(frame) if end == End::Source => self.source_hears(source, connection, &frame)?,
            Delivery::Frame(frame) => {
                self.joiner_hears(joiner, source, lane, &frame)?;
                self.serve(source, connection)?;
            }
        }
        if let Some(at) = self.ground.network.look_next(connection, end, self.ground.now) {
            self.ground.schedule_at(at, Event::Look { connection, end });
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, connection: ConnectionId, end: End, frame: Vec<u8>) {
        if let Some(at) = self.ground.network.send(connection, end, frame, self.ground.now) {
            self.ground.schedule_at(at, Event::Look { connection, end });
        }
    }

    /// Breaks every connection between a joiner and a source, and lets the joiner try again later.
    pub(crate) fn part(&mut self, joiner: MemberId, source: MemberId, again_after: Duration) {
        let clock = self.members[joiner].clock(self.ground.now);
        let Some(pull) = &mut self.members[joiner].pull else { return };
        let number = pull.number;
        for connection in pull.lose(source, clock) {
            self.ground.network.close(connection);
            self.members[source].serving.forget(connection);
        }
        self.ground.schedule(again_after, Event::Connect { member: joiner, source, pull: number });
    }

    pub(crate) fn source_hears(
        &mut self,
        source: MemberId,
        connection: ConnectionId,
        frame: &[u8],
    ) -> Result<(), Violation> {
        let message = Message::decode(frame).map_err(|error| Violation(format!("a joiner sent nonsense: {error}")))?;
        let member = &mut self.members[source];
        let answer = match message {
            Message::Hello(_) => Ok(Some(hello())),
            Message::Ask(ask) => answer_ask(&ask, &member.disk).map(Some),
            Message::Fetch(fetch) => Ok(member.serving.take_fetch(connection, fetch).err().map(Message::Refusal)),
            Message::Cancel { request } => {
                member.serving.take_cancel(connection, request);
                Ok(None)
            }
            other => return Err(Violation(format!("a joiner said {other:?}"))),
        };
        match answer {
            Ok(answer) => {
                if let Some(answer) = answer {
                    self.send(connection, End::Joiner, answer.encode());
                }
                self.serve(source, connection)
            }
            Err(error) => self.trouble(source, error.into()),
        }
    }

    /// Sends what is owed, as long as the connection takes it.
    pub(crate) fn serve(&mut self, source: MemberId, connection: ConnectionId) -> Result<(), Violation> {
        while self.ground.network.get(connection).is_some()
            && self.ground.network.bytes_to(connection, End::Joiner) < SEND_BYTES_MAX
        {
            let lies = self.ground.phase == Phase::Faults
                && self.members[source].is_liar
                && self.ground.random.chance(self.faults.lie);
            let member = &mut self.members[source];
            let lies = lies.then_some(&mut self.ground.random);
            match member.serving.next_frame(connection, &member.disk, lies) {
                Ok(Some(frame)) => self.send(connection, End::Joiner, frame),
                Ok(None) => break,
                Err(error) => return self.trouble(source, error.into()),
            }
        }
        Ok(())
    }

    pub(crate) fn joiner_hears(
        &mut self,
        joiner: MemberId,
        source: MemberId,
        lane: u32,
        frame: &[u8],
    ) -> Result<(), Violation> {
        let clock = self.members[joiner].clock(self.ground.now);
        let member = &mut self.members[joiner];
        let Some(pull) = &mut member.pull else { return Ok(()) };
        let told = match Message::decode(frame) {
            Ok(Message::Hello(_)) => Ok("hello"),
            Ok(Message::Offer(offer)) => {
                pull.take_offer(source, &offer.manifest, self.scenario.lanes, &member.disk, clock).map(|()| "offer")
            }
            Ok(Message::Refusal(_)) => Err(Trouble::Peer("a refusal")),
            Ok(Message::Item(item)) => pull.take_item((source, lane), item, &member.disk, clock),
            Ok(Message::Done { request }) => {
                pull.take_done(RequestId(request), clock);
                Ok("done")
            }
            Ok(_) => Err(Trouble::Peer("a message that no source sends")),
            Err(_) => Err(Trouble::Peer("no message")),
        };
        match told {
            Ok(told) => {
                self.figures.corrupt += u64::from(told == "corrupt");
                self.ground
                    .log
                    .note(self.ground.now, format_args!("{joiner} <- {source}.{lane} {told} {} B", frame.len()));
                self.pump(joiner)
            }
            Err(Trouble::Peer(why)) => {
                self.ground.log.note(self.ground.now, format_args!("{joiner} breaks with {source}: {why}"));
                let again_after = self.ground.random.millis(300, 2000);
                self.part(joiner, source, again_after);
                self.pump(joiner)
            }
            Err(trouble) => self.trouble(joiner, trouble),
        }
    }

    pub(crate) fn connect(&mut self, member: MemberId, source: MemberId, number: u64) -> Result<(), Violation> {
        let held = self.members[member].held.map(|held| self.published[held].id);
        let Some(pull) = self.members[member].pull.as_ref().filter(|pull| pull.number == number) else { return Ok(()) };
        let snapshot = pull.snapshot;
        if pull.is_connected(source) {
            return Ok(());
        }
        if !self.members[source].is_up() || self.ground.network.parted_until(member, source, self.ground.now).is_some()
        {
            let again_after = self.ground.random.millis(200, 1000);
            self.ground.schedule(again_after, Event::Connect { member, source, pull: number });
            return Ok(());
        }
        self.ground.log.note(self.ground.now, format_args!("{member} connects to {source}"));
        let ask = Ask {
            state: STATE.to_owned(),
            sections: Vec::new(),
            snapshots_held: held.map(ChunkId::to_bytes).into_iter().collect(),
            snapshot_wanted: Some(snapshot.to_bytes()),
            ..Ask::default()
        };
        for lane in 0..self.scenario.lanes {
            let connection = self.ground.network.connect(member, source, lane);
            let pull = self.members[member].pull.as_mut().expect("just seen");
            pull.connected(source, lane, connection);
            self.send(connection, End::Source, hello().encode());
            self.send(connection, End::Source, Message::Ask(ask.clone()).encode());
        }
        Ok(())
    }
}

/// What waits on a connection before a source stops to send.
const SEND_BYTES_MAX: usize = 128 * 1024;
