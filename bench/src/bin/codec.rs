//! Measures codecs and chunkers on one core, from memory: GB/s of plaintext, and bytes that are left. With the path of a file, also
//! what a stream leaves of its pages.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use landfall_bench::contents::Contents;
use landfall_core::chunker::{Cutter, Rest, is_zero};
use landfall_core::codec::{Codec, Decoder, Encoder, StreamDecoder, WireCodec, WireEncoder, looks_incompressible};
use landfall_core::tree::{Builder, Leaf, NodeSink, Salt, Value};
use landfall_core::{Chunk, ChunkId, Domain};

fn main() {
    println!("{:<34} {:>9} {:>9}", "chunker", "GB/s", "chunks");
    measure_chunkers();
    println!("\n{:<34} {:>9} {:>9} {:>10} {:>8}", "codec, chunk, change", "enc GB/s", "dec GB/s", "bytes", "ratio");
    for chunk_bytes in [16 << 10, 64 << 10, 256 << 10] {
        for change in Change::ALL {
            measure_codec(Codec::ZstdPatch, chunk_bytes, change);
        }
    }
    for codec in [Codec::Lz4, Codec::Zstd] {
        measure_codec(codec, 64 << 10, Change::Nothing);
        measure_codec(codec, 64 << 10, Change::NoiseEverywhere);
    }
    println!(
        "\n{:<34} {:>9} {:>9} {:>10} {:>8}",
        "each alone, and as a stream", "enc GB/s", "dec GB/s", "bytes", "ratio"
    );
    measure_stream("leaves of a keyed tree", &leaves());
    for length in [100, 300, 1000] {
        let cut = |leaf: &Vec<u8>| leaf[..leaf.len().min(length)].to_vec();
        measure_stream(&format!("their first {length} bytes"), &leaves().iter().map(cut).collect::<Vec<_>>());
    }
    if let Some(path) = std::env::args().nth(1) {
        measure_file(&path);
    }
}

/// The leaves of a keyed state of 300 000 short values.
fn leaves() -> Vec<Vec<u8>> {
    struct Leaves(Vec<Vec<u8>>);
    impl NodeSink for Leaves {
        fn put(&mut self, node: Chunk) {
            if Leaf::parse(node.bytes()).is_ok() {
                self.0.push(node.bytes().to_vec());
            }
        }
    }
    let (contents, mut leaves, mut builder) = (Contents::new(300_000), Leaves(Vec::new()), Builder::new(Salt::PUBLIC));
    for number in 0..contents.keys() {
        let value = Value::inline(Bytes::from(contents.value(number, 0)));
        builder.push(Contents::key(number).as_bytes(), &value, &mut leaves).expect("keys ascend");
    }
    builder.finish(&mut leaves);
    leaves.0
}

/// The pages of a file, 64 MiB at a time, so that it may be long.
fn measure_file(path: &str) {
    use std::io::Read;
    let mut file = std::fs::File::open(path).expect("the file can be read");
    let mut sums = WAYS.map(|_| Sum::default());
    let mut encoders = WAYS.map(|_| WireEncoder::new());
    let mut decoder = StreamDecoder::new();
    loop {
        let mut content = Vec::new();
        file.by_ref().take(64 << 20).read_to_end(&mut content).expect("the file can be read");
        if content.is_empty() {
            break;
        }
        let chunks: Vec<Vec<u8>> = content.chunks(64 << 10).map(<[u8]>::to_vec).collect();
        for ((codec, sum), encoder) in WAYS.into_iter().zip(&mut sums).zip(&mut encoders) {
            sum.add(codec, &chunks, encoder, &mut decoder);
        }
    }
    for (codec, sum) in WAYS.into_iter().zip(sums) {
        sum.report(codec, "pages of the file");
    }
}

const WAYS: [WireCodec; 3] = [WireCodec::Alone(Codec::Lz4), WireCodec::Alone(Codec::Zstd), WireCodec::ZstdStream];

