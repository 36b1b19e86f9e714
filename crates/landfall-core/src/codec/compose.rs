//! Owns making one patch of two that follow each other, without the bytes that either makes: a source that sealed twice since a member left
//! holds two patches where the member needs one.

use super::Codec;
use super::patch::{RUN_BYTES_MIN, RawPatch, Run, read_raw, write_raw};
use crate::limits::CHUNK_BYTES_MAX;

/// The patch that does what `earlier` and then `later` do, if both leave their literals as they are: those that are compressed can only be
/// read beside the base. `middle_bytes` is what `earlier` makes and `later` builds on, `plain_bytes` what `later` makes.
///
/// Nothing if either is not a patch of those lengths, or if what comes of them would not be worth it ([`Codec::is_worth_it`]): it is given up as
/// soon as that is known, so memory follows the length of the patches. Like every patch it is unverified: whoever applies it checks what
/// it makes.
pub fn compose_patches(earlier: &[u8], middle_bytes: u32, later: &[u8], plain_bytes: u32) -> Option<Vec<u8>> {
    if middle_bytes.max(plain_bytes) > CHUNK_BYTES_MAX {
        return None;
    }
    let middle = Pieces::of(read_raw(earlier, middle_bytes as usize)?)?;
    let plain = Pieces::of(read_raw(later, plain_bytes as usize)?)?;
    let mut out = Composed { plain_bytes: plain_bytes as usize, ..Composed::default() };
    for piece in plain.pieces {
        match piece.origin {
            Origin::Literals(literals) => out.literal(literals)?,
            Origin::Copy { at, bytes } => middle.write(at, at + bytes, &mut out)?,
        }
    }
    out.write()
}

/// What a patch makes, as pieces in order.
struct Pieces<'p> {
    pieces: Vec<Piece<'p>>,
}

struct Piece<'p> {
    /// Where it ends in what the patch makes.
    end: usize,
    origin: Origin<'p>,
}

enum Origin<'p> {
    Literals(&'p [u8]),
    /// What begins there in the base.
    Copy {
        at: usize,
        bytes: usize,
    },
}

impl Origin<'_> {
    fn bytes(&self) -> usize {
        match self {
            Self::Literals(literals) => literals.len(),
            Self::Copy { bytes, .. } => *bytes,
        }
    }
}

impl<'p> Pieces<'p> {
    fn of(patch: RawPatch<'p>) -> Option<Self> {
        let RawPatch { runs, mut literals } = patch;
        let mut made = Self { pieces: Vec::with_capacity(2 * runs.len() + 1) };
        let mut base_end = 0_usize;
        for run in runs {
            let (literal, rest) = literals.split_at_checked(run.literal_bytes)?;
            literals = rest;
            made.push(Origin::Literals(literal));
            let at = (base_end + run.literal_bytes).checked_add_signed(run.skew)?;
            base_end = at.checked_add(run.copied_bytes)?;
            made.push(Origin::Copy { at, bytes: run.copied_bytes });
        }
        made.push(Origin::Literals(literals));
        Some(made)
    }

    fn push(&mut self, origin: Origin<'p>) {
        let end = self.end() + origin.bytes();
        self.pieces.push(Piece { end, origin });
    }

    fn end(&self) -> usize {
        self.pieces.last().map_or(0, |last| last.end)
    }

    /// Says where the bytes from `start` to `end` come from.
    fn write(&self, start: usize, end: usize, out: &mut Composed) -> Option<()> {
        if end > self.end() {
            return None;
        }
        let first = self.pieces.partition_point(|piece| piece.end <= start);
        let mut at = start;
        for piece in self.pieces[first..].iter().take_while(|piece| piece.end - piece.origin.bytes() < end) {
            let skipped = at - (piece.end - piece.origin.bytes());
            let bytes = piece.end.min(end) - at;
            match piece.origin {
                Origin::Literals(literals) => out.literal(&literals[skipped..skipped + bytes])?,
                Origin::Copy { at, .. } => out.copy(at + skipped, bytes)?,
            }
            at += bytes;
        }
        Some(())
    }
}

/// The patch in the making.
#[derive(Default)]
struct Composed {
    /// How much it makes.
    plain_bytes: usize,
    runs: Vec<Run>,
    literals: Vec<u8>,
    /// Literals since the last copy.
    literal_bytes: usize,
    base_end: usize,
}

impl Composed {
    fn literal(&mut self, bytes: &[u8]) -> Option<()> {
        self.literals.extend_from_slice(bytes);
        self.literal_bytes += bytes.len();
        self.is_worth_it()
    }

    fn copy(&mut self, at: usize, bytes: usize) -> Option<()> {
        if bytes == 0 {
            return Some(());
        }
        let skew = at as isize - (self.base_end + self.literal_bytes) as isize;
        match self.runs.last_mut() {
            Some(last) if self.literal_bytes == 0 && skew == 0 => last.copied_bytes += bytes,
            _ => self.runs.push(Run { literal_bytes: self.literal_bytes, copied_bytes: bytes, skew }),
        }
        self.literal_bytes = 0;
        self.base_end = at + bytes;
        self.is_worth_it()
    }

    /// Can it be still?
    fn is_worth_it(&self) -> Option<()> {
        let bytes = self.literals.len() + self.runs.len() * RUN_BYTES_MIN;
        Codec::ZstdPatch.is_worth_it(self.plain_bytes, bytes).then_some(())
    }

    fn write(self) -> Option<Vec<u8>> {
        let patch = write_raw(&self.runs, &self.literals);
        Codec::ZstdPatch.is_worth_it(self.plain_bytes, patch.len()).then_some(patch)
    }
}
