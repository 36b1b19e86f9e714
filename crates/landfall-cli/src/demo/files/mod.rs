//! `landfall demo files`: the story of a directory: published, relayed, joined, cut short, changed, corrupted, healed and
//! proven. Every figure is measured.

mod compare;
mod dataset;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::Value;

use self::compare::{changed_page_bytes, compare};
use self::dataset::{Data, flip_bits, largest_file};
use super::cast::{Cast, Source};
use super::narrator::{Narrator, number, seconds, text, view};
use crate::failure::Failure;
use crate::output::{self, Output};

/// See a directory shipped: published, pulled from two sources, cut short, changed, corrupted and proven
///
/// Everything happens in a temporary directory (TMPDIR says where), which is removed at the end. It needs about six times
/// the space of the data.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
#[group(skip)]
pub(super) struct Arguments {
    /// A directory to show it on; it is copied and never touched [default: a SQLite database and small files, built now]
    path: Option<PathBuf>,
}

impl Arguments {
    /// Refuses a path that cannot be shown.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self.path.as_deref().filter(|path| !path.is_dir()) {
            Some(path) => Err(Failure::new(format!("{} is not a directory", path.display())).next("name one, or none")),
            None => Ok(()),
        }
    }
}

/// Tells the story of the directory that was named, or of data that it builds, in `place`.
pub(super) fn tell(arguments: &Arguments, place: &Path, cast: &Cast, output: &mut Output) -> Result<(), Failure> {
    let data = arguments.path.clone().map_or(Data::Built, Data::CopyOf);
    let narrator = Narrator::new(output);
    let mut story = Story { data, place: place.to_owned(), cast, narrator, began: Instant::now() };
    story.narrator.opening("Two sources and a joiner, as processes of this machine that talk over TLS.");
    story.prepare()?;
    story.create_certificates()?;
    let alpha = story.publish()?;
    let beta = story.relay(&alpha)?;
    let state_bytes = story.join(&alpha, &beta)?;
    let beta = story.change(&alpha, beta, state_bytes)?;
    story.corrupt(&alpha, beta)?;
    story.prove()?;
    alpha.stop()?;
    story.end();
    Ok(())
}

struct Story<'a> {
    data: Data,
    place: PathBuf,
    cast: &'a Cast,
    narrator: Narrator<'a>,
    began: Instant,
}

