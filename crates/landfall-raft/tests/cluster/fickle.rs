//! A service that does something of its own now and then: the divergence that other tests plant.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::harness::{Command, DATA, Map};
use landfall_raft::{LogTime, ReadError, SectionSchema, Service, Transaction};

/// The map; at the key `poison` it does something of its own as many times as it is told to, and may wait before it does.
pub(crate) struct FickleMap {
    times: AtomicU32,
    /// It waits until the other end says something or goes.
    waits: Mutex<Option<Receiver<()>>>,
}

pub(crate) const POISON: &str = "poison";
pub(crate) const OWN_KEY: &str = "nobody asked for this";

impl FickleMap {
    pub(crate) fn sound() -> Self {
        Self::wrong(0)
    }

    pub(crate) fn wrong(times: u32) -> Self {
        Self { times: AtomicU32::new(times), waits: Mutex::default() }
    }

    pub(crate) fn wrong_once_told() -> (Self, Sender<()>) {
        let (tell, told) = channel();
        (Self { waits: Mutex::new(Some(told)), ..Self::wrong(1) }, tell)
    }
}

impl Service for FickleMap {
    type Command = Command;
    type Reply = u64;

    fn sections(&self) -> Vec<SectionSchema> {
        Map.sections()
    }

    fn apply(&self, time: LogTime, command: &Command, state: &mut Transaction<'_>) -> Result<u64, ReadError> {
        let reply = Map.apply(time, command, state)?;
        let is_poison = matches!(command, Command::Set { key, .. } if key == POISON);
        let told = self.waits.lock().unwrap().take_if(|_| is_poison);
        // Whether it was told something or left alone.
        let _ = told.map(|told| told.recv());
        let less = |times: u32| times.checked_sub(1);
        if is_poison && self.times.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok() {
            state.put(DATA, OWN_KEY, vec![1])?;
        }
        Ok(reply)
    }
}
