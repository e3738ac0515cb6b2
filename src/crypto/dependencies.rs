//! The cryptographic crates of this build, from the build's own dependency list.
//!
//! `Cargo.lock` as it was when this was compiled, walked from the dependencies of `Cargo.toml`, so
//! that what only tests use does not count. A name counts as cryptography when `deny.toml` knows it
//! or it is one of OpenSSL's; `make deny` fails on all others, so that one shows here means that
//! the build was made around that check.

use std::collections::{BTreeMap, BTreeSet};

const LOCK: &str = include_str!("../../Cargo.lock");
const MANIFEST: &str = include_str!("../../Cargo.toml");
const BANS: &str = include_str!("../../deny.toml");

/// The crates that OpenSSL is reached by, and what else may be there, each with what it is for.
const EXPECTED: [(&str, &str); 5] = [
    ("openssl", "safe bindings to OpenSSL"),
    ("openssl-sys", "declarations of OpenSSL's functions"),
    ("openssl-src", "OpenSSL's source, linked statically"),
    ("tokio-openssl", "OpenSSL's TLS on asynchronous sockets"),
    (
        "sha1",
        "forms `Sec-WebSocket-Accept` inside `headers`; nothing here calls it",
    ),
];
/// Only there with the feature `vendored`.
const VENDORED: &str = "openssl-src";

/// A cryptographic crate of this build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CryptoCrate {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it is for; `None` when it should not be there.
    pub purpose: Option<&'static str>,
    /// The crates that need it, sorted.
    pub needed_by: Vec<&'static str>,
}

/// All of them, by name.
#[must_use]
pub fn cryptographic() -> Vec<CryptoCrate> {
    among(&packages(LOCK), &direct(MANIFEST), &banned(BANS))
}

/// A package of the lock file.
#[derive(Debug, Default)]
struct Package {
    name: &'static str,
    version: &'static str,
    /// Names, with a version where several are in the file.
    dependencies: Vec<&'static str>,
}

fn among(
    packages: &[Package],
    direct: &[&'static str],
    banned: &BTreeSet<&'static str>,
) -> Vec<CryptoCrate> {
    let mut needed: BTreeMap<usize, BTreeSet<&'static str>> = BTreeMap::new();
    let mut open: Vec<(&'static str, &'static str)> =
        direct.iter().map(|name| ("portcullis", *name)).collect();
    while let Some((by, wanted)) = open.pop() {
        for (index, package) in packages.iter().enumerate() {
            if !package.is(wanted) {
                continue;
            }
            let is_new = !needed.contains_key(&index);
            needed.entry(index).or_default().insert(by);
            if is_new {
                let rest = package.dependencies.iter();
                open.extend(rest.map(|dependency| (package.name, *dependency)));
            }
        }
    }
    let mut found: Vec<CryptoCrate> = needed
        .into_iter()
        .filter_map(|(index, by)| Some((packages.get(index)?, by)))
        .filter(|(package, _)| package.name != VENDORED || cfg!(feature = "vendored"))
        .filter_map(|(package, by)| {
            let expected = EXPECTED.iter().find(|(name, _)| *name == package.name);
            if expected.is_none() && !banned.contains(package.name) {
                return None;
            }
            Some(CryptoCrate {
                name: package.name,
                version: package.version,
                purpose: expected.map(|(_, purpose)| *purpose),
                needed_by: by.into_iter().collect(),
            })
        })
        .collect();
    found.sort_by_key(|package| (package.name, package.version));
    found
}

impl Package {
    /// Whether a dependency, `name` or `name version`, means this one.
    fn is(&self, wanted: &str) -> bool {
        match wanted.split_once(' ') {
            Some((name, version)) => name == self.name && version == self.version,
            None => wanted == self.name,
        }
    }
}

/// The packages of a lock file, which Cargo writes one value a line.
fn packages(lock: &'static str) -> Vec<Package> {
    let blocks = lock.split("[[package]]").skip(1);
    blocks
        .map(|block| {
            let mut package = Package::default();
            for line in block.lines() {
                if let Some(name) = line.strip_prefix("name = ") {
                    package.name = unquoted(name);
                } else if let Some(version) = line.strip_prefix("version = ") {
                    package.version = unquoted(version);
                } else if line.starts_with(" \"") {
                    package.dependencies.push(unquoted(line));
                }
            }
            package
        })
        .collect()
}

/// What the package itself depends on, tests aside.
fn direct(manifest: &'static str) -> Vec<&'static str> {
    let section = manifest.split("\n[dependencies]\n").nth(1);
    let section = section.and_then(|rest| rest.split("\n[").next());
    let lines = section.unwrap_or_default().lines();
    lines
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .collect()
}

/// The names that `make deny` does not let in.
fn banned(bans: &'static str) -> BTreeSet<&'static str> {
    let entries = bans.split("{ name = ").skip(1);
    entries
        .filter_map(|entry| entry.split('"').nth(1))
        .collect()
}

fn unquoted(text: &'static str) -> &'static str {
    text.trim_matches([' ', '"', ','])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_build_has_openssl_s_crates_and_one_sha1_that_is_not_called() {
        let found = cryptographic();
        let names: Vec<&str> = found.iter().map(|package| package.name).collect();
        let mut expected = vec!["openssl", "openssl-sys", "sha1", "tokio-openssl"];
        if cfg!(feature = "vendored") {
            expected.insert(1, VENDORED);
        }
        assert_eq!(names, expected);
        assert!(found.iter().all(|package| package.purpose.is_some()));
        let sha1 = found.iter().find(|package| package.name == "sha1").unwrap();
        assert_eq!(sha1.needed_by, ["headers"]);
    }

    #[test]
    fn every_file_is_read_whole() {
        let all = packages(LOCK);
        assert_eq!(all.len(), LOCK.matches("[[package]]").count());
        assert!(all.iter().all(|package| !package.name.is_empty()));
        assert!(all.iter().all(|package| package.version.contains('.')));
        for name in direct(MANIFEST) {
            assert!(all.iter().any(|package| package.is(name)), "{name}");
        }
        let bans = banned(BANS);
        assert!(bans.len() > 40 && bans.contains("ring") && bans.contains("sha1"));
    }

    #[test]
    fn banned_crate_shows_where_it_is_reached_and_only_there() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\ndependencies = [\n \"ring 0.1.0\",\n]\n\
                    [[package]]\nname = \"ring\"\nversion = \"0.1.0\"\n\
                    [[package]]\nname = \"ring\"\nversion = \"0.2.0\"\n\
                    [[package]]\nname = \"tests\"\nversion = \"1.0.0\"\ndependencies = [\n \"md5\",\n]\n\
                    [[package]]\nname = \"md5\"\nversion = \"1.0.0\"\n";
        for name in ["aes-kw", "des", "sha-1", "cmac", "ed25519-compact"] {
            assert!(banned(BANS).contains(name), "{name}");
        }
        let found = among(&packages(lock), &["a"], &banned(BANS));
        let expected = CryptoCrate {
            name: "ring",
            version: "0.1.0",
            purpose: None,
            needed_by: vec!["a"],
        };
        assert_eq!(found, [expected]);
    }
}
