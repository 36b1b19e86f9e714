//! Owns the choice of a codec by measuring: what each codec costs and leaves, and what the link takes.

use std::time::Duration;

use super::policy::{Base, ChunkFacts, CodecPolicy, Compressible, EncodeFacts, LinkFacts};
use super::{Codec, CodecSet, WireCodec};

/// A patch whenever there is a base; else what brings the most plaintext across per second, as measured.
///
/// Encoding and sending overlap, so a codec's pace is the slower of the two: plaintext compressed per second, or the link's
/// bytes per second over the ratio. A link that never blocks is plentiful and gets raw bytes.
///
/// Only what is in use is measured. What is known of the rest grows old, and is given up bit by bit where that may help: the rate of a link
/// that does not bind, the pace of a denser codec while the link does.
#[derive(Debug, Clone)]
pub struct Automatic {
    /// The link, once it was seen to bind.
    link: Option<Link>,
    /// By how much its assumed rate grows in each span in which it does not bind.
    growth: f64,
    /// Which share of what was measured of denser codecs is given up in each span in which the link binds.
    doubt: f64,
    trial: Trial,
    /// The span that is being gathered.
    span: LinkFacts,
    lz4: Pace,
    zstd: Pace,
    /// What is used where bytes count most: zstd, with a memory where the receiver has one.
    densest: WireCodec,
    current: WireCodec,
}

/// Bytes per second of a link.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// When it last bound.
    measured: f64,
    /// By now, as it may have become faster.
    assumed: f64,
}

impl Link {
    fn of(rate: f64) -> Self {
        Self { measured: rate, assumed: rate }
    }
}

/// What is being tried because it was assumed. One thing at a time, so that each try in vain counts against what it tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trial {
    None,
    /// More bytes are sent than before.
    FasterLink,
    /// A denser codec came into use.
    DenserCodec {
        /// For how many spans it has been the best.
        spans: u32,
    },
}

/// Whether a span shows that the link binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Binding {
    Not,
    /// The sender compresses, and waited a little: there is no reason to send more, nor proof that the link takes no more.
    Hardly,
    Clearly,
}

/// How fast a codec is and how much it leaves.
#[derive(Debug, Clone, Copy)]
struct Pace {
    plain_bytes_per_second: f64,
    encoded_per_plain: f64,
}

impl Pace {
    /// Gives up a share of what was measured, where that is worse than what was assumed.
    fn give_way_to(&mut self, assumed: Self, share: f64) {
        self.plain_bytes_per_second += (assumed.plain_bytes_per_second - self.plain_bytes_per_second).max(0.0) * share;
        self.encoded_per_plain += (assumed.encoded_per_plain - self.encoded_per_plain).min(0.0) * share;
    }
}

impl Automatic {
    /// A policy that has measured nothing yet, for a receiver without a memory.
    pub fn new() -> Self {
        Self {
            link: None,
            growth: GROWTH_MOST,
            doubt: DOUBT_MOST,
            trial: Trial::None,
            span: NOTHING_SENT,
            lz4: LZ4_ASSUMED,
            zstd: ZSTD_ASSUMED,
            densest: Codec::Zstd.into(),
            current: Codec::Raw.into(),
        }
    }

    /// The same for a receiver that knows these codecs: where the stream is among them it takes the place of zstd, with its own pace.
    pub fn for_receiver(known: CodecSet) -> Self {
        if !known.contains(WireCodec::ZstdStream) {
            return Self::new();
        }
        Self { zstd: STREAM_ASSUMED, densest: WireCodec::ZstdStream, ..Self::new() }
    }

    /// What is assumed of the densest codec before it was measured.
    fn densest_assumed(&self) -> Pace {
        if self.densest == WireCodec::ZstdStream { STREAM_ASSUMED } else { ZSTD_ASSUMED }
    }

    /// Plaintext bytes per second that a codec brings across a link of `link_rate`.
    fn plain_rate(&self, codec: WireCodec, link_rate: f64) -> f64 {
        let through = |pace: Pace| (link_rate / pace.encoded_per_plain).min(pace.plain_bytes_per_second);
        match codec {
            WireCodec::Alone(Codec::Raw) => link_rate,
            WireCodec::Alone(Codec::Lz4) => through(self.lz4),
            WireCodec::Alone(Codec::Zstd | Codec::ZstdPatch) | WireCodec::ZstdStream => through(self.zstd),
        }
    }

