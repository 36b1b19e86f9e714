//! Owns what is shown while work takes long: a bar or a spinner on a terminal, JSON lines where asked for, else nothing.

use std::io::{IsTerminal, stderr, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{self, Format};

/// Time between two looks.
const TICK: Duration = Duration::from_millis(100);

/// A turning sign that work goes on, where nothing tells how much is left.
pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    /// Shows `message` until it is dropped.
    pub(crate) fn start(message: &'static str, format: Format) -> Self {
        let bar = ProgressBar::with_draw_target(None, draw_target(format));
        bar.set_style(style("{spinner} {msg} ({elapsed})"));
        bar.set_message(message);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Lets `print` write where the spinner is.
    pub(crate) fn pause(&self, print: impl FnOnce()) {
        self.0.suspend(print);
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Bars are for people who look: both streams must be terminals, and the output text.
pub(crate) fn draw_target(format: Format) -> ProgressDrawTarget {
    if format == Format::Text && stdout().is_terminal() && stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}

/// A style from a template of this file.
pub(crate) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a template that is right").progress_chars("━╸─")
}

/// How far a transfer is.
#[derive(Debug, Clone, Default)]
pub(crate) struct TransferView {
    /// What it is doing, in a word.
    pub(crate) stage: String,
    pub(crate) bytes_done: u64,
    pub(crate) bytes_wanted: u64,
    /// More may be found to be wanted.
    pub(crate) all_known: bool,
    pub(crate) wire_received: u64,
    pub(crate) sources: usize,
}

/// A bar that follows a transfer.
pub(crate) struct TransferBar {
    bar: ProgressBar,
    began: Instant,
}

impl TransferBar {
    /// A bar on `target`, empty.
    pub(crate) fn new(target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), target);
        bar.set_style(style("{prefix:>10} {bar:28.green} {msg}"));
        Self { bar, began: Instant::now() }
    }

    /// A bar that nobody sees.
    pub(crate) fn hidden() -> Self {
        Self::new(ProgressDrawTarget::hidden())
    }

    /// Takes the bar off the screen.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Shows where the transfer is now.
    pub(crate) fn show(&self, view: &TransferView) {
        self.bar.set_prefix(view.stage.clone());
        self.bar.set_length(view.bytes_wanted.max(1));
        self.bar.set_position(view.bytes_done);
        self.bar.set_message(self.message(view));
    }

    fn message(&self, view: &TransferView) -> String {
        let elapsed = self.began.elapsed().as_secs_f64();
        let more = if view.all_known { "" } else { "+" };
        let mut message = format!(
            "{} / {}{more}  {}  wire {}",
            output::bytes(view.bytes_done),
            output::bytes(view.bytes_wanted),
            output::rate(view.bytes_done, elapsed),
            output::bytes(view.wire_received),
        );
        if let Some(saved) = percent_saved(view.bytes_done, view.wire_received) {
            message.push_str(&format!(" ({saved} % saved)"));
        }
        if let Some(left) = seconds_left(view, elapsed) {
            message.push_str(&format!("  {} left", output::seconds(left)));
        }
        message.push_str(&format!("  {}", output::counted(view.sources as u64, "source")));
        message
    }
}

impl Drop for TransferBar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn percent_saved(done: u64, wire: u64) -> Option<u64> {
    (done > wire && done > 0).then(|| (done - wire) * 100 / done).filter(|saved| *saved > 0)
}

fn seconds_left(view: &TransferView, elapsed: f64) -> Option<f64> {
    let worth_saying = view.all_known && view.bytes_done > 0 && elapsed > 0.5;
    let left = view.bytes_wanted.saturating_sub(view.bytes_done) as f64;
    worth_saying.then(|| left / (view.bytes_done as f64 / elapsed))
}

/// A thread that looks again and again until it is dropped.
pub(crate) struct Watch {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Calls `look` every `interval` until the watch is dropped.
    pub(crate) fn every(interval: Duration, mut look: impl FnMut() + Send + 'static) -> std::io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let watching = ended.clone();
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(move || {
            while !watching.load(Ordering::Acquire) {
                look();
                std::thread::park_timeout(interval);
            }
        })?;
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            thread.join().expect("looking does not panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_saved(done: u64, wire: u64, expected: Option<u64>) {
        assert_eq!(percent_saved(done, wire), expected);
    }

    #[test]
    fn savings_are_told_only_where_there_are_some() {
        check_saved(0, 0, None);
        check_saved(100, 100, None);
        check_saved(100, 150, None);
        check_saved(1000, 250, Some(75));
    }

    #[test]
    fn the_time_left_follows_the_rate_so_far_and_waits_until_all_is_known() {
        let view = TransferView { bytes_done: 100, bytes_wanted: 400, all_known: true, ..TransferView::default() };
        assert_eq!(seconds_left(&view, 10.0), Some(30.0));
        assert_eq!(seconds_left(&TransferView { all_known: false, ..view.clone() }, 10.0), None);
        assert_eq!(seconds_left(&TransferView { bytes_done: 0, ..view }, 10.0), None);
    }

    #[test]
    fn a_watch_looks_at_least_once_and_ends_when_dropped() {
        let (seen, looks) = std::sync::mpsc::channel();
        let watch = Watch::every(Duration::from_secs(3600), move || seen.send(()).unwrap()).unwrap();
        looks.recv().unwrap();
        drop(watch);
        assert!(looks.recv().is_err(), "the thread is gone, and with it the sender");
    }
}
