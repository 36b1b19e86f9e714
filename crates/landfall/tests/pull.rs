//! A directory is served by one member and pulled by another, in one process, over loopback.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use landfall::core::snapshot::StateName;
use landfall::files::place::Previous;
use landfall::member::{ChangingFiles, Keep, Member, ServeConfig, StateConfig};
use landfall::net::PlainTransport;
use landfall::pull::{OnLocalChanges, OnOpenFiles, PullError, PullOptions, PullReport, Status, TrustAll, pull};

fn name() -> StateName {
    StateName::new("orders").unwrap()
}

fn serve(directory: &Path, data: &Path, keep: Keep) -> Member {
    Member::serve(ServeConfig {
        listen: Some("127.0.0.1:0".into()),
        states: vec![StateConfig {
            name: name(),
            directory: directory.to_owned(),
            data: data.to_owned(),
            keep,
            changing: ChangingFiles::Refuse,
            before_snapshot: None,
            after_snapshot: None,
        }],
        ..ServeConfig::new(Arc::new(PlainTransport))
    })
    .unwrap()
}

fn options(destination: &Path, sources: &[&Member]) -> PullOptions {
    PullOptions {
        state: name(),
        destination: destination.to_owned(),
        sources: sources.iter().map(|source| source.address().unwrap()).collect(),
        transport: Arc::new(PlainTransport),
        trust: Arc::new(TrustAll),
        local_changes: OnLocalChanges::Refuse,
        open_files: OnOpenFiles::Allow,
        previous: Previous::Drop,
    }
}

fn pull_from(destination: &Path, sources: &[&Member]) -> Result<PullReport, PullError> {
    pull(&options(destination, sources), &Arc::new(Status::default()))
}

/// Bytes that no codec makes smaller, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length).map(|_| (next() >> 32) as u8).collect()
}

/// A directory with every kind of file.
fn build(directory: &Path) {
    fs::create_dir_all(directory.join("deep/er")).unwrap();
    fs::create_dir(directory.join("empty")).unwrap();
    fs::write(directory.join("inline"), b"short").unwrap();
    fs::write(directory.join("nothing"), b"").unwrap();
    fs::write(directory.join("deep/whole"), noise(1, 50_000)).unwrap();
    fs::write(directory.join("deep/er/pages"), noise(2, 64 * 4096 * 10)).unwrap();
    fs::write(directory.join("content-defined"), noise(3, 3_000_001)).unwrap();
    std::os::unix::fs::symlink("deep/whole", directory.join("link")).unwrap();
}

/// Everything below a directory, by path: content, mode and time.
fn listing(directory: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, out: &mut Vec<String>) {
        use std::os::unix::fs::MetadataExt;
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(root).unwrap().display().to_string();
            if relative == ".landfall" {
                continue;
            }
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if meta.is_dir() {
                walk(root, &path, out);
                "directory".to_owned()
            } else {
                landfall::core::ChunkId::of(landfall::core::Domain::Data, &fs::read(&path).unwrap()).to_string()
            };
            out.push(format!("{relative} {:o} {}.{} {content}", meta.mode(), meta.mtime(), meta.mtime_nsec()));
        }
    }
    let mut out = Vec::new();
    walk(directory, directory, &mut out);
    out.sort();
    out
}

struct Ground {
    _temporary: tempfile::TempDir,
    source: std::path::PathBuf,
    data: std::path::PathBuf,
    copy: std::path::PathBuf,
}

fn ground() -> Ground {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    let (source, data, copy) = (at("source"), at("data"), at("copy"));
    fs::create_dir(&source).unwrap();
    build(&source);
    Ground { _temporary: temporary, source, data, copy }
}

#[test]
fn a_first_pull_gives_an_equal_directory() {
    for keep in [Keep::Store, Keep::Frozen] {
        let ground = ground();
        let member = serve(&ground.source, &ground.data, keep);
        let report = pull_from(&ground.copy, &[&member]).unwrap();
        assert_eq!(listing(&ground.copy), listing(&ground.source));
        assert_eq!(report.state_root.to_string(), member.log(&name()).unwrap()[0].state_root);
    }
}

