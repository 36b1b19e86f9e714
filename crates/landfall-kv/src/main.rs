//! The `landfall-kv` server.

fn main() {}
