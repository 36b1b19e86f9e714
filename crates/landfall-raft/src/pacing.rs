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
