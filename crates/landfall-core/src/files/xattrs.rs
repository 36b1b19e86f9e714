//! Owns the encoding of a path's extended attributes: the value of its [`super::FileKey::Xattrs`] key.
//!
//! The list is sorted by name and holds each name once, so equal attributes have equal bytes. Beyond
//! [`crate::limits::INLINE_VALUE_BYTES_MAX`] the encoded list is one chunk beside the tree.

use bytes::{Buf, Bytes};

use crate::limits::CHUNK_BYTES_MAX;

/// Longest name of an attribute, with its namespace.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Longest value of an attribute.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 * 1024;
/// Longest encoded list: it must fit a chunk.
pub const XATTRS_BYTES_MAX: usize = CHUNK_BYTES_MAX as usize;

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Its name, with its namespace, without a NUL: `user.comment`.
    pub name: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// Why attributes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("extended attributes are refused: {0}")]
pub struct XattrsError(pub &'static str);

/// The list's bytes: for each attribute the length of its name (two bytes, little endian), the name, the length of its value
/// (four bytes) and the value. Their order is sorted out here.
pub fn encode_xattrs(mut xattrs: Vec<Xattr>) -> Result<Vec<u8>, XattrsError> {
    xattrs.sort();
    if xattrs.windows(2).any(|pair| pair[0].name == pair[1].name) {
        return Err(XattrsError("a name stands twice"));
    }
    let mut out = Vec::new();
    for xattr in &xattrs {
        check(&xattr.name, xattr.value.len())?;
        out.extend_from_slice(&(xattr.name.len() as u16).to_le_bytes());
        out.extend_from_slice(&xattr.name);
        out.extend_from_slice(&(xattr.value.len() as u32).to_le_bytes());
        out.extend_from_slice(&xattr.value);
    }
    if out.len() > XATTRS_BYTES_MAX {
        return Err(XattrsError("together they do not fit a chunk"));
    }
    Ok(out)
}

/// Reads a list that came from outside.
pub fn decode_xattrs(bytes: &Bytes) -> Result<Vec<Xattr>, XattrsError> {
    if bytes.len() > XATTRS_BYTES_MAX {
        return Err(XattrsError("together they do not fit a chunk"));
    }
    let mut rest = bytes.clone();
    let mut xattrs: Vec<Xattr> = Vec::new();
    while !rest.is_empty() {
        let name_bytes = rest.try_get_u16_le().map_err(|_| CUT_SHORT)?;
        let name = take(&mut rest, usize::from(name_bytes))?;
        let value_bytes = rest.try_get_u32_le().map_err(|_| CUT_SHORT)?;
        check(&name, value_bytes as usize)?;
        let value = take(&mut rest, value_bytes as usize)?;
        if xattrs.last().is_some_and(|last| last.name >= name) {
            return Err(XattrsError("the names do not ascend"));
        }
        xattrs.push(Xattr { name, value });
    }
    Ok(xattrs)
}

fn check(name: &[u8], value_bytes: usize) -> Result<(), XattrsError> {
    if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX || name.contains(&0) {
        return Err(XattrsError("a name is empty, longer than 255 bytes or holds a NUL"));
    }
    if value_bytes > XATTR_VALUE_BYTES_MAX {
        return Err(XattrsError("a value is longer than 64 KiB"));
    }
    Ok(())
}

fn take(rest: &mut Bytes, length: usize) -> Result<Bytes, XattrsError> {
    if length > rest.len() {
        return Err(CUT_SHORT);
    }
    Ok(rest.split_to(length))
}

const CUT_SHORT: XattrsError = XattrsError("the list is cut short");

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    fn xattr(name: impl Into<Bytes>, value: impl Into<Bytes>) -> Xattr {
        Xattr { name: name.into(), value: value.into() }
    }

    proptest! {
        #[test]
        fn attributes_survive_their_encoding(attributes in btree_map("[a-z.]{1,20}", vec(any::<u8>(), 0..40), 0..6)) {
            let sorted: Vec<_> = attributes.into_iter().map(|(name, value)| xattr(name, value)).collect();
            let encoded = Bytes::from(encode_xattrs(sorted.iter().rev().cloned().collect()).unwrap());
            prop_assert_eq!(decode_xattrs(&encoded), Ok(sorted));
        }

        #[test]
        fn what_decodes_has_exactly_one_encoding(bytes in vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..40)) {
            if let Ok(xattrs) = decode_xattrs(&bytes.clone().into()) {
                prop_assert_eq!(encode_xattrs(xattrs), Ok(bytes));
            }
        }
    }

    #[test]
    fn the_form_is_frozen() {
        let encoded = encode_xattrs(vec![xattr("user.b", "2"), xattr("user.a", "")]).unwrap();
        assert_eq!(encoded, b"\x06\0user.a\0\0\0\0\x06\0user.b\x01\0\0\x002");
    }

    #[track_caller]
    fn check_refused(xattrs: Vec<Xattr>, reason: &'static str) {
        assert_eq!(encode_xattrs(xattrs), Err(XattrsError(reason)));
    }

    #[test]
    fn what_is_beyond_a_limit_is_refused() {
        let bad_name = "a name is empty, longer than 255 bytes or holds a NUL";
        check_refused(vec![xattr("", "")], bad_name);
        check_refused(vec![xattr("a\0b", "")], bad_name);
        check_refused(vec![xattr(vec![b'a'; 256], "")], bad_name);
        check_refused(vec![xattr("a", vec![0; XATTR_VALUE_BYTES_MAX + 1])], "a value is longer than 64 KiB");
        check_refused(vec![xattr("a", "1"), xattr("a", "2")], "a name stands twice");
        let many = (0..16).map(|index| xattr(format!("a{index}"), vec![0; XATTR_VALUE_BYTES_MAX])).collect();
        check_refused(many, "together they do not fit a chunk");
    }

    #[test]
    fn a_list_that_lies_about_its_lengths_is_refused() {
        let claims_4_gib = Bytes::from_static(b"\x01\0a\xff\xff\xff\xff");
        assert_eq!(decode_xattrs(&claims_4_gib), Err(XattrsError("a value is longer than 64 KiB")));
        for short in [&b"\x01"[..], b"\x05\0a", b"\x01\0a\x01\0\0", b"\x01\0a\x01\0\0\0"] {
            assert_eq!(decode_xattrs(&Bytes::from_static(short)), Err(CUT_SHORT));
        }
    }
}
