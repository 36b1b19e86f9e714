//! Owns snapshots on their way in: pulling what a reference names from everybody who holds it, long before anything is installed.
//!
//! It never decides that a reference should be followed; raft does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use landfall::core::ChunkId;
use landfall::core::snapshot::Position;
use landfall::keyed::{Extent, JoinHandle, JoinOptions, JoinStatus, Keyed, Milestone, Sections};
use landfall::net::Transport;
use landfall::pull::TrustAll;
use tokio::sync::watch;

use crate::ballot::Pending;
use crate::consensus::MemberId;
use crate::reference::Reference;

/// Snapshots on their way in: at most one that the state stands on and that is not all here, one that is to follow it, and one that is to heal
/// it.
pub(crate) struct Arrivals {
    member: MemberId,
    keyed: Arc<Keyed>,
    transport: Arc<dyn Transport>,
    pulls: Mutex<Pulls>,
    /// Counts changes, so that whoever waits looks again.
    changed: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct Pulls {
    /// The one that the state stands on: reads fetch through it what is not here.
    adopted: Option<Arrival>,
    coming: Option<Arrival>,
    /// One that is to take the place of a state that went wrong.
    healing: Option<Arrival>,
    /// Bytes that came with pulls that others took the place of.
    bytes_before: u64,
    /// The member closes: none begins any more.
    is_closed: bool,
}

/// What a pull is told that comes after the end.
const CLOSED: &str = "this member is closing";

struct Arrival {
    /// The snapshot, if it was decided before anybody was asked; else it is the newest that is offered.
    wanted: Option<ChunkId>,
    join: Arc<JoinHandle>,
}

impl Pulls {
    /// Takes leave of a pull, if there is one; what came with it counts.
    fn leave(&mut self, old: Option<Arrival>) -> Option<Arrival> {
        self.bytes_before += old.as_ref().map_or(0, Arrival::bytes);
        old
    }

    fn to_stand_on(&self) -> impl Iterator<Item = &Arrival> {
        [&self.coming, &self.adopted].into_iter().flatten()
    }
}

impl Arrival {
    /// Whether this pull brings a snapshot, or brought it, and has not failed.
    fn brings(&self, snapshot: ChunkId) -> bool {
        self.is_of(snapshot) && self.join.status().failure.is_none()
    }

    /// Bytes that came with it.
    fn bytes(&self) -> u64 {
        bytes_of(&self.join.status())
    }

    fn is_of(&self, snapshot: ChunkId) -> bool {
        self.wanted.or_else(|| self.join.snapshot().map(|(chosen, _)| chosen)) == Some(snapshot)
    }
}

impl Arrivals {
    pub(crate) fn new(member: MemberId, keyed: Arc<Keyed>, transport: Arc<dyn Transport>) -> Self {
        Self { member, keyed, transport, pulls: Mutex::default(), changed: Arc::new(watch::Sender::new(0)) }
    }

    /// Pulls what a reference names until a learner may install it: it serves, faulting in the rest. It blocks.
    pub(crate) fn pull_enough(&self, reference: &Reference) -> Result<(), String> {
        self.pull(reference, Milestone::Viable)
    }

    /// Pulls what a reference names until all of it is here and durable. It blocks.
    pub(crate) fn pull_whole(&self, reference: &Reference) -> Result<(), String> {
        self.pull(reference, Milestone::Complete)
    }

    /// Puts the state onto a snapshot. It takes milliseconds if it was pulled before; else it pulls first. It blocks.
    pub(crate) fn adopt(&self, reference: &Reference) -> Result<(), String> {
        self.adopt_after(Milestone::Viable, reference)
    }

