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
    /// Bytes per second of the link, once it was seen to bind.
    link_rate: Option<f64>,
    /// By how much that is assumed to grow in each span in which the link does not bind.
    growth: f64,
    /// Whether more bytes are sent than before because that was assumed.
    is_trying: bool,
    /// Which share of what was measured of denser codecs is given up in each span in which the link binds.
    doubt: f64,
    /// Whether a denser codec came into use and it has not shown yet that it is worth it.
    is_trying_denser: bool,
    /// The span that is being gathered.
    span: LinkFacts,
    lz4: Pace,
    zstd: Pace,
    /// What is used where bytes count most: zstd, with a memory where the receiver has one.
    densest: WireCodec,
    current: WireCodec,
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
            link_rate: None,
            growth: GROWTH_MOST,
            is_trying: false,
            doubt: DOUBT_MOST,
            is_trying_denser: false,
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

    /// Moves to the best codec if it is clearly better than the current one.
    fn reconsider(&mut self) {
        let Some(link_rate) = self.link_rate else {
            return;
        };
        let mut best = self.current;
        let mut best_rate = self.plain_rate(best, link_rate) * CLEARLY_BETTER;
        for codec in [Codec::Raw.into(), Codec::Lz4.into(), self.densest] {
            let rate = self.plain_rate(codec, link_rate);
            if codec != self.current && rate > best_rate {
                (best, best_rate) = (codec, rate);
            }
        }
        if self.left(best) > self.left(self.current) {
            self.is_trying = true;
            if self.is_trying_denser {
                self.doubt = (self.doubt / BACK_OFF).max(DOUBT_LEAST);
                self.is_trying_denser = false;
            }
        } else if self.left(best) < self.left(self.current) {
            self.is_trying_denser = true;
            if self.is_trying {
                // It was not as fast as assumed, so the next try comes later: each costs the time until the link is seen to bind again.
                self.growth = (self.growth / BACK_OFF).max(GROWTH_LEAST);
                self.is_trying = false;
            }
        }
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

    /// Learns the link's rate from a span: exactly while it binds, else only that it is at least what went through.
    fn learn_link(&mut self, span: LinkFacts) {
        let rate = span.sent_bytes as f64 / span.elapsed.as_secs_f64();
        let mut blocked_share = span.blocked.as_secs_f64() / span.elapsed.as_secs_f64();
        let is_raw = self.current == Codec::Raw.into();
        // Who compresses and still waits has time to spare: there it is the link, however short the waiting.
        let binding_share = if is_raw { BINDING_SHARE } else { BINDING_SHARE_COMPRESSED };
        if is_raw {
            if blocked_share < binding_share {
                self.growth = GROWTH_MOST;
            }
            // Where no core is idle it is the machine that binds, however full the socket looks, unless the link is so slow that compressing
            // for it takes next to nothing; a sender that compresses keeps cores busy itself, which proves nothing.
            // So does one that compressed until a moment ago.
            if !self.is_trying && self.core_share(rate) > CORE_SHARE_ANYWAY {
                blocked_share *= span.spare_cores.min(1.0);
            }
        }
        let binds = blocked_share >= binding_share;
        self.link_rate = match self.link_rate {
            None if binds => Some(rate),
            None => None,
            // What was assumed is wrong, and need not be unlearnt bit by bit.
            Some(_) if binds && self.is_trying => Some(rate),
            Some(known) if binds => Some(blend(known, rate)),
            Some(known) => Some((known * (1.0 + self.growth)).max(rate)),
        };
        if binds {
            self.doubt_denser(span.spare_cores);
        }
    }

    /// The link binds, so there is time for a denser codec, were it as good as assumed: it was measured when the cores had other things to
    /// do, perhaps, or the content was of another kind. The fewer cores are spare, the less there is to doubt.
    fn doubt_denser(&mut self, spare_cores: f64) {
        if self.current == self.densest {
            self.doubt = DOUBT_MOST;
            self.is_trying_denser = false;
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
        self.learn_link(span);
        self.reconsider();
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
/// The same for a sender that spends most of its time on compressing, whether or not the link binds.
const BINDING_SHARE_COMPRESSED: f64 = 0.05;
/// While the link does not bind it may have become faster: its assumed rate grows by this share per span, and by less after each time that
/// it had not, down to doubling in some seconds.
const GROWTH_MOST: f64 = 0.02;
const GROWTH_LEAST: f64 = 0.002;
/// While the link binds, so much of what was measured of denser codecs is given up in each span, and less after each try in vain.
const DOUBT_MOST: f64 = 0.02;
const DOUBT_LEAST: f64 = 0.001;
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
mod tests {
    use super::super::Fixed;
    use super::*;

    const RAW: WireCodec = WireCodec::Alone(Codec::Raw);
    const LZ4: WireCodec = WireCodec::Alone(Codec::Lz4);
    const ZSTD: WireCodec = WireCodec::Alone(Codec::Zstd);
    const LIKELY: ChunkFacts = ChunkFacts { base: Base::Absent, compressible: Compressible::Likely };

    /// A sender with one core and a link: encoding and sending overlap, and whoever is slower sets the pace.
    struct Sender {
        link_rate: f64,
        lz4_rate: f64,
        zstd_rate: f64,
        ratio: f64,
        spare_cores: f64,
    }

    impl Sender {
        /// Sends 1 MiB as the policy says, lets it learn, and says how long it took.
        fn send(&self, policy: &mut Automatic) -> f64 {
            let plain_bytes = 1 << 20;
            let codec = policy.choose(LIKELY);
            let (rate, ratio) = match codec {
                WireCodec::Alone(Codec::Raw | Codec::ZstdPatch) => (20e9, 1.0),
                WireCodec::Alone(Codec::Lz4) => (self.lz4_rate, self.ratio.sqrt()),
                WireCodec::Alone(Codec::Zstd) | WireCodec::ZstdStream => (self.zstd_rate, self.ratio),
            };
            let encoded_bytes = (plain_bytes as f64 * ratio) as u64;
            let (encoding, sending) = (plain_bytes as f64 / rate, encoded_bytes as f64 / self.link_rate);
            let took = Duration::from_secs_f64(encoding);
            policy.handle_encoded(EncodeFacts { codec, plain_bytes, encoded_bytes, took });
            let elapsed = encoding.max(sending);
            policy.handle_link(LinkFacts {
                sent_bytes: encoded_bytes,
                elapsed: Duration::from_secs_f64(elapsed),
                blocked: Duration::from_secs_f64(elapsed - encoding),
                spare_cores: self.spare_cores,
            });
            elapsed
        }

        fn best_plain_rate(&self) -> f64 {
            let lz4 = self.lz4_rate.min(self.link_rate / self.ratio.sqrt());
            let zstd = self.zstd_rate.min(self.link_rate / self.ratio);
            lz4.max(zstd).max(self.link_rate.min(20e9))
        }
    }

    #[track_caller]
    fn check(sender: &Sender, policy: &mut Automatic, expected: &[WireCodec]) {
        let mut changes = 0;
        for _ in 0..3000 {
            sender.send(policy);
        }
        let mut elapsed = 0.0;
        for _ in 0..1000 {
            let before = policy.choose(LIKELY);
            assert!(expected.contains(&before), "{before:?} at {} B/s", sender.link_rate);
            elapsed += sender.send(policy);
            changes += u32::from(policy.choose(LIKELY) != before);
        }
        let rate = 1000.0 * f64::from(1 << 20) / elapsed;
        assert!(rate > 0.8 * sender.best_plain_rate(), "{rate} of {} B/s", sender.best_plain_rate());
        assert!(changes <= 60, "{changes} changes in 1000 chunks");
    }

    /// Of 3000 chunks, the share that goes out in another codec.
    fn share_other_than(codec: WireCodec, sender: &Sender) -> f64 {
        let mut policy = Automatic::new();
        let mut others = 0;
        for _ in 0..3000 {
            others += u32::from(policy.choose(LIKELY) != codec);
            sender.send(&mut policy);
        }
        f64::from(others) / 3000.0
    }

    fn sender(link_rate: f64, ratio: f64) -> Sender {
        Sender { link_rate, lz4_rate: 700e6, zstd_rate: 450e6, ratio, spare_cores: 0.9 }
    }

    #[test]
    fn a_slow_link_gets_zstd_and_a_fast_one_raw_bytes() {
        check(&sender(1e6, 0.4), &mut Automatic::new(), &[ZSTD]);
        check(&sender(125e6, 0.4), &mut Automatic::new(), &[ZSTD]);
        check(&sender(1e9, 0.4), &mut Automatic::new(), &[RAW]);
        check(&sender(40e9, 0.4), &mut Automatic::new(), &[RAW]);
    }

    #[test]
    fn a_receiver_with_a_memory_gets_the_stream_where_others_get_zstd() {
        let policy = || Automatic::for_receiver(CodecSet::ALL);
        check(&sender(1e6, 0.4), &mut policy(), &[WireCodec::ZstdStream]);
        check(&sender(125e6, 0.4), &mut policy(), &[WireCodec::ZstdStream]);
        check(&sender(1e9, 0.4), &mut policy(), &[RAW]);
        let without = CodecSet::of_numbers(&[0, 1, 2, 3]);
        check(&sender(125e6, 0.4), &mut Automatic::for_receiver(without), &[ZSTD]);
    }

    #[test]
    fn a_sender_that_compresses_nearly_all_the_time_and_still_waits_goes_on() {
        let nearly_busy = Sender { link_rate: 58e6, zstd_rate: 150e6, ..sender(58e6, 0.43) };
        check(&nearly_busy, &mut Automatic::new(), &[ZSTD]);
    }

    #[test]
    fn a_link_between_gets_what_brings_most_across() {
        check(&sender(400e6, 0.4), &mut Automatic::new(), &[LZ4, RAW, ZSTD]);
        check(&sender(125e6, 0.98), &mut Automatic::new(), &[RAW, ZSTD, LZ4]);
    }

    #[test]
    fn follows_a_link_that_changes() {
        let mut policy = Automatic::new();
        check(&sender(125e6, 0.4), &mut policy, &[ZSTD]);
        check(&sender(5e9, 0.4), &mut policy, &[RAW]);
        check(&sender(50e6, 0.4), &mut policy, &[ZSTD]);
    }

    #[test]
    fn what_was_slow_while_the_machine_was_busy_is_tried_again() {
        let idle = Sender { link_rate: 60e6, lz4_rate: 300e6, zstd_rate: 200e6, ratio: 0.43, spare_cores: 0.7 };
        let busy = Sender { lz4_rate: 150e6, zstd_rate: 70e6, spare_cores: 0.0, ..idle };
        let mut policy = Automatic::new();
        check(&idle, &mut policy, &[ZSTD]);
        check(&busy, &mut policy, &[LZ4, ZSTD]);
        check(&idle, &mut policy, &[ZSTD]);
    }

    #[test]
    fn what_is_slow_again_and_again_is_tried_seldom() {
        let busy = Sender { link_rate: 60e6, lz4_rate: 200e6, zstd_rate: 50e6, ratio: 0.43, spare_cores: 0.7 };
        assert!(share_other_than(LZ4, &busy) < 0.1);
    }

    #[test]
    fn a_slow_link_gets_zstd_though_no_core_is_idle() {
        let busy = Sender { spare_cores: 0.0, ..sender(2e6, 0.4) };
        check(&busy, &mut Automatic::new(), &[ZSTD]);
    }

    #[test]
    fn a_sender_that_compresses_all_the_time_seldom_tries_whether_the_link_became_faster() {
        // Its core is a little slower than the link, so nothing shows that the link would bind.
        let sender = Sender { link_rate: 65e6, lz4_rate: 200e6, zstd_rate: 130e6, ratio: 0.44, spare_cores: 0.5 };
        assert!(share_other_than(ZSTD, &sender) < 0.01);
    }

    #[test]
    fn what_is_stored_compressed_goes_out_so_until_the_link_is_slower_than_compressing_it_further() {
        let stored = EncodeFacts { codec: LZ4, plain_bytes: 1 << 20, encoded_bytes: 600_000, took: Duration::ZERO };
        for (link_rate, expected) in [(150e6, LZ4), (20e6, WireCodec::ZstdStream)] {
            let mut policy = Automatic::for_receiver(CodecSet::ALL);
            for _ in 0..200 {
                let elapsed = Duration::from_secs_f64(stored.encoded_bytes as f64 / link_rate);
                policy.handle_encoded(stored);
                // A core that others want as well compresses at a third of its pace.
                let dense = EncodeFacts {
                    codec: WireCodec::ZstdStream,
                    encoded_bytes: 400_000,
                    took: Duration::from_millis(8),
                    ..stored
                };
                policy.handle_encoded(dense);
                let sent_bytes = stored.encoded_bytes;
                policy.handle_link(LinkFacts { sent_bytes, elapsed, blocked: elapsed, spare_cores: 0.5 });
            }
            assert_eq!(policy.choose(LIKELY), expected, "{link_rate} B/s");
        }
    }

    #[test]
    fn a_starved_core_hardly_compresses() {
        let starved = Sender { link_rate: 125e6, lz4_rate: 60e6, zstd_rate: 30e6, ratio: 0.4, spare_cores: 0.3 };
        let share = share_other_than(RAW, &starved);
        assert!(share < 0.03, "{share}");
        // What the tries cost stays small.
        check(&starved, &mut Automatic::new(), &[RAW, LZ4, ZSTD]);
    }

    #[test]
    fn where_no_core_is_idle_a_full_socket_is_no_slow_link() {
        let busy = Sender { spare_cores: 0.05, ..sender(125e6, 0.4) };
        let mut policy = Automatic::new();
        for _ in 0..1000 {
            busy.send(&mut policy);
            assert_eq!(policy.choose(LIKELY), RAW);
        }
        // Once it compresses, cores that are busy with that are no reason to stop.
        check(&sender(125e6, 0.4), &mut policy, &[ZSTD]);
        check(&busy, &mut policy, &[ZSTD]);
    }

    #[test]
    fn a_patch_comes_first_on_any_link() {
        for base in [Base::Held, Base::Absent] {
            for compressible in [Compressible::Likely, Compressible::Unlikely] {
                let chunk = ChunkFacts { base, compressible };
                let expected = if base == Base::Held { Codec::ZstdPatch.into() } else { RAW };
                assert_eq!(Automatic::new().choose(chunk), expected);
                assert_eq!(Fixed(Codec::ZstdPatch.into()).choose(chunk), expected);
                assert_eq!(Fixed(ZSTD).choose(chunk), ZSTD);
            }
        }
    }

    #[test]
    fn nothing_measured_harms_nothing() {
        let mut policy = Automatic::new();
        policy.handle_link(NOTHING_SENT);
        let blocked = LinkFacts { elapsed: Duration::from_secs(1), blocked: Duration::from_secs(5), ..NOTHING_SENT };
        policy.handle_link(LinkFacts { spare_cores: f64::INFINITY, ..blocked });
        policy.handle_encoded(EncodeFacts { codec: ZSTD, plain_bytes: 0, encoded_bytes: 0, took: Duration::ZERO });
        assert!(policy.link_rate.is_some_and(f64::is_finite));
        assert!(policy.zstd.plain_bytes_per_second.is_finite());
    }
}
