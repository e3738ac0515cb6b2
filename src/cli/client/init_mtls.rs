//! `a6 init-mtls`: certificates for trying things out, and what to type next.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;

use super::args::{Globals, InitMtls};
use super::failed::Failed;
use crate::tls::tryout::{self, VALID_DAYS};

/// Makes the files; the text is for standard output.
///
/// # Errors
/// Files that are there already, names that cannot be in a certificate.
pub(super) fn run(init: &InitMtls, globals: &Globals) -> Result<String, Failed> {
    let names: Vec<&str> = init.name.iter().map(String::as_str).collect();
    if let Some(name) = names.iter().find(|name| !is_dns_name(name)) {
        return Err(Failed::new(format!(
            "--name {name:?}: is no DNS name, which a client asks for; give one such as localhost"
        )));
    }
    let kit = tryout::make(&names, &init.client)
        .map_err(|error| Failed::new(format!("the certificates cannot be made: {error}")))?;
    let folder = &init.folder;
    let shown = folder.display();
    let failed = |error: std::io::Error| Failed::new(format!("{shown}: {error}"));
    fs::create_dir_all(folder).map_err(failed)?;
    let pairs = [
        ("ca", &kit.ca),
        ("server", &kit.server),
        ("client", &kit.client),
    ];
    let files: Vec<(String, &str, u32)> = pairs
        .iter()
        .flat_map(|(stem, pair)| {
            [
                (format!("{stem}.crt"), pair.cert.as_str(), 0o644),
                (format!("{stem}.key"), pair.key.as_str(), 0o600),
            ]
        })
        .collect();
    if !globals.force
        && let Some((name, ..)) = files.iter().find(|(name, ..)| folder.join(name).exists())
    {
        return Err(Failed::new(format!(
            "{}: is there already; nothing was written (--force writes over it)",
            folder.join(name).display()
        )));
    }
    for (name, text, mode) in &files {
        let path = folder.join(name);
        let _ = fs::remove_file(&path);
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(*mode)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| Failed::new(format!("{}: {error}", path.display())))?;
    }
    let first = names.first().copied().unwrap_or("localhost");
    Ok(format!(
        "✓ {shown}: ca, server ({}) and client ({}), valid for {VALID_DAYS} days.\n\
         For trying things out only: the CA's key lies beside them.\n\n\
         a6 ssl create -f - <<'EOF'\n\
         {{ \"id\": \"{first}\", \"snis\": [\"{first}\"], \"cert\": \"@{shown}/server.crt\",\n  \
         \"key\": \"@{shown}/server.key\", \"client\": {{ \"ca\": \"@{shown}/ca.crt\" }} }}\n\
         EOF\n\
         curl --cacert {shown}/ca.crt --cert {shown}/client.crt --key {shown}/client.key \
         --resolve {first}:9443:127.0.0.1 https://{first}:9443/",
        names.join(", "),
        init.client
    ))
}

/// Whether a text is a name that a TLS client may ask for (RFC 6066 §3: no address), or a wildcard
/// of such names.
fn is_dns_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(is_part)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = name.strip_prefix("*.").unwrap_or(name);
    name.len() <= 253 && name.parse::<Ipv4Addr>().is_err() && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_clients_ask_for() {
        for name in ["localhost", "api.example.com", "*.example.com", "a_b.c-d"] {
            assert!(is_dns_name(name), "{name}");
        }
        for name in [
            "",
            "a b",
            "127.0.0.1",
            "::1",
            "a..b",
            "-a",
            "a-",
            "*",
            "a.*.b",
            "a,DNS:b",
        ] {
            assert!(!is_dns_name(name), "{name}");
        }
    }
}
