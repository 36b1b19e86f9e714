//! Owns the target of what one connection remembers: several items, one after the other.

use landfall_core::codec::{Codec, Fixed, WireCodec, WireEncoder};
use landfall_core::limits::CHUNK_BYTES_MAX;
use landfall_core::wire::{Item, ItemBody, ItemForm, ItemReader};

use crate::random::Random;

/// The items of a connection, each behind its length (2). Whatever they are, none is longer than it says, and none is read after one
/// that was not.
pub fn item_stream(bytes: &[u8]) {
    let (mut reader, mut rest, mut is_lost) = (ItemReader::new(), bytes, false);
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (frame, after) = after.split_at(usize::from(u16::from_le_bytes(*length)).min(after.len()));
        rest = after;
        let Ok(item) = Item::decode(frame) else { return };
        let is_streamed = matches!(&item.body, ItemBody::Chunk(form) if form.codec == WireCodec::ZstdStream);
        match reader.read(item) {
            Ok(Item { body: ItemBody::Chunk(form), .. }) if is_streamed => {
                assert!(!is_lost && form.codec == Codec::Raw && form.plain_bytes <= CHUNK_BYTES_MAX);
                assert_eq!(form.payload.len(), form.plain_bytes as usize);
            }
            Ok(_) => assert!(!is_streamed),
            Err(_) => is_lost = true,
        }
    }
}

pub(super) fn valid_item_stream(random: &mut Random) -> Vec<u8> {
    let (mut encoder, mut payload, mut out) = (WireEncoder::new(), Vec::new(), Vec::new());
    for want in 0..random.below(6) as u32 {
        let length = random.below(600) as usize;
        let plain = random.text(length);
        let codec = if random.chance(800) { WireCodec::ZstdStream } else { Codec::Zstd.into() };
        let codec = encoder.encode_by(&Fixed(codec), &plain, None, &mut payload).expect("short enough");
        let form = ItemForm { codec, plain_bytes: plain.len() as u32, payload: &payload };
        let item = Item { request: 1, want, body: ItemBody::Chunk(form) };
        let frame = [&item.head()[..], item.payload()].concat();
        out.extend((frame.len() as u16).to_le_bytes());
        out.extend(frame);
    }
    out
}
