//! Owns what is said of a joiner that is too slow: it reports what comes to it, the leader answers how fast it gets on, and both tell their
//! log, their status and the user's hook.
//!
//! It judges nothing; `pace` does.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfall::core::{Pauses, Time};
use landfall::keyed::Extent;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::consensus::MemberId;
use crate::gather::now_ms;
use crate::hook::{BackPressure, HookThread};
use crate::link::LinkError;
use crate::message::{Control, Lacks, PaceReport, Reply, Request};
use crate::network::Network;
use crate::pace::{Findings, LogEnd, News, Pace, Paces, REPORT_EVERY};
use crate::roster::{self, RosterError};

/// The longest pause after a leader did not answer a report: one of a version that knows none ends the connection instead.
const REPORT_PAUSE_LONGEST: Duration = Duration::from_secs(60);

/// What a member knows of the pace of joiners: the leader of all, a joiner of itself.
pub(crate) struct Pacing {
    member: MemberId,
    began: Instant,
    known: Mutex<Known>,
    hook: Option<HookThread>,
    /// Counts changes, so that whoever waits looks again.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    paces: Paces,
    findings: Findings,
}

impl Pacing {
    /// Nothing is known yet; `hook` will be told.
    ///
    /// # Errors
    /// There is no thread for the hook.
    pub(crate) fn new(member: MemberId, hook: Option<BackPressure>) -> io::Result<Self> {
        let (began, known, changed) = (Instant::now(), Mutex::default(), watch::Sender::new(0));
        Ok(Self { member, began, known, hook: hook.map(HookThread::start).transpose()?, changed })
    }

    /// Takes what a joiner reports to this member, which leads; says how fast it gets on, if that is known.
    fn handle_report(&self, report: &PaceReport, leader: LogEnd, term: u64) -> Option<Pace> {
        self.change(|known, now| {
            let pace = known.paces.handle_report(report, leader, term, now);
            (pace, known.findings.note(report.joiner, pace, now).into_iter().collect())
        })
    }

    /// Takes what the leader says of this member.
    fn handle_answer(&self, pace: Option<Pace>) {
        let pace = pace.filter(|pace| pace.joiner == self.member);
        self.change(|known, now| ((), known.findings.note(self.member, pace, now).into_iter().collect()));
    }

    /// This member is no joiner any more.
    pub(crate) fn handle_joined(&self) {
        self.handle_answer(None);
    }

    /// What is known of others counts while this member leads.
    fn forget_others(&self) {
        self.change(|known, _| {
            known.paces.clear();
            ((), known.findings.forget_all_but(self.member))
        });
    }

    fn forget_silent(&self) {
        self.change(|known, now| {
            known.paces.forget_silent(now);
            ((), known.findings.forget_silent(now))
        });
    }

    fn is_idle(&self) -> bool {
        let known = self.known();
        known.paces.is_empty() && known.findings.all().next().is_none()
    }

    /// How fast this member gets on as a joiner, as the leader said last.
    pub(crate) fn own(&self) -> Option<Pace> {
        self.known().findings.of(self.member)
    }

    /// Other joiners that are too slow.
    pub(crate) fn slow_joiners(&self) -> Vec<Pace> {
        let known = self.known();
        known.findings.all().filter(|pace| pace.joiner != self.member && pace.is_too_slow()).collect()
    }

    /// Something to wait on: it changes with every report and every answer.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes what is known, and says what is new of it, in one order for everybody.
    fn change<R>(&self, change: impl FnOnce(&mut Known, Time) -> (R, Vec<News>)) -> R {
        let mut known = self.known();
        let (result, news) = change(&mut known, Time::ZERO + self.began.elapsed());
        for news in news {
            self.tell(news);
        }
        drop(known);
        self.changed.send_modify(|count| *count += 1);
        result
    }

