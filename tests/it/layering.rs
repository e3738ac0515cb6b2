//! Reads `src/` and fails when a room imports what it may not.
//!
//! The table below is the one of `ARCHITECTURE.md`. Looked at are the paths that the sources name,
//! `use` lines and paths in code alike; comments and strings are not, nor is anything under
//! `#[cfg(test)]`, files included: a unit test may reach across rooms, the shipped code may not. What
//! a room gets through another room's re-export counts as that other room's.

use std::fs;
use std::path::{Path, PathBuf};

use source::{modules_for_tests, paths, tokens, without_tests};

mod source;

/// A room, and the paths below `crate` that it may name; `"tls::material"` allows that part alone.
const ROOMS: [(&str, &[&str]); 17] = [
    (
        "admin",
        &[
            "resource", "snapshot", "store", "secrets", "control", "net", "crypto",
        ],
    ),
    (
        "control",
        &[
            "resource", "snapshot", "store", "secrets", "matching", "net", "tls", "crypto",
            "config",
        ],
    ),
    (
        "proxy",
        &["snapshot", "matching", "tls", "net", "http2", "plugins"],
    ),
    ("plugins", &["matching", "resource"]),
    (
        "store",
        &[
            "resource::Kind",
            "resource::Id",
            "resource::Document",
            "resource::Revision",
            // What `file` reads documents with.
            "resource::check_id",
            "resource::integer",
            "resource::json",
            "resource::shown",
            "crypto",
        ],
    ),
    ("secrets", &["resource", "net", "tls", "crypto"]),
    ("net", &["tls", "config"]),
    ("resource", &["tls::material", "tls::policy", "matching"]),
    ("matching", &[]),
    ("http2", &[]),
    ("snapshot", &["resource", "matching", "tls", "crypto"]),
    ("tls", &["crypto"]),
    ("crypto", &[]),
    ("failure", &[]),
    ("config", &[]),
    ("telemetry", &[]),
    // The server's verbs put everything together; its client half is held apart by CLIENT.
    (
        "cli",
        &[
            "admin", "control", "proxy", "plugins", "store", "secrets", "net", "resource",
            "matching", "snapshot", "tls", "crypto", "config",
        ],
    ),
];

/// What `cli::client`, all of a6, may name: never the server.
const CLIENT: [&str; 5] = ["resource", "net", "tls", "crypto", "config"];

/// Every room may log, count and name a failure; these two themselves lean on nothing but `failure`.
const FOR_ALL: [&str; 2] = ["telemetry", "failure"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "common", "misc", "types", "globals"];

#[test]
fn rooms_import_only_what_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: Vec<(String, String)> = sources(&root)
        .iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            (name.to_owned(), fs::read_to_string(path).unwrap())
        })
        .collect();
    let faults = faults_in_all(&files);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

// --- The rules --------------------------------------------------------------------------------

/// Everything wrong with a tree of files, each its path below `src/` and its text.
fn faults_in_all(files: &[(String, String)]) -> Vec<String> {
    let mut for_tests = Vec::new();
    for (file, text) in files {
        for name in modules_for_tests(&tokens(text)) {
            let mut module = module_of(file);
            module.push(name);
            for_tests.push(module);
        }
    }
    let is_shipped = |file: &str| {
        let module = module_of(file);
        !for_tests.iter().any(|tests| module.starts_with(tests))
    };
    files
        .iter()
        .filter(|(file, _)| is_shipped(file))
        .flat_map(|(file, text)| faults_in(file, text))
        .collect()
}