    /// The best codec for a link, which is the current one unless another is clearly better.
    fn best(&self, link_rate: f64) -> WireCodec {
        let mut best = self.current;
        let mut best_rate = self.plain_rate(best, link_rate) * CLEARLY_BETTER;
        for codec in [Codec::Raw.into(), Codec::Lz4.into(), self.densest] {
            let rate = self.plain_rate(codec, link_rate);
            if codec != self.current && rate > best_rate {
                (best, best_rate) = (codec, rate);
            }
        }
        best
    }

    /// Moves to the best codec, and draws the conclusions for what is being tried.
    fn reconsider(&mut self, link: Link, binding: Binding) {
        let best = self.best(link.assumed);
        let denser = self.left(best) < self.left(self.current);
        let less_dense = self.left(best) > self.left(self.current);
        let assumes_faster_link = less_dense && self.left(self.best(link.measured)) <= self.left(self.current);
        let is_raw = self.current == Codec::Raw.into();
        if is_raw && binding == Binding::Not {
            self.growth = GROWTH_MOST;
        }
        self.trial = match self.trial {
            Trial::FasterLink if is_raw && binding == Binding::Not => Trial::None,
            // It was not as fast as assumed. Each try costs the time until the link is seen to bind again.
            Trial::FasterLink if denser || binding == Binding::Clearly => {
                self.growth = (self.growth / BACK_OFF).max(GROWTH_LEAST);
                Trial::None
            }
            Trial::DenserCodec { .. } if less_dense => {
                self.doubt = (self.doubt / BACK_OFF).max(DOUBT_LEAST);
                Trial::None
            }
            Trial::DenserCodec { spans: CONVINCING_SPANS } => {
                self.doubt = DOUBT_MOST;
                Trial::None
            }
            Trial::DenserCodec { spans } => Trial::DenserCodec { spans: spans + 1 },
            Trial::None if denser => Trial::DenserCodec { spans: 0 },
            Trial::None if assumes_faster_link => Trial::FasterLink,
            trial => trial,
        };
        self.current = best;
    }

    /// What a codec leaves of a byte.
    fn left(&self, codec: WireCodec) -> f64 {
        match codec {
            WireCodec::Alone(Codec::Raw) => 1.0,
            WireCodec::Alone(Codec::Lz4) => self.lz4.encoded_per_plain,
            WireCodec::Alone(Codec::Zstd | Codec::ZstdPatch) | WireCodec::ZstdStream => self.zstd.encoded_per_plain,
        }
    }

    /// The share of a core that compressing for a link takes.
    fn core_share(&self, link_rate: f64) -> f64 {
        link_rate / self.zstd.encoded_per_plain / self.zstd.plain_bytes_per_second
    }

    /// Whether a span in which bytes went out at `rate` shows that the link binds.
    fn binding(&self, span: LinkFacts, rate: f64) -> Binding {
        let mut blocked_share = span.blocked.as_secs_f64() / span.elapsed.as_secs_f64();
        let is_raw = self.current == Codec::Raw.into();
        // Where no core is idle it is the machine that binds, however full the socket looks, unless the link is so slow that compressing
        // for it takes next to nothing; a sender that compresses keeps cores busy itself, which proves nothing.
        // So does one that compressed until a moment ago.
        if is_raw && self.trial != Trial::FasterLink && self.core_share(rate) > CORE_SHARE_ANYWAY {
            blocked_share *= span.spare_cores.min(1.0);
        }
        if blocked_share >= BINDING_SHARE {
            Binding::Clearly
        } else if blocked_share >= WAITING_SHARE && !is_raw {
            Binding::Hardly
        } else {
            Binding::Not
        }
    }

    /// Learns the link's rate from a span: exactly while it binds, else only that it is at least what went through.
    fn learn_link(&mut self, rate: f64, binding: Binding) {
        self.link = match (self.link, binding) {
            (None, Binding::Clearly) => Some(Link::of(rate)),
            (None, _) => None,
            // What was assumed is wrong, and need not be unlearnt bit by bit.
            (Some(_), Binding::Clearly) if self.trial == Trial::FasterLink => Some(Link::of(rate)),
            (Some(link), Binding::Clearly) => Some(Link::of(blend(link.assumed, rate))),
            (Some(link), Binding::Not) if !matches!(self.trial, Trial::DenserCodec { .. }) => {
                Some(Link { assumed: (link.assumed * (1.0 + self.growth)).max(rate), ..link })
            }
            (Some(link), _) => Some(Link { assumed: link.assumed.max(rate), ..link }),
        };
    }