#[test]
fn a_second_pull_brings_only_what_changed() {
    let ground = ground();
    let member = serve(&ground.source, &ground.data, Keep::Store);
    pull_from(&ground.copy, &[&member]).unwrap();

    let mut pages = fs::read(ground.source.join("deep/er/pages")).unwrap();
    pages[1_000_000..1_004_096].copy_from_slice(&noise(9, 4096));
    fs::write(ground.source.join("deep/er/pages"), &pages).unwrap();
    let mut shifted = b"in front of everything".to_vec();
    shifted.extend(fs::read(ground.source.join("content-defined")).unwrap());
    fs::write(ground.source.join("content-defined"), &shifted).unwrap();
    fs::remove_file(ground.source.join("inline")).unwrap();
    fs::write(ground.source.join("deep/new"), b"new").unwrap();
    member.snapshot(&name()).unwrap();

    let report = pull_from(&ground.copy, &[&member]).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));
    let fetched = report.figures.bytes_done;
    assert!(fetched < 300_000, "{fetched} bytes of chunks for a few changed pages");
    assert!(report.figures.wire_received < 60_000, "{:?}", report.figures);
}

#[test]
fn nothing_changed_is_one_answer() {
    let ground = ground();
    let member = serve(&ground.source, &ground.data, Keep::Frozen);
    pull_from(&ground.copy, &[&member]).unwrap();
    let report = pull_from(&ground.copy, &[&member]).unwrap();
    assert_eq!(report.figures.bytes_done, 0);
    assert_eq!(report.strategy, landfall::core::offer::Strategy::UpToDate);
}

#[test]
fn a_copy_serves_on_what_it_pulled() {
    let ground = ground();
    let member = serve(&ground.source, &ground.data, Keep::Frozen);
    pull_from(&ground.copy, &[&member]).unwrap();
    let relay = serve(&ground.copy, &ground.data, Keep::Frozen);
    drop(member);
    let second = ground.copy.with_file_name("second");
    pull_from(&second, &[&relay]).unwrap();
    assert_eq!(listing(&second), listing(&ground.source));
}

#[test]
fn local_changes_stop_a_pull_unless_they_are_discarded() {
    let ground = ground();
    let member = serve(&ground.source, &ground.data, Keep::Store);
    pull_from(&ground.copy, &[&member]).unwrap();
    fs::write(ground.copy.join("deep/whole"), b"mine").unwrap();
    fs::write(ground.copy.join("mine"), b"mine").unwrap();
    fs::remove_file(ground.copy.join("content-defined")).unwrap();

    let refused = pull_from(&ground.copy, &[&member]).unwrap_err();
    let PullError::LocalChanges { changes, .. } = &refused else { panic!("{refused}") };
    assert!(changes.count() >= 3, "{refused}");
    assert_eq!(fs::read(ground.copy.join("mine")).unwrap(), b"mine");

    let mut discard = options(&ground.copy, &[&member]);
    discard.local_changes = OnLocalChanges::Discard;
    pull(&discard, &Arc::new(Status::default())).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));
}

#[test]
fn discarding_removes_a_changed_file_that_the_source_no_longer_has() {
    let ground = ground();
    let member = serve(&ground.source, &ground.data, Keep::Store);
    pull_from(&ground.copy, &[&member]).unwrap();
    fs::write(ground.copy.join("deep/whole"), b"mine").unwrap();
    fs::remove_file(ground.source.join("deep/whole")).unwrap();
    member.snapshot(&name()).unwrap();

    let mut discard = options(&ground.copy, &[&member]);
    discard.local_changes = OnLocalChanges::Discard;
    pull(&discard, &Arc::new(Status::default())).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));
    pull_from(&ground.copy, &[&member]).unwrap();
}

#[test]
fn a_lost_index_is_made_again_by_reading_everything() {
    let ground = ground();
    let member = serve(&ground.source, &ground.data, Keep::Store);
    pull_from(&ground.copy, &[&member]).unwrap();
    fs::write(ground.copy.join(".landfall/index"), b"damaged").unwrap();
    fs::write(ground.source.join("inline"), b"another").unwrap();
    member.snapshot(&name()).unwrap();
    let report = pull_from(&ground.copy, &[&member]).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));
    assert_eq!(report.figures.chunks, 0, "what is there is found by its content");
}

