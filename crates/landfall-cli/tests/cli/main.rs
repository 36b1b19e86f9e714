//! The real `landfall`, as processes: what people do, what goes wrong, and what is said about it.

mod demo;
mod failures;
mod restore;
mod support;
mod transfer;