impl Story<'_> {
    fn prepare(&mut self) -> Result<(), Failure> {
        self.narrator.begin("Data");
        let began = Instant::now();
        let left_out = self.data.prepare(&self.at(ORIGINAL)).map_err(|error| broken("prepare the data", &error))?;
        let took = output::seconds(began.elapsed().as_secs_f64());
        self.narrator.tell(match &self.data {
            Data::Built => format!("a SQLite database and some thousand small files, built in {took}"),
            Data::CopyOf(path) => format!("a copy of {}, made in {took}; the original is not touched", path.display()),
        });
        for path in left_out {
            self.narrator.tell(format!("left out, because it is no file, directory or symlink: {path}"));
        }
        Ok(())
    }

    fn create_certificates(&mut self) -> Result<(), Failure> {
        self.narrator.begin("Certificates: an authority, and one for each member; only alpha may publish");
        let authority = self.shown("authority");
        self.cast.run(["cert", "create-ca", &authority])?;
        for member in ["alpha", "beta", "joiner"] {
            let out = self.shown(member);
            let mut arguments = vec!["cert", "create-member", member, "--ca", &authority, "--out", &out];
            if member == "alpha" {
                arguments.extend(["--writer", STATE]);
            }
            self.cast.run(arguments)?;
        }
        self.narrator.tell("every connection from here on is TLS 1.3 with certificates on both sides");
        Ok(())
    }

    fn publish(&mut self) -> Result<Source, Failure> {
        self.narrator.begin("alpha publishes the directory");
        let began = Instant::now();
        let alpha = self.serve("alpha", ORIGINAL)?;
        let took = began.elapsed().as_secs_f64();
        let newest = self.cast.run(["log", STATE, "--data", &self.shown(ALPHA_DATA)])?;
        let state_bytes = number(&newest, "state_bytes")?;
        let records = number(&newest, "entries")?;
        let (size, rate) = (output::bytes(state_bytes), output::rate(state_bytes, took));
        self.narrator.tell(format!(
            "{size} in {} read, cut, hashed and stored in {} ({rate}); serving at {}",
            output::counted(records, "tree record"),
            output::seconds(took),
            alpha.address
        ));
        self.narrator.measured("state_bytes", "the state", state_bytes, size);
        self.narrator.measured(
            "publish_seconds",
            "first snapshot",
            took,
            format!("{} ({rate})", output::seconds(took)),
        );
        Ok(alpha)
    }

    fn relay(&mut self, alpha: &Source) -> Result<Source, Failure> {
        self.narrator.begin("beta pulls it over the loopback, and serves it on: a second source");
        let pulled = self.pull("beta", BETA, &[alpha])?;
        let (took, wire) = (seconds(&pulled, "seconds")?, number(&pulled, "wire_bytes_received")?);
        let bytes = number(&pulled, "state_bytes")?;
        let shown =
            format!("{} ({}), {} on the wire", output::seconds(took), output::rate(bytes, took), output::bytes(wire));
        let beta = self.serve("beta", BETA)?;
        self.narrator.tell(format!("{} in {shown}; serving at {}", output::bytes(bytes), beta.address));
        self.narrator.measured("full_pull_seconds", "full pull, one source", took, shown);
        self.narrator.measured(
            "full_pull_wire_bytes",
            "  of the state's size, on the wire",
            wire,
            output::percent(wire, bytes),
        );
        Ok(beta)
    }

    /// A joiner that is killed half way, and goes on.
    fn join(&mut self, alpha: &Source, beta: &Source) -> Result<u64, Failure> {
        self.narrator.begin("A joiner pulls from both, is killed half way with kill -9, and goes on");
        let mut came = 0;
        let process = self.cast.start(self.pull_arguments("joiner", COPY, &[alpha, beta]))?;
        let bar = self.narrator.bar();
        let ended = process.wait(|figures| {
            let view = view(figures);
            bar.show(&view);
            came = view.bytes_done;
            !(view.all_known && view.bytes_done * 2 >= view.bytes_wanted && view.stage == "fetching")
        })?;
        drop(bar);
        if !ended.killed && !ended.success() {
            return Err(ended.failed());
        }
        if ended.success() {
            self.narrator.tell("it was done before it could be killed: the data is that small");
        } else {
            self.narrator.tell(format!("killed when {} had come", output::bytes(came)));
        }
        let first = ended.killed && !ended.success();
        let pulled = self.pull("joiner", COPY, &[alpha, beta])?;
        self.tell_resumed(&pulled, if first { came } else { 0 })?;
        self.tell_sources(&pulled);
        number(&pulled, "state_bytes")
    }

    fn tell_resumed(&mut self, pulled: &Value, came: u64) -> Result<(), Failure> {
        let (received, took) = (number(pulled, "received_bytes")?, seconds(pulled, "seconds")?);
        let (duplicate, reused) = (number(pulled, "duplicate_bytes")?, number(pulled, "reused_bytes")?);
        // What was counted before the kill and is not found again came twice.
        let lost = came.saturating_sub(reused);
        let twice = lost + duplicate;
        self.narrator.tell(format!(
            "started again: {} were on disk already, {} came in {}; {} came twice, going by the last figure before the kill",
            output::bytes(reused),
            output::bytes(received),
            output::seconds(took),
            output::bytes(twice)
        ));
        if came > 0 {
            let share = output::percent(twice, received + reused);
            self.narrator.measured("killed_at_bytes", "killed with kill -9 after", came, output::bytes(came));
            let shown = format!("{} ({share})", output::bytes(twice));
            self.narrator.measured("received_twice_bytes", "  received twice because of it", twice, shown);
        }
        Ok(())
    }

    /// 1 % changes at the source; the joiner and beta follow.
    fn change(&mut self, alpha: &Source, beta: Source, full_bytes: u64) -> Result<Source, Failure> {
        self.narrator.begin("1 % of the data changes at alpha; a new snapshot; the joiner fetches the difference");
        let changed = self.data.change(&self.at(ORIGINAL)).map_err(|error| broken("change the data", &error))?;
        self.narrator.tell(changed);
        let taken = self.cast.run(["snapshot", STATE, "--data", &self.shown(ALPHA_DATA)])?;
        let (took, read) = (seconds(&taken, "seconds")?, number(&taken, "read_bytes")?);
        self.narrator.tell(format!("new snapshot in {} ({} read)", output::seconds(took), output::bytes(read)));
        self.narrator.measured("next_snapshot_seconds", "snapshot after 1 % changed", took, output::seconds(took));
        let pages = changed_page_bytes(&self.at(COPY), &self.at(ORIGINAL));
        let pages = pages.map_err(|error| broken("compare pages", &error))?;
        let pulled = self.pull("joiner", COPY, &[alpha, &beta])?;
        self.tell_delta(&pulled, pages, full_bytes)?;
        beta.stop()?;
        let followed = self.pull("beta", BETA, &[alpha])?;
        let beta = self.serve("beta", BETA)?;
        let (took, wire) = (seconds(&followed, "seconds")?, number(&followed, "wire_bytes_received")?);
        self.narrator.tell(format!(
            "beta follows too: {} on the wire, {}; it serves the new snapshot",
            output::bytes(wire),
            output::seconds(took)
        ));
        Ok(beta)
    }

    fn tell_delta(&mut self, pulled: &Value, pages: u64, full_bytes: u64) -> Result<(), Failure> {
        let (took, strategy) = (seconds(pulled, "seconds")?, text(pulled, "strategy")?);
        let wire = number(pulled, "wire_bytes_received")? + number(pulled, "wire_bytes_sent")?;
        self.narrator.tell(format!(
            "the difference ({strategy}): {} on the wire both ways, in {}, of which {} for the final sync",
            output::bytes(wire),
            output::seconds(took),
            output::seconds(seconds(pulled, "sync_seconds")?)
        ));
        self.narrator.tell(format!(
            "a full copy would send {}, {} as much; the pages of 4 KiB that changed are {}, {} as much",
            output::bytes(full_bytes),
            output::ratio(full_bytes, wire),
            output::bytes(pages),
            output::ratio(pages, wire)
        ));
        self.narrator.measured("delta_seconds", "pull after 1 % changed", took, output::seconds(took));
        self.narrator.measured("delta_wire_bytes", "  on the wire, both ways", wire, output::bytes(wire));
        let shown = format!("{} ({})", output::bytes(full_bytes), output::ratio(full_bytes, wire));
        self.narrator.measured("full_copy_bytes", "  a full copy would send", full_bytes, shown);
        let shown = format!("{} ({})", output::bytes(pages), output::ratio(pages, wire));
        self.narrator.measured("changed_page_bytes", "  changed pages of 4 KiB, as they are", pages, shown);
        Ok(())
    }

    /// Bits flip in beta's files: a fresh joiner gets none of them, and beta is mended.
    fn corrupt(&mut self, alpha: &Source, beta: Source) -> Result<(), Failure> {
        self.narrator.begin("Bits flip in beta's copy; a fresh joiner pulls from both and takes none of them");
        let victim = largest_file(&self.at(BETA)).map_err(|error| broken("find a file to damage", &error))?;
        let flipped = flip_bits(&victim, FLIPS).map_err(|error| broken("damage a file", &error))?;
        let name = victim.strip_prefix(self.at(BETA)).unwrap_or(&victim).display().to_string();
        self.narrator.tell(format!("one bit flipped in each of {flipped} places of beta's {name}"));
        let pulled = self.pull("joiner", SECOND_COPY, &[alpha, &beta])?;
        let blamed = self.tell_blame(&pulled, &beta);
        if blamed == 0 && number(&pulled, "state_bytes")? > CERTAIN_BYTES {
            return Err(Failure::new("beta's copy is damaged, and nobody noticed"));
        }
        self.narrator.measured(
            "damaged_chunks",
            "damaged chunks found and fetched elsewhere",
            blamed,
            output::count(blamed),
        );
        self.tell_verify_names(&name)?;
        beta.stop()?;
        let mended = self.pull_with("beta", BETA, &[alpha], &["--discard-local-changes"])?;
        self.narrator.tell(format!(
            "beta pulls again with --discard-local-changes: mended with {} on the wire",
            output::bytes(number(&mended, "wire_bytes_received")?)
        ));
        Ok(())
    }

    fn tell_blame(&mut self, pulled: &Value, beta: &Source) -> u64 {
        self.tell_sources(pulled);
        let notes = pulled["notes"].as_array().cloned().unwrap_or_default();
        for note in notes.iter().filter_map(Value::as_str).take(2) {
            self.narrator.tell(note);
        }
        let sources = pulled["sources"].as_array().cloned().unwrap_or_default();
        let blamed = sources.iter().filter(|source| source["address"] == beta.address.as_str());
        blamed.filter_map(|source| source["damaged"].as_u64()).sum()
    }

    /// `landfall verify` must fail, and name the file.
    fn tell_verify_names(&mut self, name: &str) -> Result<(), Failure> {
        let verified = self.cast.start(["verify", &self.shown(BETA)])?.wait(|_| true)?;
        let named = verified.printed().iter().any(|line| line["path"].as_str().is_some_and(|path| path == name));
        if verified.success() || !named {
            return Err(Failure::new(format!("`landfall verify` did not name the damaged {name}")));
        }
        self.narrator.tell(format!("`landfall verify` at beta names it: {name}"));
        Ok(())
    }

    fn prove(&mut self) -> Result<(), Failure> {
        self.narrator.begin("Everything is read again and proven");
        let original = self.cast.run(["verify", STATE, "--data", &self.shown(ALPHA_DATA)])?;
        let root = text(&original, "root")?;
        for copy in [COPY, SECOND_COPY, BETA] {
            let verified = self.cast.run(["verify", &self.shown(copy)])?;
            if text(&verified, "root")? != root {
                return Err(Failure::new(format!("{copy} has another root than alpha: {verified} instead of {root}")));
            }
            let equal = compare(&self.at(ORIGINAL), &self.at(copy));
            let equal = equal.map_err(|error| broken(&format!("compare {copy} with alpha's directory"), &error))?;
            self.narrator.tell(format!(
                "{copy}: `landfall verify` is clean, the root is alpha's, {} and {} are equal byte by byte",
                output::counted(equal.files, "file"),
                output::bytes(equal.bytes)
            ));
        }
        self.narrator.tell(format!("root {root}"));
        self.narrator.measured("root", "root at alpha and at every copy", root.clone(), root);
        Ok(())
    }

    fn end(&mut self) {
        let took = self.began.elapsed().as_secs_f64();
        self.narrator.measured("demo_seconds", "the whole demo", took, output::seconds(took));
        self.narrator.table();
    }

    fn serve(&self, member: &str, directory: &str) -> Result<Source, Failure> {
        let state = format!("{STATE}={}", self.shown(directory));
        let (identity, data) = (self.shown(member), self.shown(ALPHA_DATA));
        let mut arguments = vec!["serve", "--state", &state, "--listen", "127.0.0.1:0", "--identity", &identity];
        if directory == ORIGINAL {
            arguments.extend(["--data", &data]);
        }
        self.cast.serve(arguments, self.at(&format!("{member}.log")))
    }

    fn pull(&self, member: &str, copy: &str, from: &[&Source]) -> Result<Value, Failure> {
        self.pull_with(member, copy, from, &[])
    }

    fn pull_with(&self, member: &str, copy: &str, from: &[&Source], more: &[&str]) -> Result<Value, Failure> {
        let mut arguments = self.pull_arguments(member, copy, from);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let bar = self.narrator.bar();
        let ended = self.cast.start(arguments)?.wait(|figures| {
            bar.show(&view(figures));
            true
        });
        drop(bar);
        ended?.into_result()
    }

    fn pull_arguments(&self, member: &str, copy: &str, from: &[&Source]) -> Vec<String> {
        let sources = from.iter().map(|source| source.address.as_str()).collect::<Vec<_>>().join(",");
        let identity = self.shown(member);
        let arguments =
            ["pull", STATE, &self.shown(copy), "--from", &sources, "--identity", &identity, "--progress", "json"];
        arguments.into_iter().map(str::to_owned).collect()
    }

    fn tell_sources(&mut self, pulled: &Value) {
        let sources = pulled["sources"].as_array().cloned().unwrap_or_default();
        let share = |source: &Value| {
            format!(
                "{} from {}",
                output::bytes(source["bytes"].as_u64().unwrap_or(0)),
                source["name"].as_str().unwrap_or("?")
            )
        };
        self.narrator.tell(sources.iter().map(share).collect::<Vec<_>>().join(", "));
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    /// The demo's own directory has a name that is text.
    fn shown(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }
}

fn broken(what: &str, error: &anyhow::Error) -> Failure {
    let mut failure = Failure::new(format!("cannot {what}"));
    failure.causes.extend(error.chain().map(ToString::to_string));
    failure
}

const STATE: &str = "shop";
const ORIGINAL: &str = "alpha-directory";
const ALPHA_DATA: &str = "alpha-data";
const BETA: &str = "beta-copy";
const COPY: &str = "joiner-copy";
const SECOND_COPY: &str = "joiner-second-copy";
/// Bits that flip.
const FLIPS: u64 = 32;
/// Of a state of this size, some damaged chunk is asked of the damaged source for certain.
const CERTAIN_BYTES: u64 = 32_000_000;

const EXAMPLES: &str = "\
Examples:
  landfall demo files
  landfall demo files /usr/share/doc
  TMPDIR=/var/tmp landfall demo files --keep";
