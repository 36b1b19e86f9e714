//! Owns which licences may be in what ships. `deny.toml` says the same to those who have cargo-deny.

use anyhow::Result;
use serde_json::Value;

use crate::walls::array;

const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "OpenSSL",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Names every package whose licence is not allowed.
pub(crate) fn check(metadata: &Value) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for package in array(&metadata["packages"])? {
        let (name, licence) = (package["name"].as_str().unwrap_or("?"), package["license"].as_str());
        match licence {
            Some(licence) if is_allowed(licence) => {}
            Some(licence) => broken.push(format!("{name} is under {licence}, which is not in the list")),
            None => broken.push(format!("{name} names no licence")),
        }
    }
    Ok(broken)
}

/// An expression is allowed if every term joined by AND has an alternative joined by OR that is.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace(['(', ')'], " ").replace('/', " OR ");
    expression.split(" AND ").all(|term| term.split(" OR ").any(|licence| ALLOWED.contains(&licence.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_alternative_is_enough_and_every_part_needs_one() {
        assert!(is_allowed("MIT OR Apache-2.0"));
        assert!(is_allowed("MIT/GPL-3.0"));
        assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!is_allowed("GPL-3.0"));
        assert!(!is_allowed("MIT AND GPL-3.0"));
    }
}
