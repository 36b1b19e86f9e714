//! Owns what the demo says: one heading per step, what came of it, and at the end a table of what was measured.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::progress::{self, TransferBar, TransferView};

/// Tells the story, and keeps what was measured.
pub(super) struct Narrator<'a> {
    output: &'a mut Output,
    step: u32,
    rows: Vec<Row>,
}

/// A line of the table.
struct Row {
    key: &'static str,
    label: &'static str,
    value: Value,
    shown: String,
}

impl<'a> Narrator<'a> {
    /// Tells it on `output`.
    pub(super) fn new(output: &'a mut Output) -> Self {
        Self { output, step: 0, rows: Vec::new() }
    }

    /// Says what is coming.
    pub(super) fn opening(&mut self, text: &str) {
        self.output.say(text);
    }

    /// Begins a step.
    pub(super) fn begin(&mut self, heading: &str) {
        self.step += 1;
        self.output.say(format!("\n{}. {heading}", self.step));
    }

    /// Says what came of it.
    pub(super) fn tell(&mut self, text: impl AsRef<str>) {
        let text = text.as_ref();
        let step = self.step;
        self.output.result(&json!({ "step": step, "told": text }), || format!("   {}", text.replace('\n', "\n   ")));
    }

    /// Says what is going on: `value` under `key` for programs, `text` for people.
    pub(super) fn show(&mut self, key: &str, value: &Value, text: &str) {
        let step = self.step;
        self.output.result(&json!({ "step": step, key: value }), || format!("   {text}"));
    }

    /// Who listens.
    pub(super) fn format(&self) -> Format {
        self.output.format()
    }

    /// Keeps a figure for the table: `value` for programs, `shown` for people.
    pub(super) fn measured(&mut self, key: &'static str, label: &'static str, value: impl Into<Value>, shown: String) {
        self.rows.push(Row { key, label, value: value.into(), shown });
    }

    /// A bar for a transfer of the step.
    pub(super) fn bar(&self) -> TransferBar {
        TransferBar::new(progress::draw_target(self.output.format()))
    }

    /// Prints the table.
    pub(super) fn table(&mut self) {
        let widest = self.rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
        let lines = self.rows.iter().map(|row| format!("   {:<widest$}  {}", row.label, row.shown));
        let text = lines.collect::<Vec<_>>().join("\n");
        let measured: serde_json::Map<String, Value> =
            self.rows.iter().map(|row| (row.key.to_owned(), row.value.clone())).collect();
        if self.output.format() == Format::Text {
            self.output.say("\nMeasured just now, on this machine:");
        }
        self.output.result(&json!({ "measured": measured }), || text);
    }
}

/// What a joiner's line of progress says.
pub(super) fn view(figures: &Value) -> TransferView {
    let sources = figures["sources"].as_array();
    TransferView {
        stage: figures["stage"].as_str().unwrap_or_default().to_owned(),
        bytes_done: bytes_of(figures, "bytes_done"),
        bytes_wanted: bytes_of(figures, "bytes_wanted"),
        all_known: figures["all_known"].as_bool().unwrap_or_default(),
        wire_received: bytes_of(figures, "wire_received"),
        sources: sources.map_or(0, |sources| sources.iter().filter(|source| source["connected"] == true).count()),
    }
}

fn bytes_of(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

/// A number that a verb printed.
pub(super) fn number(value: &Value, key: &str) -> Result<u64, Failure> {
    value[key].as_u64().ok_or_else(|| Failure::new(format!("a figure is missing: {key} in {value}")))
}

/// A number of seconds that a verb printed.
pub(super) fn seconds(value: &Value, key: &str) -> Result<f64, Failure> {
    value[key].as_f64().ok_or_else(|| Failure::new(format!("a figure is missing: {key} in {value}")))
}

/// A text that a verb printed.
pub(super) fn text(value: &Value, key: &str) -> Result<String, Failure> {
    let text = value[key].as_str().map(str::to_owned);
    text.ok_or_else(|| Failure::new(format!("a word is missing: {key} in {value}")))
}
