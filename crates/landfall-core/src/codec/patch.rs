//! Owns the patch form: what of a base is copied where, and the literal bytes between.
//!
//! A patch is `varint(runs × 2 + compressed)`, then for each run `varint(literal bytes) varint(copied bytes)
//! zigzag(skew)`, then the literals of all runs and of the tail. A copy begins in the base at the end of the last copy, plus
//! the literal bytes since, plus the skew: bytes replaced in place have skew 0. Compressed literals are one zstd frame
//! without its magic, with the base near the literals as prefix, so that content which moved is found there.

use zstd_safe::{CCtx, DCtx, compress_bound};

use super::decode::decode_zstd;
use super::{Copied, ZSTD_MAGIC, zstd_prefix};

/// A stretch of literals, then a copy out of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) literal_bytes: usize,
    pub(super) copied_bytes: usize,
    pub(super) skew: isize,
}

/// Makes patches.
pub(super) struct Writer {
    zstd: CCtx<'static>,
    runs: Vec<Run>,
    literals: Vec<u8>,
    frame: Vec<u8>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { zstd: CCtx::create(), runs: Vec::new(), literals: Vec::new(), frame: Vec::new() }
    }

    /// Appends the patch that turns `base` into `plain`.
    pub(super) fn write(&mut self, plain: &[u8], base: &[u8], out: &mut Vec<u8>) {
        find_runs(plain, base, &mut self.runs);
        self.write_runs(plain, base, LITERAL_BYTES_RAW_MAX, out);
    }

    /// The same, for whoever knows what was copied. Nothing need be looked for, and few literals are not worth compressing.
    pub(super) fn write_copied(&mut self, plain: &[u8], base: &[u8], copied: &[Copied], out: &mut Vec<u8>) {
        runs_of(plain, base, copied, &mut self.runs);
        self.write_runs(plain, base, LITERAL_BYTES_RAW_MAX_KNOWN, out);
    }

    fn write_runs(&mut self, plain: &[u8], base: &[u8], literal_bytes_raw_max: usize, out: &mut Vec<u8>) {
        self.collect_literals(plain);
        let compressed = self.compress_literals(base, literal_bytes_raw_max);
        put_runs(out, &self.runs, compressed);
        out.extend_from_slice(if compressed { &self.frame[ZSTD_MAGIC.len()..] } else { &self.literals });
    }

    fn collect_literals(&mut self, plain: &[u8]) {
        self.literals.clear();
        let mut at = 0;
        for run in &self.runs {
            self.literals.extend_from_slice(&plain[at..at + run.literal_bytes]);
            at += run.literal_bytes + run.copied_bytes;
        }
        self.literals.extend_from_slice(&plain[at..]);
    }

    /// Is the compressed form, now in `frame`, the shorter one?
    fn compress_literals(&mut self, base: &[u8], literal_bytes_raw_max: usize) -> bool {
        let near = near_literals(&self.runs, self.literals.len(), base);
        if self.literals.len() <= literal_bytes_raw_max.max(near.len() / 128) {
            return false;
        }
        if self.literals.len() >= LITERAL_BYTES_DOUBTFUL && !looks_related(&self.literals, near) {
            return false;
        }
        let level = if self.literals.len() + near.len() > WINDOW_BYTES { LEVEL_BEYOND_WINDOW } else { LEVEL };
        self.frame.clear();
        self.frame.reserve(compress_bound(self.literals.len()));
        self.zstd
            .compress_using_dict(&mut self.frame, &self.literals, zstd_prefix(near), level)
            .expect("the output holds the longest form");
        self.frame.len() < self.literals.len()
    }
}

/// Does any of a few samples of the literals stand anywhere in the base? If not, a patch saves nothing that plain
/// compression would not, and zstd takes ten times as long to find that out.
fn looks_related(literals: &[u8], base: &[u8]) -> bool {
    let step = literals.len() / SAMPLES;
    (0..SAMPLES).any(|sample| {
        // Steps of equal length would meet records of equal length at one and the same place.
        let within = (step - SAMPLE_BYTES) * (sample * 159 % 256) / 256;
        let at = sample * step + within;
        memchr::memmem::find(base, &literals[at..at + SAMPLE_BYTES]).is_some()
    })
}

