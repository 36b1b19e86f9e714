//! Owns fetching: asking sources, keeping connections to them, and carrying out what a transfer commands.
//!
//! What is fetched lands somewhere else; nothing here knows files or keys.

pub(crate) mod ask;
pub(crate) mod greet;
pub(crate) mod landing;
pub(crate) mod link;
pub(crate) mod session;
pub(crate) mod status;
