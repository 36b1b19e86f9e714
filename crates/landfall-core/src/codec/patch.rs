//! Owns the patch form: what of a base is copied where, and the literal bytes between.
//!
//! A patch is `varint(runs × 2 + compressed)`, then for each run `varint(literal bytes) varint(copied bytes)
//! zigzag(skew)`, then the literals of all runs and of the tail. A copy begins in the base at the end of the last copy, plus
//! the literal bytes since, plus the skew: bytes replaced in place have skew 0. Compressed literals are one zstd frame
//! without its magic, with the whole base as prefix, so shifted content is found there.

use zstd_safe::{CCtx, DCtx, compress_bound};

use super::decode::decode_zstd;
use super::{ZSTD_MAGIC, zstd_prefix};

/// A stretch of literals, then a copy out of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    literal_bytes: usize,
    copied_bytes: usize,
    skew: i64,
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
        self.collect_literals(plain);
        let compressed = self.compress_literals(base);
        put_varint(out, (self.runs.len() as u64) << 1 | u64::from(compressed));
        for run in &self.runs {
            put_varint(out, run.literal_bytes as u64);
            put_varint(out, run.copied_bytes as u64);
            put_varint(out, (run.skew << 1 ^ run.skew >> 63) as u64);
        }
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
    fn compress_literals(&mut self, base: &[u8]) -> bool {
        if self.literals.len() <= LITERAL_BYTES_RAW_MAX {
            return false;
        }
        self.frame.clear();
        self.frame.reserve(compress_bound(self.literals.len()));
        let level = patch_level(self.literals.len() + base.len());
        self.zstd
            .compress_using_dict(&mut self.frame, &self.literals, zstd_prefix(base), level)
            .expect("the output holds the longest form");
        self.frame.len() < self.literals.len()
    }
}

/// The cheapest level at which zstd hashes enough of the base to find it again: see `docs/design/patch.md`.
fn patch_level(_bytes: usize) -> i32 {
    2
}

/// Reads patches.
pub(super) struct Reader {
    zstd: DCtx<'static>,
    literals: Vec<u8>,
    frame: Vec<u8>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { zstd: DCtx::create(), literals: Vec::new(), frame: Vec::new() }
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
        let header = get_varint(&mut rest)?;
        let runs = header >> 1;
        let (copied_bytes, after_runs) = measure_runs(rest, runs)?;
        let literal_bytes = length.checked_sub(copied_bytes).ok_or("its copies are longer than declared")?;
        if header & 1 == 0 {
            if after_runs.len() != literal_bytes {
                return Err("its literals are not as long as declared");
            }
            return apply(rest, runs, after_runs, base, out);
        }
        self.frame.clear();
        self.frame.extend_from_slice(&ZSTD_MAGIC);
        self.frame.extend_from_slice(after_runs);
        if runs == 0 {
            return decode_zstd(&mut self.zstd, &self.frame, Some(zstd_prefix(base)), length, out);
        }
        decode_zstd(&mut self.zstd, &self.frame, Some(zstd_prefix(base)), literal_bytes, &mut self.literals)?;
        apply(rest, runs, &self.literals, base, out)
    }
}

/// How much all runs copy, and what follows them.
fn measure_runs(mut rest: &[u8], runs: u64) -> Result<(usize, &[u8]), &'static str> {
    let mut copied_bytes = 0usize;
    for _ in 0..runs {
        let run = get_run(&mut rest)?;
        copied_bytes = copied_bytes.checked_add(run.copied_bytes).ok_or("a copy is too long")?;
    }
    Ok((copied_bytes, rest))
}

/// Writes out runs and tail. The literals and copies add up to the declared length, so `out` cannot outgrow it.
fn apply(mut runs: &[u8], count: u64, mut literals: &[u8], base: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    out.clear();
    let mut base_at = 0usize;
    for _ in 0..count {
        let run = get_run(&mut runs)?;
        let (literal, rest) = literals.split_at_checked(run.literal_bytes).ok_or("a run has too few literals")?;
        literals = rest;
        out.extend_from_slice(literal);
        base_at = base_at
            .checked_add(run.literal_bytes)
            .and_then(|at| at.checked_add_signed(run.skew as isize))
            .ok_or("a copy begins outside its base")?;
        let end = base_at.checked_add(run.copied_bytes).ok_or("a copy is too long")?;
        out.extend_from_slice(base.get(base_at..end).ok_or("a copy reaches beyond its base")?);
        base_at = end;
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
        let skew = base_middle.len() as i64 - middle.len() as i64;
        runs.push(Run { literal_bytes: middle.len() - copied_until, copied_bytes: suffix, skew });
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

fn get_run(rest: &mut &[u8]) -> Result<Run, &'static str> {
    let bytes = |value: u64| usize::try_from(value).map_err(|_| "a run is too long");
    let literal_bytes = bytes(get_varint(rest)?)?;
    let copied_bytes = bytes(get_varint(rest)?)?;
    let skew = get_varint(rest)?;
    Ok(Run { literal_bytes, copied_bytes, skew: (skew >> 1) as i64 ^ -((skew & 1) as i64) })
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
/// Literals up to this length are not worth hashing the whole base.
const LITERAL_BYTES_RAW_MAX: usize = 192;
