use proptest::prelude::*;

use super::*;

fn round_trip(codec: Codec, plain: &[u8], base: Option<&[u8]>) -> usize {
    let (mut encoded, mut decoded) = (vec![7; 100], vec![9; 1000]);
    Encoder::new().encode(codec, plain, base, &mut encoded).unwrap();
    Decoder::new().decode(codec, &encoded, plain.len() as u32, base, &mut decoded).unwrap();
    assert!(decoded == plain, "{codec:?} changed {} bytes", plain.len());
    encoded.len()
}

proptest! {
    #[test]
    fn every_codec_gives_back_what_it_took(plain in proptest::collection::vec(0..4u8, 0..3000), base in proptest::collection::vec(0..4u8, 0..3000)) {
        for codec in Codec::ALL {
            round_trip(codec, &plain, Some(&base));
        }
    }
}
