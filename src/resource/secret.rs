//! The secret resource: how to reach a secret manager.
//!
//! Judged completely here; what it holds is read by the managers, which keep the document.

use std::fmt;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::fault::Verdict;
use super::{Document, Terms, is_reference, members, pem};

/// A typed secret. `Debug` shows the names of its members only.
#[derive(Clone)]
pub struct Secret {
    /// The manager it describes, the first part of its id.
    pub manager: Manager,
    /// All members as written; may hold credentials.
    pub document: Document,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<&String> = self.document.keys().collect();
        f.debug_struct("Secret")
            .field("manager", &self.manager)
            .field("members", &members)
            .finish()
    }
}

/// What keeps secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Manager {
    /// HashiCorp Vault and what speaks its API.
    Vault,
    /// AWS Secrets Manager.
    Aws,
    /// Google Cloud Secret Manager.
    Gcp,
    /// Kubernetes Secrets.
    Kubernetes,
}

impl Manager {
    /// The manager with this word in ids and references.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "vault" => Some(Self::Vault),
            "aws" => Some(Self::Aws),
            "gcp" => Some(Self::Gcp),
            "kubernetes" => Some(Self::Kubernetes),
            _ => None,
        }
    }

    /// The word in ids, references and configuration keys.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Vault => "vault",
            Self::Aws => "aws",
            Self::Gcp => "gcp",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// Reads what the schema has accepted. `None` only with a fault.
pub(super) fn read(
    manager: &str,
    document: &Document,
    terms: &Terms,
    verdict: &mut Verdict,
) -> Option<Secret> {
    let manager = Manager::from_word(manager)?;
    match manager {
        Manager::Vault => judge_vault(document, terms, verdict),
        Manager::Aws => judge_aws(document, verdict),
        Manager::Gcp => judge_gcp(document, verdict),
        Manager::Kubernetes => judge_kubernetes(document, verdict),
    }
    for member in ["uri", "endpoint_url", "apiserver_addr", "endpoint"] {
        judge_url(document, "", member, verdict);
    }
    if let Some(config) = members::object(document, "auth_config") {
        for member in ["token_uri", "entries_uri"] {
            judge_url(config, "/auth_config", member, verdict);
        }
    }
    Some(Secret {
        manager,
        document: document.clone(),
    })
}

/// `prefix` may be absent when the path of `uri` is the one to read (`/v1/…`); `token` may be
/// absent when `prefix` is, or when `auth` says how to log in.
fn judge_vault(document: &Document, terms: &Terms, verdict: &mut Verdict) {
    let has_prefix = document.contains_key("prefix");
    let uri = members::text(document, "uri").unwrap_or_default();
    if !has_prefix && !path_of(uri).starts_with("/v1/") {
        verdict.refuse_shape("/prefix", "property \"prefix\" is required");
    }
    let auth = members::object(document, "auth");
    match (document.contains_key("token"), auth) {
        (true, Some(_)) => verdict.refuse(
            "/auth",
            "token and auth are two ways to log in; keep the one that is meant",
        ),
        (false, None) if has_prefix => {
            verdict.refuse_shape("/token", "property \"token\" is required");
        }
        (_, _) => {}
    }
    if let Some(auth) = auth {
        judge_login(auth, terms, verdict);
    }
    if document.contains_key("issue") {
        if !has_prefix {
            let reason = "issue needs prefix, the mount of the PKI";
            verdict.refuse("/prefix", reason);
        }
        if document.contains_key("kv_version") {
            let reason = "kv_version has no meaning with issue; leave one of them out";
            verdict.refuse("/kv_version", reason);
        }
    }
}

