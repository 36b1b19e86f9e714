//! Owns what members of one cluster say to each other on the raft service, as bytes.
//!
//! It never sends anything. Control messages are MessagePack; the entries of an append stand behind one, as they stand in the log.

use bytes::{Buf, BufMut, Bytes};
use landfall::core::snapshot::Position;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::consensus::{Consensus, MemberAddress, MemberId, RaftLogId, RaftSnapshotMeta, RaftVote, position_of};
use crate::entry::{self, ENTRY_BYTES_MAX, EntryError, Lease};
use crate::identity::ClusterId;
use crate::pace::Pace;
use crate::reference::Reference;

/// The name of the service under which members open connections to each other.
pub(crate) const SERVICE: &str = "raft/2";
/// Entries of one append; their bytes are limited too.
pub(crate) const ENTRIES_MAX: u32 = 4096;
/// Bytes of the entries of one append, heads included, unless a single entry is longer.
pub(crate) const ENTRIES_BYTES_MAX: usize = ENTRY_BYTES_MAX;

const APPEND: u8 = 1;
const CONTROL: u8 = 2;
const REPLY: u8 = 3;
const PROGRESS: u8 = 4;
const FAILURE: u8 = 5;
const OTHER_CLUSTER: u8 = 6;

/// The cluster of an asker that belongs to none.
const NO_CLUSTER: [u8; 16] = [0; 16];

/// What an append says of each entry: its position and its length.
pub(crate) const ENTRY_HEAD_BYTES: usize = 8 + 8 + 4;

/// What one member asks of another.
#[derive(Debug)]
pub(crate) enum Request {
    /// Entries of the log, or a heartbeat.
    Append(AppendEntriesRequest<Consensus>),
    /// Anything that is small.
    Control(Control),
}

/// What one member asks of another, where no entries come with it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Control {
    /// May I lead?
    Vote(VoteRequest<MemberId>),
    /// Pull this snapshot and install it. Progress is answered until it is done.
    Install(Install),
    /// A joiner asks where to begin; answered by the leader.
    Begin(Newcomer),
    /// A joiner that took its reference asks to be sent the log; answered by the leader.
    Admit(Newcomer),
    /// A joiner is complete and equal to the others: it asks to vote.
    Promote(MemberId),
    /// A joiner keeps its lease alive, or gives it back.
    Renew(Renewal),
    /// What a member sealed at a mark.
    Sealed(SealedAt),
    /// The leader of this vote asks whether the member still follows it, before it answers reads.
    Confirm(RaftVote),
    /// A joiner has everybody seal, so that it can compare; answered by the leader.
    Audit(MemberId),
    /// A joiner says what came to it so far; answered by the leader.
    Pace(PaceReport),
}

/// A snapshot to install.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Install {
    pub(crate) vote: RaftVote,
    pub(crate) meta: RaftSnapshotMeta,
    pub(crate) reference: Reference,
}

/// A member that is not one yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Newcomer {
    pub(crate) member: MemberId,
    pub(crate) address: MemberAddress,
}

/// A lease to keep.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Renewal {
    pub(crate) holder: MemberId,
    pub(crate) version: u64,
    /// The first index that is still needed; nothing gives the lease back.
    pub(crate) keep_from: Option<u64>,
}

/// What came to a joiner so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PaceReport {
    pub(crate) joiner: MemberId,
    /// When it began to count, in milliseconds since 1970: what was counted in two lives cannot be compared.
    pub(crate) life: u64,
    /// Parts of the snapshot, as they are and not as they travel, and entries of the log. In one life it never falls.
    pub(crate) received_bytes: u64,
    pub(crate) lacks: Lacks,
    /// The index of the last entry in its log.
    pub(crate) log_last: u64,
}

/// What is still to come to a joiner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lacks {
    /// Parts of the snapshot, and the log.
    Snapshot,
    /// The end of the log, at most.
    Log,
}

/// What a member holds since a mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SealedAt {
    pub(crate) member: MemberId,
    pub(crate) epoch: u64,
    pub(crate) index: u64,
    pub(crate) snapshot: [u8; 32],
    pub(crate) state_root: [u8; 32],
    pub(crate) log_hash: [u8; 32],
}

impl SealedAt {
    pub(crate) fn position(&self) -> Position {
        Position { epoch: self.epoch, index: self.index }
    }
}