/// Everything wrong with one file, a line each; `file` is its path below `src/`.
fn faults_in(file: &str, text: &str) -> Vec<String> {
    let tokens = without_tests(&tokens(text));
    let module = module_of(file);
    let mut faults = Vec::new();
    let mut say = |line: usize, what: String| faults.push(format!("src/{file}:{line}: {what}"));

    if let Some(name) = module
        .iter()
        .find(|name| EMPTY_NAMES.contains(&name.as_str()))
    {
        say(
            1,
            format!("a module named `{name}` says nothing about what is inside"),
        );
    }
    let is_entry = module.is_empty() || module[0] == "bin";
    let room = if is_entry { "" } else { module[0].as_str() };
    if !is_entry && !ROOMS.iter().any(|(known, _)| *known == room) {
        say(1, format!("`{room}` is not one of the rooms"));
        return faults;
    }
    for path in paths(&tokens, module.len()) {
        if let Some(what) = fault_of_path(file, &module, room, &path.segments) {
            say(path.line, what);
        }
    }
    for (at, token) in tokens.iter().enumerate() {
        if token.is("unsafe") && file != "crypto/sys.rs" {
            say(token.line, "`unsafe` belongs in crypto/sys.rs".to_owned());
        }
        let is_called = tokens.get(at + 1).is_some_and(|next| next.is("("));
        let is_reached = at > 0 && (tokens[at - 1].is(".") || tokens[at - 1].is("::"));
        if token.is("publish") && is_called && is_reached && room != "control" {
            say(
                token.line,
                "`publish` is called by control alone".to_owned(),
            );
        }
    }
    faults
}

/// What is wrong with naming `path` in this file; its first segment is `crate` or an external one.
fn fault_of_path(file: &str, module: &[String], room: &str, path: &[String]) -> Option<String> {
    let starts = |with: &[&str]| {
        path.len() >= with.len() && path.iter().zip(with).all(|(have, want)| have == want)
    };
    let shown = || path.join("::");
    if starts(&["crate"]) {
        let is_allowed = is_inside_allowed(module, room, &path[1..]);
        return (!is_allowed).then(|| format!("`{room}` may not import `{}`", shown()));
    }
    if starts(&["openssl_sys"]) && file != "crypto/sys.rs" {
        return Some(format!("`{}` belongs in crypto/sys.rs", shown()));
    }
    if (starts(&["openssl"]) || starts(&["tokio_openssl"])) && !matches!(room, "tls" | "crypto") {
        return Some(format!("`{}` belongs in tls and crypto", shown()));
    }
    let is_client = starts(&["hyper", "client"]) || starts(&["hyper_util", "client"]);
    if is_client && !matches!(room, "net" | "proxy") {
        return Some(format!("`{}` belongs in net and proxy", shown()));
    }
    let is_serde = ["serde", "serde_json", "serde_yaml_ng"]
        .iter()
        .any(|name| starts(&[name]));
    if is_serde && matches!(room, "proxy" | "matching") {
        return Some(format!(
            "`{}`: the request path does not parse documents",
            shown()
        ));
    }
    let is_dial = path.windows(2).any(|pair| {
        matches!(pair[0].as_str(), "TcpStream" | "UnixStream") && pair[1].starts_with("connect")
    }) || path.iter().any(|name| name == "HttpConnector")
        // A listener may be set up by one, so net is not held to this.
        || (room != "net" && path.iter().any(|name| name == "TcpSocket"));
    let is_dialer = file == "net/dial.rs" || file.starts_with("net/dial/");
    (is_dial && !is_dialer).then(|| format!("`{}`: only net::dial opens connections", shown()))
}

/// Whether a file of `room` may name `target`, a path below the crate's root.
fn is_inside_allowed(module: &[String], room: &str, target: &[String]) -> bool {
    let Some(first) = target.first() else {
        return true;
    };
    if module.is_empty() {
        return true; // lib.rs and main.rs tie everything together
    }
    if module[0] == "bin" {
        return first == "cli";
    }
    let is_client = module.len() > 1 && module[..2] == ["cli", "client"];
    if first == room {
        return !is_client || target.get(1).is_none_or(|part| part != "server");
    }
    if FOR_ALL.contains(&first.as_str()) {
        return room != "failure" && (room != "telemetry" || first == "failure");
    }
    let allowed = ROOMS
        .iter()
        .find(|(known, _)| *known == room)
        .map_or(&[][..], |(_, may)| *may);
    let allowed = if is_client { &CLIENT[..] } else { allowed };
    // A glob may bring anything, so it counts as all of the room.
    allowed.iter().any(|may| {
        let mut may = may.split("::");
        may.next() == Some(first)
            && may
                .next()
                .is_none_or(|part| target.get(1).is_some_and(|have| have == part))
    })
}

