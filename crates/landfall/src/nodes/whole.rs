//! Owns the form in which a node rests that is no patch. It never stores one.
//!
//! LZ4: each node is written once and read by seals, readers and joiners, and goes to joiners as it rests
//! (`docs/design/0015-nodes-at-rest.md`).

use std::cell::RefCell;

use landfall_core::codec::{Codec, Encoder, looks_incompressible};
use landfall_store::Encoded;

/// Works with the compressed form of a node, or with nothing where that would save too little.
pub(super) fn with_form<T>(plain: &[u8], work: impl FnOnce(Option<Encoded<'_>>) -> T) -> T {
    if looks_incompressible(plain) {
        return work(None);
    }
    ENCODER.with_borrow_mut(|(encoder, bytes)| {
        let encoded = encoder.encode(Codec::Lz4, plain, None, bytes);
        let is_worth_it = encoded.is_ok() && Codec::Lz4.is_worth_it(plain.len(), bytes.len());
        work(is_worth_it.then_some(Encoded { codec: Codec::Lz4 as u8, base: None, bytes }))
    })
}

thread_local! {
    /// A table costs more to make than a node to compress.
    static ENCODER: RefCell<(Encoder, Vec<u8>)> = RefCell::default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_itself_is_compressed_and_noise_is_not() {
        let text = b"key:00000001 some words and some more words ".repeat(50);
        let length = with_form(&text, |form| form.map(|form| (form.codec, form.bytes.len())));
        assert!(length.is_some_and(|(codec, bytes)| codec == Codec::Lz4 as u8 && bytes < text.len() / 4));
        let noise = (1..257_u64).flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        assert!(with_form(&noise.collect::<Vec<u8>>(), |form| form.is_none()));
    }
}