/// The part of the base that zstd sees: without what the first and the last copy take from its ends, but for a margin.
///
/// Most changes are local, and hashing the prefix costs more than everything else.
fn near_literals<'b>(runs: &[Run], literal_bytes: usize, base: &'b [u8]) -> &'b [u8] {
    let copied_head =
        runs.first().filter(|run| run.literal_bytes == 0 && run.skew == 0).map_or(0, |run| run.copied_bytes);
    let before_tail: usize = runs.iter().map(|run| run.literal_bytes).sum();
    let copied_tail = runs.last().filter(|_| before_tail == literal_bytes).map_or(0, |run| run.copied_bytes);
    let start = copied_head.saturating_sub(MARGIN_BYTES).min(base.len());
    let end = base.len().saturating_sub(copied_tail).saturating_add(MARGIN_BYTES).min(base.len());
    &base[start..end.max(start)]
}

/// Reads patches.
pub(super) struct Reader {
    zstd: DCtx<'static>,
    runs: Vec<Run>,
    literals: Vec<u8>,
    frame: Vec<u8>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { zstd: DCtx::create(), runs: Vec::new(), literals: Vec::new(), frame: Vec::new() }
    }

    /// Replaces `out` with the `length` bytes that `encoded` makes of `base`.
    pub(super) fn read(
        &mut self,
        encoded: &[u8],
        base: &[u8],
        length: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        let mut rest = encoded;
        let Head { compressed, literal_bytes } = read_head(&mut rest, length, &mut self.runs)?;
        if !compressed {
            return apply(&self.runs, rest, base, length, out);
        }
        self.frame.clear();
        self.frame.extend_from_slice(&ZSTD_MAGIC);
        self.frame.extend_from_slice(rest);
        let prefix = zstd_prefix(near_literals(&self.runs, literal_bytes, base));
        if self.runs.is_empty() {
            return decode_zstd(&mut self.zstd, &self.frame, Some(prefix), length, out);
        }
        decode_zstd(&mut self.zstd, &self.frame, Some(prefix), literal_bytes, &mut self.literals)?;
        apply(&self.runs, &self.literals, base, length, out)
    }
}

/// What stands before the literals, but for the runs.
struct Head {
    compressed: bool,
    /// Of what the patch makes, the bytes that are not copied.
    literal_bytes: usize,
}

/// Takes all off `rest` that stands before the literals. Literals that are not compressed are as long as they must be.
fn read_head(rest: &mut &[u8], length: usize, runs: &mut Vec<Run>) -> Result<Head, &'static str> {
    let header = get_varint(rest)?;
    let (count, compressed) = (header >> 1, header & 1 == 1);
    if count > (rest.len() / RUN_BYTES_MIN) as u64 {
        return Err("it has fewer runs than it says");
    }
    runs.clear();
    let mut copied_bytes = 0;
    for _ in 0..count {
        let run = get_run(rest)?;
        copied_bytes += run.copied_bytes;
        runs.push(run);
    }
    let literal_bytes = length.checked_sub(copied_bytes).ok_or("its copies are longer than declared")?;
    if !compressed && rest.len() != literal_bytes {
        return Err("its literals are not as long as declared");
    }
    Ok(Head { compressed, literal_bytes })
}

/// A patch that leaves its literals as they are.
pub(super) struct RawPatch<'p> {
    pub(super) runs: Vec<Run>,
    pub(super) literals: &'p [u8],
}

/// Looks into a patch that makes `length` bytes; nothing if its literals are compressed, or it is malformed.
pub(super) fn read_raw(encoded: &[u8], length: usize) -> Option<RawPatch<'_>> {
    let (mut rest, mut runs) = (encoded, Vec::new());
    let head = read_head(&mut rest, length, &mut runs).ok()?;
    (!head.compressed).then_some(RawPatch { runs, literals: rest })
}

/// Writes a patch and leaves its literals as they are.
pub(super) fn write_raw(runs: &[Run], literals: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_runs(&mut out, runs, false);
    out.extend_from_slice(literals);
    out
}

