//! `secrets.proxy`: the forward proxy on the way to secret managers, and what is reached without it.

use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;
use ipnet::IpNet;

use super::TrustFile;
use super::reader::{Reader, Section};
use super::secret::{Env, SecretText, file_of, read_secret};

/// `secrets.proxy`.
#[derive(Clone, Debug)]
pub struct ForwardProxy {
    /// `url`: scheme (`http` or `https`), host and port, nothing after them.
    pub url: String,
    /// `username` and `password`: shown to the proxy in the `Basic` scheme (RFC 7617).
    pub credentials: Option<ProxyCredentials>,
    /// `trust_file`: the CAs that the certificate of an `https` proxy must come from. Default:
    /// [`TrustFile::System`].
    pub trust_file: TrustFile,
    /// `no_proxy`: what is reached without it.
    pub no_proxy: Vec<NoProxy>,
}

/// `secrets.proxy.username` and `secrets.proxy.password`.
#[derive(Clone, Debug)]
pub struct ProxyCredentials {
    /// Without `:`.
    pub username: String,
    /// Read from `@file` or `$env://NAME`.
    pub password: SecretText,
    /// That file, for what judges files with secrets.
    pub password_file: Option<PathBuf>,
}

/// An entry of `secrets.proxy.no_proxy`: hosts, and perhaps one port of theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoProxy {
    hosts: Hosts,
    port: Option<u16>,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    /// A name and whatever is below it.
    Name(String),
    /// Names below this one, not itself.
    Below(String),
    /// Addresses, where they are written as such: names are the proxy's to resolve.
    Network(IpNet),
}

