//! Owns how results look: text for people, one JSON object per line for programs, amounts in units that people read.

use std::io::{self, BufWriter, Stdout, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Who reads the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// People.
    Text,
    /// Programs.
    Json,
}

/// Where results go.
pub(crate) struct Output {
    format: Format,
    stdout: BufWriter<Stdout>,
}

impl Output {
    /// Results in `format` on stdout.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, stdout: BufWriter::new(io::stdout()) }
    }

    /// Who reads it.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Prints a result: `text` for people, `value` for programs. It leaves at once.
    pub(crate) fn result(&mut self, value: &impl Serialize, text: impl FnOnce() -> String) {
        self.row(value, text);
        self.finish();
    }

    /// Prints one of many results; it leaves with the others.
    pub(crate) fn row(&mut self, value: &impl Serialize, text: impl FnOnce() -> String) {
        let line = match self.format {
            Format::Text => text(),
            Format::Json => serde_json::to_string(value).expect("results are plain data"),
        };
        written(writeln!(self.stdout, "{line}"));
    }

    /// Says something to people only.
    pub(crate) fn say(&mut self, text: impl AsRef<str>) {
        if self.format == Format::Text {
            written(writeln!(self.stdout, "{}", text.as_ref()));
            self.finish();
        }
    }

    /// Hands everything printed so far to the system.
    pub(crate) fn finish(&mut self) {
        written(self.stdout.flush());
    }

    /// Prints why the verb failed: on stderr for people, as the last line of stdout too for programs.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        if self.format == Format::Json {
            self.result(&serde_json::json!({ "error": failure }), String::new);
        }
        eprintln!("error: {failure}");
    }
}

/// Ends the process quietly where nobody reads on, as in `landfall ls | head`.
fn written(result: io::Result<()>) {
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("error: cannot write to stdout: {error}");
            std::process::exit(i32::from(crate::failure::EXIT_FAILED));
        }
    }
}

/// An amount of bytes with three digits: `1.23 GB`. Units are powers of 1000.
pub(crate) fn bytes(amount: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if amount < 1000 {
        return format!("{amount} B");
    }
    let mut scaled = amount as f64 / 1000.0;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    format!("{} {}", three_digits(scaled), UNITS[unit])
}

/// Bytes per second.
pub(crate) fn rate(amount: u64, seconds: f64) -> String {
    format!("{}/s", bytes((amount as f64 / seconds.max(1e-9)) as u64))
}

/// A duration with three digits: `0.532 s`, `14.1 s`, `3 min 20 s`.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 0.0995 {
        return format!("{} ms", three_digits(seconds * 1000.0));
    }
    if seconds < 119.5 {
        return format!("{} s", three_digits(seconds));
    }
    let whole = seconds.round() as u64;
    match whole / 60 {
        minutes if minutes < 60 => format!("{minutes} min {} s", whole % 60),
        minutes => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

/// A count with its digits in groups: `12 034`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// A count and what it counts: `1 file`, `12 034 files`.
pub(crate) fn counted(number: u64, singular: &str) -> String {
    format!("{} {singular}{}", count(number), if number == 1 { "" } else { "s" })
}

/// How many times `larger` is `smaller`: `27×`, or `-` where that says nothing.
pub(crate) fn ratio(larger: u64, smaller: u64) -> String {
    if smaller == 0 {
        return "-".to_owned();
    }
    format!("{}×", three_digits(larger as f64 / smaller as f64))
}

/// How much of `whole` `part` is: `2.4 %`, or `-` where that says nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{} %", three_digits(part as f64 * 100.0 / whole as f64))
}

/// A path as text: bytes that are not UTF-8, control characters and backslashes as `\xNN`, so that a line stays one line.
pub(crate) fn path(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for piece in bytes.utf8_chunks() {
        for character in piece.valid().chars() {
            match character {
                '\\' => text.push_str("\\x5c"),
                control if control.is_control() => {
                    let mut encoded = [0; 4];
                    escape(control.encode_utf8(&mut encoded).as_bytes(), &mut text);
                }
                other => text.push(other),
            }
        }
        escape(piece.invalid(), &mut text);
    }
    text
}

fn escape(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        text.push_str(&format!("\\x{byte:02x}"));
    }
}

fn three_digits(number: f64) -> String {
    match number {
        large if large >= 99.95 => format!("{large:.0}"),
        middle if middle >= 9.995 => format!("{middle:.1}"),
        small => format!("{small:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cases: &[(String, &str)]) {
        for (actual, expected) in cases {
            assert_eq!(actual, expected);
        }
    }

    #[test]
    fn amounts_have_three_digits_at_every_size() {
        check(&[
            (bytes(0), "0 B"),
            (bytes(999), "999 B"),
            (bytes(1000), "1.00 kB"),
            (bytes(12_345), "12.3 kB"),
            (bytes(999_499), "999 kB"),
            (bytes(999_500), "1.00 MB"),
            (bytes(1_234_567_890), "1.23 GB"),
            (bytes(u64::MAX), "18.4 EB"),
        ]);
    }

    #[test]
    fn durations_use_the_unit_that_people_would() {
        check(&[
            (seconds(0.0123), "12.3 ms"),
            (seconds(0.5), "0.50 s"),
            (seconds(14.13), "14.1 s"),
            (seconds(200.0), "3 min 20 s"),
            (seconds(7260.0), "2 h 1 min"),
        ]);
    }

    #[test]
    fn counts_are_grouped_and_ratios_never_divide_by_zero() {
        check(&[
            (count(7), "7"),
            (count(12_034), "12 034"),
            (count(1_000_000), "1 000 000"),
            (counted(1, "file"), "1 file"),
            (counted(2, "file"), "2 files"),
            (ratio(270, 10), "27.0×"),
            (ratio(270, 0), "-"),
        ]);
    }

    #[test]
    fn names_that_are_not_text_stay_one_line_and_can_be_told_apart() {
        check(&[
            (path("größe.db".as_bytes()), "größe.db"),
            (path(b"bad\xff\xfename"), "bad\\xff\\xfename"),
            (path(b"new\nline"), "new\\x0aline"),
            (path(b"back\\slash"), "back\\x5cslash"),
        ]);
    }
}
