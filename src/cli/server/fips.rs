//! `portcullis fips`: what the FIPS module says of itself, and what was proved about it.

use std::fmt::Write as _;
use std::process::ExitCode;

use crate::cli::print;
use crate::cli::server::args::Common;
use crate::cli::server::{FAILURE, start};
use crate::crypto;
use crate::crypto::fips::{Expected, FipsFacts};
use crate::tls::probe::{self, HandshakeProbe, Outcome};

/// Prints the report; fails where FIPS is not required, so that a script can rely on it.
pub(super) fn run(common: &Common) -> ExitCode {
    if let Err(code) = start(common, print::err) {
        return code;
    }
    let Some(facts) = crypto::fips::facts() else {
        print::out(&format!("fips: off\nlibcrypto: {}", crypto::version()));
        return ExitCode::from(FAILURE);
    };
    print::out(report(facts, probe::results()).trim_end());
    ExitCode::SUCCESS
}

fn report(facts: &FipsFacts, handshakes: &[HandshakeProbe]) -> String {
    let mut text = String::from("fips: required\n");
    let mut add = |name: &str, value: &str| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{name}: {value}");
    };
    add("module", &facts.name);
    add("version", &facts.version);
    add("buildinfo", &facts.buildinfo);
    add("path", &facts.module_path.display().to_string());
    add("sha256", &facts.module_sha256.to_string());
    add(
        "tls1-prf-ems-check",
        match facts.is_ems_required {
            Some(true) => "on",
            Some(false) => "off",
            None => "not reported",
        },
    );
    add("libcrypto", &facts.libcrypto_version);
    add("providers", &facts.providers.join(", "));
    for probe in &facts.probes {
        let found = match probe.expected {
            Expected::FromModule => "from the module",
            Expected::Refused => "refused",
        };
        add(&format!("probe {}", probe.name), found);
    }
    for probe in handshakes {
        let HandshakeProbe {
            context,
            peer,
            version,
            outcome,
        } = probe;
        let found = match outcome {
            Outcome::Accepted(suite) => format!("accepted, {suite}"),
            Outcome::Refused(reason) => format!("refused, {reason}"),
        };
        add(&format!("probe {context}, {peer}, {version}"), &found);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::SystemTime;

    use crate::crypto::fips::{Origin, Probe};

    #[test]
    fn report_has_every_fact() {
        let facts = FipsFacts {
            origin: Origin::Site,
            name: "OpenSSL FIPS Provider".to_owned(),
            version: "3.1.2".to_owned(),
            buildinfo: "3.1.2".to_owned(),
            module_path: "/m/fips.so".into(),
            module_sha256: "ab".repeat(32).parse().unwrap(),
            is_ems_required: Some(true),
            libcrypto_version: "OpenSSL 3.0.0".to_owned(),
            providers: vec!["base".to_owned(), "fips".to_owned()],
            probes: vec![Probe {
                name: "MD5",
                expected: Expected::Refused,
                reason: None,
            }],
            started_at: SystemTime::UNIX_EPOCH,
        };
        let handshake = HandshakeProbe {
            context: "listener",
            peer: "X25519 only",
            version: "TLSv1.3",
            outcome: Outcome::Refused("no suitable key share".to_owned()),
        };
        let text = report(&facts, &[handshake]);
        for line in [
            "module: OpenSSL FIPS Provider".to_owned(),
            "version: 3.1.2".to_owned(),
            format!("sha256: {}", "ab".repeat(32)),
            "tls1-prf-ems-check: on".to_owned(),
            "providers: base, fips".to_owned(),
            "probe MD5: refused".to_owned(),
            "probe listener, X25519 only, TLSv1.3: refused, no suitable key share".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