    /// Puts the state onto the snapshot that openraft installs: it purges the log that led there, so there is no way back. Where that snapshot
    /// cannot be had, because those who held it let it go meanwhile, the newest that others offer does as well; it is compared at the next mark
    /// as any other. So does what the state has come to stand on by another way. It blocks.
    ///
    /// A voter acknowledges the log from then on, so all of the snapshot comes first.
    pub(crate) fn adopt_or_newer(&self, pending: &Pending) -> Result<(), String> {
        let Pending { meta, reference } = pending;
        let votes = meta.last_membership.voter_ids().any(|voter| voter == self.member);
        let milestone = if votes { Milestone::Complete } else { Milestone::Viable };
        let stands = || self.keyed.position() >= reference.position();
        let Err(reason) = self.adopt_after(milestone, reference) else { return Ok(()) };
        if stands() {
            return Ok(());
        }
        tracing::warn!(position = %reference.position(), reason, "a snapshot cannot be had; looks for a newer one");
        match self.adopt_newest(milestone, reference, sources_of(pending, self.member)) {
            Err(newer) if !stands() => Err(format!("{reason}; a newer one: {newer}")),
            _ => Ok(()),
        }
    }

    fn adopt_after(&self, milestone: Milestone, reference: &Reference) -> Result<(), String> {
        let join = match self.has_brought(milestone, reference.snapshot()) {
            Some(join) => join,
            None => self.begin(Some(reference.snapshot()), reference.sources())?,
        };
        self.stand_on(&join, milestone)
    }

    /// The pull that brought as much of a snapshot. Whether it failed later does not matter: the state can stand on what is here, and upkeep goes on
    /// with the rest.
    fn has_brought(&self, milestone: Milestone, snapshot: ChunkId) -> Option<Arc<JoinHandle>> {
        let pulls = self.pulls();
        let has_brought = |arrival: &&Arrival| {
            let reached = arrival.join.status().reached;
            arrival.is_of(snapshot) && reached.iter().any(|(reached, _)| *reached == milestone)
        };
        pulls.to_stand_on().find(has_brought).map(|arrival| arrival.join.clone())
    }

    /// Puts the state onto the newest snapshot that sources offer, if it can take the place of the one that is referred to.
    fn adopt_newest(&self, milestone: Milestone, old: &Reference, sources: Vec<String>) -> Result<(), String> {
        let join = self.begin(None, sources)?;
        join.wait(Milestone::Planned).map_err(|error| error.to_string())?;
        // Another one of the same position is that of a member which went wrong.
        let takes_place = |(id, position): &(ChunkId, Position)| *id == old.snapshot() || *position > old.position();
        match join.snapshot().filter(|offered| !takes_place(offered)) {
            Some((_, position)) => {
                join.stop();
                Err(format!("the newest that is offered stands at {position}"))
            }
            None => self.stand_on(&join, milestone),
        }
    }

    fn stand_on(&self, join: &Arc<JoinHandle>, milestone: Milestone) -> Result<(), String> {
        join.wait(milestone).map_err(|error| error.to_string())?;
        join.adopt().map_err(|error| error.to_string())?;
        let mut pulls = self.pulls();
        let adopted = join.snapshot().map(|(snapshot, _)| snapshot);
        if pulls.coming.as_ref().zip(adopted).is_some_and(|(coming, adopted)| coming.is_of(adopted)) {
            // Only now: until then, reads fetched through the old one.
            let coming = pulls.coming.take();
            let old = std::mem::replace(&mut pulls.adopted, coming);
            let old = pulls.leave(old);
            drop(pulls);
            old.inspect(|old| old.join.stop());
            self.note_change();
        }
        Ok(())
    }

    /// The pull on whose snapshot the state stands, if there was one in this life.
    pub(crate) fn adopted(&self) -> Option<Arc<JoinHandle>> {
        self.pulls().adopted.as_ref().map(|adopted| adopted.join.clone())
    }

    /// Takes up a join that was left when all was here, so that it can be verified and promoted.
    pub(crate) fn take_up(&self) {
        let Some(join) = self.keyed.join_held() else { return };
        let snapshot = self.keyed.sealed().map(|held| held.id);
        let mut pulls = self.pulls();
        if let Some(snapshot) = snapshot.filter(|_| pulls.adopted.is_none()) {
            pulls.adopted = Some(Arrival { wanted: Some(snapshot), join: Arc::new(join) });
        }
    }

