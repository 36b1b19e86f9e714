//! Owns the facts about this machine that a reader needs to judge a figure. It never guesses: what cannot be read is
//! called unknown.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What the figures of a run were measured on, and with which versions.
#[derive(Serialize, Deserialize)]
pub struct Machine {
    cores: usize,
    processor: String,
    memory_bytes: u64,
    kernel: String,
    system: String,
    disk: String,
    /// Of the last minute before the run: what others did here at the same time.
    load: Option<f64>,
    versions: Vec<String>,
}

impl Machine {
    /// Reads them; `work` says which disk is meant, `versions` what is compared.
    pub fn read(work: &Path, versions: Vec<String>) -> Self {
        let processors = read("/proc/cpuinfo");
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kibibytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        Self {
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            processor: field(&processors, "model name").unwrap_or_else(unknown),
            memory_bytes: kibibytes * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: system().unwrap_or_else(unknown),
            disk: disk(work).unwrap_or_else(unknown),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()),
            versions,
        }
    }

    /// As a list.
    pub fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        let gibibytes = self.memory_bytes as f64 / f64::from(1 << 30);
        writeln!(text, "- Processor: {} cores, {}", self.cores, self.processor)?;
        writeln!(text, "- Memory: {gibibytes:.1} GiB; both ends share it, the processor and the disk")?;
        writeln!(text, "- Disk: {}", self.disk)?;
        if let Some(load) = self.load {
            writeln!(text, "- Load of the minute before: {load:.1}")?;
        }
        writeln!(text, "- System: {}, Linux {}", self.system, self.kernel)?;
        self.versions.iter().try_for_each(|version| writeln!(text, "- {version}"))
    }
}

/// What a program says of its version.
pub fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let line = String::from_utf8_lossy(&text).lines().next()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}

fn system() -> Option<String> {
    let release = read("/etc/os-release");
    let line = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

/// The file system and device below a path: the longest mount point that is a prefix of it.
fn disk(work: &Path) -> Option<String> {
    let work = fs::canonicalize(work).ok()?;
    let mounts = read("/proc/mounts");
    let parts = mounts.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let below = parts.filter(|part| part.len() > 3 && work.starts_with(part[1]));
    let mount = below.max_by_key(|part| part[1].len())?;
    Some(format!("{} on {}", mount[2], mount[0]))
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn unknown() -> String {
    "unknown".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_what_follows_the_colon_of_its_line() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\n";
        assert_eq!(field(text, "model name").as_deref(), Some("AMD EPYC"));
        assert_eq!(field(text, "missing"), None);
    }
}