fn measure_stream(name: &str, chunks: &[Vec<u8>]) {
    for codec in WAYS {
        let mut sum = Sum::default();
        sum.add(codec, chunks, &mut WireEncoder::new(), &mut StreamDecoder::new());
        sum.report(codec, name);
    }
}

/// What many chunks cost and left.
#[derive(Default)]
struct Sum {
    plain_bytes: usize,
    encoded_bytes: usize,
    chunks: usize,
    encoding: Duration,
    decoding: Duration,
}

impl Sum {
    fn add(&mut self, codec: WireCodec, chunks: &[Vec<u8>], encoder: &mut WireEncoder, stream: &mut StreamDecoder) {
        let mut encoded = vec![Vec::new(); chunks.len()];
        let began = Instant::now();
        for (plain, out) in chunks.iter().zip(&mut encoded) {
            encoder.encode(codec, plain, None, out).expect("a chunk of legal length");
        }
        self.encoding += began.elapsed();
        let (mut decoder, mut out) = (Decoder::new(), Vec::new());
        let began = Instant::now();
        for (plain, item) in chunks.iter().zip(&encoded) {
            let length = plain.len() as u32;
            let decoded = match codec {
                WireCodec::Alone(codec) => decoder.decode(codec, item, length, None, &mut out),
                WireCodec::ZstdStream => stream.decode(item, length, &mut out),
            };
            decoded.expect("what was just encoded");
            assert!(out.len() == plain.len());
        }
        self.decoding += began.elapsed();
        self.chunks += chunks.len();
        self.plain_bytes += chunks.iter().map(Vec::len).sum::<usize>();
        self.encoded_bytes += encoded.iter().map(Vec::len).sum::<usize>();
    }

    fn report(&self, codec: WireCodec, name: &str) {
        let name = match codec {
            WireCodec::Alone(codec) => format!("{name}, {codec:?}"),
            WireCodec::ZstdStream => format!("{name}, stream"),
        };
        let (enc, dec) = (rate(self.plain_bytes, self.encoding), rate(self.plain_bytes, self.decoding));
        let ratio = self.encoded_bytes as f64 / self.plain_bytes as f64;
        println!("{name:<34} {enc:>9.3} {dec:>9.3} {:>10} {ratio:>8.4}", self.encoded_bytes / self.chunks);
    }
}

fn measure_chunkers() {
    let content = Noise(1).rows(256 << 20);
    let zeros = vec![0; 256 << 20];
    let cut = |mut cutter: Cutter, bytes: &[u8]| {
        let (mut rest, mut chunks) = (bytes, 0);
        while let Some(length) = cutter.next_cut(rest, Rest::IsEmpty) {
            rest = &rest[length..];
            chunks += 1;
        }
        chunks
    };
    report_chunker("content-defined cuts", &content, |bytes| cut(Cutter::content_defined(), bytes));
    report_chunker("content-defined cuts of zeros", &zeros, |bytes| cut(Cutter::content_defined(), bytes));
    report_chunker("is it zero? 64 KiB", &zeros, |bytes| bytes.chunks(65536).filter(|chunk| is_zero(chunk)).count());
    report_chunker("BLAKE3 of 64 KiB", &content, |bytes| {
        bytes.chunks(65536).filter(|chunk| ChunkId::of(Domain::Data, chunk).as_bytes()[0] == 0).count()
    });
    report_chunker("is it incompressible? 64 KiB", &content, |bytes| {
        bytes.chunks(65536).filter(|chunk| looks_incompressible(chunk)).count()
    });
}

fn report_chunker(name: &str, content: &[u8], work: impl Fn(&[u8]) -> usize) {
    let (took, chunks) = best_of(3, || work(black_box(content)));
    println!("{name:<34} {:>9.2} {chunks:>9}", rate(content.len(), took));
}

/// How a chunk differs from its base.
#[derive(Debug, Clone, Copy)]
enum Change {
    Nothing,
    OneByte,
    OneNoisePage,
    RowsInPlace,
    RowInserted,
    RowInsertedInEveryPage,
    OtherRows,
    NoiseEverywhere,
}