    /// The link binds, so there is time for a denser codec, were it as good as assumed: it was measured when the cores had other things to
    /// do, perhaps, or the content was of another kind. The fewer cores are spare, the less there is to doubt.
    fn doubt_denser(&mut self, spare_cores: f64) {
        if self.current == self.densest {
            return;
        }
        let share = self.doubt * spare_cores.min(1.0);
        self.zstd.give_way_to(self.densest_assumed(), share);
        if self.current == Codec::Raw.into() {
            self.lz4.give_way_to(LZ4_ASSUMED, share);
        }
    }
}

impl CodecPolicy for Automatic {
    fn choose(&self, chunk: ChunkFacts) -> WireCodec {
        match chunk {
            ChunkFacts { base: Base::Held, .. } => Codec::ZstdPatch.into(),
            ChunkFacts { compressible: Compressible::Unlikely, .. } => Codec::Raw.into(),
            _ => self.current,
        }
    }

    fn handle_link(&mut self, link: LinkFacts) {
        self.span.sent_bytes += link.sent_bytes;
        self.span.elapsed += link.elapsed;
        self.span.blocked += link.blocked.min(link.elapsed);
        if self.span.elapsed < SPAN_MIN {
            return;
        }
        self.span.spare_cores = link.spare_cores;
        let span = std::mem::replace(&mut self.span, NOTHING_SENT);
        let rate = span.sent_bytes as f64 / span.elapsed.as_secs_f64();
        let binding = self.binding(span, rate);
        self.learn_link(rate, binding);
        if binding == Binding::Clearly {
            self.doubt_denser(span.spare_cores);
        }
        if let Some(link) = self.link {
            self.reconsider(link, binding);
        }
    }

    fn handle_encoded(&mut self, encoded: EncodeFacts) {
        let pace = match encoded.codec {
            WireCodec::Alone(Codec::Lz4) => &mut self.lz4,
            codec if codec == self.densest => &mut self.zstd,
            _ => return,
        };
        if encoded.plain_bytes == 0 {
            return;
        }
        let plain = encoded.plain_bytes as f64;
        // What was compressed before costs its copying at least.
        let seconds = encoded.took.as_secs_f64().max(plain / COPIED_BYTES_PER_SECOND);
        pace.plain_bytes_per_second = blend(pace.plain_bytes_per_second, plain / seconds);
        pace.encoded_per_plain = blend(pace.encoded_per_plain, (encoded.encoded_bytes as f64 / plain).max(0.01));
    }
}

impl Default for Automatic {
    fn default() -> Self {
        Self::new()
    }
}

/// Lets a new measurement weigh an eighth.
fn blend(known: f64, measured: f64) -> f64 {
    known + (measured - known) / 8.0
}

const NOTHING_SENT: LinkFacts =
    LinkFacts { sent_bytes: 0, elapsed: Duration::ZERO, blocked: Duration::ZERO, spare_cores: 0.0 };
/// Facts are gathered until they span this much, so that one full buffer decides nothing.
const SPAN_MIN: Duration = Duration::from_millis(10);
/// The link binds when the sender waits for it this share of the time.
const BINDING_SHARE: f64 = 0.2;
/// One that compresses and waits this share of the time at least has no reason to compress less.
const WAITING_SHARE: f64 = 0.05;
/// While the link does not bind it may have become faster: its assumed rate grows by this share per span, and by less after each time that
/// it had not, down to doubling in some seconds.
const GROWTH_MOST: f64 = 0.02;
const GROWTH_LEAST: f64 = 0.002;
/// While the link binds, so much of what was measured of denser codecs is given up in each span, and less after each try in vain.
const DOUBT_MOST: f64 = 0.02;
const DOUBT_LEAST: f64 = 0.001;
/// A denser codec that is still the best after so many spans is measured well enough: one that is slow shows it in a dozen chunks.
const CONVINCING_SPANS: u32 = 32;
/// How much more seldom a thing is tried after it was tried in vain.
const BACK_OFF: f64 = 2.0;
/// Of one core of a middling machine, with content of a middling kind.
const LZ4_ASSUMED: Pace = Pace { plain_bytes_per_second: 700e6, encoded_per_plain: 0.65 };
const ZSTD_ASSUMED: Pace = Pace { plain_bytes_per_second: 450e6, encoded_per_plain: 0.45 };
const STREAM_ASSUMED: Pace = Pace { plain_bytes_per_second: 400e6, encoded_per_plain: 0.4 };
/// So much of a core is there for compressing however busy the machine is.
const CORE_SHARE_ANYWAY: f64 = 0.125;
/// How fast what was encoded before goes out: copying it is all that is left to do.
const COPIED_BYTES_PER_SECOND: f64 = 5e9;
/// Another codec must promise this much more, so that the choice does not flutter.
const CLEARLY_BETTER: f64 = 1.15;

#[cfg(test)]
mod tests;
