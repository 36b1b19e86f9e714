use proptest::collection::vec;
use proptest::prelude::*;
use zstd_safe::CCtx;

use super::super::tests::{noise, text};
use super::super::{
    Base, ChunkFacts, Codec, CodecPolicy, Compressible, Decoder, Encoder, Fixed, WireCodec, WireEncoder,
};
use super::*;
use crate::wire::{Item, ItemBody, ItemForm, ItemReader};
use crate::{Chunk, Domain};

/// Items of one stream that hold `plains`.
fn encode(plains: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut encoder = StreamEncoder::new();
    let encode = |plain: &Vec<u8>| {
        let mut out = vec![7; 100];
        encoder.encode(plain, &mut out).unwrap();
        out
    };
    plains.iter().map(encode).collect()
}

fn decode(decoder: &mut StreamDecoder, encoded: &[u8], length: usize) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![9; 1000];
    let decoded = decoder.decode(encoded, length as u32, &mut out);
    assert!(decoded.is_ok() || out.is_empty());
    decoded.map(|()| out)
}

/// Chunks of rows that are drawn from the same hundred: alike, and never the same.
fn alike(seed: u64, chunks: usize) -> Vec<Vec<u8>> {
    let rows = noise(seed, 100 * ROW_BYTES);
    let drawn = noise(seed + 1, chunks * ROWS);
    let row = |&number: &u8| &rows[usize::from(number % 100) * ROW_BYTES..][..ROW_BYTES];
    drawn.chunks(ROWS).map(|numbers| numbers.iter().flat_map(row).copied().collect()).collect()
}

const ROW_BYTES: usize = 40;
const ROWS: usize = 60;

/// Sends `plain` as a connection does, and gives back what the other side reads.
fn send(codec: WireCodec, plain: &[u8], base: &[u8], encoder: &mut WireEncoder, reader: &mut ItemReader) -> Vec<u8> {
    let mut payload = Vec::new();
    let codec = encoder.encode_by(&Fixed(codec), plain, Some(base), &mut payload).unwrap();
    let form = ItemForm { codec, plain_bytes: plain.len() as u32, payload: &payload };
    let item = Item { request: 1, want: 2, body: ItemBody::Chunk(form) };
    let frame = [&item.head()[..], item.payload()].concat();
    let item = reader.read(Item::decode(&frame).unwrap()).unwrap();
    let ItemBody::Chunk(ItemForm { codec, plain_bytes, payload }) = item.body else { panic!("it is a chunk") };
    let mut out = Vec::new();
    Decoder::new().decode(codec, payload, plain_bytes, Some(base), &mut out).unwrap();
    out
}

fn arbitrary_plain() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(0..4u8, 0..3000),
        (0..5u64, 0..20_000usize).prop_map(|(seed, length)| text(seed, length)),
        (any::<u64>(), 0..20_000usize).prop_map(|(seed, length)| noise(seed, length)),
        Just(vec![0; CHUNK_BYTES_MAX as usize]),
    ]
}

proptest! {
    #[test]
    fn any_chunks_in_any_codecs_come_through_one_connection(
        chunks in vec((arbitrary_plain(), 0..WireCodec::ALL.len()), 0..20),
    ) {
        let (mut encoder, mut reader, base) = (WireEncoder::new(), ItemReader::new(), text(1, 3000));
        for (plain, codec) in chunks {
            let came = send(WireCodec::ALL[codec], &plain, &base, &mut encoder, &mut reader);
            prop_assert!(came == plain);
        }
    }

    #[test]
    fn a_damaged_item_never_passes_for_a_chunk_and_an_error_is_for_good(
        damaged in 0..6usize,
        damage in vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let plains = alike(3, 6);
        let mut items = encode(&plains);
        for (at, byte) in &damage {
            *at.get_mut(&mut items[damaged]) ^= byte;
        }
        if is_cut {
            let length = cut.index(items[damaged].len());
            items[damaged].truncate(length);
        }
        check_never_wrong(&plains, items.iter().map(Vec::as_slice).enumerate());
    }

    #[test]
    fn no_bytes_make_a_stream_panic_or_outgrow_its_bound(
        items in vec((vec(any::<u8>(), 0..200), 0..70_000usize), 0..5),
        begins: bool,
    ) {
        let mut decoder = StreamDecoder::new();
        if begins {
            let plain = text(1, 100);
            decode(&mut decoder, &encode(std::slice::from_ref(&plain))[0], 100).unwrap();
        }
        for (item, length) in items {
            if let Ok(plain) = decode(&mut decoder, &item, length) {
                prop_assert_eq!(plain.len(), length);
            }
        }
    }
}