/// Each method has what it sends, and nothing of another one. A client certificate is held to what
/// those of upstreams are.
fn judge_login(auth: &Document, terms: &Terms, verdict: &mut Verdict) {
    let method = members::text(auth, "method").unwrap_or_default();
    let (needed, permitted): (&[&str], &[&str]) = match method {
        "approle" => (&["role_id", "secret_id"], &[]),
        "kubernetes" => (&["role"], &[]),
        _ => (&["cert", "key"], &["name"]),
    };
    for member in needed.iter().filter(|member| !auth.contains_key(**member)) {
        let reason = format!("auth.{member} is required with method {method}");
        verdict.refuse(format!("/auth/{member}"), reason);
    }
    let known = |member: &str| {
        matches!(member, "method" | "mount")
            || needed.contains(&member)
            || permitted.contains(&member)
    };
    for member in auth.keys().filter(|member| !known(member)) {
        let reason = format!("auth.{member} has no meaning with method {method}; leave it out");
        verdict.refuse(format!("/auth/{member}"), reason);
    }
    if method == "cert"
        && let (Some(cert), Some(key)) = (members::text(auth, "cert"), members::text(auth, "key"))
    {
        let (cert, key) = (
            ("/auth/cert".to_owned(), cert),
            ("/auth/key".to_owned(), key),
        );
        pem::read_pair(
            &cert,
            &key,
            "failed to handle auth.cert and auth.key: ",
            terms,
            verdict,
        );
    }
}

/// A key is there as a whole, or it is the gateway's own; the region is part of a host name.
fn judge_aws(document: &Document, verdict: &mut Verdict) {
    let has = |member: &str| document.contains_key(member);
    for (member, other) in [
        ("access_key_id", "secret_access_key"),
        ("secret_access_key", "access_key_id"),
        ("session_token", "access_key_id"),
    ] {
        if has(member) && !has(other) {
            verdict.refuse_shape(
                format!("/{other}"),
                format!("property \"{other}\" is required"),
            );
            break;
        }
    }
    let region = members::text(document, "region").unwrap_or("us-east-1");
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if region.is_empty() || !region.chars().all(is_plain) {
        let reason = "region is no region: write it as AWS does, such as eu-central-1";
        verdict.refuse("/region", reason);
    }
}

/// Whoever is asked is known by a certificate, and a file is one that the configuration permits.
fn judge_gcp(document: &Document, verdict: &mut Verdict) {
    judge_verify(Manager::Gcp, document, verdict);
    judge_file("auth_file", "account.json", document, verdict);
    let config = members::object(document, "auth_config");
    let project = config.and_then(|config| members::text(config, "project_id"));
    if project.is_some_and(|project| project.is_empty() || project.contains('/')) {
        let reason = "project_id is no project: it has no slash";
        verdict.refuse("/auth_config/project_id", reason);
    }
    if let Some(key) = config.and_then(|config| members::text(config, "private_key")) {
        pem::judge_signing_key(&("/auth_config/private_key".to_owned(), key), verdict);
    }
}

/// API7's members, or those of APISIX, which say the same in other words. (APISIX,
/// `secret/kubernetes.lua`: `endpoint` is the whole address, and host and port are not looked at then.)
fn judge_kubernetes(document: &Document, verdict: &mut Verdict) {
    let has = |member: &str| document.contains_key(member);
    for (member, other) in [
        ("endpoint", "apiserver_addr"),
        ("service_account_file", "token"),
    ] {
        if has(member) && has(other) {
            let reason = format!("{member} and {other} say the same; keep the one that is meant");
            verdict.refuse(format!("/{member}"), reason);
        }
    }
    let address = ["endpoint", "apiserver_addr"]
        .into_iter()
        .find(|at| has(at));
    for member in ["kubernetes_host", "kubernetes_port"] {
        if let Some(address) = address.filter(|_| has(member)) {
            let why = format!("{address} is the whole address; {member} is not looked at");
            verdict.warn_unused(format!("/{member}"), why);
        }
    }
    if members::text(document, "kubernetes_host").is_some_and(|host| !is_host(host)) {
        let reason =
            "kubernetes_host is no host: give a name or an address, one of IPv6 in brackets";
        verdict.refuse("/kubernetes_host", reason);
    }
    let port = members::text(document, "kubernetes_port");
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        let reason = "kubernetes_port is no port: give a number from 1 to 65535, as a text";
        verdict.refuse("/kubernetes_port", reason);
    }
    judge_file("service_account_file", "token", document, verdict);
    let url = address.and_then(|address| members::text(document, address));
    if url.is_some_and(|url| url.starts_with("http://")) {
        if has("ssl_verify") {
            verdict.warn_unused("/ssl_verify", "over plain http there is nothing to verify");
        }
    } else {
        judge_verify(Manager::Kubernetes, document, verdict);
    }
}

