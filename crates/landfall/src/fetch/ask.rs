//! Owns the beginning and the course of a fetch: every source is asked at once, and kept connected until the transfer ends.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, ScopedJoinHandle};

use landfall_core::ChunkId;
use landfall_core::transfer::PeerId;
use landfall_net::Transport;

use super::greet::{Greeted, Question, SourceError, Trust, greet};
use super::landing::Landing;
use super::link::{Source, lanes};
use super::session::{Session, SessionEnd};

/// Sources, and the way to them.
pub(crate) struct Ways<'a> {
    pub(crate) sources: &'a [String],
    pub(crate) transport: &'a Arc<dyn Transport>,
    pub(crate) trust: &'a dyn Trust,
}

/// A source that was asked.
pub(crate) struct Asked {
    pub(crate) peer: PeerId,
    pub(crate) address: String,
    pub(crate) greeted: Option<Greeted>,
}

/// What all sources said.
pub(crate) struct Answers {
    pub(crate) asked: Vec<Asked>,
    pub(crate) failures: Vec<(String, SourceError)>,
}

impl Answers {
    /// The newest snapshot that was offered.
    pub(crate) fn newest(&self) -> Option<&Greeted> {
        let greeted = self.asked.iter().filter_map(|asked| asked.greeted.as_ref());
        greeted.max_by_key(|greeted| greeted.manifest.position)
    }
}

/// A thread that people can tell from others.
fn named(name: &str) -> Builder {
    Builder::new().name(name.to_owned())
}

impl Ways<'_> {
    /// Asks every source at once.
    pub(crate) fn ask_all(&self, question: &Question) -> Answers {
        let answers: Vec<Result<Greeted, SourceError>> = std::thread::scope(|scope| {
            let ask = |address: &str| greet(self.transport, self.trust, address, question);
            let begin = |address| (address, named("ask").spawn_scoped(scope, move || ask(address)));
            let threads: Vec<_> = self.sources.iter().map(|address| begin(address)).collect();
            let wait = |(address, thread): (_, io::Result<ScopedJoinHandle<'_, _>>)| match thread {
                Ok(thread) => thread.join().expect("asking does not panic"),
                // One after the other, then.
                Err(_) => ask(address),
            };
            threads.into_iter().map(wait).collect()
        });
        let mut failures = Vec::new();
        let named = answers.into_iter().zip(self.sources).enumerate();
        let asked = named.map(|(at, (answer, address))| {
            let greeted = answer.map_err(|error| failures.push((address.clone(), error))).ok();
            Asked { peer: PeerId(at as u32), address: address.clone(), greeted }
        });
        let asked = asked.collect();
        Answers { asked, failures }
    }

    /// Keeps every source connected, and works, until the transfer of `snapshot` ends.
    pub(crate) fn fetch<L: Landing>(
        &self,
        session: &Session<L>,
        snapshot: ChunkId,
        question: &Question,
        asked: Vec<Asked>,
    ) -> SessionEnd<L::Failure> {
        std::thread::scope(|scope| {
            let inspect = || named("inspect").spawn_scoped(scope, || session.inspect_until_end()).map(drop);
            session.begin_inspecting(lanes(), inspect);
            for source in &asked {
                session.expect_peer(source.peer);
            }
            let keep = move |Asked { peer, address, greeted }: Asked| {
                let (transport, trust, question) = (self.transport, self.trust, question.clone());
                let source = Source { peer, address: &address, transport, trust, question, lanes: lanes() };
                // A source that offered another snapshot has to be asked again for this one.
                let first = greeted.filter(|greeted: &Greeted| greeted.snapshot == snapshot);
                source.keep(session, first);
            };
            let begin = move |asked: Asked| {
                let (peer, address) = (asked.peer, asked.address.clone());
                if let Err(error) = named("bulk").spawn_scoped(scope, move || keep(asked)) {
                    // Others may do without it.
                    session.status.note(format!("{address} is not asked for bulk: no thread for it: {error}"));
                    session.give_up_peer(peer);
                }
            };
            let newcomers_from = asked.len() as u32;
            asked.into_iter().for_each(begin);
            let take_in = move || {
                for peer in (newcomers_from..).map(PeerId) {
                    let Some(address) = session.next_newcomer() else { return };
                    session.expect_peer(peer);
                    begin(Asked { peer, address, greeted: None });
                }
            };
            if let Err(error) = named("newcomers").spawn_scoped(scope, take_in) {
                session.status.note(format!("sources that are named from now on are not asked for bulk: {error}"));
            }
            session.run()
        })
    }
}
