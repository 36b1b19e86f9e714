//! Owns the answering side of the raft service: one connection, many requests at once, each answered when it is done.
//!
//! It never decides what raft decides; it hands over.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall::member::ConnectionService;
use landfall::net::{Connection, FrameSender};
use openraft::raft::AppendEntriesResponse;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::audit;
use crate::ballot::Pending;
use crate::cluster::Cluster;
use crate::consensus::RaftVote;
use crate::identity::Stranger;
use crate::message::{Answer, Control, Install, Reply, Request};
use crate::pacing;
use crate::roster;
use crate::spacing;

/// Requests of one connection that are answered at once; a peer that asks more waits.
const REQUESTS_AT_ONCE_MAX: usize = 256;
/// A peer that keeps a connection open says nothing for longer than this only if it is gone: members of a cluster always have something
/// to say, and a connection that was idle is made again.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// How often a pull says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The service under which others reach this member.
pub(crate) fn service(cluster: Arc<Cluster>, runtime: Handle) -> ConnectionService {
    Arc::new(move |connection| serve(&cluster, &runtime, connection))
}

/// The half that answers; small frames, so a send hardly ever waits.
type Answers = Arc<Mutex<Box<dyn FrameSender>>>;

/// A request, and the frame in which it came.
struct Taken {
    number: u64,
    request: Request,
    frame_bytes: usize,
}

fn serve(cluster: &Arc<Cluster>, runtime: &Handle, connection: Connection) {
    let Connection { mut receiver, sender, closer, peer, .. } = connection;
    receiver.set_idle_deadline(IDLE_MAX);
    let answers: Answers = Arc::new(Mutex::new(sender));
    let at_once = Arc::new(Semaphore::new(REQUESTS_AT_ONCE_MAX));
    let mut is_strange = false;
    while let Ok(Some(frame)) = receiver.receive() {
        let frame_bytes = frame.len();
        let (number, asker, request) = match Request::decode(frame) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::warn!(peer = %peer.name, %error, "a request that cannot be read");
                break;
            }
        };
        if let Err(Stranger { own }) = runtime.block_on(cluster.check_asker(asker, &request)) {
            if !std::mem::replace(&mut is_strange, true) {
                tracing::error!(peer = %peer.name, ?asker, ?own, "a member of another cluster asks");
            }
            if !send(&answers, number, &Answer::OtherCluster(own)) {
                break;
            }
            continue;
        }
        // Readers wait for this one.
        if let Request::Control(Control::Confirm(vote)) = request {
            if !send(&answers, number, &confirm(cluster, &vote)) {
                break;
            }
            continue;
        }
        let Ok(permit) = runtime.block_on(at_once.clone().acquire_owned()) else { break };
        let (cluster, answers, closer) = (cluster.clone(), answers.clone(), closer.clone());
        let taken = Taken { number, request, frame_bytes };
        runtime.spawn(async move {
            if !send(&answers, number, &answer_patiently(&cluster, taken, &answers).await) {
                closer.close();
            }
            drop(permit);
        });
    }
    closer.close();
}

fn confirm(cluster: &Cluster, vote: &RaftVote) -> Answer {
    Answer::Reply(match cluster.voted.is_for(vote) {
        true => Reply::Done,
        false => Reply::Refused("this member has voted for another leader".into()),
    })
}

/// Whether it could be sent.
fn send(answers: &Answers, number: u64, answer: &Answer) -> bool {
    let frame = answer.encode(number);
    let mut sender = answers.lock().unwrap_or_else(PoisonError::into_inner);
    sender.send(&frame, &[]).and_then(|()| sender.flush()).is_ok()
}

/// While an answer takes long, the peer hears that it goes on.
async fn answer_patiently(cluster: &Arc<Cluster>, taken: Taken, answers: &Answers) -> Answer {
    let Taken { number, request, frame_bytes } = taken;
    let mut answering = std::pin::pin!(answer(cluster, request, frame_bytes));
    loop {
        match tokio::time::timeout(PROGRESS_INTERVAL, &mut answering).await {
            Ok(answer) => return answer,
            Err(_) => {
                let bytes = cluster.arrivals.bytes();
                // One that cannot be told has gone; what it began goes on, the next leader will want the same.
                send(answers, number, &Answer::Progress(bytes));
            }
        }
    }
}

async fn answer(cluster: &Arc<Cluster>, request: Request, frame_bytes: usize) -> Answer {
    let answered = match request {
        Request::Append(append) => {
            cluster.head.note(&append);
            let can_grow = spacing::can_grow(&append, frame_bytes);
            let appended = cluster.raft.append_entries(append).await;
            if can_grow && matches!(appended, Ok(AppendEntriesResponse::Success)) {
                spacing::pause(cluster).await;
            }
            appended.map(Reply::Append).map_err(|e| e.to_string())
        }
        Request::Control(Control::Vote(vote)) => {
            cluster.raft.vote(vote).await.map(Reply::Vote).map_err(|e| e.to_string())
        }
        Request::Control(Control::Install(install)) => handle_install(cluster, install).await,
        Request::Control(Control::Sealed(report)) => {
            cluster.seals.handle_report(report);
            Ok(Reply::Done)
        }
        Request::Control(Control::Confirm(vote)) => return confirm(cluster, &vote),
        Request::Control(Control::Begin(newcomer)) => Ok(roster::begin(cluster, &newcomer).await),
        Request::Control(Control::Admit(newcomer)) => Ok(roster::admit(cluster, newcomer).await),
        Request::Control(Control::Promote(member)) => Ok(roster::promote(cluster, member).await.into()),
        Request::Control(Control::Renew(renewal)) => Ok(roster::renew(cluster, &renewal).await),
        Request::Control(Control::Audit(member)) => Ok(audit::compare(cluster, member).await),
        Request::Control(Control::Pace(report)) => Ok(pacing::answer(cluster, &report)),
    };
    match answered {
        Ok(reply) => Answer::Reply(reply),
        Err(reason) => Answer::Failure(reason),
    }
}

/// Pulls what the leader refers to, then has openraft install it: that part takes milliseconds, because openraft does nothing else
/// meanwhile.
///
/// A voter acknowledges the log from the moment it installed, so it pulls everything first; a learner begins with what it takes to serve.
async fn handle_install(cluster: &Arc<Cluster>, install: Install) -> Result<Reply, String> {
    let Install { vote, meta, reference } = install;
    if cluster.applied.borrow().position < reference.position() {
        let counts = cluster.is_voter() || meta.last_membership.voter_ids().any(|voter| voter == cluster.member);
        let (arrivals, wanted) = (cluster.arrivals.clone(), reference.clone());
        let pulling = tokio::task::spawn_blocking(move || match counts {
            true => arrivals.pull_whole(&wanted),
            false => arrivals.pull_enough(&wanted),
        });
        pulling.await.map_err(|error| error.to_string())??;
        let pending = Pending { meta: meta.clone(), reference: reference.clone() };
        // openraft purges the log before it has installed: from here on a restart must find the reference.
        let noted = cluster.disk.ask(|ballot| ballot.change(|facts| facts.pending = Some(pending))).await;
        noted.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    }
    let snapshot = openraft::Snapshot { meta, snapshot: Box::new(reference) };
    let installed = cluster.raft.install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())?;
    Ok(Reply::Installed(installed.vote))
}
