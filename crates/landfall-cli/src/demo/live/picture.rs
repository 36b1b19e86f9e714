//! Owns the live picture: some lines on a terminal that are drawn again and again, a line per second where nobody draws.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::samples::Summary;
use super::status::JoinFigures;
use crate::output::{self, Format};
use crate::progress;

/// What is going on at one moment.
#[derive(Debug, Clone)]
pub(super) struct View<'a> {
    /// Who joins.
    pub(super) joiner: &'a str,
    /// Since its process was started.
    pub(super) elapsed: Duration,
    /// What it says of itself; nothing before it answers.
    pub(super) figures: Option<&'a JoinFigures>,
    /// Records of the log that the leader applied and the joiner has not.
    pub(super) lag: u64,
    /// The last moments' writes, of all clients.
    pub(super) writes: Summary,
    /// The last moments' reads at the leader.
    pub(super) reads: Summary,
}

/// Draws views, or says them.
pub(super) struct Picture {
    bar: ProgressBar,
    said: Option<Instant>,
    /// Where the last rate was measured from.
    measured: Option<(Instant, u64)>,
    rate: f64,
}

impl Picture {
    /// A picture for whoever reads `format`.
    pub(super) fn new(format: Format) -> Self {
        let bar = ProgressBar::with_draw_target(None, progress::draw_target(format));
        bar.set_style(progress::style("{msg}"));
        Self { bar, said: None, measured: None, rate: 0.0 }
    }

    /// Draws it on a terminal. Elsewhere it returns what to say, once per second.
    pub(super) fn show(&mut self, view: &View<'_>) -> Option<(Value, String)> {
        self.measure(view);
        if !self.bar.is_hidden() {
            self.bar.set_message(drawn(view, self.rate).join("\n"));
            self.bar.tick();
            return None;
        }
        let is_time = self.said.is_none_or(|said| said.elapsed() >= SAID_INTERVAL);
        is_time.then(|| {
            self.said = Some(Instant::now());
            (value(view), line(view, self.rate))
        })
    }