/// What a member answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Append(AppendEntriesResponse<MemberId>),
    Vote(VoteResponse<MemberId>),
    Installed(RaftVote),
    /// Where a joiner begins, and the lease that keeps the log for it.
    Begin(Box<Beginning>),
    /// What members sealed at one mark: the joiner that asked, the leader, and everybody else who said so in time.
    Audited(Vec<SealedAt>),
    /// How fast a joiner gets on, once that is known.
    Pace(Option<Pace>),
    /// Done.
    Done,
    /// Ask that member instead.
    AskLeader(Option<(MemberId, MemberAddress)>),
    /// Not now: why.
    NotYet(String),
    /// Never: why.
    Refused(String),
}

/// Where a joiner begins.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Beginning {
    /// The cluster to which the joiner belongs from now on.
    pub(crate) cluster: Option<ClusterId>,
    /// The newest snapshot of the member that leads.
    pub(crate) start: Reference,
    pub(crate) lease: Lease,
}

/// A frame from the member that answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The end of a request.
    Reply(Reply),
    /// It goes on: so many bytes are here by now.
    Progress(u64),
    /// The member cannot do what was asked.
    Failure(String),
    /// The member belongs to this cluster, and the asker to another.
    OtherCluster(Option<ClusterId>),
}

/// A frame that breaks this protocol.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    #[error("malformed message: {0}")]
    NotMessagePack(String),
    #[error(transparent)]
    Entry(#[from] EntryError),
}

#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: RaftVote,
    previous: Option<RaftLogId>,
    commit: Option<RaftLogId>,
}

impl Request {
    /// The frame that carries this request, of a member of `cluster`, under a number.
    pub(crate) fn encode(&self, number: u64, cluster: Option<ClusterId>) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.put_u64_le(number);
        out.put_u8(if matches!(self, Self::Append(_)) { APPEND } else { CONTROL });
        out.put_slice(&cluster.map_or(NO_CLUSTER, |cluster| cluster.0));
        match self {
            Self::Append(append) => put_append(&mut out, append),
            Self::Control(control) => pack(&mut out, control),
        }
        out
    }

    /// A request, its number, and the cluster of whoever asks.
    pub(crate) fn decode(frame: &[u8]) -> Result<(u64, Option<ClusterId>, Self), MessageError> {
        let (number, kind, rest) = head(frame)?;
        if !matches!(kind, APPEND | CONTROL) {
            return Err(MessageError::Malformed("a request of an unknown kind"));
        }
        let (cluster, body) = rest.split_first_chunk().ok_or(MessageError::Malformed("a request without a head"))?;
        let cluster = (*cluster != NO_CLUSTER).then_some(ClusterId(*cluster));
        let request = match kind {
            APPEND => Self::Append(decode_append(body)?),
            _ => Self::Control(unpack(body)?),
        };
        Ok((number, cluster, request))
    }
}

impl Answer {
    /// The frame that answers the request of that number.
    pub(crate) fn encode(&self, number: u64) -> Vec<u8> {
        match self {
            Self::Reply(reply) => frame(number, REPLY, reply),
            Self::Progress(bytes) => frame(number, PROGRESS, bytes),
            Self::Failure(reason) => frame(number, FAILURE, reason),
            Self::OtherCluster(cluster) => frame(number, OTHER_CLUSTER, cluster),
        }
    }

    /// An answer, and the number of the request.
    pub(crate) fn decode(frame: &[u8]) -> Result<(u64, Self), MessageError> {
        let (number, kind, body) = head(frame)?;
        let answer = match kind {
            REPLY => Self::Reply(unpack(body)?),
            PROGRESS => Self::Progress(unpack(body)?),
            FAILURE => Self::Failure(unpack(body)?),
            OTHER_CLUSTER => Self::OtherCluster(unpack(body)?),
            _ => return Err(MessageError::Malformed("an answer of an unknown kind")),
        };
        Ok((number, answer))
    }
}

fn frame(number: u64, kind: u8, body: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.put_u64_le(number);
    out.put_u8(kind);
    pack(&mut out, body);
    out
}

fn pack(out: &mut Vec<u8>, body: &impl Serialize) {
    rmp_serde::encode::write(out, body).expect("these messages can be written, and memory takes them");
}

