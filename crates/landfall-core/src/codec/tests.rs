use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::limits::CHUNK_BYTES_MAX;

fn encode(codec: Codec, plain: &[u8], base: Option<&[u8]>) -> Vec<u8> {
    let mut encoded = vec![7; 100];
    Encoder::new().encode(codec, plain, base, &mut encoded).unwrap();
    encoded
}

fn decode(codec: Codec, encoded: &[u8], plain_bytes: usize, base: Option<&[u8]>) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![9; 1000];
    Decoder::new().decode(codec, encoded, plain_bytes as u32, base, &mut out)?;
    Ok(out)
}

#[track_caller]
fn check_round_trip(codec: Codec, plain: &[u8], base: &[u8]) -> usize {
    let encoded = encode(codec, plain, Some(base));
    let decoded = decode(codec, &encoded, plain.len(), Some(base)).unwrap();
    assert!(decoded == plain, "{codec:?} changed {} bytes", plain.len());
    encoded.len()
}

pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Text-like bytes, so that every codec has something to find.
pub(super) fn text(seed: u64, length: usize) -> Vec<u8> {
    noise(seed, length).iter().map(|byte| b'a' + byte % 11).collect()
}

/// A change to a part of a chunk, at parts per thousand of its length.
#[derive(Debug, Clone)]
struct Edit {
    at: usize,
    removed: usize,
    inserted: Vec<u8>,
}

fn arbitrary_edit() -> impl Strategy<Value = Edit> {
    (0..1000usize, 0..300usize, vec(any::<u8>(), 0..300)).prop_map(|(at, removed, inserted)| Edit {
        at,
        removed,
        inserted,
    })
}

fn apply(base: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut plain = base.to_vec();
    for edit in edits {
        let at = plain.len() * edit.at / 1000;
        let end = plain.len().min(at + edit.removed);
        plain.splice(at..end, edit.inserted.iter().copied());
    }
    plain
}

/// Stretches of a base that are kept, each followed by bytes that go and others that come in their place.
fn spliced(seed: u64, pieces: &[(usize, usize, Vec<u8>)]) -> (Vec<u8>, Vec<u8>, Vec<Copied>) {
    let base = noise(seed, pieces.iter().map(|(kept, removed, _)| kept + removed).sum());
    let (mut plain, mut copied, mut from) = (Vec::new(), Vec::new(), 0);
    for (kept, removed, inserted) in pieces {
        copied.push(Copied { at: plain.len() as u32, from: from as u32, bytes: *kept as u32 });
        plain.extend_from_slice(&base[from..from + kept]);
        plain.extend_from_slice(inserted);
        from += kept + removed;
    }
    (base, plain, copied)
}

#[track_caller]
fn check_copied(plain: &[u8], base: &[u8], copied: &[Copied]) -> usize {
    let mut encoded = vec![7; 100];
    Encoder::new().encode_copied(plain, base, copied, &mut encoded).unwrap();
    assert!(decode(Codec::ZstdPatch, &encoded, plain.len(), Some(base)).unwrap() == plain);
    encoded.len()
}

/// A patch with few runs, most of which stay within a base of 200 bytes, and the length that it says it makes.
fn arbitrary_patch() -> impl Strategy<Value = (Vec<u8>, u32)> {
    let run = (0..5u8, 0..60u8, prop_oneof![4 => Just(0i8), 1 => -20..20i8]);
    let off_by_one = prop_oneof![9 => Just(0u32), 1 => Just(1u32)];
    (vec(run, 0..6), 0..5u8, off_by_one).prop_map(|(runs, tail, off_by_one)| {
        let mut patch = vec![(runs.len() as u8) << 1];
        patch
            .extend(runs.iter().flat_map(|(literal, copied, skew)| [*literal, *copied, (skew << 1 ^ skew >> 7) as u8]));
        let literals = runs.iter().map(|run| run.0).sum::<u8>() + tail;
        let copied: u32 = runs.iter().map(|run| u32::from(run.1)).sum();
        patch.extend(b'A'..b'A' + literals);
        (patch, u32::from(literals) + copied + off_by_one)
    })
}

