//! Owns what is done with arbitrary bytes: one function for each decoder, and for the transfer and the join.
//!
//! The fuzzer in `fuzz/` calls them, and so does an ordinary test, with valid inputs that are damaged a little. A target panics
//! when a promise is broken; it never judges whether an input is good.

mod decoders;
mod keyed;
mod log;
mod store;
mod streams;
mod transfer;

pub use decoders::{
    chunker, codec_compose, codec_decode, codec_round_trip, file_entry, snapshot, tree_node, wire_message,
};
pub use keyed::{join_events, keyed_batch, keyed_record};
pub use log::log_segment;
pub use store::store_pack;
pub use streams::item_stream;
pub use transfer::transfer_events;

use crate::random::Random;

/// A target, with its name and inputs that it takes.
#[derive(Clone, Copy)]
pub struct Target {
    /// The name, also of the fuzzer's target.
    pub name: &'static str,
    /// What is done with the bytes.
    pub run: fn(&[u8]),
    /// Valid inputs, drawn from a seed.
    pub valid: fn(&mut Random) -> Vec<u8>,
}

/// Every target.
pub const TARGETS: [Target; 15] = [
    Target { name: "wire_message", run: wire_message, valid: decoders::valid_wire_message },
    Target { name: "tree_node", run: tree_node, valid: decoders::valid_tree_node },
    Target { name: "snapshot", run: snapshot, valid: decoders::valid_snapshot },
    Target { name: "file_entry", run: file_entry, valid: decoders::valid_file_entry },
    Target { name: "codec_decode", run: codec_decode, valid: decoders::valid_codec_input },
    Target { name: "codec_round_trip", run: codec_round_trip, valid: decoders::valid_text },
    Target { name: "codec_compose", run: codec_compose, valid: decoders::valid_patches },
    Target { name: "item_stream", run: item_stream, valid: streams::valid_item_stream },
    Target { name: "chunker", run: chunker, valid: decoders::valid_text },
    Target { name: "store_pack", run: store_pack, valid: store::valid_pack },
    Target { name: "transfer_events", run: transfer_events, valid: decoders::valid_text },
    Target { name: "keyed_batch", run: keyed_batch, valid: keyed::valid_batch },
    Target { name: "keyed_record", run: keyed_record, valid: keyed::valid_record },
    Target { name: "join_events", run: join_events, valid: decoders::valid_text },
    Target { name: "log_segment", run: log_segment, valid: log::valid_segment },
];

/// Damages an input a little, as a fuzzer would.
pub fn mutate(input: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.between(1, 4) {
        let place = random.below(input.len() as u64) as usize;
        match random.below(6) {
            0 if !input.is_empty() => input[place] ^= 1 << random.below(8),
            1 if !input.is_empty() => input[place] = [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize],
            2 => input.truncate(place),
            3 => input.insert(place, random.number() as u8),
            4 => {
                let length = random.below(12) as usize;
                input.extend(random.bytes(length));
            }
            _ => {
                let length = random.below(16) as usize;
                let copied: Vec<u8> = input[place..].iter().take(length).copied().collect();
                let to = random.below(input.len() as u64 + 1) as usize;
                input.splice(to..to, copied);
            }
        }
    }
}