impl NoProxy {
    /// Reads `name` (it and all below it), `.name` (all below it), an address or a network, the first
    /// three perhaps with `:port`; as the environment variable `NO_PROXY` has them in most programs.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (host, port) = split_port(text)?;
        let hosts = if let Ok(network) = host.parse::<IpNet>() {
            Hosts::Network(network.trunc())
        } else if let Ok(address) = host.parse::<IpAddr>() {
            Hosts::Network(address.into())
        } else {
            let is_below = host.starts_with('.');
            let name = host.trim_start_matches('.').trim_end_matches('.');
            let is_label = |label: &str| {
                let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
                !label.is_empty() && label.chars().all(is_plain)
            };
            if !name.split('.').all(is_label) {
                return Err("is no name, address or network");
            }
            let name = name.to_ascii_lowercase();
            if is_below {
                Hosts::Below(name)
            } else {
                Hosts::Name(name)
            }
        };
        Ok(Self {
            hosts,
            port,
            text: text.to_owned(),
        })
    }

    /// Whether it names this host, a name or an address without brackets, at this port.
    #[must_use]
    pub fn covers(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|own| own != port) {
            return false;
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let is_below = |above: &str| {
            let rest = name.strip_suffix(above);
            rest.is_some_and(|rest| rest.ends_with('.') && rest.len() > 1)
        };
        match &self.hosts {
            Hosts::Name(own) => name == *own || is_below(own),
            Hosts::Below(own) => is_below(own),
            Hosts::Network(network) => {
                let address = host.parse::<IpAddr>();
                address.is_ok_and(|address| network.contains(&address.to_canonical()))
            }
        }
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// What stands before `:port`, without brackets, and the port.
fn split_port(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    const NO_PORT: &str = "has no port after its `:`";
    let port = |digits: &str| digits.parse::<u16>().map_err(|_error| NO_PORT);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("has a `[` without `]`")?;
        return match after.strip_prefix(':') {
            Some(digits) => Ok((host, Some(port(digits)?))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(NO_PORT),
        };
    }
    match text.split_once(':') {
        Some((host, digits)) if !digits.contains(':') => Ok((host, Some(port(digits)?))),
        // Without a colon, or an IPv6 address.
        Some(_) | None => Ok((text, None)),
    }
}

/// Reads `secrets.proxy`.
pub(super) fn read_forward_proxy(
    section: &Section<'_>,
    reader: &Reader,
    env: Env<'_>,
    warnings: &mut Vec<String>,
) -> Option<ForwardProxy> {
    let url = section.text("url");
    if let Some(reason) = url.as_deref().and_then(flaw) {
        section.refuse(
            "url",
            reason,
            "write scheme, host and port, such as `http://proxy.example.com:3128`",
        );
    }
    let username = section.text("username");
    let password = read_secret(section, "password", "password", reader, env, warnings);
    // What was refused is not asked for again: it would be refused twice.
    let text = password.as_ref().and_then(|_read| section.text("password"));
    let text = text.map(SecretText::new);
    if username.as_deref().is_some_and(|name| name.contains(':')) {
        section.refuse(
            "username",
            "has a `:`, which would begin the password",
            "take another name: the `Basic` scheme has no way to write this one",
        );
    }
    let credentials = match (username, password, section.has("password")) {
        (Some(username), Some(password), _) => Some(ProxyCredentials {
            username,
            password,
            password_file: text.as_ref().and_then(|text| file_of(text.expose())),
        }),
        (Some(_), None, false) => {
            let remedy = "set `secrets.proxy.password` to `@file` or `$env://NAME`";
            section.refuse("username", "is given without a password", remedy);
            None
        }
        (None, Some(_), _) => {
            let remedy = "set `secrets.proxy.username` as well";
            section.refuse("password", "is given without a user name", remedy);
            None
        }
        // The password was refused, and is not missing.
        (Some(_), None, true) | (None, None, _) => None,
    };
    let trust_file = match section.text("trust_file").as_deref() {
        None | Some("system") => TrustFile::System,
        Some(path) => TrustFile::Path(PathBuf::from(path)),
    };
    let mut no_proxy = Vec::new();
    for text in section.texts("no_proxy").unwrap_or_default() {
        match NoProxy::parse(&text) {
            Ok(entry) => no_proxy.push(entry),
            Err(reason) => section.refuse(
                "no_proxy",
                format!("has an entry that {reason}"),
                "write names, addresses and networks, such as `[internal.example.com, 10.0.0.0/8]`",
            ),
        }
    }
    section.close();
    if url.is_none() {
        for key in ["username", "password", "trust_file", "no_proxy"] {
            if section.has(key) {
                let remedy = "set `secrets.proxy.url`, or take it out";
                section.refuse(key, "is given without a proxy", remedy);
            }
        }
    }
    Some(ForwardProxy {
        url: url?,
        credentials,
        trust_file,
        no_proxy,
    })
}

/// What is wrong with the URL of a proxy. It is not quoted: it may hold a password.
fn flaw(text: &str) -> Option<&'static str> {
    let Ok(uri) = text.parse::<Uri>() else {
        return Some("is no URL");
    };
    let Some(authority) = uri.authority() else {
        return Some("is no URL");
    };
    let has_port = authority.as_str() != authority.host();
    if authority.as_str().contains('@') {
        Some("has a user name, which belongs into `secrets.proxy.username`")
    } else if !matches!(uri.scheme_str(), Some("http" | "https")) {
        Some("has a scheme other than `http` and `https`")
    } else if authority.host().is_empty() || (has_port && authority.port_u16().is_none()) {
        Some("has no host, or a port that is none")
    } else if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        Some("goes on after its port")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let text = format!("secrets: {{proxy: {{{text}}}}}");
        Config::from_text(&text, &[], &|name| {
            (name == "PROXY_PASSWORD").then(|| "hush".to_owned())
        })
    }

    #[test]
    fn every_key_is_read_and_no_password_shown() {
        let config = read(
            "url: 'https://proxy.test:3129', username: gateway, password: '$env://PROXY_PASSWORD',\n\
             trust_file: /ca, no_proxy: [vault.test, 10.0.0.0/8]",
        )
        .unwrap();
        let proxy = config.secrets.proxy.as_ref().unwrap();
        assert_eq!(proxy.url, "https://proxy.test:3129");
        assert_eq!(proxy.trust_file, TrustFile::Path("/ca".into()));
        let credentials = proxy.credentials.as_ref().unwrap();
        assert_eq!(credentials.username, "gateway");
        assert_eq!(credentials.password.expose(), "hush");
        assert_eq!(proxy.no_proxy.len(), 2);
        let shown = format!("{config:?}{}", config.describe());
        assert!(!shown.contains("hush"), "{shown}");
        assert!(
            shown.contains("secrets.proxy.url = https://proxy.test:3129"),
            "{shown}"
        );
        let env = |name: &str| {
            name.ends_with("_PROXY")
                .then(|| "http://env.test".to_owned())
        };
        let without = Config::from_text("", &[], &env).unwrap();
        assert!(without.secrets.proxy.is_none(), "no variable sets it");
    }

    #[test]
    fn what_is_no_proxy_is_refused_by_its_key() {
        for (text, path) in [
            ("url: proxy.test", "url"),
            ("url: 'socks5://proxy.test:1080'", "url"),
            ("url: 'http://gateway:hush@proxy.test'", "url"),
            ("url: 'http://proxy.test:3128/path'", "url"),
            ("url: 'http://proxy.test:port'", "url"),
            ("url: 'http://p.test', username: a", "username"),
            (
                "url: 'http://p.test', username: 'a:b', password: '$env://PROXY_PASSWORD'",
                "username",
            ),
            (
                "url: 'http://p.test', password: '$env://PROXY_PASSWORD'",
                "password",
            ),
            (
                "url: 'http://p.test', username: a, password: '$env://NONE'",
                "password",
            ),
            ("url: 'http://p.test', no_proxy: ['*']", "no_proxy"),
            ("url: 'http://p.test', no_proxy: ['a:b']", "no_proxy"),
            ("no_proxy: [a.test]", "no_proxy"),
            ("url: 'http://p.test', noproxy: [a.test]", "noproxy"),
        ] {
            let error = read(text).expect_err(text);
            let path = format!("secrets.proxy.{path}");
            let found = error.problems.iter().any(|problem| problem.path == path);
            assert!(found, "{text}: {error}");
            assert!(!error.to_string().contains("hush"), "{error}");
            assert_eq!(error.problems.len(), 1, "{error}");
        }
    }

    #[test]
    fn entries_name_hosts_as_no_proxy_does() {
        for (entry, host, port, is_covered) in [
            ("vault.test", "vault.test", 8200, true),
            ("vault.test", "VAULT.test.", 8200, true),
            ("vault.test", "a.vault.test", 8200, true),
            ("vault.test", "notvault.test", 8200, false),
            ("vault.test", "vault.test.evil", 8200, false),
            (".vault.test", "a.vault.test", 8200, true),
            (".vault.test", "vault.test", 8200, false),
            ("vault.test:8200", "vault.test", 8200, true),
            ("vault.test:8200", "vault.test", 443, false),
            ("10.0.0.0/8", "10.1.2.3", 443, true),
            ("10.0.0.0/8", "11.1.2.3", 443, false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", 443, true),
            ("10.0.0.0/8", "ten.test", 443, false),
            ("10.1.2.3:443", "10.1.2.3", 443, true),
            ("10.1.2.3:443", "10.1.2.3", 444, false),
            ("fd00::1", "fd00::1", 443, true),
            ("[fd00::1]:443", "fd00:0::1", 443, true),
            ("[fd00::1]:443", "fd00::1", 444, false),
            ("fd00::/8", "fd12::1", 443, true),
        ] {
            let parsed = NoProxy::parse(entry).unwrap();
            assert_eq!(
                parsed.covers(host, port),
                is_covered,
                "{entry} {host}:{port}"
            );
        }
        for entry in [
            "", ".", "*", "*.test", "a b", "[fd00::1", "a:", "[::1]x", "http://a",
        ] {
            assert!(NoProxy::parse(entry).is_err(), "{entry}");
        }
    }
}
