//! Owns how a verb fails: one line that says what, the causes below it, and what to do next.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The verb could not do its work, or found something damaged.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Ctrl-C; shells expect 128 and the number of the signal.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Why a verb failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// One line.
    pub(crate) what: String,
    /// From the nearest cause to the first.
    #[serde(default)]
    pub(crate) causes: Vec<String>,
    /// What the reader may do about it.
    #[serde(default)]
    pub(crate) next: Option<String>,
    #[serde(skip)]
    kind: Kind,
}

/// What a failure means to whoever started the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    #[default]
    Failed,
    Interrupted,
}

impl Failure {
    /// A failure without a cause.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), causes: Vec::new(), next: None, kind: Kind::Failed }
    }

    /// Ctrl-C.
    pub(crate) fn interrupted(what: impl Into<String>) -> Self {
        Self { kind: Kind::Interrupted, ..Self::new(what) }
    }

    /// An answer to another question: server and verb are of different versions.
    pub(crate) fn unexpected_answer() -> Self {
        Self::new("the server answered something else").next("restart `landfall serve` with this version")
    }

    /// An error that says by itself what failed.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        Self::new(error.to_string()).with_causes(error.source())
    }

    /// Adds an error and everything below it as causes.
    pub(crate) fn because(self, error: &(dyn Error + 'static)) -> Self {
        self.with_causes(Some(error))
    }

    /// Adds what to do about it.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// What the process exits with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Failed => EXIT_FAILED,
            Kind::Interrupted => EXIT_INTERRUPTED,
        }
    }

    fn with_causes(mut self, mut cause: Option<&(dyn Error + 'static)>) -> Self {
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors repeat their source in their own text.
            let told = |told: &String| told.contains(&text);
            if !told(&self.what) && !self.causes.iter().any(told) {
                self.causes.push(text);
            }
            cause = error.source();
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        for cause in &self.causes {
            write!(f, "\n  because: {cause}")?;
        }
        match &self.next {
            Some(next) => write!(f, "\n  next: {next}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    fn chain(texts: &[&'static str]) -> Link {
        let source = (texts.len() > 1).then(|| Box::new(chain(&texts[1..])));
        Link { text: texts[0], source }
    }

    #[track_caller]
    fn check(texts: &[&'static str], expected: &str) {
        assert_eq!(Failure::of(&chain(texts)).next("try again").to_string(), expected);
    }

    #[test]
    fn says_what_then_every_cause_then_what_to_do() {
        check(
            &["no copy", "no space", "disk full"],
            "no copy\n  because: no space\n  because: disk full\n  next: try again",
        );
    }

    #[test]
    fn does_not_repeat_a_cause_that_the_error_already_told() {
        check(&["no copy: disk full", "disk full"], "no copy: disk full\n  next: try again");
    }
}
