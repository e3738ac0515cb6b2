//! The report on FIPS mode as a page of text for an auditor, from its JSON.

use std::fmt::Write as _;

use serde_json::Value;

/// Column at which values begin.
const COLUMN: usize = 26;

/// The page; what the report does not have is left out.
pub(super) fn page(report: &Value) -> String {
    let mut page = Page(String::new());
    page.line("statement", word(&report["statement"]));
    page.line("fips", word(&report["fips"]));
    page.line("FAILED", failure(report).unwrap_or_default());
    page.line("report made at", word(&report["made_at"]));
    let gateway = &report["gateway"];
    let process = format!(
        "Portcullis {}, {} since {}",
        word(&gateway["version"]),
        word(&gateway["process"]),
        word(&gateway["started_at"])
    );
    page.line("gateway", process);
    let memory = match gateway["memory_locked"].as_bool() {
        Some(true) => "locked: nothing of it is swapped out",
        Some(false) => "not locked",
        None => "",
    };
    page.line("memory", memory);
    page.module(&report["module"]);
    page.openssl(&report["openssl"]);
    page.tls(&report["tls"]);
    page.negotiated(&report["negotiated"]);
    page.keys(&report["keys"]);
    page.probes(&report["probes"]);
    page.section("Cryptographic crates in the build");
    for package in list(&report["cryptographic_crates"]) {
        let name = format!("{} {}", word(&package["name"]), word(&package["version"]));
        let by = words(&package["needed_by"]);
        page.line(
            &name,
            format!("{} (needed by {by})", word(&package["purpose"])),
        );
    }
    page.configuration(&report["configuration"]);
    page.signature(&report["signature"]);
    page.0
}

/// That the gateway which serves has lost its module, if so; `None` for a report without that.
pub(super) fn failure(report: &Value) -> Option<String> {
    let failure = Some(&report["failure"]).filter(|failure| !failure.is_null())?;
    let why = ["reason", "cause"].map(|member| word(&failure[member]));
    let why = why.into_iter().filter(|text| !text.is_empty());
    Some(format!(
        "the gateway that serves from this store lost its FIPS module at {} and accepts no client: \
         {}; repair the module, then start the gateway anew",
        word(&failure["at"]),
        why.collect::<Vec<_>>().join(": ")
    ))
}

struct Page(String);

impl Page {
    fn section(&mut self, title: &str) {
        // Writing to a `String` cannot fail.
        let _ = write!(self.0, "\n{title}\n{}\n", "-".repeat(title.len()));
    }

    /// `name: value`; nothing where there is no value.
    fn line(&mut self, name: &str, value: impl AsRef<str>) {
        let value = value.as_ref();
        if !value.is_empty() {
            let name = format!("{name}:");
            let _ = writeln!(self.0, "{name:<COLUMN$} {value}");
        }
    }

    fn module(&mut self, module: &Value) {
        if module.is_null() {
            return;
        }
        self.section("FIPS module");
        for name in [
            "name",
            "version",
            "buildinfo",
            "origin",
            "path",
            "sha256",
            "state",
        ] {
            self.line(name, word(&module[name]));
        }
        self.line("security checks", switch(&module["security_checks"]));
        self.line("conditional-errors", switch(&module["conditional_errors"]));
        self.line("tls1-prf-ems-check", switch(&module["tls1_prf_ems_check"]));
        self.line("drbg-no-trunc-md", switch(&module["drbg_no_trunc_md"]));
        let tests = &module["self_tests"];
        let last = format!(
            "{} at {} ({})",
            word(&tests["last_result"]),
            word(&tests["last_at"]),
            word(&tests["last_occasion"])
        );
        self.line("self-tests at the start", word(&tests["at_start"]));
        self.line("last self-tests", last);
        let often = format!(
            "{} since the start, every {} s",
            word(&tests["count"]),
            word(&tests["interval_seconds"])
        );
        self.line("self-tests", often);
        self.line("how", word(&tests["how"]));
    }