/// What is asked of a manager decides what is served, so that it is verified.
fn judge_verify(manager: Manager, document: &Document, verdict: &mut Verdict) {
    if document.get("ssl_verify") == Some(&Value::Bool(false)) {
        let reason = format!(
            "ssl_verify cannot be false: keys would be taken from anybody; leave it out, and set \
             `secrets.{}.trust_file` of the configuration if the CA is your own",
            manager.word()
        );
        verdict.refuse("/ssl_verify", reason);
    }
}

/// A file is named by its path or by a reference; which may be read, the configuration says.
fn judge_file(member: &str, example: &str, document: &Document, verdict: &mut Verdict) {
    let file = members::text(document, member);
    if file.is_some_and(|file| !file.starts_with('/') && !is_reference(file)) {
        let reason = format!(
            "{member} is neither an absolute path nor a reference such as \
             $secret://file/ROOT/{example}"
        );
        verdict.refuse(format!("/{member}"), reason);
    }
}

/// Whether a text is a host as addresses have them.
fn is_host(text: &str) -> bool {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    bare.map_or_else(
        || {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !text.is_empty() && text.chars().all(is_plain)
        },
        |address| address.parse::<std::net::Ipv6Addr>().is_ok(),
    )
}

/// An address must say where, and nothing else: it is shown by every read. Never quoted.
fn judge_url(document: &Document, base: &str, member: &str, verdict: &mut Verdict) {
    static URL: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"^https?://([0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[!-~]*)?$").ok()
    });
    let Some(url) = members::text(document, member) else {
        return;
    };
    let at = format!("{base}/{member}");
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        let reason =
            format!("{member} holds a user or password; credentials have members of their own");
        verdict.refuse(at, reason);
    } else if url.contains(['?', '#']) {
        verdict.refuse(
            at,
            format!("{member} has a query or fragment; give scheme, host, port and path"),
        );
    } else if !URL.as_ref().is_some_and(|pattern| pattern.is_match(url)) {
        let reason = format!(
            "{member} is no address: give http or https, host, and port and path if need be"
        );
        verdict.refuse(at, reason);
    }
}

