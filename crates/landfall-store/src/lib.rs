//! Where chunks live on disk: packs, index, pins, garbage collection, recovery; and the log's segments.
//!
//! Everything goes through one small [`vfs::Vfs`], so that every promise about crashes is tested by crashing. The store
//! never decodes what it keeps and never checks a hash: its bytes are guarded by checksums, and whoever reads a frame
//! proves the chunk.
#![forbid(unsafe_code)]

mod bitmap;
mod chain;
mod control;
mod error;
mod files;
mod frame;
mod gc;
mod index;
mod index_work;
mod lock;
pub mod log;
mod lookup;
mod pack;
mod recovery;
mod sealing;
mod sessions;
mod store;
mod verify;
pub mod vfs;

pub use chain::{Chain, SoundBase};
pub use control::{Changes, Lease, LeaseError, NAME_BYTES_MAX, Pin, RECORD_BYTES_MAX, UnixMillis};
pub use error::{DamagedFrame, OpenError, StoreError};
pub use frame::{CODEC_RAW, Encoded, PAYLOAD_BYTES_MAX, StoredFrame};
pub use gc::{Below, CollectBudget, CollectOutcome, CollectReport, Reach, Reference, Undecodable};
pub use lookup::PATCHES_IN_CHAIN_MAX;
pub use pack::PACK_BYTES_TARGET_MAX;
pub use recovery::Recovery;
pub use sessions::Session;
pub use store::{Sealing, Store, StoreOptions, StoreStats};
pub use verify::{FrameCheck, VerifyReport};