    /// Lets `print` write where the picture is.
    pub(super) fn pause<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bar.suspend(print)
    }

    fn measure(&mut self, view: &View<'_>) {
        let done = view.figures.map_or(0, JoinFigures::bytes);
        let now = Instant::now();
        match self.measured {
            Some((at, before)) if now - at >= RATE_INTERVAL => {
                self.rate = done.saturating_sub(before) as f64 / (now - at).as_secs_f64();
                self.measured = Some((now, done));
            }
            Some(_) => {}
            None => self.measured = Some((now, done)),
        }
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn drawn(view: &View<'_>, rate: f64) -> Vec<String> {
    let mut lines = vec![String::new()];
    let elapsed = output::seconds(view.elapsed.as_secs_f64());
    match view.figures {
        Some(figures) => {
            lines.push(format!(
                "   {:>8} {} {}  {}/s  {elapsed}",
                view.joiner,
                gauge(figures.entries_here, figures.entries_wanted),
                amount(figures),
                output::bytes(rate as u64),
            ));
            lines.push(format!("   {:>8} {}", "from", sources(figures)));
            lines.push(format!(
                "   {:>8} {} log entries · {} came for what could not wait",
                "lag",
                output::count(view.lag),
                output::bytes(figures.fault_bytes),
            ));
        }
        None => lines.push(format!("   {:>8} {}  {elapsed}", view.joiner, gauge(0, 1))),
    }
    lines.push(format!("   {:>8} {}", "clients", clients(view)));
    lines
}

fn line(view: &View<'_>, rate: f64) -> String {
    let elapsed = output::seconds(view.elapsed.as_secs_f64());
    let progress = view.figures.map_or_else(String::new, |figures| {
        let rate = if rate < 1.0 { String::new() } else { format!(" ({}/s)", output::bytes(rate as u64)) };
        format!("{}{rate}, lag {}, ", amount(figures), output::count(view.lag))
    });
    format!("{} at {elapsed}: {progress}{}", view.joiner, clients(view))
}

fn value(view: &View<'_>) -> Value {
    let join = view.figures.map(|figures| {
        let sources = figures.sources.iter().map(|source| (source.name.clone(), json!(source.bytes)));
        json!({
            "entries_here": figures.entries_here,
            "entries_wanted": figures.entries_wanted,
            "bytes": figures.bytes(),
            "wire_received": figures.wire_received,
            "fault_bytes": figures.fault_bytes,
            "sources": sources.collect::<serde_json::Map<_, _>>(),
        })
    });
    json!({
        "joiner": view.joiner,
        "seconds": view.elapsed.as_secs_f64(),
        "join": join,
        "lag": view.lag,
        "writes_per_second": view.writes.per_second,
        "read_p50_ms": milliseconds(view.reads.p50),
        "read_p99_ms": milliseconds(view.reads.p99),
    })
}

/// For programs.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Which sources gave how much.
pub(super) fn sources(figures: &JoinFigures) -> String {
    let given = figures.sources.iter().filter(|source| source.bytes > 0);
    let shares: Vec<_> = given.map(|source| format!("{} {}", source.name, output::bytes(source.bytes))).collect();
    if shares.is_empty() { "nobody yet".to_owned() } else { shares.join(" · ") }
}

fn clients(view: &View<'_>) -> String {
    format!(
        "{} writes/s · reads p50 {}, p99 {}",
        output::count(view.writes.per_second.round() as u64),
        output::seconds(view.reads.p50.as_secs_f64()),
        output::seconds(view.reads.p99.as_secs_f64()),
    )
}

fn amount(figures: &JoinFigures) -> String {
    // One that was started again counts what it had before, as it comes upon it.
    if figures.entries_here == 0 {
        return format!("takes stock · {} came", output::bytes(figures.bytes()));
    }
    format!("{} here · {} came", share(figures), output::bytes(figures.bytes()))
}

/// How much of the snapshot is here.
pub(super) fn share(figures: &JoinFigures) -> String {
    let percent = (figures.entries_here * 100).checked_div(figures.entries_wanted).unwrap_or(0);
    format!("{percent} %")
}

/// A bar as wide as eighty columns leave room for.
fn gauge(done: u64, wanted: u64) -> String {
    let filled = (done.min(wanted) * GAUGE_COLUMNS).checked_div(wanted).unwrap_or(0);
    (0..GAUGE_COLUMNS).map(|column| if column < filled { '━' } else { '─' }).collect()
}

const GAUGE_COLUMNS: u64 = 20;
const SAID_INTERVAL: Duration = Duration::from_secs(1);
/// Shorter times make rates jump.
const RATE_INTERVAL: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::super::status::SourceFigures;
    use super::*;

    fn figures() -> JoinFigures {
        let source = |name: &str, bytes| SourceFigures { name: name.to_owned(), bytes };
        JoinFigures {
            reached: vec![],
            fault_bytes: 123_456_789,
            entries_wanted: 1_000_000,
            entries_here: 1_000_000,
            leaf_bytes_here: 234_567_890,
            node_bytes: 234_567_890,
            wire_received: 0,
            sources: vec![
                source("alpha", 123_456_789),
                source("beta", 0),
                source("gamma", 12_345_678),
                source("delta", 9_999_999),
            ],
            failure: None,
        }
    }

    fn view(figures: Option<&JoinFigures>) -> View<'_> {
        let slow = Duration::from_micros(123_456);
        let summary = Summary { per_second: 123_456.0, p50: slow, p99: slow, ..Summary::default() };
        let elapsed = Duration::from_millis(118_900);
        View { joiner: "epsilon", elapsed, figures, lag: 1_234_567, writes: summary, reads: summary }
    }

    #[test]
    fn every_line_fits_eighty_columns() {
        let begun = JoinFigures { entries_here: 0, ..figures() };
        for figures in [None, Some(&begun), Some(&figures())] {
            for line in drawn(&view(figures), 123_456_789.0) {
                assert!(line.chars().count() < 80, "{line}");
            }
        }
    }

    #[test]
    fn the_gauge_is_never_too_long_and_needs_no_known_end() {
        assert_eq!(gauge(0, 0), "─".repeat(20));
        assert_eq!(gauge(1, 2), format!("{}{}", "━".repeat(10), "─".repeat(10)));
        assert_eq!(gauge(3, 2), "━".repeat(20));
    }

    #[test]
    fn only_sources_that_gave_something_are_named() {
        assert_eq!(sources(&figures()), "alpha 123 MB · gamma 12.3 MB · delta 10.0 MB");
        assert_eq!(sources(&JoinFigures { sources: vec![], ..figures() }), "nobody yet");
    }

    #[test]
    fn where_nobody_draws_a_picture_is_said_once_per_second() {
        let mut picture = Picture::new(Format::Json);
        let first = picture.show(&view(Some(&figures())));
        assert!(first.is_some_and(|(value, _)| value["join"]["sources"]["alpha"] == 123_456_789));
        assert!(picture.show(&view(None)).is_none());
    }
}
