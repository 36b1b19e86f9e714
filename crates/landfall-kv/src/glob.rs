//! Owns Redis' patterns: `*`, `?`, `[a-z]`, `[^x]` and `\`. It takes time in proportion to pattern times text at worst.

/// Does all of `text` look like `pattern`?
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_folded(pattern, text, |byte| byte)
}

/// The same, with letters of either size alike.
pub fn matches_any_case(pattern: &[u8], text: &[u8]) -> bool {
    matches_folded(pattern, text, |byte| byte.to_ascii_lowercase())
}

fn matches_folded(mut pattern: &[u8], mut text: &[u8], fold: fn(u8) -> u8) -> bool {
    // After a mismatch it is enough to let the last star take one byte more: what stands before it has matched.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', after @ ..] = pattern {
            star = Some((after, text));
            pattern = after;
            continue;
        }
        if let Some((byte, rest)) = text.split_first() {
            if let Some(after) = one(pattern, fold(*byte), fold) {
                (pattern, text) = (after, rest);
                continue;
            }
        } else if pattern.is_empty() {
            return true;
        }
        match star {
            Some((after, [_, rest @ ..])) => {
                star = Some((after, rest));
                (pattern, text) = (after, rest);
            }
            _ => return false,
        }
    }
}

/// What is left of the pattern after it took one byte; nothing if it does not take it.
fn one(pattern: &[u8], byte: u8, fold: fn(u8) -> u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', after @ ..] => Some(after),
        [b'[', set @ ..] => {
            let (found, after) = in_set(set, byte, fold);
            found.then_some(after)
        }
        [b'\\', literal, after @ ..] | [literal, after @ ..] => (fold(*literal) == byte).then_some(after),
    }
}

/// Is the byte in the set, and what follows the set? A set that is not closed ends with the pattern.
fn in_set(mut set: &[u8], byte: u8, fold: fn(u8) -> u8) -> (bool, &[u8]) {
    let negated = set.first() == Some(&b'^');
    if negated {
        set = &set[1..];
    }
    let mut found = false;
    loop {
        set = match set {
            [] => return (found != negated, set),
            [b']', after @ ..] => return (found != negated, after),
            [b'\\', literal, after @ ..] => {
                found |= fold(*literal) == byte;
                after
            }
            [low, b'-', high, after @ ..] => {
                let (low, high) = (fold(*low.min(high)), fold(*low.max(high)));
                found |= (low..=high).contains(&byte);
                after
            }
            [literal, after @ ..] => {
                found |= fold(*literal) == byte;
                after
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        for text in matching {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} should match {text}");
        }
        for text in others {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} should not match {text}");
        }
    }

    #[test]
    fn patterns_mean_what_they_mean_to_redis() {
        check("*", &["", "a", "ab"], &[]);
        check("h?llo", &["hello", "hallo"], &["hllo", "heello"]);
        check("h*llo", &["hllo", "heeeello"], &["hell"]);
        check("h[ae]llo", &["hello", "hallo"], &["hillo", "hllo"]);
        check("h[^e]llo", &["hallo"], &["hello"]);
        check("h[a-b]llo", &["hallo", "hbllo"], &["hcllo"]);
        check("h[b-a]llo", &["hallo"], &["hcllo"]);
        check("a\\*b", &["a*b"], &["axb"]);
        check("[\\]]", &["]"], &["a"]);
        check("user:*:name", &["user:1:name", "user::name"], &["user:1:names", "user:name"]);
        check("a*b*c", &["abc", "a-b-b-c"], &["acb"]);
        check("[a", &["a"], &["b"]);
        check("", &[""], &["a"]);
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let pattern = "a*".repeat(60) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(4000).as_bytes()));
    }

    #[test]
    fn settings_are_found_in_either_case() {
        assert!(matches_any_case(b"MAX*", b"maxmemory"));
        assert!(matches_any_case(b"[M-N]ax*", b"maxmemory"));
    }
}
