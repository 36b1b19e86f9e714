//! Owns the frame that carries one node or chunk, and its reading in the order of the connection. It is the only frame whose cost
//! matters: 14 bytes before the payload.

use super::WireError;
use crate::codec::{Codec, CodecError, StreamDecoder, WireCodec};
use crate::limits::{CHUNK_BYTES_MAX, STREAM_OVERHEAD_BYTES_MAX};

/// Length of what stands before an item's payload.
pub const ITEM_HEAD_BYTES: usize = 14;

/// One answer to one want of a request. What it is the answer to is implied: the request and the place of the want in it.
///
/// `C` is how its payload is encoded: [`WireCodec`] as it travels, [`Codec`] once an [`ItemReader`] has read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<'a, C = WireCodec> {
    /// The request.
    pub request: u32,
    /// Which of its wants, counted from 0.
    pub want: u32,
    /// The bytes, or why there are none.
    pub body: ItemBody<'a, C>,
}

/// What came of a want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemBody<'a, C = WireCodec> {
    /// The chunk, in the form that it has on this hop.
    Chunk(ItemForm<'a, C>),
    /// The source does not hold it: ask another.
    Missing,
    /// The source found its own copy damaged or changed: ask another.
    Damaged,
}

/// A chunk as it travels. The receiver undoes the codec and checks the hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemForm<'a, C = WireCodec> {
    /// How the payload is encoded; a patch is against the base that the want named.
    pub codec: C,
    /// Length of the plaintext.
    pub plain_bytes: u32,
    /// The encoded bytes.
    pub payload: &'a [u8],
}

impl<'a> Item<'a> {
    /// What stands before the payload in the frame.
    pub fn head(&self) -> [u8; ITEM_HEAD_BYTES] {
        let (form, plain_bytes) = match &self.body {
            ItemBody::Chunk(form) => (form.codec.to_byte(), form.plain_bytes),
            ItemBody::Missing => (MISSING, 0),
            ItemBody::Damaged => (DAMAGED, 0),
        };
        let mut head = [0; ITEM_HEAD_BYTES];
        head[0] = super::message::KIND_ITEM;
        head[1..5].copy_from_slice(&self.request.to_le_bytes());
        head[5..9].copy_from_slice(&self.want.to_le_bytes());
        head[9] = form;
        head[10..14].copy_from_slice(&plain_bytes.to_le_bytes());
        head
    }

    /// Reads a frame whose first byte said that it is an item.
    pub fn decode(frame: &'a [u8]) -> Result<Self, WireError> {
        let (head, payload) =
            frame.split_first_chunk::<ITEM_HEAD_BYTES>().ok_or(WireError::Malformed("an item without a head"))?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let plain_bytes = number(10);
        let overhead = if head[9] == WireCodec::ZstdStream.to_byte() { STREAM_OVERHEAD_BYTES_MAX } else { 0 };
        if plain_bytes > CHUNK_BYTES_MAX || payload.len() > (CHUNK_BYTES_MAX + overhead) as usize {
            return Err(WireError::Malformed("an item longer than any chunk"));
        }
        let body = match head[9] {
            MISSING | DAMAGED if plain_bytes > 0 || !payload.is_empty() => {
                return Err(WireError::Malformed("an item that is missing and yet has bytes"));
            }
            MISSING => ItemBody::Missing,
            DAMAGED => ItemBody::Damaged,
            codec => {
                let codec = WireCodec::from_byte(codec).ok_or(WireError::Malformed("an item in an unknown codec"))?;
                ItemBody::Chunk(ItemForm { codec, plain_bytes, payload })
            }
        };
        Ok(Self { request: number(1), want: number(5), body })
    }
}

impl<'a, C> Item<'a, C> {
    /// What stands after the head.
    pub fn payload(&self) -> &'a [u8] {
        match &self.body {
            ItemBody::Chunk(form) => form.payload,
            ItemBody::Missing | ItemBody::Damaged => &[],
        }
    }
}

/// Reads the items of one connection: every one, in the order in which they came, whether somebody still wants it or not.
#[derive(Debug, Default)]
pub struct ItemReader {
    stream: StreamDecoder,
    plain: Vec<u8>,
}

impl ItemReader {
    /// A reader of a connection on which no item came yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The item without the stream of its connection: as plaintext, if it was a piece of it, else as it is. After an error the
    /// connection is of no use.
    pub fn read<'a>(&'a mut self, item: Item<'a>) -> Result<Item<'a, Codec>, CodecError> {
        let Item { request, want, body } = item;
        let body = match body {
            ItemBody::Chunk(form) => ItemBody::Chunk(self.read_form(form)?),
            ItemBody::Missing => ItemBody::Missing,
            ItemBody::Damaged => ItemBody::Damaged,
        };
        Ok(Item { request, want, body })
    }

    fn read_form<'a>(&'a mut self, form: ItemForm<'a>) -> Result<ItemForm<'a, Codec>, CodecError> {
        let ItemForm { codec, plain_bytes, payload } = form;
        Ok(match codec {
            WireCodec::Alone(codec) => ItemForm { codec, plain_bytes, payload },
            WireCodec::ZstdStream => {
                self.stream.decode(payload, plain_bytes, &mut self.plain)?;
                ItemForm { codec: Codec::Raw, plain_bytes, payload: &self.plain }
            }
        })
    }
}

const MISSING: u8 = 0xff;
const DAMAGED: u8 = 0xfe;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(item: &Item<'_>) -> Vec<u8> {
        [&item.head()[..], item.payload()].concat()
    }

    #[test]
    fn survives_its_encoding() {
        let form = ItemForm { codec: Codec::Zstd.into(), plain_bytes: 77, payload: b"payload" };
        for body in [ItemBody::Chunk(form), ItemBody::Missing, ItemBody::Damaged] {
            let item = Item { request: 7, want: 9, body };
            assert_eq!(Item::decode(&frame(&item)), Ok(item.clone()));
        }
    }

    #[test]
    fn the_frame_is_frozen() {
        let form = ItemForm { codec: Codec::Raw.into(), plain_bytes: 2, payload: b"ab" };
        let item = Item { request: 0x01020304, want: 5, body: ItemBody::Chunk(form) };
        assert_eq!(frame(&item), b"\x07\x04\x03\x02\x01\x05\0\0\0\0\x02\0\0\0ab");
    }

    #[test]
    fn refuses_what_no_source_sends() {
        let good = frame(&Item { request: 1, want: 2, body: ItemBody::Missing });
        assert!(Item::decode(&good[..13]).is_err());
        assert!(Item::decode(&[&good[..], b"x"].concat()).is_err());
        let mut unknown = good.clone();
        unknown[9] = 0x40;
        assert!(Item::decode(&unknown).is_err());
        let mut bomb = good;
        bomb[9] = 0;
        bomb[10..14].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Item::decode(&bomb).is_err());
    }
}