#[test]
fn a_lost_index_does_not_make_local_changes_fair_game() {
    let ground = ground();
    let member = serve(&ground.source, &ground.data, Keep::Store);
    pull_from(&ground.copy, &[&member]).unwrap();
    fs::remove_file(ground.copy.join(".landfall/index")).unwrap();
    fs::write(ground.copy.join("inline"), b"mine").unwrap();
    fs::write(ground.copy.join("mine"), b"mine").unwrap();
    let refused = pull_from(&ground.copy, &[&member]).unwrap_err();
    assert!(matches!(refused, PullError::IndexLost { .. }), "{refused}");
    assert_eq!(fs::read(ground.copy.join("mine")).unwrap(), b"mine");

    let mut discard = options(&ground.copy, &[&member]);
    discard.local_changes = OnLocalChanges::Discard;
    pull(&discard, &Arc::new(Status::default())).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));
}

#[test]
fn a_copy_never_goes_back_to_an_older_snapshot() {
    let ground = ground();
    let member = serve(&ground.source, &ground.data, Keep::Store);
    let stale = ground.copy.with_file_name("stale");
    pull_from(&stale, &[&member]).unwrap();
    fs::write(ground.source.join("inline"), b"newer").unwrap();
    member.snapshot(&name()).unwrap();
    pull_from(&ground.copy, &[&member]).unwrap();

    let relay = serve(&stale, &ground.data, Keep::Frozen);
    let refused = pull_from(&ground.copy, &[&relay]).unwrap_err();
    assert!(matches!(refused, PullError::Older { .. }), "{refused}");
    assert_eq!(listing(&ground.copy), listing(&ground.source));
}

#[test]
fn one_source_that_nobody_reaches_does_not_stop_the_other() {
    let ground = ground();
    let member = serve(&ground.source, &ground.data, Keep::Frozen);
    let mut both = options(&ground.copy, &[&member]);
    both.sources.push("127.0.0.1:1".into());
    let report = pull(&both, &Arc::new(Status::default())).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));
    assert!(report.notes.iter().any(|note| note.contains("127.0.0.1:1")), "{:?}", report.notes);
}

#[test]
fn a_damaged_source_is_named_and_the_other_heals() {
    let ground = ground();
    let member = serve(&ground.source, &ground.data, Keep::Store);
    let relayed = ground.copy.with_file_name("relayed");
    pull_from(&relayed, &[&member]).unwrap();
    let relay = serve(&relayed, &ground.data, Keep::Frozen);
    let mut bytes = fs::read(relayed.join("content-defined")).unwrap();
    for byte in bytes.iter_mut().step_by(10_000) {
        *byte ^= 1;
    }
    fs::write(relayed.join("content-defined"), &bytes).unwrap();

    let alone = pull_from(&ground.copy, &[&relay]).unwrap_err();
    assert!(matches!(alone, PullError::Stuck { .. }), "{alone}");
    let report = pull_from(&ground.copy, &[&relay, &member]).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));
    assert!(
        report.figures.sources.iter().all(|source| source.damaged == 0 || source.address == relay.address().unwrap())
    );
    assert!(!relay.verify(&name()).unwrap().is_clean());
    assert!(member.verify(&name()).unwrap().is_clean());
}

#[test]
fn an_update_that_no_source_can_complete_touches_nothing() {
    let ground = ground();
    let member = serve(&ground.source, &ground.data, Keep::Store);
    pull_from(&ground.copy, &[&member]).unwrap();
    let before = listing(&ground.copy);

    let mut bytes = fs::read(ground.source.join("content-defined")).unwrap();
    bytes[1_000_000..2_000_000].copy_from_slice(&noise(9, 1_000_000));
    fs::write(ground.source.join("content-defined"), &bytes).unwrap();
    fs::write(ground.source.join("deep/whole"), noise(10, 50_000)).unwrap();
    fs::write(ground.source.join("inline"), b"another").unwrap();
    fs::write(ground.source.join("new"), b"new").unwrap();
    fs::remove_file(ground.source.join("nothing")).unwrap();
    member.snapshot(&name()).unwrap();
    let relayed = ground.copy.with_file_name("relayed");
    pull_from(&relayed, &[&member]).unwrap();
    let relay = serve(&relayed, &ground.data, Keep::Frozen);
    for byte in bytes[1_500_000..].iter_mut().step_by(10_000) {
        *byte ^= 1;
    }
    fs::write(relayed.join("content-defined"), &bytes).unwrap();

    let status = Arc::new(Status::default());
    let stuck = pull(&options(&ground.copy, &[&relay]), &status).unwrap_err();
    assert!(matches!(stuck, PullError::Stuck { .. }), "{stuck}");
    assert!(status.figures().chunks > 0, "some of it came");
    assert_eq!(listing(&ground.copy), before);
    pull_from(&ground.copy, &[&member]).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));
}