    fn tell(&self, news: News) {
        let (News::TooSlow(pace) | News::StillTooSlow(pace) | News::Over(pace)) = news;
        let Pace { joiner, received_per_second, log_per_second, needed_per_second } = pace;
        match news {
            News::TooSlow(_) => tracing::warn!(
                joiner,
                received_per_second,
                log_per_second,
                needed_per_second,
                "a joiner receives less than it needs: its join takes no end"
            ),
            News::StillTooSlow(_) => {}
            News::Over(_) => {
                tracing::info!(joiner, received_per_second, log_per_second, "no longer is a joiner too slow");
            }
        }
        if let Some(hook) = &self.hook {
            hook.tell(pace);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing that runs under the lock can panic half way.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers a joiner's report.
pub(crate) fn answer(cluster: &Cluster, report: &PaceReport) -> Reply {
    match try_answer(cluster, report) {
        Ok(pace) => Reply::Pace(pace),
        Err(error) => error.into(),
    }
}

fn try_answer(cluster: &Cluster, report: &PaceReport) -> Result<Option<Pace>, RosterError> {
    roster::check_leads(cluster)?;
    roster::check_known(cluster, report.joiner)?;
    let term = cluster.raft.metrics().borrow().current_term;
    let last = cluster.log.last_index().unwrap_or_default();
    let leader = LogEnd { last, appended_bytes: cluster.log.appended_bytes() };
    Ok(cluster.pacing.handle_report(report, leader, term))
}

/// Reports to whoever leads how this joiner gets on. Whoever is no joiner any more stops it.
pub(crate) async fn report(cluster: &Cluster) -> Infallible {
    let (links, life) = (cluster.network.apart(), now_ms());
    let mut pauses = Pauses::new(REPORT_EVERY, REPORT_PAUSE_LONGEST);
    loop {
        tokio::time::sleep(pauses.lengthen()).await;
        match tell_leader(cluster, &links, report_of(cluster, life)).await {
            Ok(()) => pauses.reset(),
            Err(error) => tracing::debug!(%error, "the leader did not answer a report"),
        }
    }
}

fn report_of(cluster: &Cluster, life: u64) -> PaceReport {
    let fills = cluster.keyed.sealed().is_some_and(|standing| standing.extent == Extent::Filling);
    PaceReport {
        joiner: cluster.member,
        life,
        received_bytes: cluster.arrivals.received_bytes() + cluster.log.appended_bytes(),
        lacks: if fills { Lacks::Snapshot } else { Lacks::Log },
        log_last: cluster.log.last_index().unwrap_or_default(),
    }
}

/// Reports once, on links of their own: a leader of a version that knows no reports ends the connection, and an audit may be under way on the
/// one to which everything else is said.
async fn tell_leader(cluster: &Cluster, links: &Network, report: PaceReport) -> Result<(), LinkError> {
    let Some(leader) = cluster.leader() else { return Ok(()) };
    let address = leader.address.peers;
    links.keep_only(std::slice::from_ref(&address));
    let reply = links.link(&address).ask(&Request::Control(Control::Pace(report))).await?;
    // Who does not lead any more says nothing of a pace; the next one will.
    if let Reply::Pace(pace) = reply {
        cluster.pacing.handle_answer(pace);
    }
    Ok(())
}

/// Forgets joiners that stopped reporting, and all of them once this member does not lead.
pub(crate) async fn forget(cluster: Arc<Cluster>) {
    let mut changes = cluster.pacing.changes();
    loop {
        changes.mark_unchanged();
        if cluster.pacing.is_idle() {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        }
        tokio::time::sleep(REPORT_EVERY).await;
        if !cluster.leads() {
            cluster.pacing.forget_others();
        }
        cluster.pacing.forget_silent();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use landfall::core::keyed::{ReadError, SectionSchema, Transaction};
    use landfall::keyed::Milestone;
    use landfall::net::memory::{MemoryNetwork, MemoryTransport};
    use landfall::net::{ConnectError, Connection, ListenError, Listener, PeerIdentity, Transport};
    use tempfile::TempDir;
    use tokio::sync::{Notify, mpsc};
    use tokio::time::timeout;

    use super::*;
    use crate::between::{Between, with_between};
    use crate::cluster::Role;
    use crate::entry::LogTime;
    use crate::hook::CommitHook;
    use crate::joining::{Aim, JoinConfig};
    use crate::message::Newcomer;
    use crate::node::{Node, NodeConfig};
    use crate::service::Service;
    use crate::status::NodeStatus;
    use crate::suite::{self, Silent};

    const PATIENCE: Duration = Duration::from_secs(60);
    const LEADER: MemberId = 1;
    const JOINER: MemberId = 2;

    /// A service whose commands are as long as one likes, and do nothing.
    struct Idle;

    impl Service for Idle {
        type Command = Vec<u8>;
        type Reply = ();

        fn sections(&self) -> Vec<SectionSchema> {
            Silent.sections()
        }

        fn apply(&self, _: LogTime, _: &Vec<u8>, _: &mut Transaction<'_>) -> Result<(), ReadError> {
            Ok(())
        }
    }

    /// A member's way to others, on which it says something that they do not know instead of a report: as if they were of a version that knows none.
    #[derive(Clone)]
    struct ToOlder {
        inner: MemoryTransport,
        connections: Arc<AtomicU64>,
    }

    impl Transport for ToOlder {
        fn connect(&self, address: &str, deadline: Duration) -> Result<Connection, ConnectError> {
            self.connections.fetch_add(1, Ordering::AcqRel);
            Ok(with_between(self.inner.connect(address, deadline)?, self.clone()))
        }

        fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
            self.inner.listen(address)
        }
    }

    impl Between for ToOlder {
        fn leaves(&mut self, head: &[u8], _body: &[u8]) -> Option<Vec<u8>> {
            let name = head.windows(5).position(|bytes| bytes == b"\xa4Pace")?;
            Some([&head[..name], b"\xa4Ecap", &head[name + 5..]].concat())
        }
    }

    /// A leader and a member that joined, in memory, and what their hooks are told.
    struct Pair {
        leader: Node<Idle>,
        joiner: Node<Idle>,
        leader_hook: mpsc::UnboundedReceiver<Pace>,
        joiner_hook: mpsc::UnboundedReceiver<Pace>,
        links: Network,
        _directory: TempDir,
    }

    /// A clock that stands still while this is kept: a task that blocks is under way, so the clock moves only when it is told to. Where a test waits
    /// in vain it runs on after a while, so that the wait has an end.
    struct StoppedClock {
        _until: std::sync::mpsc::Sender<()>,
    }

    impl StoppedClock {
        fn stop() -> Self {
            let (until, stopped) = std::sync::mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || stopped.recv_timeout(PATIENCE));
            tokio::time::pause();
            Self { _until: until }
        }

        async fn advance(&self, seconds: u64) {
            tokio::time::advance(Duration::from_secs(seconds)).await;
        }

        fn resume(self) {
            tokio::time::resume();
        }
    }

    /// What a hook is told next.
    async fn hear(hook: &mut mpsc::UnboundedReceiver<Pace>) -> Pace {
        timeout(PATIENCE, hook.recv()).await.expect("nothing is told").unwrap()
    }

    fn has_reached(status: &NodeStatus, milestone: Milestone) -> bool {
        status.joined.iter().flat_map(|join| &join.reached).any(|(reached, _)| *reached == milestone)
    }

    impl Pair {
        /// Both, once the joiner has reached this.
        async fn new(
            joins_by: impl FnOnce(MemoryTransport) -> Arc<dyn Transport>,
            commit_hook: Option<CommitHook>,
            milestone: Milestone,
        ) -> Self {
            let (directory, network) = (tempfile::tempdir().unwrap(), MemoryNetwork::new());
            let name = |member: MemberId| format!("member-{member}");
            let transport = |member| network.member(PeerIdentity::unproven(&name(member)));
            let config = |member, transport, hook: mpsc::UnboundedSender<Pace>| NodeConfig {
                member,
                listen: name(member),
                transport,
                back_pressure: Some(BackPressure::new(move |pace| {
                    // Nobody listens at the end of a test.
                    let _ = hook.send(*pace);
                })),
                ..suite::config(&directory.path().join(name(member)))
            };
            let (hook, leader_hook) = mpsc::unbounded_channel();
            let leader = Node::open(Idle, config(LEADER, Arc::new(transport(LEADER)), hook)).await.unwrap();
            leader.bootstrap().await.unwrap();
            leader.wait_for(PATIENCE, |status| status.role == Role::Leader).await.unwrap();
            let (hook, joiner_hook) = mpsc::unbounded_channel();
            let join = JoinConfig { seeds: vec![name(LEADER)], patience: PATIENCE, aim: Aim::Learner, commit_hook };
            let joiner = Node::join(Idle, config(JOINER, joins_by(transport(JOINER)), hook), join).await.unwrap();
            joiner.wait_for(PATIENCE, |status| has_reached(status, milestone)).await.unwrap();
            let links = joiner.cluster.network.apart();
            Self { leader, joiner, leader_hook, joiner_hook, links, _directory: directory }
        }

        /// Both, the join being over: whatever is reported is the test's.
        async fn joined() -> Self {
            let pair = Self::new(|transport| Arc::new(transport), None, Milestone::Promoted).await;
            pair.leader.cluster.applied.clone().wait_for(|applied| applied.leases.is_empty()).await.unwrap();
            pair
        }

        /// The leader's log grows; says how many bytes it ever took.
        async fn write(&self) -> u64 {
            self.leader.propose(&vec![7; 100_000]).await.unwrap();
            self.leader.cluster.log.appended_bytes()
        }

        fn report(&self, received_bytes: u64, lacks: Lacks) -> PaceReport {
            let log_last = self.leader.cluster.log.last_index().unwrap();
            PaceReport { joiner: JOINER, life: 1, received_bytes, lacks, log_last }
        }

        async fn tell(&self, received_bytes: u64, lacks: Lacks) {
            tell_leader(&self.joiner.cluster, &self.links, self.report(received_bytes, lacks)).await.unwrap();
        }

        /// The joiner reports every five seconds that ten thousand bytes came and that it lacks more, until the leader finds that too little.
        async fn become_too_slow(&self, clock: &StoppedClock) -> Pace {
            let before = self.write().await;
            self.tell(0, Lacks::Snapshot).await;
            let mut after = before;
            for number in 1..=2 {
                assert_eq!((self.joiner.status().pace, self.leader.status().slow_joiners), (None, vec![]));
                after = self.write().await;
                clock.advance(5).await;
                self.tell(number * 10_000, Lacks::Snapshot).await;
            }
            let log_per_second = (after - before) / 10;
            Pace { joiner: JOINER, received_per_second: 2000, log_per_second, needed_per_second: 2 * log_per_second }
        }

        async fn check_told(&mut self, pace: Pace) {
            assert_eq!(hear(&mut self.leader_hook).await, pace);
            assert_eq!(hear(&mut self.joiner_hook).await, pace);
        }

        async fn close(self) {
            self.joiner.close().await;
            self.leader.close().await;
        }
    }

    #[tokio::test]
    async fn of_a_joiner_that_is_too_slow_both_tell_their_hook_and_show_it_until_it_is_over() {
        let mut pair = Pair::joined().await;
        let clock = StoppedClock::stop();
        let slow = pair.become_too_slow(&clock).await;
        assert!(slow.is_too_slow());
        pair.check_told(slow).await;
        let (leader, joiner) = (pair.leader.status(), pair.joiner.status());
        assert_eq!((leader.pace, leader.slow_joiners), (None, vec![slow]));
        assert_eq!((joiner.pace, joiner.slow_joiners), (Some(slow), vec![]));

        // Again with each report, as long as it lasts.
        clock.advance(5).await;
        pair.tell(30_000, Lacks::Snapshot).await;
        let still = pair.joiner.status().pace.unwrap();
        assert!(still.is_too_slow() && still != slow, "{still:?}");
        pair.check_told(still).await;

        // All of the snapshot is here, and the log: no more needs to come.
        clock.advance(5).await;
        pair.tell(30_000, Lacks::Log).await;
        let over = pair.joiner.status().pace.unwrap();
        assert!(!over.is_too_slow() && over.needed_per_second == 0, "{over:?}");
        pair.check_told(over).await;
        assert_eq!(pair.leader.status().slow_joiners, []);

        // Once.
        clock.advance(5).await;
        pair.tell(30_000, Lacks::Log).await;
        pair.write().await;
        clock.advance(5).await;
        pair.tell(30_000, Lacks::Snapshot).await;
        let again = pair.joiner.status().pace.unwrap();
        assert!(again.is_too_slow());
        pair.check_told(again).await;
        clock.resume();
        pair.close().await;
    }

    #[tokio::test]
    async fn it_is_over_for_both_when_a_joiner_falls_silent() {
        let mut pair = Pair::joined().await;
        let clock = StoppedClock::stop();
        let slow = pair.become_too_slow(&clock).await;
        pair.check_told(slow).await;
        // To their timers this is one step.
        clock.advance(36).await;
        pair.check_told(Pace { needed_per_second: 0, ..slow }).await;
        assert_eq!((pair.joiner.status().pace, pair.leader.status().slow_joiners), (None, vec![]));
        assert!(pair.leader.cluster.pacing.is_idle());
        clock.resume();
        pair.close().await;
    }

    #[tokio::test]
    async fn who_does_not_lead_knows_of_no_slow_joiner_and_names_the_leader() {
        let mut pair = Pair::joined().await;
        let clock = StoppedClock::stop();
        // As if it had led until now.
        let slow = Pace { joiner: 9, received_per_second: 1, log_per_second: 2, needed_per_second: 4 };
        pair.joiner.cluster.pacing.change(|known, now| {
            let news = known.findings.note(slow.joiner, Some(slow), now);
            ((), news.into_iter().collect())
        });
        assert_eq!((pair.joiner.status().pace, pair.joiner.status().slow_joiners), (None, vec![slow]));
        assert_eq!(hear(&mut pair.joiner_hook).await, slow);
        // Its timer may not have begun yet.
        for _ in 0..10 {
            clock.advance(3).await;
        }
        assert_eq!(pair.joiner.status().slow_joiners, []);
        assert_eq!(hear(&mut pair.joiner_hook).await, Pace { needed_per_second: 0, ..slow });

        let named = answer(&pair.joiner.cluster, &pair.report(0, Lacks::Log));
        assert!(matches!(&named, Reply::AskLeader(Some((LEADER, _)))), "{named:?}");
        let stranger = PaceReport { joiner: 9, ..pair.report(0, Lacks::Log) };
        assert!(matches!(answer(&pair.leader.cluster, &stranger), Reply::Refused(_)));
        assert!(pair.leader.cluster.pacing.is_idle());
        clock.resume();
        pair.close().await;
    }

    #[tokio::test]
    async fn a_joiner_reports_by_itself_until_it_is_promoted() {
        let promote = Arc::new(Notify::new());
        let waits = promote.clone();
        let hook = CommitHook::new(move |_| {
            let waits = waits.clone();
            async move {
                waits.notified().await;
                Ok(())
            }
        });
        let pair = Pair::new(|transport| Arc::new(transport), Some(hook), Milestone::Verified).await;
        let clock = StoppedClock::stop();
        let mut answers = pair.joiner.cluster.pacing.changes();
        let found = loop {
            pair.write().await;
            answers.mark_unchanged();
            // Timers are up to a millisecond late.
            clock.advance(6).await;
            timeout(PATIENCE, answers.changed()).await.expect("it does not report").unwrap();
            if let Some(found) = pair.joiner.status().pace {
                break found;
            }
        };
        assert!(found.log_per_second > 0 && !found.is_too_slow(), "{found:?}");
        let report = report_of(&pair.joiner.cluster, 5);
        let (arrivals, log) = (&pair.joiner.cluster.arrivals, &pair.joiner.cluster.log);
        assert_eq!((report.joiner, report.life, report.lacks), (JOINER, 5, Lacks::Log));
        assert_eq!(report.received_bytes, arrivals.received_bytes() + log.appended_bytes());
        assert_eq!(Some(report.log_last), log.last_index());
        promote.notify_one();
        pair.joiner.wait_for(PATIENCE, |status| status.pace.is_none()).await.unwrap();
        clock.resume();
        pair.close().await;
    }

    #[tokio::test]
    async fn a_leader_that_knows_no_reports_costs_a_joiner_nothing_else() {
        let connections = Arc::new(AtomicU64::new(0));
        let counted = connections.clone();
        let to_older = |inner| -> Arc<dyn Transport> { Arc::new(ToOlder { inner, connections: counted }) };
        let pair = Pair::new(to_older, None, Milestone::Promoted).await;
        pair.leader.cluster.applied.clone().wait_for(|applied| applied.leases.is_empty()).await.unwrap();
        let newcomer = Newcomer { member: JOINER, address: pair.joiner.address() };
        let ask_something = async || {
            let link = pair.joiner.cluster.network.link(&pair.leader.address().peers);
            let reply = link.ask(&Request::Control(Control::Admit(newcomer.clone()))).await;
            assert!(matches!(reply, Ok(Reply::Done)), "{reply:?}");
        };
        ask_something().await;
        let before = connections.load(Ordering::Acquire);
        for number in 1..=2 {
            let told = tell_leader(&pair.joiner.cluster, &pair.links, pair.report(0, Lacks::Snapshot)).await;
            assert!(matches!(told, Err(LinkError::Lost { .. })), "{told:?}");
            assert_eq!(pair.joiner.status().pace, None);
            ask_something().await;
            assert_eq!(connections.load(Ordering::Acquire), before + number, "the other connection was not lost");
        }
        assert!(pair.leader.cluster.pacing.is_idle());
        pair.close().await;
    }
}
