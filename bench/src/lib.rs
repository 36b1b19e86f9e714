//! What the harnesses of this package share: processes that are measured, networks of namespaces, the machine, chance,
//! words, figures. It knows nothing of what is compared.

pub mod command;
pub mod contents;
pub mod cores;
pub mod figures;
pub mod files;
pub mod latency;
pub mod machine;
pub mod measure;
pub mod memory;
pub mod netns;
pub mod random;
pub mod text;
pub mod turns;
