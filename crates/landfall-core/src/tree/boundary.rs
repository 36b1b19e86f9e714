//! Owns the rule that says where a node ends. The rule is part of the format: it never changes within a format byte.
//!
//! It never sees a value, only its length: an update that keeps the length moves no boundary.

use siphasher::sip::SipHasher13;

use super::Salt;

/// A node shorter than this never closes.
pub(super) const NODE_BYTES_MIN: usize = 2 * 1024;
/// A node of at least this length always closes.
pub(super) const NODE_BYTES_CLOSE: usize = 64 * 1024;

/// Decides, for the nodes of one level, after which entry a node closes.
///
/// The length of a node follows a Weibull distribution with shape 4 and mean 16 KiB, as in Dolt's prolly trees: nodes
/// are nearly equal in length, and the decision needs nothing but the length so far and a hash of the key.
#[derive(Debug, Clone)]
pub(super) struct Boundary {
    key_hash: SipHasher13,
}

impl Boundary {
    /// Every level has its own hash key, so that the keys that close leaves do not close the nodes above them too.
    pub(super) fn new(salt: Salt, level: u8) -> Self {
        let salted = SipHasher13::new_with_key(&salt.0);
        Self { key_hash: SipHasher13::new_with_keys(salted.hash(&[level, 0]), salted.hash(&[level, 1])) }
    }

    /// Whether a node of `node_bytes` closes after its last entry, which added `entry_bytes` and has `key`.
    pub(super) fn closes(&self, node_bytes: usize, entry_bytes: usize, key: &[u8]) -> bool {
        if node_bytes < NODE_BYTES_MIN {
            return false;
        }
        if node_bytes >= NODE_BYTES_CLOSE {
            return true;
        }
        let chance = u64::from(CLOSE_RATES[node_bytes / STEP_BYTES]) * entry_bytes as u64;
        chance > self.key_hash.hash(key) >> 32
    }
}

/// Node lengths that share one rate.
const STEP_BYTES: usize = 64;
const STEPS: usize = NODE_BYTES_CLOSE / STEP_BYTES;

/// The chance, in units of 2^-32 per byte added, that a node of this many steps closes.
static CLOSE_RATES: [u32; STEPS] = close_rates();

/// The hazard of a Weibull distribution with shape 4 is a cubic, so integers give it exactly: in the middle of step `i`
/// it is `2^32 * 4 * (64 i + 32)^3 / scale^4 = (2 i + 1)^3 * 2^32 * 4 * 32^3 / scale^4`, with
/// `scale = 16384 / gamma(5/4)`. Floating point would let two machines disagree about a tree.
const fn close_rates() -> [u32; STEPS] {
    /// `2^32 * 4 * 32^3 / scale^4`, in units of 2^-40.
    const FACTOR: u64 = 5_797_946_342;
    let mut rates = [0; STEPS];
    let mut step = 0;
    while step < STEPS {
        let odd = 2 * step as u64 + 1;
        let scaled = (odd * odd * odd) as u128 * FACTOR as u128;
        rates[step] = (scaled >> 40) as u32;
        step += 1;
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    /// gamma(5/4).
    const GAMMA: f64 = 0.906_402_477_055_477;

    #[test]
    fn rates_are_frozen() {
        let bytes: Vec<u8> = CLOSE_RATES.iter().flat_map(|rate| rate.to_le_bytes()).collect();
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "c357ee30503e21f8feda6ad9acec69d10d94734a1b0b0d9a696845821ef1d6d1"
        );
        assert_eq!((CLOSE_RATES[32], CLOSE_RATES[256], CLOSE_RATES[1023]), (1_448, 711_912, 45_230_135));
    }

    #[test]
    fn decisions_are_frozen() {
        let decide = |salt, level| {
            let boundary = Boundary::new(salt, level);
            let decisions = (0_u32..64).map(|key| boundary.closes(24_000, 700, &key.to_be_bytes()));
            decisions.fold(0_u64, |bits, closes| bits << 1 | u64::from(closes))
        };
        assert_eq!(decide(Salt::PUBLIC, 0), 0x421b_49a5_8440_0444);
        assert_eq!(decide(Salt::PUBLIC, 1), 0x4016_4046_c020_0507);
        assert_eq!(decide(Salt([7; 16]), 0), 0x418c_2980_7c4c_4011);
    }

    #[test]
    fn rates_are_the_hazard_of_a_weibull_with_mean_16_kib() {
        let scale = 16384.0 / GAMMA;
        for (step, rate) in CLOSE_RATES.iter().enumerate() {
            let bytes = (step * STEP_BYTES + STEP_BYTES / 2) as f64;
            let hazard = 4.0 * bytes.powi(3) / scale.powi(4) * 4_294_967_296.0;
            assert!((f64::from(*rate) - hazard).abs() <= 1.0 + hazard * 1e-9, "step {step}: {rate}, not {hazard}");
        }
    }
}