    /// Pulls all of a snapshot with which the state is to be healed. It blocks.
    pub(crate) fn pull_to_heal(&self, snapshot: ChunkId, sources: Vec<String>) -> Result<Arc<JoinHandle>, String> {
        let mut pulls = self.pulls();
        if pulls.is_closed {
            return Err(CLOSED.into());
        }
        let old = pulls.healing.take_if(|healing| !healing.brings(snapshot));
        let old = pulls.leave(old);
        let begin = || {
            let join = Arc::new(self.keyed.join_to_heal(self.options(Some(snapshot), sources)));
            Arrival { wanted: Some(snapshot), join }
        };
        let join = pulls.healing.get_or_insert_with(begin).join.clone();
        drop(pulls);
        old.inspect(|old| old.join.stop());
        join.wait(Milestone::Complete).map_err(|error| error.to_string())?;
        Ok(join)
    }

    /// Nothing is to be healed any more. It blocks.
    pub(crate) fn end_healing(&self) {
        let mut pulls = self.pulls();
        let ended = pulls.healing.take();
        let ended = pulls.leave(ended);
        drop(pulls);
        ended.inspect(|ended| ended.join.stop());
    }

    /// A join reached something.
    pub(crate) fn note_change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Whether a part of the snapshot on which the state stands is not here, and nobody is asked for it.
    pub(crate) fn has_stalled(&self) -> bool {
        self.stalled(&self.pulls()).is_some()
    }

    /// Goes on pulling the snapshot on which the state stands, if that has stalled: its process died, or all of its sources failed.
    pub(crate) fn go_on(&self, sources: Vec<String>) {
        let mut pulls = self.pulls();
        let Some(snapshot) = self.stalled(&pulls).filter(|_| !pulls.is_closed) else { return };
        let old = pulls.adopted.replace(self.pull_anew(Some(snapshot), sources));
        let old = pulls.leave(old);
        drop(pulls);
        // It has ended; its thread may be on its last words.
        old.inspect(|old| old.join.stop());
    }

    /// The snapshot on which the state stands, if it lacks something that no pull brings.
    fn stalled(&self, pulls: &Pulls) -> Option<ChunkId> {
        let standing = self.keyed.sealed().filter(|standing| standing.extent == Extent::Filling)?.id;
        (!pulls.to_stand_on().any(|arrival| arrival.brings(standing))).then_some(standing)
    }

    /// Ends every pull, and lets none begin; what came is kept. It blocks.
    pub(crate) fn stop(&self) {
        let pulls = std::mem::replace(&mut *self.pulls(), Pulls { is_closed: true, ..Pulls::default() });
        for arrival in [pulls.adopted, pulls.coming, pulls.healing].into_iter().flatten() {
            arrival.join.stop();
        }
    }

    /// How far the newest pull is.
    pub(crate) fn status(&self) -> Option<JoinStatus> {
        let pulls = self.pulls();
        pulls.coming.as_ref().or(pulls.adopted.as_ref()).map(|arrival| arrival.join.status())
    }

    /// Bytes that came with the newest pull.
    pub(crate) fn bytes(&self) -> u64 {
        self.status().as_ref().map_or(0, bytes_of)
    }

    /// Bytes that came with all pulls of this life. It never falls.
    pub(crate) fn received_bytes(&self) -> u64 {
        let pulls = self.pulls();
        let under_way = [&pulls.adopted, &pulls.coming, &pulls.healing].into_iter().flatten();
        pulls.bytes_before + under_way.map(Arrival::bytes).sum::<u64>()
    }

    /// Something to wait on: it changes whenever a pull begins, reaches what a learner or a voter needs, or ends.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn pull(&self, reference: &Reference, milestone: Milestone) -> Result<(), String> {
        let join = self.begin(Some(reference.snapshot()), reference.sources())?;
        join.wait(milestone).map_err(|error| error.to_string())
    }

