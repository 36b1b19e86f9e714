//! Owns the TLS 1.3 record layer: sealing and opening single records with the keys that rustls derived.
//!
//! RFC 8446 §5. rustls does the handshake, checks certificates and derives every key; only the bulk work is here,
//! for two measured reasons. Each direction has its own key, so the two halves of a connection never wait for each
//! other; and records are sealed from the caller's bytes and opened into the frame buffer, with no copy between.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

/// What a record carries inside its encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Content {
    Alert = 21,
    Handshake = 22,
    Application = 23,
}

/// Length of what stands before the encrypted part of a record.
pub(crate) const HEADER_BYTES: usize = 5;
/// Most plaintext in one record.
pub(crate) const PLAINTEXT_BYTES_MAX: usize = 16 * 1024;
/// Length of the longest record that this side makes: it never pads.
pub(crate) const SEALED_BYTES_MAX: usize = HEADER_BYTES + PLAINTEXT_BYTES_MAX + TRAILER_BYTES;
/// Length of the longest encrypted part that is accepted, header excluded.
pub(crate) const ENCRYPTED_BYTES_MAX: usize = PLAINTEXT_BYTES_MAX + 256;
/// Records sealed with one key before it is renewed.
///
/// RFC 8446 §5.5 allows AES-GCM 2^24.5 full records; half a million costs nothing, and keeps renewal a common event.
pub(crate) const RECORDS_PER_KEY_MAX: u64 = 1 << 19;

const TAG_BYTES: usize = 16;
/// The content type and the tag.
const TRAILER_BYTES: usize = 1 + TAG_BYTES;

/// A key of one direction, with the number of the next record.
pub(crate) struct RecordKey {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

/// Why a record is not what the peer sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadRecord(pub(crate) &'static str);

impl RecordKey {
    /// The key of `secrets`, of which `sequence` records were used already.
    pub(crate) fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, BadRecord> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(BadRecord("a cipher suite that was never offered")),
        };
        let unusable = BadRecord("keys of a length that the cipher suite does not have");
        let unbound = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| unusable)?;
        let iv = iv.as_ref().try_into().map_err(|_| unusable)?;
        Ok(Self { key: LessSafeKey::new(unbound), iv, sequence })
    }

    /// Records sealed or opened with this key so far.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Seals `plaintext` into the front of `record` and returns the length of the record.
    pub(crate) fn seal(&mut self, content: Content, plaintext: &[u8], record: &mut [u8]) -> usize {
        let (header, body, trailer) = split(record, plaintext.len());
        let (nonce, aad) = (self.nonce(), Aad::from(*header));
        self.key
            .seal_out_of_place_scatter(nonce, aad, plaintext, body, &[content as u8], trailer)
            .expect("a record within the limits can be sealed");
        HEADER_BYTES + plaintext.len() + TRAILER_BYTES
    }

    /// Seals the `plaintext_bytes` that stand in `record` after the room for its header.
    pub(crate) fn seal_in_place(&mut self, content: Content, record: &mut [u8], plaintext_bytes: usize) -> usize {
        let (header, body, trailer) = split(record, plaintext_bytes);
        let (nonce, aad) = (self.nonce(), Aad::from(*header));
        self.key
            .seal_in_place_scatter(nonce, aad, body, &[content as u8], trailer)
            .expect("a record within the limits can be sealed");
        HEADER_BYTES + plaintext_bytes + TRAILER_BYTES
    }

    /// Opens a record into the front of `plaintext`; returns what it carries, and how many bytes.
    ///
    /// `plaintext` needs [`opened_bytes_max`] bytes of room. Where the tag is wrong, nothing in it means anything.
    pub(crate) fn open(
        &mut self,
        header: [u8; HEADER_BYTES],
        encrypted: &[u8],
        plaintext: &mut [u8],
    ) -> Result<(Content, usize), BadRecord> {
        let (ciphertext, tag) =
            encrypted.split_at_checked(opened_bytes_max(encrypted.len())).ok_or(BadRecord("a record without a tag"))?;
        let plaintext = &mut plaintext[..ciphertext.len()];
        let nonce = self.nonce();
        self.key
            .open_separate_gather(nonce, Aad::from(header), ciphertext, tag, plaintext)
            .map_err(|_| BadRecord("a record was changed on the way"))?;
        let end = plaintext.iter().rposition(|byte| *byte != 0).ok_or(BadRecord("a record without content type"))?;
        if end > PLAINTEXT_BYTES_MAX {
            return Err(BadRecord("a record longer than TLS allows"));
        }
        let content = match plaintext[end] {
            21 => Content::Alert,
            22 => Content::Handshake,
            23 => Content::Application,
            _ => return Err(BadRecord("a record of an unknown content type")),
        };
        Ok((content, end))
    }

    /// The nonce of the next record, RFC 8446 §5.3. It never repeats: the number only grows, and a key is renewed
    /// long before it could wrap.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence = self.sequence.checked_add(1).expect("a key is renewed before 2^64 records");
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Room that opening a record with this much encrypted needs.
pub(crate) fn opened_bytes_max(encrypted_bytes: usize) -> usize {
    encrypted_bytes.saturating_sub(TAG_BYTES)
}

/// Length of the encrypted part that `header` declares.
pub(crate) fn encrypted_bytes(header: [u8; HEADER_BYTES]) -> Result<usize, BadRecord> {
    let [content, _, _, high, low] = header;
    // After the handshake every record is encrypted, and looks like application data from outside.
    if content != Content::Application as u8 {
        return Err(BadRecord("bytes that are not an encrypted TLS record"));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > ENCRYPTED_BYTES_MAX || length <= TAG_BYTES {
        return Err(BadRecord("a record of a length that TLS does not allow"));
    }
    Ok(length)
}

/// Writes the header of a record and returns it with the places of body and trailer.
fn split(record: &mut [u8], plaintext_bytes: usize) -> (&[u8; HEADER_BYTES], &mut [u8], &mut [u8]) {
    assert!(plaintext_bytes <= PLAINTEXT_BYTES_MAX, "a record of {plaintext_bytes} bytes");
    let (header, rest) = record.split_first_chunk_mut().expect("room for a record");
    let (body, rest) = rest.split_at_mut(plaintext_bytes);
    let length = (plaintext_bytes + TRAILER_BYTES) as u16;
    *header = [Content::Application as u8, 3, 3, 0, 0];
    header[3..].copy_from_slice(&length.to_be_bytes());
    (header, body, &mut rest[..TRAILER_BYTES])
}

const _: () = assert!(ENCRYPTED_BYTES_MAX < u16::MAX as usize && RECORDS_PER_KEY_MAX < 1 << 24);