    fn openssl(&mut self, openssl: &Value) {
        self.section("OpenSSL");
        for name in ["libcrypto", "libssl"] {
            let library = &openssl[name];
            let at = format!("{} ({})", word(&library["path"]), word(&library["linked"]));
            self.line(name, at);
            // libssl has no function that tells it.
            let version = library["version"]
                .as_str()
                .unwrap_or("not told by it; see its digest");
            self.line(&format!("{name} version"), version);
            self.line(&format!("{name} sha256"), word(&library["sha256"]));
        }
        self.line("property query", word(&openssl["property_query"]));
        self.line("providers", words(&openssl["providers"]));
        let others = words(&openssl["other_cryptographic_libraries"]);
        let others = if others.is_empty() {
            "none".to_owned()
        } else {
            others
        };
        self.line("other crypto libraries", others);
    }

    fn tls(&mut self, tls: &Value) {
        self.section("What TLS permits");
        self.permits(&tls["profile"]);
        for listener in list(&tls["listeners"]) {
            let name = format!("listener {}", word(&listener["name"]));
            let permits = &listener["permits"];
            let versions = words(&permits["versions"]);
            let versions = if versions.is_empty() {
                "in the clear".to_owned()
            } else {
                versions
            };
            self.line(&name, format!("{}, {versions}", word(&listener["address"])));
        }
        for name in list(&tls["names"]) {
            let text = format!(
                "{}, {}, client certificate {}, {}",
                words(&name["names"]),
                words(&name["versions"]),
                word(&name["client_certificate"]),
                word(&name["state"])
            );
            self.line(&word(&name["object"]), text);
        }
        for upstream in list(&tls["upstreams"]) {
            let is_checked = upstream["verify"] == Value::Bool(true);
            let checked = if is_checked { "checked" } else { "NOT CHECKED" };
            let text = format!(
                "upstream, {}, its certificate is {checked}, {}",
                words(&upstream["versions"]),
                word(&upstream["state"])
            );
            self.line(&word(&upstream["object"]), text);
        }
    }

    fn permits(&mut self, permits: &Value) {
        for name in ["versions", "suites", "groups", "signature_algorithms"] {
            self.line(&name.replace('_', " "), words(&permits[name]));
        }
    }

    fn negotiated(&mut self, negotiated: &Value) {
        self.section("What was negotiated");
        if negotiated.is_null() {
            self.line(
                "handshakes",
                "not known: this process does not serve; ask the one that does",
            );
            return;
        }
        self.line("since", word(&negotiated["since"]));
        for place in list(&negotiated["places"]) {
            let name = word(&place["place"]);
            for row in list(&place["handshakes"]) {
                let is_resumed = row["resumed"] == Value::Bool(true);
                let resumed = if is_resumed { ", resumed" } else { "" };
                let text = format!(
                    "{} x {}, {}, group {}{resumed}",
                    word(&row["count"]),
                    word(&row["version"]),
                    word(&row["suite"]),
                    word(&row["group"])
                );
                self.line(&name, text);
            }
            for row in list(&place["signatures"]) {
                let (count, algorithm) = (word(&row["count"]), word(&row["algorithm"]));
                let text = format!(
                    "{count} x signed by the {} with {algorithm}",
                    word(&row["by"])
                );
                self.line(&name, text);
            }
        }
    }

    fn keys(&mut self, keys: &Value) {
        self.section("Keys");
        if list(keys).is_empty() {
            self.line("keys", "none");
        }
        for key in list(keys) {
            let place = format!("{} {}", word(&key["object"]), word(&key["member"]));
            if let Some(error) = key["error"].as_str() {
                self.line(place.trim_end(), error);
                continue;
            }
            let curve = key["curve"].as_str();
            let curve = curve
                .map(|curve| format!(" on {curve}"))
                .unwrap_or_default();
            let provider = key["provider"].as_str().unwrap_or("NONE");
            let mut text = format!(
                "{} {} bits{curve}, provider {provider}",
                word(&key["algorithm"]),
                word(&key["bits"]),
            );
            let certificate = &key["certificate"];
            if !certificate.is_null() {
                let _ = write!(
                    text,
                    "; {}, signed with {}, until {}",
                    word(&certificate["subject"]),
                    word(&certificate["signature_algorithm"]),
                    word(&certificate["not_after"])
                );
            }
            for (before, name) in [("id ", "key_id"), ("", "purpose"), ("from ", "from")] {
                if let Some(told) = key[name].as_str() {
                    let _ = write!(text, "; {before}{told}");
                }
            }
            self.line(place.trim_end(), text);
        }
    }

