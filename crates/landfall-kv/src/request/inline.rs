//! Owns how a line of text is split into arguments, as a person types them into `telnet`: by blanks, with quotes.

/// The arguments of a line; nothing if a quote is not closed, or something follows a closing quote at once.
pub(super) fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut arguments = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let (argument, after) = argument(rest)?;
        arguments.push(argument);
        rest = after.trim_ascii_start();
    }
    Some(arguments)
}

fn argument(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut argument = Vec::new();
    loop {
        match rest {
            [] => return Some((argument, rest)),
            [blank, ..] if blank.is_ascii_whitespace() => return Some((argument, rest)),
            [b'"', after @ ..] => return closed(double_quoted(after, argument)?),
            [b'\'', after @ ..] => return closed(single_quoted(after, argument)?),
            [byte, after @ ..] => {
                argument.push(*byte);
                rest = after;
            }
        }
    }
}

/// After a closing quote the argument ends.
fn closed((argument, rest): (Vec<u8>, &[u8])) -> Option<(Vec<u8>, &[u8])> {
    let ends = rest.first().is_none_or(u8::is_ascii_whitespace);
    ends.then_some((argument, rest))
}

fn single_quoted(mut rest: &[u8], mut argument: Vec<u8>) -> Option<(Vec<u8>, &[u8])> {
    loop {
        match rest {
            [] => return None,
            [b'\\', b'\'', after @ ..] => {
                argument.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return Some((argument, after)),
            [byte, after @ ..] => {
                argument.push(*byte);
                rest = after;
            }
        }
    }
}

fn double_quoted(mut rest: &[u8], mut argument: Vec<u8>) -> Option<(Vec<u8>, &[u8])> {
    loop {
        let (byte, after) = match rest {
            [] => return None,
            [b'"', after @ ..] => return Some((argument, after)),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), after)
            }
            [b'\\', escaped, after @ ..] => (unescaped(*escaped), after),
            [byte, after @ ..] => (*byte, after),
        };
        argument.push(byte);
        rest = after;
    }
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