fn unpack<T: DeserializeOwned>(body: &[u8]) -> Result<T, MessageError> {
    rmp_serde::from_slice(body).map_err(|error| MessageError::NotMessagePack(error.to_string()))
}

fn head(mut frame: &[u8]) -> Result<(u64, u8, &[u8]), MessageError> {
    if frame.len() < 9 {
        return Err(MessageError::Malformed("a frame without a head"));
    }
    Ok((frame.get_u64_le(), frame.get_u8(), frame))
}

fn put_append(out: &mut Vec<u8>, append: &AppendEntriesRequest<Consensus>) {
    let encoded: Vec<Bytes> = append.entries.iter().map(|entry| entry::encode(&entry.payload)).collect();
    out.reserve(encoded.iter().map(|entry| ENTRY_HEAD_BYTES + entry.len()).sum());
    out.put_u32_le(encoded.len() as u32);
    for (entry, bytes) in append.entries.iter().zip(&encoded) {
        let position = position_of(entry.log_id);
        out.put_u64_le(position.epoch);
        out.put_u64_le(position.index);
        out.put_u32_le(bytes.len() as u32);
        out.put_slice(bytes);
    }
    pack(out, &AppendHead { vote: append.vote, previous: append.prev_log_id, commit: append.leader_commit });
}

fn decode_append(body: &[u8]) -> Result<AppendEntriesRequest<Consensus>, MessageError> {
    let mut rest = Bytes::copy_from_slice(body);
    let count = take(&mut rest, 4)?.get_u32_le();
    if count > ENTRIES_MAX {
        return Err(MessageError::Malformed("more entries than one append has"));
    }
    let mut entries = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let mut head = take(&mut rest, ENTRY_HEAD_BYTES)?;
        let position = Position { epoch: head.get_u64_le(), index: head.get_u64_le() };
        let bytes = take(&mut rest, head.get_u32_le() as usize)?;
        entries.push(entry::decode(position, &bytes)?);
    }
    let head: AppendHead = unpack(&rest)?;
    Ok(AppendEntriesRequest { vote: head.vote, prev_log_id: head.previous, leader_commit: head.commit, entries })
}

