//! Owns the few facts of a member that are neither log nor state: its vote, and a reference that openraft may have seen. They stand in one small file that is replaced whole and synced before anybody acts on them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use landfall::core::snapshot::Position;
use serde::{Deserialize, Serialize};

use crate::consensus::{MemberId, RaftSnapshotMeta, RaftVote};
use crate::identity::ClusterId;
use crate::reference::Reference;

const FILE_NAME: &str = "ballot";
const NEW_FILE_NAME: &str = "ballot.new";
const MAGIC: &[u8; 8] = b"lfballt1";

/// What must survive a power cut besides log and state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Whose directory this is.
    pub(crate) member: MemberId,
    /// The cluster to which it belongs; nothing before it does, and in clusters that are older than their ids.
    #[serde(default)]
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) vote: Option<RaftVote>,
    /// What the salts of a state that is born here are drawn from.
    pub(crate) salt_seed: [u8; 32],
    /// A snapshot that openraft was, or is about to be, told to install.
    pub(crate) pending: Option<Pending>,
}

/// A snapshot on its way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) meta: RaftSnapshotMeta,
    pub(crate) reference: Reference,
}

impl Facts {
    /// The reference that stands for the state: openraft has purged the log that led to it, so there is no way back.
    ///
    /// One that openraft never saw, because the process died first, does not count: the log still leads on.
    pub(crate) fn binding_reference(&self, purged: Option<Position>) -> Option<&Pending> {
        let pending = self.pending.as_ref()?;
        (purged? >= pending.reference.position()).then_some(pending)
    }
}

/// The file that holds the facts.
#[derive(Debug)]
pub(crate) struct Ballot {
    directory: PathBuf,
    facts: Facts,
    /// There was no file when it was opened.
    is_new: bool,
}

/// Why the facts could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BallotError {
    /// The disk failed.
    #[error("cannot read or write the vote in {directory}: {source}")]
    Io {
        /// Where.
        directory: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is damaged. A member that forgot its vote must not vote: remove it from the cluster and let it join anew.
    #[error("the vote in {directory} is damaged ({reason}): this member must join anew under another id")]
    Damaged {
        /// Where.
        directory: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file is gone, and what came after it is not. A member that forgot its vote must not vote.
    #[error(
        "the vote in {directory} is gone, though its member has a log or a state: put the file back, or remove this member from the cluster and \
         let it join anew, under another id and with an empty directory"
    )]
    Lost {
        /// Where.
        directory: PathBuf,
    },
    /// The directory belongs to another member.
    #[error("{directory} belongs to member {found}, not to {wanted}")]
    OtherMember {
        /// Where.
        directory: PathBuf,
        /// Whose it is.
        found: MemberId,
        /// Who asked.
        wanted: MemberId,
    },
}

impl Ballot {
    /// Reads the facts of `member`. If there are none it is born, unless [`Self::keep`] finds that it was before.
    pub(crate) fn open(directory: &Path, member: MemberId, salt_seed: [u8; 32]) -> Result<Self, BallotError> {
        let io = |source| BallotError::Io { directory: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(io)?;
        let damaged = |reason| BallotError::Damaged { directory: directory.to_owned(), reason };
        let (facts, is_new) = match fs::read(directory.join(FILE_NAME)) {
            Ok(bytes) => (decode(&bytes).map_err(damaged)?, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (Facts { member, salt_seed, ..Facts::default() }, true)
            }
            Err(error) => return Err(io(error)),
        };
        if facts.member != member {
            let directory = directory.to_owned();
            return Err(BallotError::OtherMember { directory, found: facts.member, wanted: member });
        }
        Ok(Self { directory: directory.to_owned(), facts, is_new })
    }

    /// Makes the facts durable, whether they were read or are the first ones. Nothing comes into the directory of a member before that:
    /// `is_pristine` says whether anything did.
    pub(crate) fn keep(&mut self, is_pristine: bool) -> Result<(), BallotError> {
        if self.is_new && !is_pristine {
            return Err(BallotError::Lost { directory: self.directory.clone() });
        }
        self.change(|_| ()).map_err(|source| BallotError::Io { directory: self.directory.clone(), source })
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Changes the facts; on return the change is durable, after an error none of it happened.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Facts)) -> io::Result<()> {
        let mut facts = self.facts.clone();
        change(&mut facts);
        let mut file = File::create(self.directory.join(NEW_FILE_NAME))?;
        file.write_all(&encode(&facts))?;
        file.sync_all()?;
        fs::rename(self.directory.join(NEW_FILE_NAME), self.directory.join(FILE_NAME))?;
        File::open(&self.directory)?.sync_all()?;
        (self.facts, self.is_new) = (facts, false);
        Ok(())
    }
}