/// Decodes items, each said to hold the chunk of that number. Says how many do.
fn check_never_wrong<'a>(plains: &[Vec<u8>], items: impl Iterator<Item = (usize, &'a [u8])>) -> usize {
    let (mut decoder, mut right, mut is_lost) = (StreamDecoder::new(), 0, false);
    for (number, item) in items {
        let expected = Chunk::new(Domain::Data, plains[number].clone().into());
        let decoded = decode(&mut decoder, item, plains[number].len());
        assert!(!is_lost || decoded.is_err(), "an item after an error");
        is_lost |= decoded.is_err();
        if let Ok(plain) = decoded {
            assert_eq!(plain.len(), plains[number].len());
            right += usize::from(Chunk::verify(expected.id(), Domain::Data, plain.into()).is_ok());
        }
    }
    right
}

#[test]
fn an_item_that_is_lost_doubled_or_swapped_puts_the_next_out_of_step() {
    let plains = alike(5, 6);
    let items = encode(&plains);
    let right = |order: &[usize]| check_never_wrong(&plains, order.iter().map(|&at| (at, &items[at][..])));
    assert_eq!(right(&[0, 1, 2, 3, 4, 5]), 6);
    assert_eq!(right(&[0, 1, 3, 4, 5]), 2, "the third is lost");
    assert_eq!(right(&[0, 1, 2, 2]), 3, "the third came twice");
    assert_eq!(right(&[0, 1, 3, 2]), 2, "the third came after the fourth");
    assert_eq!(right(&[1, 2, 3]), 0, "the first is lost, and with it the head of the frame");
}

#[test]
fn what_was_sent_before_need_not_be_said_again() {
    let plains = alike(7, 30);
    let together: usize = encode(&plains).iter().map(Vec::len).sum();
    let mut encoder = Encoder::new();
    let alone = |plain: &Vec<u8>| {
        let mut out = Vec::new();
        encoder.encode(Codec::Zstd, plain, None, &mut out).unwrap();
        out.len()
    };
    let alone: usize = plains.iter().map(alone).sum();
    assert!(together * 3 < alone, "{together} bytes together, {alone} alone");
}

#[test]
fn an_item_costs_less_than_a_frame_of_its_own() {
    for length in [20, 100, 1000] {
        let plains: Vec<_> = (0..50).map(|seed| text(seed, length)).collect();
        let together: usize = encode(&plains).iter().map(Vec::len).sum();
        let alone: usize = plains.iter().map(|plain| encode(std::slice::from_ref(plain))[0].len()).sum();
        assert!(together < alone, "{length} bytes: {together} together, {alone} alone");
    }
}

#[test]
fn chunks_of_every_length_come_through_one_stream() {
    let longest = CHUNK_BYTES_MAX as usize;
    let plains: Vec<_> = [1, 2, longest, 4096, 131_071, 131_073, longest, longest, 1, 65_536]
        .into_iter()
        .flat_map(|length| [noise(length as u64, length), text(length as u64, length), vec![0; length]])
        .collect();
    let mut decoder = StreamDecoder::new();
    for (plain, item) in plains.iter().zip(encode(&plains)) {
        assert!(item.len() <= plain.len() + STREAM_OVERHEAD_BYTES_MAX as usize, "{} of {}", item.len(), plain.len());
        assert!(decode(&mut decoder, &item, plain.len()).unwrap() == *plain);
    }
    assert!(decoder.memory_bytes() < 3 << 19, "a decoder of {} bytes", decoder.memory_bytes());
}

#[track_caller]
fn check_refused(item: &[u8], length: usize) {
    let mut decoder = StreamDecoder::new();
    let refused = decode(&mut decoder, item, length);
    assert!(matches!(refused, Err(CodecError::StreamLost { .. })), "{refused:?}");
    let good = text(1, 100);
    assert!(decode(&mut decoder, &encode(std::slice::from_ref(&good))[0], 100).is_err(), "it was lost for good");
}

#[test]
fn another_length_than_declared_is_refused() {
    let plain = text(4, 5000);
    let item = &encode(&[plain])[0];
    for length in [0, 1, 4999, 5001, 65_536, CHUNK_BYTES_MAX as usize + 1] {
        check_refused(item, length);
    }
    check_refused(&item[..item.len() - 1], 5000);
    check_refused(&[], 0);
    check_refused(&[], 1);
}

