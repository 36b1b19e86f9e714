//! Owns finding the member that leads: where all of them are, whom to ask next, when to wait a little.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::resp::{Answer, AskError, Client, Refusal};

/// Where clients reach the members, shared by all clients.
#[derive(Clone, Default)]
pub(super) struct Directory(Arc<Mutex<Vec<SocketAddr>>>);

impl Directory {
    /// Adds a member, unless it is there.
    pub(super) fn add(&self, address: SocketAddr) {
        let mut addresses = self.0.lock().expect("no panic under the lock");
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }

    fn at(&self, number: usize) -> Option<SocketAddr> {
        let addresses = self.0.lock().expect("no panic under the lock");
        (!addresses.is_empty()).then(|| addresses[number % addresses.len()])
    }
}

/// A client that talks to whoever leads, as cluster clients do.
pub(super) struct Caller {
    directory: Directory,
    patience: Duration,
    connected: Option<(SocketAddr, Client)>,
    moved_to: Option<SocketAddr>,
    next: usize,
}

impl Caller {
    /// Gives a member up that says nothing for `patience`.
    pub(super) fn new(directory: Directory, patience: Duration) -> Self {
        Self { directory, patience, connected: None, moved_to: None, next: 0 }
    }

    /// The connection to the member that is thought to lead.
    pub(super) fn client(&mut self) -> io::Result<&mut Client> {
        if self.connected.is_none() {
            let address = self.moved_to.take().or_else(|| self.directory.at(self.next));
            let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
            match Client::connect(address, self.patience) {
                Ok(client) => self.connected = Some((address, client)),
                Err(error) => {
                    self.handle_lost();
                    return Err(error);
                }
            }
        }
        let (_, client) = self.connected.as_mut().expect("it was just connected");
        Ok(client)
    }

    /// Where the member is that it talks to.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.connected.as_ref().map(|(address, _)| *address)
    }

    /// Goes where a refusal sends it, or tries the next member a little later.
    pub(super) fn handle_refusal(&mut self, refusal: &Refusal) {
        match refusal.moved_to().and_then(|address| address.parse().ok()) {
            Some(address) if self.address() != Some(address) => {
                self.connected = None;
                self.moved_to = Some(address);
            }
            _ => self.handle_lost(),
        }
    }

    /// Tries the next member, a little later.
    pub(super) fn handle_lost(&mut self) {
        self.connected = None;
        self.next += 1;
        std::thread::sleep(RETRY_PAUSE);
    }

    /// Asks once; whatever goes wrong, the next try goes where it may go better.
    pub(super) fn ask(&mut self, words: &[&[u8]]) -> Result<Answer, AskError> {
        let asked = self.client().map_err(AskError::from).and_then(|client| client.ask(words));
        match &asked {
            Err(AskError::Refused(refusal)) => self.handle_refusal(refusal),
            Err(AskError::Lost(_)) => self.handle_lost(),
            Ok(_) => {}
        }
        asked
    }

    /// Asks until there is an answer, for at most `limit` or as long as `goes_on` says. Only for what may be done twice.
    pub(super) fn ask_until(
        &mut self,
        limit: Duration,
        goes_on: impl Fn() -> bool,
        words: &[&[u8]],
    ) -> Result<Answer, AskError> {
        let began = Instant::now();
        loop {
            match self.ask(words) {
                Err(_) if goes_on() && began.elapsed() < limit => {}
                asked => return asked,
            }
        }
    }
}

/// Elections take some hundred milliseconds; asking more often only takes time from them.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