/// The module that a file of `src/` holds: `tls/select.rs` and `tls/select/mod.rs` are `[tls, select]`.
fn module_of(file: &str) -> Vec<String> {
    let mut module: Vec<String> = file
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    let is_root = module.len() == 1 && matches!(module[0].as_str(), "lib" | "main");
    if is_root || module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

// --- The checker can fail -----------------------------------------------------------------------

#[test]
fn import_of_a_forbidden_room_is_found_in_every_spelling() {
    for text in [
        "use crate::store::Store;",
        "use crate::{matching::sni, store::Store};",
        "use crate::{\n    store as shelf,\n};",
        "pub use crate::store::*;",
        "fn f() { let x = crate::store::open(); }",
        "fn f(x: &dyn crate::store::Store) {}",
        "use super::super::store::Store;",
        "use super::super::{store::Store};",
        "mod inner { use super::super::super::store::Store; }",
        "macro_rules! m { () => { $crate::store::open() } }",
        "#[cfg(any(test, unix))] use crate::store::Store;",
    ] {
        let faults = faults_in("proxy/pool.rs", text);
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
        assert!(
            faults[0].contains("`proxy` may not import `crate::store"),
            "{faults:?}"
        );
    }
}

#[test]
fn what_only_looks_like_a_forbidden_import_passes() {
    for text in [
        "use crate::matching::sni; use crate::proxy::pool; use crate::telemetry::log; use crate::failure;",
        "// use crate::store::Store;\n/* crate::store /* nested */ */ fn f() {}",
        r##"const A: &str = "crate::store::x"; const B: &str = r#"crate::store " x"#; const C: char = '"';"##,
        "#[cfg(test)]\nmod tests { use crate::store::Memory; fn f() { if true {} } }\nfn g() {}",
        "#[cfg(test)] use crate::store::Memory;",
        "use super::store; fn f<'a>(x: &'a str) {}",
        "pub(in crate::proxy) fn f() {}",
        "fn f() { b'\\''; '\\u{41}'; b\"crate::store\"; }",
    ] {
        assert_eq!(
            faults_in("proxy/pool.rs", text),
            Vec::<String>::new(),
            "{text}"
        );
    }
}

#[test]
fn files_of_a_test_module_are_not_looked_at() {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let sample = file("matching/sample.rs", "use crate::store::Store;");
    let deeper = file("matching/sample/deep.rs", "use crate::store::Store;");
    let marked = file(
        "matching/mod.rs",
        "#[cfg(test)]\npub(crate) mod sample;\nmod sni;",
    );
    let files = [marked, sample.clone(), deeper.clone()];
    assert_eq!(faults_in_all(&files), Vec::<String>::new());

    let shipped = file("matching/mod.rs", "mod sample;");
    assert_eq!(faults_in_all(&[shipped, sample, deeper]).len(), 2);
}

#[test]
fn a_part_of_a_room_is_allowed_without_the_rest() {
    assert!(faults_in("resource/ssl.rs", "use crate::tls::material::KeyPair;").is_empty());
    assert!(faults_in("resource/ssl.rs", "use crate::tls::{material::KeyPair};").is_empty());
    assert_eq!(
        faults_in("resource/ssl.rs", "use crate::tls::{context, material};").len(),
        1
    );
    assert_eq!(faults_in("resource/ssl.rs", "use crate::tls;").len(), 1);
    assert!(faults_in("store/sqlite.rs", "use crate::resource::{Id, Kind};").is_empty());
    assert_eq!(
        faults_in("store/sqlite.rs", "use crate::resource::*;").len(),
        1
    );
}

#[test]
fn foundation_leans_on_nothing_above_it() {
    assert_eq!(
        faults_in("matching/route.rs", "use crate::resource::Route;").len(),
        1
    );
    assert_eq!(
        faults_in("crypto/aead.rs", "use crate::tls::policy;").len(),
        1
    );
    assert_eq!(
        faults_in("failure/mod.rs", "use crate::telemetry::log;").len(),
        1
    );
    assert_eq!(
        faults_in("telemetry/mod.rs", "use crate::config::Config;").len(),
        1
    );
    assert!(faults_in("telemetry/mod.rs", "use crate::failure::Reason;").is_empty());
    assert!(faults_in("tls/select.rs", "use crate::crypto::digest;").is_empty());
}

#[test]
fn client_half_of_the_command_line_never_sees_the_server() {
    assert!(faults_in("cli/server/serve.rs", "use crate::{control, proxy, store};").is_empty());
    assert_eq!(
        faults_in("cli/client/ssl.rs", "use crate::store::Store;").len(),
        1
    );
    assert_eq!(
        faults_in("cli/client/ssl.rs", "use crate::cli::server::serve;").len(),
        1
    );
    assert!(faults_in("cli/client/ssl.rs", "use crate::net::http;").is_empty());
    assert_eq!(faults_in("bin/a6.rs", "use portcullis::proxy;").len(), 1);
    assert!(faults_in("bin/a6.rs", "fn main() { portcullis::cli::client::main() }").is_empty());
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    for (file, text, is_fine) in [
        ("tls/context.rs", "use openssl::ssl::Ssl;", true),
        ("crypto/aead.rs", "use openssl::symm;", true),
        ("proxy/pool.rs", "use openssl::ssl::Ssl;", false),
        (
            "proxy/pool.rs",
            "fn f() { openssl::rand::rand_bytes(); }",
            false,
        ),
        ("proxy/pool.rs", "use openssl as o;", false),
        ("proxy/pool.rs", "use ::openssl::ssl::Ssl;", false),
        ("proxy/pool.rs", "use ::openssl as o;", false),
        (
            "crypto/sys.rs",
            "use openssl_sys::SSL; unsafe fn f() {}",
            true,
        ),
        ("crypto/mod.rs", "use openssl_sys::SSL;", false),
        ("tls/stream.rs", "fn f() { unsafe { g() } }", false),
        ("tls/stream.rs", "use tokio_openssl::SslStream;", true),
        ("crypto/sys.rs", "use tokio_openssl::SslStream;", true),
        ("net/serve.rs", "use tokio_openssl::SslStream;", false),
        ("net/http.rs", "use hyper::client::conn::http1;", true),
        (
            "proxy/upstream.rs",
            "use hyper::{body::Incoming, client::conn::http1};",
            true,
        ),
        (
            "control/probe.rs",
            "use hyper::{body::Incoming, client::conn::http1};",
            false,
        ),
        (
            "secrets/vault.rs",
            "use hyper_util::client::legacy::Client;",
            false,
        ),
        ("proxy/headers.rs", "use serde_json::Value;", false),
        (
            "matching/route.rs",
            "#[derive(serde::Deserialize)] struct X;",
            false,
        ),
        ("resource/ssl.rs", "use serde::Deserialize;", true),
        ("net/dial.rs", "fn f() { TcpStream::connect(a); }", true),
        (
            "proxy/upstream.rs",
            "fn f() { tokio::net::TcpStream::connect(a); }",
            false,
        ),
        (
            "secrets/vault.rs",
            "fn f() { TcpStream::connect_timeout(a, b); }",
            false,
        ),
        ("secrets/vault.rs", "use tokio::net::TcpSocket;", false),
        ("net/listener.rs", "use tokio::net::TcpSocket;", true),
    ] {
        let faults = faults_in(file, text);
        assert_eq!(faults.is_empty(), is_fine, "{file}: {text}: {faults:?}");
    }
}

#[test]
fn publish_has_one_caller() {
    assert!(faults_in("control/compile.rs", "fn f() { live.publish(next); }").is_empty());
    assert!(faults_in("snapshot/live.rs", "impl Live { pub fn publish(&self) {} }").is_empty());
    assert_eq!(
        faults_in("admin/apisix.rs", "fn f() { live.publish(next); }").len(),
        1
    );
    assert_eq!(
        faults_in("snapshot/live.rs", "fn f() { Live::publish(next); }").len(),
        1
    );
}

#[test]
fn a_seventeenth_room_and_an_empty_name_are_faults() {
    assert_eq!(faults_in("helpers/mod.rs", "").len(), 1);
    assert_eq!(faults_in("tls/util.rs", "").len(), 1);
    assert!(faults_in("tls/policy.rs", "").is_empty());
}

#[test]
fn a_fault_names_its_line() {
    let faults = faults_in(
        "matching/sni.rs",
        "//! Names.\n\n/* a\n b */\nuse crate::tls::policy;\n",
    );
    assert_eq!(
        faults,
        ["src/matching/sni.rs:5: `matching` may not import `crate::tls::policy`"]
    );
}