    fn probes(&mut self, probes: &Value) {
        let (algorithms, handshakes) = (list(&probes["algorithms"]), list(&probes["handshakes"]));
        if algorithms.is_empty() && handshakes.is_empty() {
            return;
        }
        self.section("Probes made at the start");
        for probe in algorithms {
            self.line(&word(&probe["algorithm"]), word(&probe["result"]));
        }
        for probe in handshakes {
            let peer = format!("{} ({})", word(&probe["peer"]), word(&probe["version"]));
            let text = format!(
                "{} by the {}: {}",
                word(&probe["result"]),
                word(&probe["context"]),
                word(&probe["detail"])
            );
            self.line(&peer, text);
        }
    }

    fn configuration(&mut self, configuration: &Value) {
        self.section("Configuration");
        self.line("sha256", word(&configuration["sha256"]));
        self.line("file", word(&configuration["file"]));
        let resources = &configuration["resources"];
        if !resources.is_null() {
            let text = format!(
                "{} changes, audit chain {}",
                word(&resources["audit_count"]),
                word(&resources["audit_mac"])
            );
            self.line("resources", text);
        }
    }

    fn signature(&mut self, signature: &Value) {
        if signature.is_null() {
            return;
        }
        self.section("Signature");
        self.line("algorithm", word(&signature["algorithm"]));
        self.line("public key sha256", word(&signature["public_key_sha256"]));
        self.line(
            "covers",
            "the JSON of this report; only that can be verified",
        );
    }
}

/// A text or number as it is; empty where there is none.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// A list of words, separated by commas.
fn words(value: &Value) -> String {
    let all: Vec<String> = list(value).iter().map(word).collect();
    all.join(", ")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn switch(value: &Value) -> &'static str {
    match value.as_bool() {
        Some(true) => "on",
        Some(false) => "off",
        None => "not reported",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn module_that_was_lost_is_told_at_the_top() {
        let text = "FAILED:                    the gateway that serves from this store lost its FIPS \
                    module at 2030-01-01T00:00:00Z and accepts no client: reason: cause; repair";
        let mut report = json!({"failure": {"at": "2030-01-01T00:00:00Z", "reason": "reason",
                                            "cause": "cause"}});
        assert!(page(&report).contains(text), "{}", page(&report));
        report["failure"]["cause"] = Value::Null;
        assert!(page(&report).contains("client: reason; repair"));
        report["failure"] = Value::Null;
        assert!(!page(&report).contains("FAILED") && failure(&report).is_none());
    }

    #[test]
    fn what_the_report_has_is_on_the_page_and_no_more() {
        let report = json!({
            "statement": "uses the OpenSSL FIPS provider 3.1.2, functional build",
            "fips": "required",
            "module": {"name": "OpenSSL FIPS Provider", "tls1_prf_ems_check": true},
            "openssl": {"providers": ["base", "fips"]},
            "keys": [
                {"object": "ssls/1", "member": "key", "algorithm": "EC", "bits": 256,
                 "curve": "prime256v1", "provider": null, "certificate": null},
                {"object": "kek", "member": "", "purpose": "seals", "from": "/etc/portcullis/kek",
                 "key_id": "0123456789abcdef", "algorithm": "AES-256-GCM", "bits": 256,
                 "curve": null, "provider": "fips", "certificate": null},
            ],
            "negotiated": null,
        });
        let text = page(&report);
        for (name, value) in [
            (
                "statement:",
                "uses the OpenSSL FIPS provider 3.1.2, functional build",
            ),
            ("tls1-prf-ems-check:", "on"),
            ("providers:", "base, fips"),
            ("other crypto libraries:", "none"),
            (
                "handshakes:",
                "not known: this process does not serve; ask the one that does",
            ),
        ] {
            let line = format!("{name:<COLUMN$} {value}");
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for line in [
            "ssls/1 key:                EC 256 bits on prime256v1, provider NONE",
            "kek:                       AES-256-GCM 256 bits, provider fips; id 0123456789abcdef; \
             seals; from /etc/portcullis/kek",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(
            !text.contains("Signature") && !text.contains("null"),
            "{text}"
        );
        page(&Value::Null);
    }
}