fn encode(facts: &Facts) -> Vec<u8> {
    let body = rmp_serde::to_vec_named(facts).expect("facts can be written, and memory takes them");
    [&MAGIC[..], &crc32c::crc32c(&body).to_le_bytes(), &body].concat()
}

fn decode(bytes: &[u8]) -> Result<Facts, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("not a file of this version")?;
    let (crc, body) = rest.split_first_chunk().ok_or("it ends early")?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err("its checksum does not match".into());
    }
    rmp_serde::from_slice(body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall::core::ChunkId;
    use landfall::core::snapshot::LogHash;

    fn at(index: u64) -> Position {
        Position { epoch: 1, index }
    }

    /// The ballot of a member that was just born.
    fn born(directory: &Path) -> Ballot {
        let mut ballot = Ballot::open(directory, 4, [1; 32]).unwrap();
        ballot.keep(true).unwrap();
        ballot
    }

    fn pending(index: u64) -> Pending {
        let reference = Reference::new(ChunkId::from_bytes([7; 32]), at(index), LogHash::default(), Vec::new());
        Pending { meta: RaftSnapshotMeta::default(), reference }
    }

    #[test]
    fn what_was_changed_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut ballot = born(directory.path());
        ballot.change(|facts| facts.vote = Some(RaftVote::new(3, 4))).unwrap();
        ballot.change(|facts| facts.pending = Some(pending(9))).unwrap();
        ballot.change(|facts| facts.cluster = Some(ClusterId([8; 16]))).unwrap();
        let again = Ballot::open(directory.path(), 4, [1; 32]).unwrap();
        assert_eq!(again.facts(), ballot.facts());
        assert_eq!(again.facts().vote, Some(RaftVote::new(3, 4)));
    }

    #[test]
    fn facts_of_a_member_that_is_older_than_ids_of_clusters_are_read() {
        #[derive(Serialize)]
        struct Old {
            member: MemberId,
            vote: Option<RaftVote>,
            salt_seed: [u8; 32],
            pending: Option<Pending>,
        }
        let old = Old { member: 4, vote: Some(RaftVote::new(3, 4)), salt_seed: [1; 32], pending: None };
        let body = rmp_serde::to_vec_named(&old).unwrap();
        let facts = decode(&[&MAGIC[..], &crc32c::crc32c(&body).to_le_bytes(), &body].concat()).unwrap();
        assert_eq!((facts.member, facts.cluster, facts.vote), (4, None, old.vote));
    }

    #[test]
    fn a_reference_binds_only_once_the_log_before_it_is_gone() {
        let facts = Facts { pending: Some(pending(9)), ..Facts::default() };
        assert_eq!(facts.binding_reference(None), None);
        assert_eq!(facts.binding_reference(Some(at(8))), None);
        assert_eq!(facts.binding_reference(Some(at(9))), Some(&pending(9)));
    }

    #[test]
    fn a_damaged_vote_is_never_taken_for_none() {
        let directory = tempfile::tempdir().unwrap();
        born(directory.path());
        let path = directory.path().join(FILE_NAME);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let opened = Ballot::open(directory.path(), 4, [1; 32]);
            assert!(matches!(opened, Err(BallotError::Damaged { .. })), "cut to {length}");
        }
    }

    #[test]
    fn a_vote_that_is_lost_is_not_taken_for_that_of_a_new_member() {
        let directory = tempfile::tempdir().unwrap();
        born(directory.path()).keep(false).unwrap();
        fs::remove_file(directory.path().join(FILE_NAME)).unwrap();
        let lost = Ballot::open(directory.path(), 4, [1; 32]).unwrap().keep(false);
        assert!(matches!(lost, Err(BallotError::Lost { .. })), "{lost:?}");
        assert!(!directory.path().join(FILE_NAME).exists(), "nothing was made up");
    }

    #[test]
    fn a_directory_belongs_to_one_member() {
        let directory = tempfile::tempdir().unwrap();
        born(directory.path());
        let opened = Ballot::open(directory.path(), 5, [1; 32]);
        assert!(matches!(opened, Err(BallotError::OtherMember { found: 4, wanted: 5, .. })));
    }
}