/// The path of a URL, from its first slash; empty without one.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/')
        .and_then(|start| rest.get(start..))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::Kind;
    use crate::resource::Resource;
    use crate::resource::sample::{TERMS, judge_as};
    use crate::tls::sample;

    #[track_caller]
    fn read(id: &str, body: &Value) -> Secret {
        let Resource::Secret(secret) = judge_as(Kind::Secret, id, body, &TERMS).unwrap().resource
        else {
            panic!("of another kind")
        };
        secret
    }

    #[track_caller]
    fn refused(id: &str, body: &Value) -> String {
        let faults = judge_as(Kind::Secret, id, body, &TERMS).unwrap_err();
        faults.0[0].told()
    }

    #[test]
    fn every_manager_is_known_by_the_id() {
        for (id, body, manager) in [
            (
                "vault/1",
                json!({"uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "$ENV://T"}),
                Manager::Vault,
            ),
            (
                "vault/mtls-certs",
                json!({
                    "id": "vault/mtls-certs",
                    "uri": "https://vault.example.com/v1/secret/data/mtls"
                }),
                Manager::Vault,
            ),
            (
                "aws/1",
                json!({"access_key_id": "a", "secret_access_key": "b"}),
                Manager::Aws,
            ),
            ("aws/1", json!({"region": "eu-central-1"}), Manager::Aws),
            (
                "gcp/1",
                json!({"auth_config": {"client_email": "a", "private_key": "b", "project_id": "c"}}),
                Manager::Gcp,
            ),
            ("gcp/1", json!({"auth_file": "/x"}), Manager::Gcp),
            ("kubernetes/1", json!({}), Manager::Kubernetes),
            (
                "kubernetes/1",
                json!({
                    "service_account_file": "/var/run/secrets/kubernetes.io/serviceaccount/token",
                    "kubernetes_host": "kubernetes.default.svc", "kubernetes_port": "443",
                    "ssl_verify": true
                }),
                Manager::Kubernetes,
            ),
            (
                "kubernetes/1",
                json!({"endpoint": "http://127.0.0.1:1984", "ssl_verify": false}),
                Manager::Kubernetes,
            ),
            (
                "kubernetes/1",
                json!({"kubernetes_host": "[fd00::1]", "service_account_file": "$secret://file/r/t"}),
                Manager::Kubernetes,
            ),
        ] {
            assert_eq!(read(id, &body).manager, manager);
        }
    }

    #[test]
    fn refusals_name_the_member() {
        let required = |name: &str| format!("property \"{name}\" is required");
        for (id, body, text) in [
            ("foo/1", json!({}), "invalid secret manager: foo".to_owned()),
            ("1", json!({}), "invalid secret manager: ".to_owned()),
            ("env/1", json!({}), "invalid secret manager: env".to_owned()),
            ("vault/1", json!({}), required("uri")),
            ("vault/1", json!({"uri": "https://v"}), required("prefix")),
            (
                "vault/1",
                json!({"uri": "https://v/v2/x"}),
                required("prefix"),
            ),
            (
                "vault/1",
                json!({"uri": "https://v", "prefix": "kv"}),
                required("token"),
            ),
            (
                "vault/1",
                json!({"uri": "https://v/v1/x", "prefix": "kv"}),
                required("token"),
            ),
            (
                "aws/1",
                json!({"access_key_id": "a"}),
                required("secret_access_key"),
            ),
            (
                "aws/1",
                json!({"secret_access_key": "b"}),
                required("access_key_id"),
            ),
            (
                "aws/1",
                json!({"session_token": "b"}),
                required("access_key_id"),
            ),
            (
                "aws/1",
                json!({"region": "evil.test/"}),
                "region is no region: write it as AWS does, such as eu-central-1".to_owned(),
            ),
            (
                "gcp/1",
                json!({}),
                "value should match only one schema, but matches none".to_owned(),
            ),
            (
                "vault/1",
                json!({"uri": "https://v/v1/x", "token": 1}),
                "property \"token\" validation failed: wrong type: expected string, got number"
                    .to_owned(),
            ),
            (
                "vault/1",
                json!({"uri": "vault", "prefix": "kv", "token": "t"}),
                "property \"uri\" validation failed: failed to match pattern \
                 \"^[^\\\\/]+:\\\\/\\\\/([\\\\da-zA-Z.-]+|\\\\[[\\\\da-fA-F:]+\\\\])(:\\\\d+)?\" \
                 with \"vault\""
                    .to_owned(),
            ),
        ] {
            assert_eq!(refused(id, &body), text);
        }
    }

    #[test]
    fn each_login_of_a_vault_has_its_own_members() {
        let vault = |more: Value| {
            let mut body = json!({"uri": "https://v", "prefix": "kv"});
            body.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            body
        };
        let approle = json!({"method": "approle", "role_id": "r", "secret_id": "s"});
        for more in [
            json!({"auth": approle}),
            json!({"auth": {"method": "approle", "mount": "a", "role_id": "r", "secret_id": "$env://S"}}),
            json!({"auth": {"method": "kubernetes", "role": "r"}}),
            json!({"auth": {"method": "cert", "cert": "$env://C", "key": "$env://K", "name": "n"}}),
            json!({"token": "t", "issue": {"role": "r", "cn": "a.test", "ttl": "1h"}}),
        ] {
            read("vault/1", &vault(more));
        }
        for (more, text) in [
            (
                json!({"auth": approle, "token": "t"}),
                "token and auth are two ways to log in; keep the one that is meant",
            ),
            (
                json!({"auth": {"method": "approle", "role_id": "r"}}),
                "auth.secret_id is required with method approle",
            ),
            (
                json!({"auth": {"method": "kubernetes", "role": "r", "key": "k"}}),
                "auth.key has no meaning with method kubernetes; leave it out",
            ),
            (
                json!({"auth": {"method": "cert", "cert": "c"}}),
                "auth.key is required with method cert",
            ),
            (
                json!({"token": "t", "kv_version": "kv", "issue": {"role": "r", "cn": "a"}}),
                "kv_version has no meaning with issue; leave one of them out",
            ),
        ] {
            let told = refused("vault/1", &vault(more));
            assert!(told.ends_with(text), "{told}");
        }
    }

    #[test]
    fn google_is_known_by_its_certificate_and_its_file_by_a_path_or_reference() {
        let config =
            |project: &str| json!({"client_email": "a", "private_key": "b", "project_id": project});
        for body in [
            json!({"auth_file": "/etc/keys/account.json"}),
            json!({"auth_file": "$secret://file/keys/account.json"}),
            json!({"auth_config": config("example.com:p"), "ssl_verify": true}),
        ] {
            read("gcp/1", &body);
        }
        for (body, text) in [
            (
                json!({"auth_file": "/x", "ssl_verify": false}),
                "ssl_verify cannot be false",
            ),
            (
                json!({"auth_file": "{\"hush\": 1}"}),
                "auth_file is neither an absolute path nor a reference",
            ),
            (
                json!({"auth_config": config("p/secrets/hush")}),
                "project_id is no project",
            ),
        ] {
            let told = refused("gcp/1", &body);
            assert!(told.contains(text) && !told.contains("hush"), "{told}");
        }
    }

    #[test]
    fn certificate_of_a_login_is_held_to_what_others_are() {
        let ca = sample::ca("ca");
        let (own, other) = (sample::leaf(&ca, "a", &[]), sample::leaf(&ca, "b", &[]));
        let vault = |cert: &str, key: &str| {
            let auth = json!({"method": "cert", "cert": cert, "key": key});
            json!({"uri": "https://v", "prefix": "kv", "auth": auth})
        };
        read("vault/1", &vault(&own.cert, &own.key_pem));
        for (cert, key, text) in [
            ("garbage", own.key_pem.as_str(), "failed to parse cert"),
            (own.cert.as_str(), "garbage", "the private key is not PEM"),
            (
                own.cert.as_str(),
                other.key_pem.as_str(),
                "does not belong to the certificate",
            ),
            ("$env://CERT", "garbage", "the private key is not PEM"),
        ] {
            let told = refused("vault/1", &vault(cert, key));
            let prefix = "failed to handle auth.cert and auth.key: ";
            assert!(told.starts_with(prefix) && told.contains(text), "{told}");
        }
    }

    #[test]
    fn signing_key_of_an_account_is_judged_where_it_is_a_pem() {
        let body = |key: &str| json!({"auth_config": {"client_email": "a", "private_key": key, "project_id": "c"}});
        let ca = sample::ca("account");
        let cut: String = ca.key_pem.lines().take(2).collect();
        let told = refused("gcp/1", &body(&cut));
        let text = "auth_config.private_key: failed to parse key";
        assert!(told.starts_with(text), "{told}");
        for good in [ca.key_pem.as_str(), "$env://KEY", "b"] {
            read("gcp/1", &body(good));
        }
    }

    #[test]
    fn members_nobody_knows_are_refused_with_the_word_meant() {
        let gcp = |member: &str| {
            let mut config = json!({"client_email": "a", "private_key": "b", "project_id": "c"});
            config[member] = json!("hush");
            json!({ "auth_config": config })
        };
        let forbidden = "additional properties forbidden, found";
        for (id, body, text) in [
            (
                "vault/1",
                json!({"uri": "https://v", "prefix": "kv", "tokn": "hush"}),
                format!("{forbidden} tokn, did you mean \"token\"?"),
            ),
            (
                "aws/1",
                json!({"access_key_id": "a", "secret_access_key": "b", "password": "hush"}),
                format!("{forbidden} password"),
            ),
            (
                "gcp/1",
                gcp("private_key_id"),
                format!("property \"auth_config\" validation failed: {forbidden} private_key_id"),
            ),
            (
                "kubernetes/1",
                json!({"client_key": "hush"}),
                format!("{forbidden} client_key"),
            ),
        ] {
            let told = refused(id, &body);
            assert!(told.contains(&text), "{told}");
            assert!(!told.contains("hush"));
        }
        let common = json!({"id": "vault/1", "name": "n", "desc": "d", "labels": {"a": "b"},
                            "create_time": 1, "update_time": 1});
        let mut vault = json!({"uri": "https://v", "prefix": "kv", "token": "t",
                               "namespace": "ns", "kv_version": "kv-v2"});
        let members = common.as_object().unwrap().clone();
        vault.as_object_mut().unwrap().extend(members.clone());
        read("vault/1", &vault);
        for id in ["aws/1", "gcp/1", "kubernetes/1"] {
            let mut body = match id {
                "aws/1" => json!({"access_key_id": "a", "secret_access_key": "b", "region": "r",
                                  "session_token": "s", "endpoint_url": "http://localhost:4566"}),
                "gcp/1" => gcp("token_uri"),
                _ => json!({"apiserver_addr": "https://[::1]:6443", "token": "t"}),
            };
            if id == "gcp/1" {
                body["auth_config"]["token_uri"] = json!("https://oauth2.example/token");
            }
            body.as_object_mut().unwrap().extend(members.clone());
            read(id, &body);
        }
    }

    #[test]
    fn kubernetes_as_apisix_writes_it_is_judged() {
        for (body, text) in [
            (
                json!({"ssl_verify": false}),
                "ssl_verify cannot be false: keys would be taken from anybody",
            ),
            (
                json!({"endpoint": "https://k:6443", "ssl_verify": false}),
                "`secrets.kubernetes.trust_file`",
            ),
            (
                json!({"endpoint": "https://k", "apiserver_addr": "https://k"}),
                "endpoint and apiserver_addr say the same",
            ),
            (
                json!({"token": "t", "service_account_file": "/t"}),
                "service_account_file and token say the same",
            ),
            (
                json!({"kubernetes_host": "hush@k"}),
                "kubernetes_host is no host",
            ),
            (json!({"kubernetes_host": ""}), "kubernetes_host is no host"),
            (
                json!({"kubernetes_host": "fd00::1"}),
                "kubernetes_host is no host",
            ),
            (
                json!({"kubernetes_port": "0"}),
                "kubernetes_port is no port",
            ),
            (
                json!({"kubernetes_port": "65536"}),
                "kubernetes_port is no port",
            ),
            (
                json!({"kubernetes_port": 443}),
                "property \"kubernetes_port\" validation failed: wrong type: expected string, got \
                 number",
            ),
            (
                json!({"service_account_file": "hush"}),
                "service_account_file is neither an absolute path nor a reference",
            ),
        ] {
            let told = refused("kubernetes/1", &body);
            assert!(told.contains(text), "{told}");
            assert!(!told.contains("hush"), "{told}");
        }
        let body = json!({"endpoint": "http://k", "kubernetes_host": "k", "ssl_verify": false});
        let warnings = judge_as(Kind::Secret, "kubernetes/1", &body, &TERMS)
            .unwrap()
            .warnings;
        let told = warnings
            .iter()
            .map(|warning| (warning.code, warning.pointer.as_str()));
        let unused = |at| ("member_unused", at);
        assert!(
            told.eq(["/kubernetes_host", "/ssl_verify"].map(unused)),
            "{warnings:?}"
        );
    }

    #[test]
    fn addresses_hold_no_credential_and_are_not_quoted() {
        for url in [
            "https://us:hush@v",
            "https://us:hush@v/v1/x",
            "https://%41:hush@v",
            "https://hush@v",
            "https://v/v1/x?token=hush",
            "https://v#hush",
            "https://v hush",
            "ftp://v/hush",
            "$env://hush",
            "https://v:port/hush",
        ] {
            let gcp = json!({
                "client_email": "a", "private_key": "b", "project_id": "c", "entries_uri": url
            });
            for (id, body) in [
                ("vault/1", json!({"uri": url, "prefix": "kv", "token": "t"})),
                (
                    "aws/1",
                    json!({"access_key_id": "a", "secret_access_key": "b", "endpoint_url": url}),
                ),
                ("kubernetes/1", json!({"apiserver_addr": url})),
                ("kubernetes/1", json!({"endpoint": url})),
                ("gcp/1", json!({"auth_config": gcp})),
            ] {
                let told = refused(id, &body);
                assert!(!told.contains("hush"), "{told}");
            }
        }
        for url in [
            "http://127.0.0.1:8200",
            "https://v/",
            "https://[::1]:1/v1/a@b",
        ] {
            read(
                "vault/1",
                &json!({"uri": url, "prefix": "kv", "token": "t"}),
            );
        }
    }

    #[test]
    fn debug_shows_no_value() {
        let body = json!({"uri": "http://v", "prefix": "kv", "token": "hush"});
        let shown = format!("{:?}", read("vault/1", &body));
        assert!(
            shown.contains("token") && !shown.contains("hush"),
            "{shown}"
        );
    }
}