    /// Pulls a snapshot, unless it is being pulled already; the newest that is offered where none is wanted. A pull that was to follow ends; what
    /// it brought stays.
    fn begin(&self, wanted: Option<ChunkId>, sources: Vec<String>) -> Result<Arc<JoinHandle>, String> {
        let mut pulls = loop {
            let mut pulls = self.pulls();
            if pulls.is_closed {
                return Err(CLOSED.into());
            }
            let brings = |arrival: &&Arrival| wanted.is_some_and(|wanted| arrival.brings(wanted));
            if let Some(arrival) = pulls.to_stand_on().find(brings) {
                return Ok(arrival.join.clone());
            }
            let old = pulls.coming.take();
            let Some(old) = pulls.leave(old) else { break pulls };
            // Its thread may be waiting for a source; nobody else waits for that.
            drop(pulls);
            old.join.stop();
        };
        let arrival = self.pull_anew(wanted, sources);
        let join = arrival.join.clone();
        pulls.coming = Some(arrival);
        Ok(join)
    }

    fn pull_anew(&self, wanted: Option<ChunkId>, sources: Vec<String>) -> Arrival {
        let join = Arc::new(self.keyed.join(self.options(wanted, sources)));
        self.tell_changes(join.clone());
        Arrival { wanted, join }
    }

    fn options(&self, wanted: Option<ChunkId>, sources: Vec<String>) -> JoinOptions {
        JoinOptions {
            sources,
            transport: self.transport.clone(),
            trust: Arc::new(TrustAll),
            wanted,
            sections: Sections::All,
        }
    }

    /// Names the members that may give again what is damaged here.
    pub(crate) fn name_sources(&self, sources: Vec<String>) {
        self.keyed.set_sources(sources, self.transport.clone(), Arc::new(TrustAll));
    }

    fn tell_changes(&self, join: Arc<JoinHandle>) {
        let changed = self.changed.clone();
        let tell = move || {
            for milestone in [Milestone::Planned, Milestone::Viable, Milestone::Complete] {
                let reached = join.wait(milestone);
                changed.send_modify(|count| *count += 1);
                if reached.is_err() {
                    return;
                }
            }
        };
        // Without the thread, whoever waits looks again when something else changes.
        if let Err(error) = std::thread::Builder::new().name("raft-arrival".into()).spawn(tell) {
            tracing::warn!(%error, "no thread to tell how far a pull is");
        }
    }