#[test]
fn a_directory_served_frozen_can_be_served_from_packs_later() {
    let ground = ground();
    drop(serve(&ground.source, &ground.data, Keep::Frozen));
    let member = serve(&ground.source, &ground.data, Keep::Store);
    assert!(member.verify(&name()).unwrap().is_clean());
    pull_from(&ground.copy, &[&member]).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));
}

#[test]
fn a_large_file_changes_in_one_place_and_keeps_the_rest() {
    let ground = ground();
    let path = ground.source.join("large");
    let mut bytes = noise(5, 4096 * 6000);
    fs::write(&path, &bytes).unwrap();
    let member = serve(&ground.source, &ground.data, Keep::Store);
    pull_from(&ground.copy, &[&member]).unwrap();
    bytes[20_000_000] ^= 1;
    bytes.extend(vec![0; 4096 * 100]);
    fs::write(&path, &bytes).unwrap();
    member.snapshot(&name()).unwrap();
    let report = pull_from(&ground.copy, &[&member]).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));
    assert!(report.figures.bytes_done <= 2 * 65_536, "{}", report.figures.bytes_done);
}

#[test]
fn a_place_that_changes_in_every_snapshot_stays_readable() {
    let ground = ground();
    let path = ground.source.join("deep/er/pages");
    let mut bytes = fs::read(&path).unwrap();
    let member = serve(&ground.source, &ground.data, Keep::Store);
    for round in 0..20 {
        bytes[5000] = round;
        fs::write(&path, &bytes).unwrap();
        member.snapshot(&name()).unwrap();
        let verified = member.verify(&name()).unwrap();
        assert!(verified.is_clean(), "round {round}: {verified:?}");
    }
    pull_from(&ground.copy, &[&member]).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));
}

#[test]
fn zeros_links_and_kinds_survive_their_changes() {
    let ground = ground();
    let source = |name: &str| ground.source.join(name);
    fs::File::create(source("zeros")).unwrap().set_len(5_000_000).unwrap();
    fs::hard_link(source("deep/whole"), source("other-name")).unwrap();
    let member = serve(&ground.source, &ground.data, Keep::Store);
    pull_from(&ground.copy, &[&member]).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));

    fs::write(source("deep/whole"), noise(77, 60_000)).unwrap();
    fs::File::create(source("zeros")).unwrap().set_len(7_000_000).unwrap();
    fs::remove_file(source("inline")).unwrap();
    fs::create_dir(source("inline")).unwrap();
    fs::write(source("inline/below"), b"below").unwrap();
    fs::remove_dir_all(source("deep/er")).unwrap();
    fs::write(source("deep/er"), b"a file now").unwrap();
    member.snapshot(&name()).unwrap();
    pull_from(&ground.copy, &[&member]).unwrap();
    assert_eq!(listing(&ground.copy), listing(&ground.source));
    use std::os::unix::fs::MetadataExt;
    let inode = |name: &str| fs::metadata(ground.copy.join(name)).unwrap().ino();
    assert_eq!(inode("deep/whole"), inode("other-name"));
}

#[test]
fn verify_goes_on_past_a_lost_node_and_names_every_damaged_file() {
    let ground = ground();
    for number in 0..3000 {
        fs::write(ground.source.join(format!("file-{number:04}")), noise(number + 1, 1000)).unwrap();
    }
    let member = serve(&ground.source, &ground.data, Keep::Store);
    pull_from(&ground.copy, &[&member]).unwrap();
    for name in ["file-0000", "file-2999"] {
        fs::write(ground.copy.join(name), noise(9, 1000)).unwrap();
    }
    damage_largest_pack(&ground.copy.join(".landfall/store"));
    let relay = serve(&ground.copy, &ground.data, Keep::Store);
    let report = relay.verify(&name()).unwrap();
    let places: Vec<&str> = report.damages.iter().map(|damage| damage.place.as_str()).collect();
    assert_eq!(places, ["file-0000", "tree of the snapshot", "file-2999"]);
    assert!(report.damages[1].what.contains("is lost, and with it names and hashes from 'file-"), "{report:?}");
    assert!(report.entries > 2500, "all but what was lost is read: {report:?}");
}

/// Flips a bit in the middle of the largest pack.
fn damage_largest_pack(store: &Path) {
    let packs = fs::read_dir(store.join("packs")).unwrap().map(|entry| entry.unwrap().path());
    let largest = packs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(largest, bytes).unwrap();
}
