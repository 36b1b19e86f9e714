//! Owns questions to the kernel about a TCP sender: who held it back, the network or the receiver? What waits?

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Time in which the receiver's window held the sender back; nothing where the kernel does not say.
///
/// `tcpi_rwnd_limited` of `struct tcp_info` (Linux 4.9), in microseconds.
pub(crate) fn receiver_limited(socket: impl AsFd) -> Duration {
    Duration::from_micros(field(socket, RWND_LIMITED_AT).map_or(0, u64::from_ne_bytes))
}

/// Bytes that were written and never sent so far; nothing where the kernel does not say.
///
/// `tcpi_notsent_bytes` of `struct tcp_info` (Linux 4.6).
pub(crate) fn unsent_bytes(socket: impl AsFd) -> u64 {
    field(socket, NOTSENT_BYTES_AT).map_or(0, |bytes| u32::from_ne_bytes(bytes).into())
}

/// A field of `struct tcp_info`, which only ever grows at its end.
fn field<const BYTES: usize>(socket: impl AsFd, at: usize) -> Option<[u8; BYTES]> {
    let mut info = [0u8; INFO_BYTES];
    let mut length = INFO_BYTES as libc::socklen_t;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes to `info`, which lives through the call, and the new length to `length`.
    let result = unsafe {
        libc::getsockopt(descriptor, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return None;
    }
    info.get(..length as usize)?.get(at..)?.first_chunk().copied()
}

/// Enough for the fields, whatever follows them.
const INFO_BYTES: usize = 192;
/// 8 bytes of small fields, 24 words, then pacing (2 × 8), bytes (2 × 8), segments and such (6 × 4), rate and busy time (2 × 8).
const NOTSENT_BYTES_AT: usize = 8 + 24 * 4 + 16 + 16 + 8;
const RWND_LIMITED_AT: usize = 8 + 24 * 4 + 16 + 16 + 24 + 16;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_receiver_that_does_not_read_is_what_holds_the_sender_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_receiver, _) = listener.accept().unwrap();
        assert_eq!((receiver_limited(&sender), unsent_bytes(&sender)), (Duration::ZERO, 0));
        sender.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        while sender.write(&[0; 64 * 1024]).is_ok() {}
        assert!(receiver_limited(&sender) > Duration::ZERO && unsent_bytes(&sender) > 0);
    }
}