    fn pulls(&self) -> MutexGuard<'_, Pulls> {
        // Nothing that runs under the lock can panic half way.
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes_of(join: &JoinStatus) -> u64 {
    join.figures.node_bytes + join.figures.bytes_done + join.fault_bytes
}

/// Where to ask for a snapshot and for what came after it: who was said to hold it, then everybody else of its time.
fn sources_of(pending: &Pending, own: MemberId) -> Vec<String> {
    let mut sources = pending.reference.sources();
    let others = pending.meta.last_membership.nodes().filter(|(member, _)| **member != own);
    for (_, address) in others {
        if !sources.contains(&address.peers) {
            sources.push(address.peers.clone());
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use landfall::core::keyed::{ReadError, SectionId, SectionSchema, Transaction};
    use landfall::core::snapshot::{KeyRange, SectionPriority, StateName};
    use landfall::net::{ConnectError, Connection, ListenError, Listener, PlainTransport, ReceiveError};

    use super::*;
    use crate::between::{Between, with_between};
    use crate::cluster::Role;
    use crate::entry::LogTime;
    use crate::node::{Node, NodeConfig};
    use crate::open::Parts;
    use crate::service::Service;
    use crate::suite;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A service that writes a value of each number that it is told.
    struct Bulky;

    const DATA: SectionId = SectionId(1);
    const VALUES: u32 = 2000;
    const VALUE_BYTES: usize = 2000;

    impl Service for Bulky {
        type Command = u32;
        type Reply = ();

        fn sections(&self) -> Vec<SectionSchema> {
            let section = |name: &str, priority| SectionSchema {
                name: StateName::new(name).unwrap(),
                priority,
                range: KeyRange::default(),
            };
            vec![section("config", SectionPriority::Vital), section("data", SectionPriority::Bulk)]
        }

        fn apply(&self, _: LogTime, command: &u32, state: &mut Transaction<'_>) -> Result<(), ReadError> {
            // Nothing makes it shorter.
            let value: Vec<u8> = (0..VALUE_BYTES as u32 / 4)
                .flat_map(|part| (command.wrapping_mul(0x9e37_79b9) ^ part).wrapping_mul(0x85eb_ca6b).to_le_bytes())
                .collect();
            state.put(DATA, command.to_be_bytes().to_vec(), value)?;
            Ok(())
        }
    }

    /// Loopback that ends after so many bytes.
    #[derive(Clone)]
    struct EndsAfter {
        bytes_left: Arc<AtomicU64>,
    }

    impl Transport for EndsAfter {
        fn connect(&self, address: &str, deadline: Duration) -> Result<Connection, ConnectError> {
            Ok(with_between(PlainTransport.connect(address, deadline)?, self.clone()))
        }

        fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
            PlainTransport.listen(address)
        }
    }

    impl Between for EndsAfter {
        fn before_frame(&mut self) -> Result<(), ReceiveError> {
            if self.bytes_left.load(Ordering::Acquire) == 0 { Err(ReceiveError::Truncated) } else { Ok(()) }
        }

        fn came(&mut self, frame: &mut [u8]) {
            let less = |left: u64| Some(left.saturating_sub(frame.len() as u64));
            // The update is always made.
            let _ = self.bytes_left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        }
    }

    /// A leader with a seal of some megabytes, and what it would tell a follower to install.
    async fn leader(directory: &Path) -> (Node<Bulky>, Pending) {
        let node = Node::open(Bulky, suite::config(&directory.join("1"))).await.unwrap();
        node.bootstrap().await.unwrap();
        node.wait_for(PATIENCE, |status| status.role == Role::Leader).await.unwrap();
        let written: Vec<_> = (0..VALUES).map(|number| node.submit(&number).unwrap()).collect();
        for written in written {
            written.await.unwrap();
        }
        node.audit(PATIENCE).await.unwrap();
        let sealed = node.cluster.seals.newest().unwrap();
        let pending = Pending { meta: sealed.meta(), reference: node.cluster.seals.reference(&sealed) };
        (node, pending)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_state_stands_on_what_a_pull_brought_before_its_only_source_went() {
        let directory = tempfile::tempdir().unwrap();
        let (leader, pending) = leader(directory.path()).await;
        let bytes_left = Arc::new(AtomicU64::new(1_000_000));
        let transport = EndsAfter { bytes_left: bytes_left.clone() };
        let config =
            NodeConfig { member: 2, transport: Arc::new(transport), ..suite::config(&directory.path().join("2")) };
        let install = move || {
            let parts = Parts::open(&Bulky, &config).unwrap();
            let reference = &pending.reference;
            let join = parts.arrivals.begin(Some(reference.snapshot()), reference.sources()).unwrap();
            join.wait(Milestone::Viable).unwrap();
            // It ends as when it gives its source up, and sooner.
            bytes_left.store(0, Ordering::Release);
            join.stop();
            assert!(join.status().failure.is_some());
            parts.arrivals.adopt_or_newer(&pending).unwrap();
            assert_eq!(parts.keyed.position(), reference.position());
            assert_eq!(parts.keyed.sealed().unwrap().extent, Extent::Filling);
            assert!(parts.arrivals.has_stalled(), "the rest is to be asked for again");
            let came = parts.arrivals.received_bytes();
            assert!(came > 0);
            parts.arrivals.go_on(reference.sources());
            assert_eq!((parts.arrivals.bytes(), parts.arrivals.received_bytes()), (0, came), "what came before counts");
            parts.arrivals.stop();
        };
        tokio::task::spawn_blocking(install).await.unwrap();
        leader.close().await;
    }
}
