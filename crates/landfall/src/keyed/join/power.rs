//! Owns the proof that what a join says is durable outlives a power cut.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use landfall_core::ChunkId;
use landfall_net::{ConnectError, Connection, ListenError, Listener, PlainTransport, Transport};
use landfall_store::vfs::faulty::FaultyVfs;

use super::{AdoptError, Extent, JoinHandle, JoinOptions, Milestone, Position, Sections};
use crate::keyed::Keyed;
use crate::keyed::alone::{assert_read, keys, open_after_power_cut, open_on, put};
use crate::member::{Member, ServeConfig};
use crate::pull::TrustAll;

const KEYS: u32 = 20_000;

/// A test that fails must not wait for ever for what is held up.
const HELD_UP_MAX: Duration = Duration::from_secs(20);

/// A way to a member on which no bulk comes before it is opened: a source is asked for bulk only once all its connections are there.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<Passage>, Condvar)>);

#[derive(Default, PartialEq, Eq)]
enum Passage {
    #[default]
    Shut,
    Open,
}

impl Gate {
    fn open(&self) {
        let (passage, changed) = &*self.0;
        *passage.lock().unwrap() = Passage::Open;
        changed.notify_all();
    }
}

impl Transport for Gate {
    fn connect(&self, address: &str, deadline: Duration) -> Result<Connection, ConnectError> {
        if std::thread::current().name() == Some("bulk") {
            let (passage, changed) = &*self.0;
            let is_shut = |passage: &mut Passage| *passage == Passage::Shut;
            drop(changed.wait_timeout_while(passage.lock().unwrap(), HELD_UP_MAX, is_shut).unwrap());
        }
        PlainTransport.connect(address, deadline)
    }

    fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
        PlainTransport.listen(address)
    }
}

/// A member that serves what it sealed.
fn source() -> (Member, ChunkId) {
    let state = open_on(&FaultyVfs::new(0));
    put(&state, 1, &keys(KEYS), "value");
    let sealed = state.seal().unwrap().wait().unwrap();
    let config = ServeConfig {
        listen: Some("127.0.0.1:0".into()),
        keyed: vec![state],
        ..ServeConfig::new(Arc::new(PlainTransport))
    };
    (Member::serve(config).unwrap(), sealed.snapshot)
}

fn options(member: &Member, gate: &Gate) -> JoinOptions {
    JoinOptions {
        sources: vec![member.address().unwrap()],
        transport: Arc::new(gate.clone()),
        trust: Arc::new(TrustAll),
        wanted: None,
        sections: Sections::All,
    }
}

/// A state below which a snapshot was put before its bulk came.
fn standing_on_a_part(disk: &FaultyVfs, member: &Member, gate: &Gate) -> (JoinHandle, Arc<Keyed>) {
    let state = open_on(disk);
    let handle = state.join(options(member, gate));
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();
    (handle, state)
}

#[test]
fn what_serving_needs_outlives_a_power_cut_once_it_is_adopted() {
    let (member, snapshot) = source();
    for seed in 0..4 {
        let (disk, gate) = (FaultyVfs::new(seed), Gate::default());
        let (handle, state) = standing_on_a_part(&disk, &member, &gate);
        disk.cut_power();
        gate.open();
        let state = open_after_power_cut(&disk, (handle, state));
        assert_eq!(state.lost_snapshots(), [], "seed {seed}");
        let sealed = state.sealed().unwrap();
        assert_eq!((sealed.id, sealed.extent), (snapshot, Extent::Filling), "seed {seed}");
        state.join(options(&member, &gate)).wait(Milestone::Complete).unwrap();
        assert_read(&state, &keys(KEYS), "value");
    }
}

#[test]
fn what_came_after_it_was_adopted_outlives_a_power_cut_once_all_is_here() {
    let (member, snapshot) = source();
    for seed in 0..4 {
        let (disk, gate) = (FaultyVfs::new(seed), Gate::default());
        let (handle, state) = standing_on_a_part(&disk, &member, &gate);
        gate.open();
        handle.wait(Milestone::Complete).unwrap();
        let state = open_after_power_cut(&disk, (handle, state));
        let sealed = state.sealed().unwrap();
        assert_eq!((sealed.id, sealed.extent), (snapshot, Extent::Whole), "seed {seed}");
        assert_read(&state, &keys(KEYS), "value");
    }
}

#[test]
fn what_is_adopted_or_healed_when_all_is_here_outlives_a_power_cut() {
    check_that_it_outlives_a_power_cut(JoinHandle::adopt);
    check_that_it_outlives_a_power_cut(JoinHandle::heal);
}

/// `stand` puts all of a snapshot below the state.
#[track_caller]
fn check_that_it_outlives_a_power_cut(stand: fn(&JoinHandle) -> Result<Position, AdoptError>) {
    let (member, snapshot) = source();
    let (disk, gate) = (FaultyVfs::new(0), Gate::default());
    gate.open();
    let state = open_on(&disk);
    let handle = state.join(options(&member, &gate));
    handle.wait(Milestone::Complete).unwrap();
    stand(&handle).unwrap();
    let state = open_after_power_cut(&disk, (handle, state));
    let sealed = state.sealed().unwrap();
    assert_eq!((sealed.id, sealed.extent), (snapshot, Extent::Whole));
    assert_read(&state, &keys(KEYS), "value");
}