/// Writes out runs and tail. The literals and copies add up to `length`, so `out` cannot outgrow it.
fn apply(runs: &[Run], mut literals: &[u8], base: &[u8], length: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
    out.clear();
    out.reserve(length);
    let mut base_at = 0usize;
    for run in runs {
        let (literal, rest) = literals.split_at_checked(run.literal_bytes).ok_or("a run has too few literals")?;
        literals = rest;
        out.extend_from_slice(literal);
        let start =
            (base_at + run.literal_bytes).checked_add_signed(run.skew).ok_or("a copy begins before its base")?;
        let copied = base.get(start..start + run.copied_bytes).ok_or("a copy reaches beyond its base")?;
        out.extend_from_slice(copied);
        base_at = start + run.copied_bytes;
    }
    out.extend_from_slice(literals);
    Ok(())
}

/// The stretches that `plain` shares with `base` at the same place, counted from the start or, for the last, from the end.
fn find_runs(plain: &[u8], base: &[u8], runs: &mut Vec<Run>) {
    runs.clear();
    let suffix = common_suffix(plain, base);
    let suffix = if suffix < COPY_BYTES_MIN { 0 } else { suffix };
    let (middle, base_middle) = (&plain[..plain.len() - suffix], &base[..base.len() - suffix]);
    let both = middle.len().min(base_middle.len());
    let mut copied_until = 0;
    let mut at = 0;
    while let Some((start, length)) = next_shared(&middle[..both], &base_middle[..both], at, copied_until) {
        runs.push(Run { literal_bytes: start - copied_until, copied_bytes: length, skew: 0 });
        copied_until = start + length;
        at = copied_until;
    }
    if suffix > 0 {
        let skew = base_middle.len() as isize - middle.len() as isize;
        runs.push(Run { literal_bytes: middle.len() - copied_until, copied_bytes: suffix, skew });
    }
}

/// The runs of what is known to be copied. What begins and ends a replaced stretch as it did before is copied too; what is not as it
/// was said to be is not.
fn runs_of(plain: &[u8], base: &[u8], copied: &[Copied], runs: &mut Vec<Run>) {
    runs.clear();
    let mut made = Made::default();
    for copied in copied {
        let Some(mut next) = copied.within(plain, base).filter(|next| made.may_be_before(next)) else { continue };
        let (gap, base_gap) = (&plain[made.end..next.at], &base[made.base_end..next.from]);
        if let Some(last) = runs.last_mut() {
            let prefix = common_prefix(gap, base_gap);
            last.copied_bytes += prefix;
            made.pass(prefix);
        }
        let suffix = common_suffix(&plain[made.end..next.at], &base[made.base_end..next.from]);
        next.begin_earlier(suffix);
        if next.bytes >= COPY_BYTES_MIN {
            runs.push(made.copy(&next));
        }
    }
    if let Some(last) = runs.last_mut() {
        last.copied_bytes += common_prefix(&plain[made.end..], &base[made.base_end..]);
    }
}

/// How far runs have come.
#[derive(Default)]
struct Made {
    end: usize,
    base_end: usize,
}

impl Made {
    /// Copies go forward, in both.
    fn may_be_before(&self, next: &Stretch) -> bool {
        self.end <= next.at && self.base_end <= next.from
    }

    fn pass(&mut self, bytes: usize) {
        self.end += bytes;
        self.base_end += bytes;
    }

    fn copy(&mut self, next: &Stretch) -> Run {
        let literal_bytes = next.at - self.end;
        let skew = next.from as isize - (self.base_end + literal_bytes) as isize;
        (self.end, self.base_end) = (next.at + next.bytes, next.from + next.bytes);
        Run { literal_bytes, copied_bytes: next.bytes, skew }
    }
}

/// Equal bytes, at one place of the plaintext and at one of the base.
struct Stretch {
    at: usize,
    from: usize,
    bytes: usize,
}

impl Stretch {
    fn begin_earlier(&mut self, bytes: usize) {
        self.at -= bytes;
        self.from -= bytes;
        self.bytes += bytes;
    }
}

impl Copied {
    fn within(&self, plain: &[u8], base: &[u8]) -> Option<Stretch> {
        let (at, from, bytes) = (self.at as usize, self.from as usize, self.bytes as usize);
        let is_copy = plain.get(at..at.checked_add(bytes)?)? == base.get(from..from.checked_add(bytes)?)?;
        is_copy.then_some(Stretch { at, from, bytes })
    }
}