impl Change {
    const ALL: [Self; 8] = [
        Self::Nothing,
        Self::OneByte,
        Self::OneNoisePage,
        Self::RowsInPlace,
        Self::RowInserted,
        Self::RowInsertedInEveryPage,
        Self::OtherRows,
        Self::NoiseEverywhere,
    ];

    fn apply(self, base: &[u8], noise: &mut Noise) -> Vec<u8> {
        let mut plain = base.to_vec();
        let length = plain.len();
        match self {
            Self::Nothing => {}
            Self::OneByte => plain[length / 2] ^= 1,
            Self::OneNoisePage => plain[8192..12288].copy_from_slice(&noise.bytes(4096)),
            Self::RowsInPlace => (0..length / 8000 + 1).for_each(|_| {
                let at = noise.next() as usize % (length - 80);
                plain[at..at + 80].copy_from_slice(&noise.rows(80));
            }),
            Self::RowInserted => {
                plain.splice(length / 3..length / 3, noise.rows(80));
                plain.truncate(length);
            }
            Self::RowInsertedInEveryPage => plain.chunks_mut(4096).for_each(|page| {
                page.copy_within(1000..4096 - 80, 1080);
                page[1000..1080].copy_from_slice(&noise.rows(80));
            }),
            Self::OtherRows => plain = noise.rows(length),
            Self::NoiseEverywhere => plain = noise.bytes(length),
        }
        plain
    }
}

fn measure_codec(codec: Codec, chunk_bytes: usize, change: Change) {
    let mut noise = Noise(chunk_bytes as u64);
    let bases: Vec<_> = (0..(32 << 20) / chunk_bytes).map(|_| noise.rows(chunk_bytes)).collect();
    let plains: Vec<_> = bases.iter().map(|base| change.apply(base, &mut noise)).collect();
    let mut encoder = Encoder::new();
    let mut encoded = vec![Vec::new(); plains.len()];
    let (encoding, _) = best_of(3, || {
        for ((plain, base), out) in plains.iter().zip(&bases).zip(&mut encoded) {
            encoder.encode(codec, plain, Some(base), out).expect("a chunk of legal length");
        }
    });
    let (mut decoder, mut out) = (Decoder::new(), Vec::new());
    let (decoding, _) = best_of(3, || {
        for ((plain, base), bytes) in plains.iter().zip(&bases).zip(&encoded) {
            decoder.decode(codec, bytes, chunk_bytes as u32, Some(base), &mut out).expect("what was just encoded");
            assert!(out.len() == plain.len());
        }
    });
    let total = plains.len() * chunk_bytes;
    let left = encoded.iter().map(Vec::len).sum::<usize>();
    let name = format!("{codec:?} {} KiB {change:?}", chunk_bytes >> 10);
    let (enc, dec) = (rate(total, encoding), rate(total, decoding));
    println!("{name:<34} {enc:>9.2} {dec:>9.2} {:>10} {:>8.4}", left / plains.len(), left as f64 / total as f64);
}

fn best_of<T>(times: usize, mut work: impl FnMut() -> T) -> (Duration, T) {
    let timed = |work: &mut dyn FnMut() -> T| {
        let start = Instant::now();
        let result = work();
        (start.elapsed(), result)
    };
    let mut best = timed(&mut work);
    for _ in 1..times {
        let next = timed(&mut work);
        if next.0 < best.0 {
            best = next;
        }
    }
    best
}

fn rate(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / 1e9
}

/// Splitmix64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    }

    /// Rows of a made-up table, about 80 bytes each, that compress to about half.
    fn rows(&mut self, length: usize) -> Vec<u8> {
        let mut rows = Vec::with_capacity(length + 100);
        while rows.len() < length {
            let (id, balance) = (self.next(), self.next());
            let row = format!("{id:016x} user{:05} city{:02} {balance:016x}{id:016x};", id % 99_999, id % 37);
            rows.extend_from_slice(row.as_bytes());
        }
        rows.truncate(length);
        rows
    }
}