#[test]
fn a_stream_that_ends_is_refused() {
    let plain = text(4, 5000);
    let mut whole = Vec::with_capacity(10_000);
    CCtx::create().compress2(&mut whole, &plain).unwrap();
    check_refused(&whole, 5000);
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];
    check_refused(&[&skippable[..], &encode(&[plain])[0]].concat(), 5000);
}

#[test]
fn a_bomb_stays_within_the_declared_length() {
    let bomb = &encode(&[vec![0; CHUNK_BYTES_MAX as usize]])[0];
    assert!(bomb.len() < 200);
    let (mut decoder, mut out) = (StreamDecoder::new(), Vec::new());
    assert!(decoder.decode(bomb, 1000, &mut out).is_err());
    assert!(out.is_empty() && out.capacity() < 10_000);
}

#[test]
fn a_stream_that_has_not_begun_takes_no_memory() {
    let mut decoder = StreamDecoder::new();
    assert_eq!(decoder.memory_bytes(), 0);
    let plain = text(1, 100);
    decode(&mut decoder, &encode(std::slice::from_ref(&plain))[0], 100).unwrap();
    assert!(decoder.memory_bytes() > 0);
}

#[test]
fn a_window_larger_than_agreed_is_refused_before_it_is_allocated() {
    for (log, is_taken) in [(STREAM_WINDOW_BYTES_LOG, true), (STREAM_WINDOW_BYTES_LOG + 1, false), (27, false)] {
        let mut zstd = CCtx::create();
        zstd.set_parameter(CParameter::WindowLog(log)).unwrap();
        let (plain, mut item) = (text(1, 100), Vec::with_capacity(1000));
        let mut output = OutBuffer::around(&mut item);
        zstd.compress_stream2(&mut output, &mut InBuffer::around(&plain), ZSTD_EndDirective::ZSTD_e_flush).unwrap();
        let mut decoder = StreamDecoder::new();
        assert_eq!(decode(&mut decoder, &item, 100).is_ok(), is_taken, "a window of 2^{log} bytes");
        assert!(is_taken || decoder.memory_bytes() < 1 << 18, "{} bytes", decoder.memory_bytes());
    }
}

#[test]
fn what_no_item_may_hold_is_refused_by_the_encoder_and_not_remembered() {
    let (mut encoder, mut out) = (StreamEncoder::new(), Vec::new());
    assert!(encoder.encode(&[], &mut out).is_err());
    let long = vec![0; CHUNK_BYTES_MAX as usize + 1];
    assert_eq!(encoder.encode(&long, &mut out), Err(CodecError::TooLong { bytes: long.len() as u64 }));
    encoder.encode(b"first", &mut out).unwrap();
    assert_eq!(decode(&mut StreamDecoder::new(), &out, 5), Ok(b"first".to_vec()));
}

#[test]
fn a_policy_that_wants_the_stream_gets_it_for_all_that_holds_something() {
    let stream = Fixed(WireCodec::ZstdStream);
    let facts = ChunkFacts { base: Base::Absent, compressible: Compressible::Unlikely };
    assert_eq!(stream.choose(facts), WireCodec::ZstdStream);
    for (plain, expected) in [(noise(1, 5000), WireCodec::ZstdStream), (Vec::new(), Codec::Raw.into())] {
        let chosen = WireEncoder::new().encode_by(&stream, &plain, None, &mut Vec::new());
        assert_eq!(chosen, Ok(expected));
    }
}

#[test]
fn a_stream_of_three_items_is_read_as_ever() {
    let plains: Vec<Vec<u8>> = [&b"what stands here "[..], b"stands here again ", b"and what stands here is the last"]
        .map(<[u8]>::to_vec)
        .to_vec();
    let items: [&[u8]; 3] = [GOLDEN_FIRST, GOLDEN_SECOND, GOLDEN_THIRD];
    let mut decoder = StreamDecoder::new();
    for (plain, item) in plains.iter().zip(items) {
        assert_eq!(decode(&mut decoder, item, plain.len()).as_ref(), Ok(plain));
    }
}

const GOLDEN_FIRST: &[u8] = b"(\xb5/\xfd\x00P\x88\x00\x00what stands here ";
const GOLDEN_SECOND: &[u8] = b"d\x00\x000again \x01\x00\xe7\n\x10";
const GOLDEN_THIRD: &[u8] = b"\xac\x00\x00xand is the last\x01\x00jVD";