fn take(rest: &mut Bytes, bytes: usize) -> Result<Bytes, MessageError> {
    if rest.len() < bytes {
        return Err(MessageError::Malformed("a message that ends early"));
    }
    Ok(rest.split_to(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::{RaftEntry, log_id_of};
    use openraft::{EntryPayload, Vote};

    fn append() -> AppendEntriesRequest<Consensus> {
        let at = |index| log_id_of(Position { epoch: 2, index }).unwrap();
        AppendEntriesRequest {
            vote: Vote::new_committed(2, 1),
            prev_log_id: Some(at(4)),
            leader_commit: None,
            entries: vec![
                RaftEntry { log_id: at(5), payload: EntryPayload::Blank },
                RaftEntry { log_id: at(6), payload: EntryPayload::Blank },
            ],
        }
    }

    const OWN: Option<ClusterId> = Some(ClusterId([9; 16]));

    #[test]
    fn an_asker_that_belongs_to_no_cluster_says_so() {
        let (_, cluster, _) = Request::decode(&Request::Control(Control::Promote(1)).encode(1, None)).unwrap();
        assert_eq!(cluster, None);
    }

    /// Members of different versions meet: the first bytes of a request stay where they are.
    #[test]
    fn the_head_of_a_request_never_changes() {
        let frame = Request::Control(Control::Promote(7)).encode(0x0102, OWN);
        let expected = [&[2, 1, 0, 0, 0, 0, 0, 0, CONTROL][..], &[9; 16], &[0x81, 0xa7], b"Promote", &[7]].concat();
        assert_eq!(frame, expected);
    }

    #[test]
    fn what_was_audited_is_answered_in_these_bytes() {
        let frame = Request::Control(Control::Audit(7)).encode(1, None);
        assert_eq!(frame[25..], [&[0x81, 0xa5][..], b"Audit", &[7]].concat());
        let sealed =
            SealedAt { member: 7, epoch: 2, index: 9, snapshot: [1; 32], state_root: [2; 32], log_hash: [3; 32] };
        let frame = Answer::Reply(Reply::Audited(vec![sealed.clone()])).encode(1);
        let hash = |byte| [&[0xdc, 0, 32][..], &[byte; 32]].concat();
        let fields = [&[0x96, 7, 2, 9][..], &hash(1), &hash(2), &hash(3)].concat();
        assert_eq!(frame[9..], [&[0x81, 0xa7][..], b"Audited", &[0x91], &fields].concat());
        let Answer::Reply(Reply::Audited(decoded)) = Answer::decode(&frame).unwrap().1 else {
            panic!("another answer")
        };
        assert_eq!(decoded, [sealed]);
    }

    #[test]
    fn the_pace_of_a_joiner_is_reported_and_answered_in_these_bytes() {
        for (lacks, name) in [(Lacks::Snapshot, &b"Snapshot"[..]), (Lacks::Log, b"Log")] {
            let report = PaceReport { joiner: 7, life: 258, received_bytes: 1 << 32, lacks, log_last: 9 };
            let frame = Request::Control(Control::Pace(report)).encode(1, None);
            let head = [0x81, 0xa4, b'P', b'a', b'c', b'e', 0x95, 7, 0xcd, 1, 2, 0xcf, 0, 0, 0, 1, 0, 0, 0, 0];
            assert_eq!(frame[25..], [&head[..], &[0xa0 | name.len() as u8], name, &[9]].concat());
            let Request::Control(Control::Pace(decoded)) = Request::decode(&frame).unwrap().2 else {
                panic!("another request")
            };
            assert_eq!(decoded, report);
        }
        let pace = Pace { joiner: 7, received_per_second: 1, log_per_second: 2, needed_per_second: 4 };
        for (pace, body) in [(None, &[0xc0][..]), (Some(pace), &[0x94, 7, 1, 2, 4])] {
            let frame = Answer::Reply(Reply::Pace(pace)).encode(1);
            assert_eq!(frame[9..], [&[0x81, 0xa4][..], b"Pace", body].concat());
            let Answer::Reply(Reply::Pace(decoded)) = Answer::decode(&frame).unwrap().1 else {
                panic!("another answer")
            };
            assert_eq!(decoded, pace);
        }
    }

    /// What an older member does with a message of a newer one: it ends the connection, and goes on.
    #[test]
    fn a_message_that_is_not_known_or_was_falsified_is_an_error() {
        let report = PaceReport { joiner: 7, life: 1, received_bytes: 2, lacks: Lacks::Log, log_last: 9 };
        let frame = Request::Control(Control::Pace(report)).encode(1, None);
        let falsified = |at: usize, byte: u8| {
            let mut frame = frame.clone();
            frame[25 + at] = byte;
            frame
        };
        let unknown = Request::decode(&falsified(5, b'f')).unwrap_err();
        assert!(matches!(unknown, MessageError::NotMessagePack(_)), "{unknown}");
        for at in 0..frame.len() - 25 {
            for byte in 0..=u8::MAX {
                // Whatever comes of it, nothing panics.
                let _ = Request::decode(&falsified(at, byte));
            }
        }
        for length in 0..frame.len() {
            assert!(Request::decode(&frame[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn an_append_comes_back_as_it_was() {
        let frame = Request::Append(append()).encode(77, OWN);
        let (number, cluster, decoded) = Request::decode(&frame).unwrap();
        let Request::Append(decoded) = decoded else { panic!("another request: {decoded:?}") };
        assert_eq!((number, cluster), (77, OWN));
        assert_eq!(decoded.entries, append().entries);
        assert_eq!((decoded.vote, decoded.prev_log_id), (append().vote, append().prev_log_id));
    }

    #[test]
    fn a_frame_that_was_cut_is_refused_at_any_length() {
        let frame = Request::Append(append()).encode(1, OWN);
        for length in 0..frame.len() {
            assert!(Request::decode(&frame[..length]).is_err(), "cut to {length}");
        }
        let frame = Answer::Reply(Reply::Done).encode(1);
        for length in 0..frame.len() {
            assert!(Answer::decode(&frame[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn what_is_asked_is_told_from_what_is_answered() {
        assert!(Answer::decode(&Request::Control(Control::Promote(1)).encode(1, None)).is_err());
        assert!(Request::decode(&Answer::Progress(3).encode(1)).is_err());
    }
}