/// The next stretch of at least [`COPY_BYTES_MIN`] equal bytes from `at` on; it may begin as early as `floor`.
fn next_shared(left: &[u8], right: &[u8], at: usize, floor: usize) -> Option<(usize, usize)> {
    let (left_steps, right_steps) = (left[at..].as_chunks::<STEP>().0, right[at..].as_chunks::<STEP>().0);
    for (step, (left_step, right_step)) in left_steps.iter().zip(right_steps).enumerate() {
        if left_step != right_step {
            continue;
        }
        let found = at + step * STEP;
        let start = found - common_suffix(&left[floor..found], &right[floor..found]);
        let length = found - start + common_prefix(&left[found..], &right[found..]);
        if length >= COPY_BYTES_MIN {
            return Some((start, length));
        }
    }
    None
}

fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    let (left_blocks, right_blocks) = (left.as_chunks::<64>().0, right.as_chunks::<64>().0);
    let at = left_blocks.iter().zip(right_blocks).take_while(|(left, right)| left == right).count() * 64;
    at + left[at..].iter().zip(&right[at..]).take_while(|(left, right)| left == right).count()
}

fn common_suffix(left: &[u8], right: &[u8]) -> usize {
    let (left_blocks, right_blocks) = (left.as_rchunks::<64>().1, right.as_rchunks::<64>().1);
    let blocks = left_blocks.iter().rev().zip(right_blocks.iter().rev()).take_while(|(left, right)| left == right);
    let length = blocks.count() * 64;
    let (left, right) = (&left[..left.len() - length], &right[..right.len() - length]);
    length + left.iter().rev().zip(right.iter().rev()).take_while(|(left, right)| left == right).count()
}

/// Writes all that stands before the literals.
fn put_runs(out: &mut Vec<u8>, runs: &[Run], compressed: bool) {
    put_varint(out, (runs.len() as u64) << 1 | u64::from(compressed));
    for run in runs {
        put_varint(out, run.literal_bytes as u64);
        put_varint(out, run.copied_bytes as u64);
        put_varint(out, (run.skew << 1 ^ run.skew >> (isize::BITS - 1)) as u64);
    }
}

fn get_run(rest: &mut &[u8]) -> Result<Run, &'static str> {
    let literal_bytes = get_varint(rest)? as usize;
    let copied_bytes = get_varint(rest)? as usize;
    let skew = get_varint(rest)? as isize;
    Ok(Run { literal_bytes, copied_bytes, skew: skew >> 1 ^ -(skew & 1) })
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Numbers in a patch stay below 2^28: no length of a chunk needs more.
fn get_varint(rest: &mut &[u8]) -> Result<u64, &'static str> {
    let mut value = 0;
    for shift in (0..28).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or("it ends inside a number")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is too large")
}

/// Shortest copy: a run costs about five bytes, and cuts the literals in two.
const COPY_BYTES_MIN: usize = 32;
/// Equal bytes are looked for in steps of half the shortest copy, so that none is missed.
const STEP: usize = COPY_BYTES_MIN / 2;
/// A run of the smallest numbers.
pub(super) const RUN_BYTES_MIN: usize = 3;
/// How far beyond the changed part zstd sees the base.
const MARGIN_BYTES: usize = 4096;
/// So few literals are not worth hashing any prefix; see also [`Writer::compress_literals`].
const LITERAL_BYTES_RAW_MAX: usize = 128;
/// The same where what was copied is known: what else would be found in the base is little.
const LITERAL_BYTES_RAW_MAX_KNOWN: usize = 1024;
/// From so many literals on, it is first asked whether the base resembles them at all.
const LITERAL_BYTES_DOUBTFUL: usize = 8 * 1024;
const SAMPLES: usize = 8;
const SAMPLE_BYTES: usize = 12;
/// At this level zstd hashes enough of a prefix to find it again at any length of chunk; at 1 and at 256 KiB it does not.
const LEVEL: i32 = 2;
/// What level 2 looks back at most; prefix and literals together must not be longer.
const WINDOW_BYTES: usize = 1 << 20;
/// A level that looks back twice as far, which is enough for two chunks of any length, at half the speed.
const LEVEL_BEYOND_WINDOW: i32 = 3;
