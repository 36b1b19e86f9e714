use std::cell::Cell;

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
    /// How long each tenth chunk waits for no reason of the link's.
    stray_wait: Duration,
    sent: Cell<u32>,
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
        self.sent.set(self.sent.get() + 1);
        let waiting = if self.sent.get().is_multiple_of(10) { self.stray_wait.as_secs_f64() } else { 0.0 };
        let elapsed = encoding.max(sending) + waiting;
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
    Sender {
        link_rate,
        lz4_rate: 700e6,
        zstd_rate: 450e6,
        ratio,
        spare_cores: 0.9,
        stray_wait: Duration::ZERO,
        sent: Cell::new(0),
    }
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
    let idle = Sender { lz4_rate: 300e6, zstd_rate: 200e6, spare_cores: 0.7, ..sender(60e6, 0.43) };
    let busy = Sender { lz4_rate: 150e6, zstd_rate: 70e6, spare_cores: 0.0, ..sender(60e6, 0.43) };
    let mut policy = Automatic::new();
    check(&idle, &mut policy, &[ZSTD]);
    check(&busy, &mut policy, &[LZ4, ZSTD]);
    check(&idle, &mut policy, &[ZSTD]);
}

#[test]
fn what_is_slow_again_and_again_is_tried_seldom() {
    let busy = Sender { lz4_rate: 200e6, zstd_rate: 50e6, spare_cores: 0.7, ..sender(60e6, 0.43) };
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
    let sender = Sender { lz4_rate: 200e6, zstd_rate: 130e6, spare_cores: 0.5, ..sender(65e6, 0.44) };
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
    let starved = Sender { lz4_rate: 60e6, zstd_rate: 30e6, spare_cores: 0.3, ..sender(125e6, 0.4) };
    let share = share_other_than(RAW, &starved);
    assert!(share < 0.03, "{share}");
    // What the tries cost stays small.
    check(&starved, &mut Automatic::new(), &[RAW, LZ4, ZSTD]);
}

#[test]
fn a_starved_core_that_waits_now_and_then_does_not_take_that_for_a_slow_link() {
    for millis in [1, 2, 5] {
        let stray_wait = Duration::from_millis(millis);
        let starved = Sender { lz4_rate: 60e6, zstd_rate: 30e6, spare_cores: 0.3, stray_wait, ..sender(125e6, 0.4) };
        let share = share_other_than(RAW, &starved);
        assert!(share < 0.03, "{share} with {millis} ms");
    }
}

#[test]
fn a_denser_codec_comes_back_within_a_minute_however_often_it_was_tried_in_vain() {
    let idle = || Sender { lz4_rate: 300e6, zstd_rate: 200e6, spare_cores: 0.7, ..sender(60e6, 0.43) };
    let busy = Sender { lz4_rate: 200e6, zstd_rate: 50e6, ..idle() };
    let mut policy = Automatic::new();
    for _ in 0..10_000 {
        busy.send(&mut policy);
    }
    assert!(policy.doubt <= 2.0 * DOUBT_LEAST, "{}", policy.doubt);
    let (idle, mut elapsed) = (idle(), 0.0);
    while policy.choose(LIKELY) != ZSTD {
        elapsed += idle.send(&mut policy);
        assert!(elapsed < 60.0);
    }
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
    assert!(policy.link.is_some_and(|link| link.assumed.is_finite()));
    assert!(policy.zstd.plain_bytes_per_second.is_finite());
}
