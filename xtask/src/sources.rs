//! Owns what the sources themselves may not say: a core that reads a clock compiles, so cargo cannot see it. And what documents say of
//! the sources: a test that is named in one and is gone holds nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What the core may not name. It waits for nothing: time and seeds are arguments.
const CORE_FORBIDDEN: &[&str] = &[
    "std::fs",
    "std::io",
    "std::net",
    "std::thread",
    "std::process",
    "std::env",
    "std::os",
    "Instant",
    "SystemTime",
    "Mutex",
    "RwLock",
    "OnceLock",
    "LazyLock",
    "Barrier",
    "Condvar",
    "mpsc",
    "thread_local!",
    "async fn",
    ".await",
    "print!",
    "println!",
    "RandomState",
    "HashMap",
    "HashSet",
];

/// What a file may name all the same, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("tree/memory.rs", "HashMap", "nodes are looked up by id and never listed, so no order can leak"),
    ("tree/directory.rs", "OnceLock", DERIVED),
    ("tree/node.rs", "LazyLock", DERIVED),
    ("chunker/gear.rs", "LazyLock", DERIVED),
    ("src/chunk.rs", "LazyLock", DERIVED),
    ("src/snapshot.rs", "LazyLock", DERIVED),
];
const DERIVED: &str = "what is kept follows from constants or from bytes that do not change; another thread waits while it is worked out, no longer";

/// The document that says which tests hold what Landfall promises, and where in it.
const PROMISES: (&str, &str) = ("docs/testing.md", "## Promises");

/// Names every forbidden word in the core, every crate that ARCHITECTURE.md does not mention, and every promise whose test is gone.
pub(crate) fn check() -> Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask stands in the workspace")?;
    let mut broken = Vec::new();
    for file in rust_files(&root.join("crates/landfall-core/src"))? {
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let place = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let excepted = |word: &str| EXCEPTIONS.iter().any(|(of, allowed, _)| place.ends_with(of) && *allowed == word);
        let found = forbidden_in(&text).filter(|(_, word)| !excepted(word));
        broken.extend(found.map(|(line, word)| format!("{place}:{line}: the core names {word}")));
    }
    let architecture = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    for entry in std::fs::read_dir(root.join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !architecture.contains(&name) {
            broken.push(format!("ARCHITECTURE.md does not mention crates/{name}"));
        }
    }
    let (document, section) = PROMISES;
    let text = std::fs::read_to_string(root.join(document)).context(document)?;
    let named = tests_named_in(&text, section);
    if named.is_empty() {
        broken.push(format!("{document} names no test under '{section}'"));
    }
    for (file, test) in named {
        let source = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        if !defines(&source, test) {
            broken.push(format!("{document} names a test that is gone: {file}::{test}"));
        }
    }
    Ok(broken)
}

/// What stands as `file.rs::test` in a section of a document.
fn tests_named_in<'a>(text: &'a str, section: &str) -> Vec<(&'a str, &'a str)> {
    let lines = text.lines().skip_while(|line| *line != section).skip(1).take_while(|line| !line.starts_with("## "));
    let quoted = lines.flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter_map(|name| name.split_once("::")).collect()
}

/// Whether a source has a function of that name that is not left out, or a line of a macro that makes one.
fn defines(source: &str, name: &str) -> bool {
    let (function, mut is_ignored) = (format!("fn {name}("), false);
    for line in source.lines().map(str::trim_start) {
        let after = line.strip_prefix(name);
        let in_macro = after.is_some_and(|rest| rest.is_empty() || rest.starts_with([',', ' ', ':']));
        if in_macro || line.contains(&function) && !line.starts_with("//") {
            return !is_ignored;
        }
        is_ignored = line.starts_with("#[ignore") || is_ignored && line.starts_with("#[");
    }
    false
}

/// Forbidden words with their lines. Comments and the tests at the end of a file may say what they like.
fn forbidden_in(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    let code = text.lines().enumerate().take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
    code.filter(|(_, line)| !line.trim_start().starts_with("//")).flat_map(|(at, line)| {
        CORE_FORBIDDEN.iter().filter(|word| line.contains(**word)).map(move |word| (at + 1, *word)).collect::<Vec<_>>()
    })
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|end| end == "rs") && !is_test(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains("test"))
        || path.iter().any(|part| part == "tests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_clock_and_spares_comments_and_tests() {
        let text = "use std::time::Instant;\n// Instant\nlet a = 1;\n#[cfg(test)]\nuse std::fs;\n";
        assert_eq!(forbidden_in(text).collect::<Vec<_>>(), [(1, "Instant")]);
    }

    #[test]
    fn finds_what_waits_tells_or_has_no_order() {
        for (line, word) in [
            ("async fn next() {}", "async fn"),
            ("let next = queue.next().await;", ".await"),
            ("use std::io::Read;", "std::io"),
            ("static STATE: RwLock<u8> = RwLock::new(0);", "RwLock"),
            ("thread_local! { static A: u8 = 0 }", "thread_local!"),
            ("eprintln!(\"here\");", "println!"),
            ("let seen = HashSet::new();", "HashSet"),
        ] {
            assert!(forbidden_in(line).any(|(_, found)| found == word), "{line}");
        }
    }

    #[test]
    fn finds_the_tests_that_a_section_names() {
        let text = "## Before\n`a.rs::no`\n## Promises\n| one | `a/b.rs::holds_it`: what; `word` |\n`c.rs::too`\n## After\n`a.rs::no`";
        assert_eq!(tests_named_in(text, "## Promises"), [("a/b.rs", "holds_it"), ("c.rs", "too")]);
    }

    #[test]
    fn a_test_is_there_if_it_is_run() {
        for there in ["#[test]\nfn holds_it() {", "    async fn holds_it() {", "stories! {\n    holds_it,", "holds_it"]
        {
            assert!(defines(there, "holds_it"), "{there}");
        }
        for gone in
            ["fn holds_it_all() {", "// fn holds_it() {", "#[test]\n#[ignore]\nfn holds_it() {", "// as holds_it does"]
        {
            assert!(!defines(gone, "holds_it"), "{gone}");
        }
    }
}
