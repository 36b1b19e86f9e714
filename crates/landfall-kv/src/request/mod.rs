//! Owns how a stream of bytes is cut into requests. It never looks at what a request means.
//!
//! Requests are cut here and not by the protocol library: they are all one shape, an array of bulk strings, or a line of
//! text that the library does not know; and its decoder allocates before a limit can be checked and descends into nested
//! arrays as deep as a stranger likes. Replies, which have many shapes, are encoded by the library.

mod inline;

use std::ops::Range;

use bytes::Bytes;
use memchr::memchr;
use thiserror::Error;

use crate::limits::{ARGUMENT_BYTES_MAX, ARGUMENTS_MAX, LINE_BYTES_MAX, REQUEST_BYTES_MAX};

/// Why a connection ends: after this nobody knows where the next request would begin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// The count of arguments is not a number, or beyond the limit.
    #[error("invalid multibulk length")]
    ArgumentCount,
    /// The length of an argument is not a number, or beyond the limit.
    #[error("invalid bulk length")]
    ArgumentLength,
    /// Something else stands where an argument should.
    #[error("expected '$', got '{}'", .found.escape_ascii())]
    NoArgument {
        /// What stands there.
        found: u8,
    },
    /// A length line that does not end.
    #[error("too big {line} string")]
    LineTooLong {
        /// Which line.
        line: &'static str,
    },
    /// A line of text that does not end.
    #[error("too big inline request")]
    InlineTooLong,
    /// A quote that is not closed.
    #[error("unbalanced quotes in request")]
    Quotes,
    /// All arguments together are too long.
    #[error("request longer than {REQUEST_BYTES_MAX} bytes")]
    RequestTooLong,
}

/// The arguments of one request, name first. They borrow one buffer, and become `Bytes` of it without a copy.
#[derive(Debug, Clone, Copy)]
pub struct Arguments<'a> {
    bytes: &'a Bytes,
    ranges: &'a [Range<usize>],
}

impl<'a> Arguments<'a> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// The one at `index`, which must be below the count.
    pub fn raw(&self, index: usize) -> &'a [u8] {
        &self.bytes[self.ranges[index].clone()]
    }

    /// The one at `index` with a share of the buffer.
    pub fn get(&self, index: usize) -> Bytes {
        self.bytes.slice(self.ranges[index].clone())
    }

    /// All from `first` on.
    pub fn from(&self, first: usize) -> Arguments<'a> {
        Arguments { bytes: self.bytes, ranges: &self.ranges[first.min(self.ranges.len())..] }
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = Bytes> + use<'a> {
        let Self { bytes, ranges } = *self;
        ranges.iter().map(|range| bytes.slice(range.clone()))
    }
}

/// Finds where requests end, remembering how far it came in one that is not whole yet.
#[derive(Debug, Default)]
pub struct Cutter {
    /// Arguments found so far, as places in the input.
    ranges: Vec<Range<usize>>,
    /// Where to go on in the input.
    at: usize,
    /// Arguments that are still to come; none before the head was read.
    missing: Option<usize>,
    /// The arguments of a line, which differ from its bytes wherever something was quoted.
    line: Option<Bytes>,
}

impl Cutter {
    /// Says how long the first request in `input` is, once all of it is there. Until then `input` may only grow.
    pub fn cut(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        if self.missing.is_none() {
            self.ranges.clear();
            self.line = None;
            self.at = 0;
            match input.first() {
                None => return Ok(None),
                Some(b'*') => {}
                Some(_) => return self.cut_line(input),
            }
        }
        let whole = self.cut_array(input)?;
        if whole.is_some() {
            self.missing = None;
        }
        Ok(whole)
    }

    /// The arguments of the request that was cut last. `request` is its bytes.
    pub fn arguments<'a>(&'a self, request: &'a Bytes) -> Arguments<'a> {
        Arguments { bytes: self.line.as_ref().unwrap_or(request), ranges: &self.ranges }
    }

    fn cut_array(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let mut missing = match self.missing {
            Some(missing) => missing,
            None => match self.read_head(input)? {
                Some(count) => count,
                None => return Ok(None),
            },
        };
        while missing > 0 {
            let Some(range) = self.read_argument(input)? else {
                self.missing = Some(missing);
                return Ok(None);
            };
            self.ranges.push(range);
            missing -= 1;
        }
        Ok(Some(self.at))
    }

    fn read_head(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some((line, next)) = line_at(input, 1, "mbulk count")? else { return Ok(None) };
        let count = length(line).ok_or(ProtocolError::ArgumentCount)?;
        let limit = i64::try_from(ARGUMENTS_MAX).unwrap_or(i64::MAX);
        if count > limit {
            return Err(ProtocolError::ArgumentCount);
        }
        self.at = next;
        // A count below one is a request of nothing, as Redis has it.
        Ok(Some(usize::try_from(count).unwrap_or(0)))
    }

    fn read_argument(&mut self, input: &[u8]) -> Result<Option<Range<usize>>, ProtocolError> {
        match input.get(self.at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(found) => return Err(ProtocolError::NoArgument { found: *found }),
        }
        let Some((line, start)) = line_at(input, self.at + 1, "bulk count")? else { return Ok(None) };
        let length = length(line).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= ARGUMENT_BYTES_MAX).ok_or(ProtocolError::ArgumentLength)?;
        let end = start + length;
        if end + LINE_END > REQUEST_BYTES_MAX {
            return Err(ProtocolError::RequestTooLong);
        }
        if input.len() < end + LINE_END {
            return Ok(None);
        }
        self.at = end + LINE_END;
        Ok(Some(start..end))
    }

    fn cut_line(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some(end) = memchr(b'\n', &input[..input.len().min(LINE_BYTES_MAX)]) else {
            let too_long = input.len() >= LINE_BYTES_MAX;
            return if too_long { Err(ProtocolError::InlineTooLong) } else { Ok(None) };
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        let arguments = inline::split(line).ok_or(ProtocolError::Quotes)?;
        let mut joined = Vec::with_capacity(line.len());
        for argument in arguments {
            let start = joined.len();
            joined.extend_from_slice(&argument);
            self.ranges.push(start..joined.len());
        }
        self.line = Some(joined.into());
        Ok(Some(end + 1))
    }
}

const LINE_END: usize = 2;

/// The line that begins at `at`, and where the next one begins.
fn line_at<'a>(input: &'a [u8], at: usize, line: &'static str) -> Result<Option<(&'a [u8], usize)>, ProtocolError> {
    let rest = &input[at..];
    // However much of the input is here already: the network must not decide what is too long.
    match memchr(b'\r', &rest[..rest.len().min(LINE_BYTES_MAX + 1)]) {
        Some(end) if end + LINE_END <= rest.len() => Ok(Some((&rest[..end], at + end + LINE_END))),
        None if rest.len() > LINE_BYTES_MAX => Err(ProtocolError::LineTooLong { line }),
        _ => Ok(None),
    }
}

/// A decimal number with nothing around it.
fn length(line: &[u8]) -> Option<i64> {
    if let [digit @ b'0'..=b'9'] = line {
        return Some(i64::from(digit - b'0'));
    }
    crate::command::integer(line)
}

#[cfg(test)]
mod tests;
