//! Owns directories of any data: what turns files into a tree, and a tree into files.

mod block;
pub mod index;
mod opener;
pub mod place;
pub mod scan;

pub(crate) use opener::Opener;
