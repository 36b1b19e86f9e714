//! Owns the rule that says how a file is cut.

use bytes::Bytes;

use crate::files::Content;
use crate::limits::{INLINE_FILE_BYTES_MAX, WHOLE_FILE_BYTES_MAX};

/// How a file of `size` bytes that begins with `head` is cut.
///
/// `head` holds the whole file up to [`INLINE_FILE_BYTES_MAX`] and its first [`MAGIC_BYTES`] at least beyond that.
/// `previous` is how it was cut last: a file that stays large keeps its way, so that its snapshots share their chunks.
pub fn decide_content(size: u64, head: &Bytes, previous: Option<&Content>) -> Content {
    if size <= u64::from(INLINE_FILE_BYTES_MAX) {
        return Content::Inline(head.slice(..(size as usize).min(head.len())));
    }
    if size <= u64::from(WHOLE_FILE_BYTES_MAX) {
        return Content::Whole;
    }
    match previous {
        Some(Content::Pages) => Content::Pages,
        Some(Content::ContentDefined) => Content::ContentDefined,
        _ if is_page_store(size, head) => Content::Pages,
        _ => Content::ContentDefined,
    }
}

fn is_page_store(size: u64, head: &[u8]) -> bool {
    PAGE_STORE_MAGICS.iter().any(|magic| head.starts_with(magic)) || size.is_multiple_of(PAGE_BYTES)
}

/// Is every byte zero? Such a chunk is a hole and is neither stored nor sent.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, tail) = bytes.as_chunks::<128>();
    blocks.iter().all(|block| block.iter().fold(0, |seen, byte| seen | byte) == 0) && tail.iter().all(|&byte| byte == 0)
}

/// How many of a file's first bytes the rule looks at.
pub const MAGIC_BYTES: usize = 16;

/// SQLite and qcow2.
const PAGE_STORE_MAGICS: [&[u8]; 2] = [b"SQLite format 3\0", b"QFI\xfb"];
const PAGE_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(size: u64, head: &'static [u8], previous: Option<Content>, expected: Content) {
        assert_eq!(decide_content(size, &Bytes::from_static(head), previous.as_ref()), expected);
    }

    #[test]
    fn the_length_decides_first() {
        check(0, b"", None, Content::Inline(Bytes::new()));
        check(3, b"abc", Some(Content::Whole), Content::Inline(Bytes::from_static(b"abc")));
        check(1985, b"SQLite format 3\0", None, Content::Whole);
        check(128 * 1024, b"SQLite format 3\0", Some(Content::Pages), Content::Whole);
    }

    #[test]
    fn page_stores_are_known_by_magic_or_by_length() {
        check(200_000, b"SQLite format 3\0", None, Content::Pages);
        check(200_000, b"QFI\xfb\0\0\0\x03", None, Content::Pages);
        check(4096 * 50, b"anything", None, Content::Pages);
        check(4096 * 50 + 1, b"anything", None, Content::ContentDefined);
    }

    #[test]
    fn a_large_file_keeps_its_way() {
        check(4096 * 50, b"log", Some(Content::ContentDefined), Content::ContentDefined);
        check(4096 * 50 + 1, b"log", Some(Content::Pages), Content::Pages);
        check(4096 * 50, b"log", Some(Content::Whole), Content::Pages);
    }

    #[test]
    fn one_set_bit_anywhere_is_not_zero() {
        for length in [0, 1, 127, 128, 129, 4096, 65536] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in [0, length / 2, length.saturating_sub(1)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 0x10;
                    assert!(!is_zero(&bytes));
                    bytes[at] = 0;
                }
            }
        }
    }
}
