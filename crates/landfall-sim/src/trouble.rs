//! Owns the reasons why a member cannot go on as it is.

use landfall_store::log::{LogError, LogOpenError};
use landfall_store::{OpenError, StoreError};

use crate::checks::Violation;
use crate::disk::ReadError;

/// Why a member cannot go on as it is.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Its disk failed: it must start again.
    Disk(String),
    /// A promise was broken.
    Violation(Violation),
    /// A peer said something that no member says: break the connection.
    Peer(&'static str),
}

impl Trouble {
    /// What it is where no fault was made.
    pub(crate) fn undisturbed(self) -> Violation {
        match self {
            Self::Violation(violation) => violation,
            Self::Disk(why) => Violation(format!("a sound disk failed: {why}")),
            Self::Peer(why) => Violation(why.to_owned()),
        }
    }
}

impl From<Violation> for Trouble {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Disk(chain(&error))
    }
}

impl From<OpenError> for Trouble {
    fn from(error: OpenError) -> Self {
        Self::Disk(chain(&error))
    }
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Disk(error) => error.into(),
            ReadError::Unproven(id) => {
                Self::Violation(Violation(format!("the store returned unproven bytes for {id}")))
            }
        }
    }
}

impl From<LogOpenError> for Trouble {
    fn from(error: LogOpenError) -> Self {
        match error {
            LogOpenError::Log(error) => error.into(),
            error => Self::Disk(chain(&error)),
        }
    }
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Io { .. } | LogError::Full { .. } | LogError::Reopen { .. } => Self::Disk(chain(&error)),
            // No bit of these disks ever flips, and nobody writes out of order.
            error => Self::Violation(Violation(format!("a log: {}", chain(&error)))),
        }
    }
}

/// An error with everything that led to it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