proptest! {
    #[test]
    fn every_codec_gives_back_what_it_took(plain in vec(0..4u8, 0..3000), base in vec(0..4u8, 0..3000)) {
        for codec in Codec::ALL {
            check_round_trip(codec, &plain, &base);
        }
    }

    #[test]
    fn a_patch_follows_the_edits(
        seed: u64,
        length in 0..140_000usize,
        edits in vec(arbitrary_edit(), 0..6),
    ) {
        let base = text(seed, length);
        let plain = apply(&base, &edits);
        let bytes = check_round_trip(Codec::ZstdPatch, &plain, &base);
        let changed: usize = edits.iter().map(|edit| edit.inserted.len()).sum();
        // zstd begins anew in every block of 128 KiB.
        let pieces = edits.len() + 1 + plain.len() / (128 * 1024);
        prop_assert!(bytes <= changed + pieces * 80, "{bytes} bytes for {changed}");
    }

    #[test]
    fn two_patches_made_one_do_what_both_do(
        seed: u64,
        first in vec((0..3000usize, 0..200usize, vec(any::<u8>(), 0..100)), 0..8),
        second in vec(arbitrary_edit(), 0..4),
    ) {
        let (base, middle, copied) = spliced(seed, &first);
        let plain = apply(&middle, &second);
        let mut earlier = Vec::new();
        Encoder::new().encode_copied(&middle, &base, &copied, &mut earlier).unwrap();
        let later = encode(Codec::ZstdPatch, &plain, Some(&middle));
        let composed = compose_patches(&earlier, middle.len() as u32, &later, plain.len() as u32);
        // The lowest bit says that literals are compressed. A copy of the later one may cross every run of the earlier.
        let is_raw = (earlier[0] | later[0]) & 1 == 0;
        let bytes_max = earlier.len() + later.len() + 12 * (first.len() + second.len());
        if is_raw && Codec::ZstdPatch.is_worth_it(plain.len(), bytes_max) {
            prop_assert!(composed.is_some());
        }
        if let Some(composed) = composed {
            prop_assert!(is_raw && Codec::ZstdPatch.is_worth_it(plain.len(), composed.len()));
            prop_assert!(decode(Codec::ZstdPatch, &composed, plain.len(), Some(&base)).unwrap() == plain);
        }
    }

    #[test]
    fn patches_of_any_runs_are_composed_right_or_not_at_all(
        earlier in arbitrary_patch(),
        later in arbitrary_patch(),
    ) {
        let base = noise(7, 200);
        let composed = compose_patches(&earlier.0, earlier.1, &later.0, later.1);
        let Ok(middle) = decode(Codec::ZstdPatch, &earlier.0, earlier.1 as usize, Some(&base)) else { return Ok(()) };
        match decode(Codec::ZstdPatch, &later.0, later.1 as usize, Some(&middle)) {
            Ok(plain) => if let Some(composed) = composed {
                prop_assert!(decode(Codec::ZstdPatch, &composed, plain.len(), Some(&base)).unwrap() == plain);
            },
            Err(_) => prop_assert_eq!(composed, None),
        }
    }

    #[test]
    fn a_patch_of_what_is_known_to_be_copied_is_as_long_as_what_is_not(
        seed: u64,
        pieces in vec((0..3000usize, 0..200usize, vec(any::<u8>(), 0..100)), 0..8),
    ) {
        let (base, plain, copied) = spliced(seed, &pieces);
        let bytes = check_copied(&plain, &base, &copied);
        let changed: usize = pieces.iter().map(|(kept, _, inserted)| if *kept < 32 { kept } else { &0 } + inserted.len()).sum();
        prop_assert!(bytes <= changed + pieces.len() * 8 + 8, "{bytes} bytes for {changed}");
    }

    #[test]
    fn a_patch_is_right_whatever_is_said_to_be_copied(
        plain in vec(0..2u8, 0..600),
        base in vec(0..2u8, 0..600),
        copied in vec((0..700u32, 0..700u32, 0..100u32), 0..12),
    ) {
        let copied: Vec<_> = copied.into_iter().map(|(at, from, bytes)| Copied { at, from, bytes }).collect();
        check_copied(&plain, &base, &copied);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic_or_outgrow_its_bound(
        encoded in vec(any::<u8>(), 0..400),
        plain_bytes in 0..70_000usize,
        base in vec(any::<u8>(), 0..100),
    ) {
        for codec in Codec::ALL {
            if let Ok(plain) = decode(codec, &encoded, plain_bytes, Some(&base)) {
                prop_assert_eq!(plain.len(), plain_bytes);
            }
        }
    }

    #[test]
    fn damaged_bytes_decode_to_the_declared_length_or_not_at_all(
        seed: u64,
        length in 1..3000usize,
        edits in vec(arbitrary_edit(), 0..4),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let base = text(seed, length);
        let plain = apply(&base, &edits);
        for codec in Codec::ALL {
            let mut encoded = encode(codec, &plain, Some(&base));
            if encoded.is_empty() {
                continue;
            }
            for (at, byte) in &damage {
                *at.get_mut(&mut encoded) ^= byte;
            }
            for encoded in [&encoded[..], &encoded[..cut.index(encoded.len())]] {
                if let Ok(decoded) = decode(codec, encoded, plain.len(), Some(&base)) {
                    prop_assert_eq!(decoded.len(), plain.len());
                }
            }
        }
    }
}

#[test]
fn chunks_of_every_length_travel() {
    let longest = CHUNK_BYTES_MAX as usize;
    for length in [0, 1, 15, 16, 31, 32, 33, 64, 4096, 65536, 262_144, longest] {
        let base = text(length as u64, length);
        let mut plain = base.clone();
        if let Some(byte) = plain.get_mut(length / 2) {
            *byte = b'!';
        }
        for codec in Codec::ALL {
            check_round_trip(codec, &plain, &base);
            check_round_trip(codec, &plain, &[]);
        }
    }
}

#[test]
fn a_patch_costs_what_changed_in_chunks_of_every_length() {
    for length in [16 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024] {
        let base = text(1, length);
        let mut page = base.clone();
        page[8192..12288].copy_from_slice(&noise(2, 4096));
        assert!(check_round_trip(Codec::ZstdPatch, &base, &base) <= 8);
        assert!(check_round_trip(Codec::ZstdPatch, &page, &base) <= 4096 + 16);
        let mut shifted = base.clone();
        for at in [length / 3, length / 2, length * 3 / 4] {
            shifted.splice(at..at, *b"something new");
        }
        shifted.truncate(length);
        let bytes = check_round_trip(Codec::ZstdPatch, &shifted, &base);
        assert!(bytes <= 200, "three insertions cost {bytes} bytes in {length}");
    }
}

#[test]
fn changes_at_one_place_of_every_page_are_found() {
    let base = text(8, 64 * 1024);
    for at in (0..4096).step_by(256) {
        let mut plain = base.clone();
        for (index, page) in plain.chunks_mut(4096).enumerate() {
            let end = page.len() - 60;
            page.copy_within(at.min(end)..end, at.min(end) + 60);
            page[at.min(end)..][..60].copy_from_slice(&noise(index as u64, 60));
        }
        let bytes = check_round_trip(Codec::ZstdPatch, &plain, &base);
        assert!(bytes <= 16 * 90, "{bytes} bytes for 16 insertions at {at}");
    }
}

#[test]
fn a_base_that_has_nothing_in_common_leaves_literals() {
    let (plain, base) = (text(9, 64 * 1024), noise(10, 64 * 1024));
    assert_eq!(check_round_trip(Codec::ZstdPatch, &plain, &base), plain.len() + 1);
}

#[test]
fn a_base_that_looks_like_a_dictionary_is_only_bytes() {
    let base = [&[0x37, 0xa4, 0x30, 0xec][..], &text(3, 5000)].concat();
    let plain: Vec<u8> = base.iter().rev().chain(&base).copied().collect();
    check_round_trip(Codec::ZstdPatch, &plain, &base);
}

#[test]
fn the_patch_form_is_frozen() {
    let base = text(5, 400);
    let mut plain = base.clone();
    plain.splice(100..104, *b"NEW!");
    plain.splice(300..300, *b"MORE");
    let patch = b"\x06\x00\x64\x00\x04\xc4\x01\x00\x04\x64\x07NEW!MORE";
    assert_eq!(encode(Codec::ZstdPatch, &plain, Some(&base)), patch);
    assert_eq!(decode(Codec::ZstdPatch, patch, plain.len(), Some(&base)), Ok(plain));
}

#[test]
fn a_patch_with_compressed_literals_is_read_as_ever() {
    let base = text(5, 9000);
    let mut plain = base.clone();
    plain[4500..].rotate_left(700);
    let patch = b"\x03\x00\x95\x23\x00\x60\x93\x10\x6d\x00\x00\x00\x02\x00\xb9\xdc\x40\xad\x80\xda\xda\xf6\x21\x10";
    assert!(decode(Codec::ZstdPatch, patch, plain.len(), Some(&base)).unwrap() == plain);
}

/// A patch by hand, and what it decodes to against the base `0123456789`.
#[track_caller]
fn check_patch(patch: &[u8], plain_bytes: usize, expected: Result<&[u8], &'static str>) {
    let actual = decode(Codec::ZstdPatch, patch, plain_bytes, Some(b"0123456789"));
    let expected = expected.map(<[u8]>::to_vec);
    assert_eq!(actual, expected.map_err(|reason| CodecError::Malformed { codec: Codec::ZstdPatch, reason }));
}

#[test]
fn a_patch_copies_from_anywhere_in_its_base() {
    check_patch(b"\x00abc", 3, Ok(b"abc"));
    check_patch(b"\x02\x00\x0a\x00", 10, Ok(b"0123456789"));
    check_patch(b"\x04\x02\x03\x00\x01\x02\x09abcde", 10, Ok(b"ab234c12de"));
}

#[test]
fn patches_are_composed_where_they_overlap() {
    let base: Vec<u8> = (0..100).collect();
    // The earlier one puts "XY" over 50 and 51, the later one "Z" over 52 and "!" behind the end.
    let earlier = [2 << 1, 0, 50, 0, 2, 48, 0, b'X', b'Y'];
    let later = [2 << 1, 0, 52, 0, 1, 47, 0, b'Z', b'!'];
    let composed = compose_patches(&earlier, 100, &later, 101).unwrap();
    assert_eq!(composed, [2 << 1, 0, 50, 0, 3, 47, 0, b'X', b'Y', b'Z', b'!']);
    let plain = decode(Codec::ZstdPatch, &composed, 101, Some(&base)).unwrap();
    assert_eq!((&plain[49..54], plain[100]), (&[49, b'X', b'Y', b'Z', 53][..], b'!'));
    // A middle of another length, and what lies beyond it.
    assert_eq!(compose_patches(&earlier, 99, &later, 101), None);
    assert_eq!(compose_patches(&earlier, 100, &[1 << 1, 0, 101, 0], 101), None);
}

#[test]
fn a_composition_that_grows_beyond_its_worth_is_given_up() {
    // The earlier one makes single bytes out of order; copied again and again they are a run each.
    let runs = 100;
    let mut earlier = vec![(runs << 1 | 0x80) as u8, 1];
    earlier.extend((0..runs).flat_map(|_| [0, 1, 2]));
    let copies = 3;
    let mut later = vec![copies << 1];
    later.extend(
        (0..copies)
            .flat_map(|copy| [0, 100, if copy == 0 { 0 } else { 0xc7 }, 1][..if copy == 0 { 3 } else { 4 }].to_vec()),
    );
    let base = noise(3, 300);
    let middle = decode(Codec::ZstdPatch, &earlier, 100, Some(&base)).unwrap();
    assert!(decode(Codec::ZstdPatch, &later, 300, Some(&middle)).is_ok());
    assert_eq!(compose_patches(&earlier, 100, &later, 300), None);
    assert_eq!(compose_patches(&earlier, 100, &later, CHUNK_BYTES_MAX + 1), None);
}

#[test]
fn a_patch_that_leaves_its_bounds_is_refused() {
    check_patch(b"", 0, Err("it ends inside a number"));
    check_patch(b"\x02\x00\x0b\x00", 11, Err("a copy reaches beyond its base"));
    check_patch(b"\x02\x00\x02\x01", 2, Err("a copy begins before its base"));
    check_patch(b"\x02\x00\x05\x00", 4, Err("its copies are longer than declared"));
    check_patch(b"\x02\x00\x05\x00", 6, Err("its literals are not as long as declared"));
    check_patch(b"\x02\x00\x05\x00xy", 6, Err("its literals are not as long as declared"));
    check_patch(b"\x02\x03\x05\x00xy", 7, Err("a run has too few literals"));
    check_patch(b"\xfe\xff\xff\x7f\x00", 9, Err("it has fewer runs than it says"));
    check_patch(b"\xff\xff\xff\xff\x7f", 9, Err("a number is too large"));
    check_patch(b"\x01\x00", 9, Err("they are not exactly one zstd frame"));
}

#[track_caller]
fn check_refused(codec: Codec, encoded: &[u8], plain_bytes: usize) {
    let result = decode(codec, encoded, plain_bytes, None);
    assert!(matches!(result, Err(CodecError::Malformed { .. })), "{codec:?} gave {result:?}");
}

#[test]
fn another_length_than_declared_is_refused() {
    let plain = text(4, 5000);
    for codec in [Codec::Raw, Codec::Lz4, Codec::Zstd] {
        let encoded = encode(codec, &plain, None);
        for declared in [0, 4999, 5001, 65536] {
            check_refused(codec, &encoded, declared);
        }
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let plain = text(4, 5000);
    let empty_frame = encode(Codec::Zstd, b"", None);
    let skippable_frame = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];
    for codec in [Codec::Raw, Codec::Lz4, Codec::Zstd] {
        for trailing in [&[0][..], &empty_frame, &skippable_frame] {
            let encoded = [&encode(codec, &plain, None), trailing].concat();
            check_refused(codec, &encoded, plain.len());
        }
    }
}

#[test]
fn a_bomb_stays_within_the_declared_length() {
    let bomb = encode(Codec::Zstd, &vec![0; CHUNK_BYTES_MAX as usize], None);
    assert!(bomb.len() < 100);
    let mut out = Vec::new();
    assert!(Decoder::new().decode(Codec::Zstd, &bomb, 1000, None, &mut out).is_err());
    assert!(out.is_empty() && out.capacity() < 10_000);
}

#[test]
fn plaintexts_longer_than_a_chunk_are_refused_on_both_sides() {
    let long = vec![0; CHUNK_BYTES_MAX as usize + 1];
    for codec in Codec::ALL {
        let too_long = Err(CodecError::TooLong { bytes: long.len() as u64 });
        assert_eq!(Encoder::new().encode(codec, &long, None, &mut Vec::new()), too_long);
        assert_eq!(decode(codec, b"", long.len(), None).map(drop), too_long);
    }
}

#[test]
fn a_patch_without_its_base_says_so() {
    assert_eq!(Encoder::new().encode(Codec::ZstdPatch, b"x", None, &mut Vec::new()), Err(CodecError::NoBase));
    assert_eq!(decode(Codec::ZstdPatch, b"\x00x", 1, None), Err(CodecError::NoBase));
}

#[test]
fn codecs_are_known_by_their_frozen_bytes() {
    for (byte, codec) in Codec::ALL.into_iter().enumerate() {
        assert_eq!(codec as usize, byte);
        assert_eq!(Codec::from_byte(byte as u8), Some(codec));
    }
    assert_eq!(Codec::from_byte(4), None);
}

#[track_caller]
fn check_choice(policy: &dyn CodecPolicy, plain: &[u8], base: Option<&[u8]>, expected: Codec) {
    let mut out = Vec::new();
    let codec = WireEncoder::new().encode_by(policy, plain, base, &mut out).unwrap();
    assert_eq!(codec, expected.into());
    assert!(decode(expected, &out, plain.len(), base).unwrap() == plain);
}

#[test]
fn a_form_that_saves_too_little_is_dropped() {
    let (base, random) = (text(6, 9000), noise(6, 9000));
    let mut half = base.clone();
    half[..6000].copy_from_slice(&random[..6000]);
    check_choice(&Automatic::new(), &base, Some(&base), Codec::ZstdPatch);
    check_choice(&Automatic::new(), &half, Some(&base), Codec::Raw);
    check_choice(&Fixed(Codec::Zstd.into()), &base, Some(&base), Codec::Zstd);
    check_choice(&Fixed(Codec::Zstd.into()), &random, None, Codec::Raw);
    check_choice(&Fixed(Codec::Lz4.into()), &random, None, Codec::Raw);
    check_choice(&Fixed(Codec::ZstdPatch.into()), &base, None, Codec::Raw);
}

#[test]
fn noise_looks_incompressible_and_text_does_not() {
    for length in [1000, 4096, 65536] {
        assert!(looks_incompressible(&noise(1, length)), "{length} bytes");
        assert!(!looks_incompressible(&text(1, length)));
    }
    let zstd = encode(Codec::Zstd, &noise(1, 60_000).iter().map(|byte| byte % 7).collect::<Vec<_>>(), None);
    assert!(looks_incompressible(&zstd));
    assert!(!looks_incompressible(&[]));
    assert!(!looks_incompressible(&noise(1, 65536).iter().map(|byte| byte & 0x7f).collect::<Vec<_>>()));
}
