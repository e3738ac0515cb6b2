//! The section `admin`: addresses, keys, where a key may be carried.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::key_file::read_key_file;
use super::listen::ListenAddr;
use super::reader::{Reader, Section};
use super::secret::{self, Env, KeyMaterial, SecretText};
use super::{
    Admin, AdminHttps, AdminKey, Claim, ClientRole, Flavour, IdentityFiles, KeySource, Role,
};

/// Reads `admin`; keys come from there and from `PORTCULLIS_ADMIN_KEY`.
pub(super) fn read_admin(
    section: &Section<'_>,
    reader: &Reader,
    env: Env<'_>,
    warnings: &mut Vec<String>,
) -> Admin {
    let admin = Admin {
        listen: section.listen("listen", ListenAddr::here(9180)),
        allow_admin: read_allow_admin(section),
        https: read_admin_https(&section.section("https"), reader, env, warnings),
        keys: read_keys(section, reader, env, warnings),
        key_sources: read_key_sources(section),
        cors: read_cors(section),
    };
    section.close();
    admin
}

fn read_admin_https(
    section: &Section<'_>,
    reader: &Reader,
    env: Env<'_>,
    warnings: &mut Vec<String>,
) -> AdminHttps {
    let listen = section.listen("listen", ListenAddr::here(7443));
    let flavour = section.choice(
        "flavour",
        Flavour::Api7,
        &[("api7", Flavour::Api7), ("apisix", Flavour::Apisix)],
    );
    let key = read_key_file(section, "key", "key_passphrase", reader, env, warnings);
    let identity = match (section.path("cert"), key) {
        (Some(cert), Some(key)) => Some(IdentityFiles { cert, key }),
        (Some(_), None) => {
            section.refuse(
                "cert",
                "is given without a key",
                "set `admin.https.key` to its private key",
            );
            None
        }
        (None, Some(_)) => {
            section.refuse(
                "key",
                "is given without a certificate",
                "set `admin.https.cert` to its certificate",
            );
            None
        }
        (None, None) => None,
    };
    let client_ca = section.path("client_ca");
    let client_roles = read_client_roles(section);
    if !client_roles.is_empty() && client_ca.is_none() {
        section.refuse(
            "client_roles",
            "is given without `admin.https.client_ca`, so that no certificate is asked for",
            "set `admin.https.client_ca` to the CA that certificates of administrators come from",
        );
    }
    let https = AdminHttps {
        listen,
        flavour,
        identity,
        client_ca,
        client_roles,
        allow_admin: read_allow_admin(section),
    };
    section.close();
    https
}

/// Networks: `10.0.0.0/8`, `2001:db8::/32`, or single addresses.
fn read_allow_admin(section: &Section<'_>) -> Option<Vec<IpNet>> {
    let texts = section.texts("allow_admin")?;
    if texts.is_empty() {
        section.refuse(
            "allow_admin",
            "names no network, so that nobody could call",
            "list networks, or remove it to let in whoever reaches the address",
        );
    }
    let parse = |text: &String| {
        let net = text.parse().ok();
        net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    };
    let nets: Option<Vec<IpNet>> = texts.iter().map(parse).collect();
    if nets.is_none() {
        section.refuse(
            "allow_admin",
            "has an entry that is no network",
            "write `10.0.0.0/8`, `2001:db8::/32` or an address",
        );
    }
    nets
}

fn read_client_roles(section: &Section<'_>) -> Vec<ClientRole> {
    let mut roles = Vec::new();
    for entry in section.sections("client_roles") {
        let (subject, san) = (entry.text("subject"), entry.text("san"));
        if !entry.has("role") {
            entry.refuse(
                "role",
                "is missing",
                "write `role: admin` or `role: viewer`",
            );
        }
        let role = entry.choice(
            "role",
            Role::Viewer,
            &[("admin", Role::Admin), ("viewer", Role::Viewer)],
        );
        let claim = match (subject, san) {
            (Some(_), Some(_)) => {
                let remedy = "write an entry for each: either of them is enough then";
                entry.refuse("san", "is given beside `subject`", remedy);
                None
            }
            (Some(text), None) => {
                let attributes = parse_subject(&text);
                if attributes.is_none() {
                    let remedy =
                        "write attributes as `OU=gateway-admins,O=Example`, with `\\,` for a comma";
                    entry.refuse("subject", "is no list of attributes", remedy);
                }
                attributes.map(Claim::Subject)
            }
            (None, Some(text)) => {
                let claim = parse_san(&text);
                if claim.is_none() {
                    let remedy = "write `dns:name`, `uri:spiffe://…` or `email:address`";
                    entry.refuse("san", "is no alternative name", remedy);
                }
                claim
            }
            (None, None) => {
                if !entry.has("subject") && !entry.has("san") {
                    let remedy = "say by `subject` or `san` whose certificates are meant";
                    entry.refuse("subject", "is missing", remedy);
                }
                None
            }
        };
        roles.extend(claim.map(|claim| ClientRole { claim, role }));
        entry.close();
    }
    roles
}

/// Attributes of a subject: `TYPE=value`, parted by commas; a backslash takes the next character as
/// it is.
fn parse_subject(text: &str) -> Option<Vec<(String, String)>> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => parts.last_mut()?.push(chars.next()?),
            ',' => parts.push(String::new()),
            _ => parts.last_mut()?.push(c),
        }
    }
    let parts = parts.iter().map(|part| {
        let (kind, value) = part.split_once('=')?;
        let kind = kind.trim().to_ascii_uppercase();
        let is_attribute = !kind.is_empty() && !value.is_empty();
        is_attribute.then(|| (kind, value.to_owned()))
    });
    parts.collect()
}

fn parse_san(text: &str) -> Option<Claim> {
    let (kind, name) = text.split_once(':')?;
    if name.is_empty() {
        return None;
    }
    match kind {
        "dns" => Some(Claim::Dns(name.to_ascii_lowercase())),
        "uri" => Some(Claim::Uri(name.to_owned())),
        "email" => Some(Claim::Email(name.to_owned())),
        _ => None,
    }
}

fn read_keys(
    section: &Section<'_>,
    reader: &Reader,
    env: Env<'_>,
    warnings: &mut Vec<String>,
) -> Vec<AdminKey> {
    let mut keys = Vec::new();
    if let Some(text) = env("PORTCULLIS_ADMIN_KEY") {
        match secret::key_material(&text, env) {
            Ok((KeyMaterial::Plain(key), _)) if key.expose().is_empty() => {
                // A variable that is set to nothing is a template that filled nothing in.
                section.refuse(
                    "keys",
                    "PORTCULLIS_ADMIN_KEY is empty",
                    "give it a key, or unset it",
                );
            }
            Ok((key, _)) => keys.push(AdminKey {
                name: "environment".to_owned(),
                key,
                file: secret::file_of(&text),
                role: Role::Admin,
            }),
            Err((reason, remedy)) => {
                section.refuse("keys", format!("PORTCULLIS_ADMIN_KEY: {reason}"), remedy);
            }
        }
    }
    let mut names: HashSet<String> = keys.iter().map(|key| key.name.clone()).collect();
    for entry in section.sections("keys") {
        if let Some(key) = read_key(&entry, reader, env, warnings) {
            if !names.insert(key.name.clone()) {
                entry.refuse(
                    "name",
                    "is used by another key",
                    "the audit needs to tell them apart",
                );
            }
            keys.push(key);
        }
        entry.close();
    }
    keys
}

fn read_key(
    entry: &Section<'_>,
    reader: &Reader,
    env: Env<'_>,
    warnings: &mut Vec<String>,
) -> Option<AdminKey> {
    for key in ["name", "key"] {
        if !entry.has(key) {
            entry.refuse(key, "is missing", "each entry has `name`, `key` and `role`");
        }
    }
    let role = entry.choice(
        "role",
        Role::Admin,
        &[("admin", Role::Admin), ("viewer", Role::Viewer)],
    );
    let (name, text) = (entry.text("name"), entry.text("key").map(SecretText::new));
    let (name, text) = (name?, text?);
    match secret::key_material(text.expose(), env) {
        Ok((key, is_literal)) => {
            if is_literal && reader.is_on_command_line(&entry.path_of("key")) {
                entry.refuse(
                    "key",
                    "a key itself is never written on a command line, where every user of the machine can read it",
                    "write `@file`, `$env://NAME` or `sha256:<hex>`",
                );
            } else if is_literal {
                warnings.push(format!(
                    "{}: the key itself stands in the configuration; prefer `@file`, `$env://NAME` or `sha256:<hex>`",
                    entry.path_of("key")
                ));
            }
            Some(AdminKey {
                name,
                key,
                file: secret::file_of(text.expose()),
                role,
            })
        }
        Err((reason, remedy)) => {
            entry.refuse("key", reason, remedy);
            None
        }
    }
}

fn read_key_sources(section: &Section<'_>) -> Vec<KeySource> {
    let Some(words) = section.texts("key_sources") else {
        return vec![KeySource::Header];
    };
    if words.is_empty() {
        section.refuse(
            "key_sources",
            "names no source",
            "write at least `[header]`",
        );
    }
    let mut sources = Vec::new();
    for word in words {
        match word.as_str() {
            "header" => sources.push(KeySource::Header),
            "query" => sources.push(KeySource::Query),
            "cookie" => sources.push(KeySource::Cookie),
            _ => section.refuse(
                "key_sources",
                "has an entry that is no source",
                "write `header`, `query` or `cookie`",
            ),
        }
    }
    sources
}

fn read_cors(section: &Section<'_>) -> Vec<String> {
    if !section.is_list("cors") {
        if !matches!(section.word("cors").as_deref(), None | Some("off")) {
            section.refuse("cors", "is neither `off` nor a list", "list the origins");
        }
        return Vec::new();
    }
    let origins = section.texts("cors").unwrap_or_default();
    let is_origin = |text: &str| {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        rest.is_some_and(|rest| {
            !rest.is_empty()
                && rest
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b"/?#@*,".contains(&b))
        })
    };
    if !origins.iter().all(|origin| is_origin(origin)) {
        section.refuse(
            "cors",
            "has an entry that is no origin",
            "write `https://host` or `https://host:port`, without a path; `*` is not accepted",
        );
    }
    origins
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Config, ConfigError};
    use super::*;

    fn read(text: &str, sets: &[&str], key: Option<&str>) -> Result<Config, ConfigError> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        Config::from_text(text, &sets, &|name| match name {
            "PORTCULLIS_ADMIN_KEY" => key.map(str::to_owned),
            "KEY" => Some("from-env".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn key_itself_is_refused_on_the_command_line_and_warned_of_in_the_file() {
        let set = "admin.keys=[{name: n, key: hunter2}]";
        let error = read("", &[set], None).unwrap_err();
        assert_eq!(error.problems[0].path, "admin.keys.0.key");
        assert!(!error.to_string().contains("hunter2"));
        let twin = read("", &["admin.keys=[{name: n, key: '$env://KEY'}]"], None).unwrap();
        assert!(twin.warnings.is_empty());
        let in_file = read("admin: {keys: [{name: n, key: hunter2}]}", &[], None).unwrap();
        assert_eq!(in_file.warnings.len(), 1);
        assert!(!format!("{in_file:?} {}", in_file.describe()).contains("hunter2"));
    }

    #[test]
    fn later_setting_of_a_key_itself_is_refused_too() {
        let file = "admin: {keys: [{name: n, key: $env://KEY}]}";
        assert!(read(file, &["admin.keys.0.key=hunter2"], None).is_err());
        assert!(read(file, &["admin.keys.0.key=$env://KEY"], None).is_ok());
    }

    #[test]
    fn passphrase_is_read_from_its_place_and_kept_from_view() {
        let with = |passphrase: &str| {
            format!("admin: {{https: {{cert: /c, key: /k, key_passphrase: '{passphrase}'}}}}")
        };
        let config = read(&with("$env://KEY"), &[], None).unwrap();
        let identity = config.admin.https.identity.as_ref().unwrap();
        assert_eq!(identity.key.path, Path::new("/k"));
        let passphrase = identity.key.passphrase.as_ref().unwrap();
        assert_eq!(passphrase.expose(), "from-env");
        assert!(config.warnings.is_empty());
        let in_file = read(&with("hunter2"), &[], None).unwrap();
        assert!(in_file.warnings[0].starts_with("admin.https.key_passphrase: "));
        assert!(!format!("{in_file:?} {}", in_file.describe()).contains("hunter2"));
        for (text, sets, reason) in [
            (
                with("$env://NOBODY"),
                &[][..],
                "the environment has no NOBODY",
            ),
            (with("@/no/such/file"), &[], "cannot be read"),
            (
                "admin: {https: {key_passphrase: $env://KEY}}".to_owned(),
                &[],
                "without a key",
            ),
            (
                with("$env://KEY"),
                &["admin.https.key_passphrase=hunter2"],
                "never written on a command line",
            ),
        ] {
            let error = read(&text, sets, None).unwrap_err();
            assert_eq!(error.problems[0].path, "admin.https.key_passphrase");
            assert!(error.to_string().contains(reason), "{error}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn networks_are_read_in_each_form_and_nothing_else() {
        for (path, section) in [("admin", "admin: "), ("admin.https", "admin: {https: ")] {
            let with = |list: &str| {
                let end = if path == "admin" { "" } else { "}" };
                read(&format!("{section}{{allow_admin: {list}}}{end}"), &[], None)
            };
            let config = with("[10.0.0.0/8, '2001:db8::/32', 192.0.2.1]").unwrap();
            let admin = &config.admin;
            let nets = if path == "admin" {
                &admin.allow_admin
            } else {
                &admin.https.allow_admin
            };
            let nets: Vec<String> = nets.iter().flatten().map(ToString::to_string).collect();
            assert_eq!(nets, ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"]);
            let shown = format!("{path}.allow_admin = 10.0.0.0/8, 2001:db8::/32, 192.0.2.1/32\n");
            assert!(config.describe().contains(&shown), "{}", config.describe());
            for (list, reason) in [
                ("[]", "names no network"),
                ("[10.0.0.0/33]", "is no network"),
                ("[localhost]", "is no network"),
                ("10.0.0.0/8", "not a list"),
            ] {
                let error = with(list).unwrap_err();
                assert_eq!(error.problems[0].path, format!("{path}.allow_admin"));
                assert!(error.to_string().contains(reason), "{list}: {error}");
            }
        }
        let config = read("", &[], None).unwrap();
        assert!(config.admin.allow_admin.is_none() && config.admin.https.allow_admin.is_none());
    }

    #[test]
    fn roles_of_certificates_are_read_and_need_a_ca() {
        let with = |roles: &str, rest: &str| {
            let text = format!("admin: {{https: {{client_roles: {roles}{rest}}}}}");
            read(&text, &[], None)
        };
        let ca = ", client_ca: /ca";
        let roles = "[{subject: 'ou=a\\,b, O=E=x', role: admin}, {san: 'dns:A.test', role: viewer}, \
                     {san: 'uri:spiffe://x/Y', role: admin}, {san: 'email:a@b', role: admin}]";
        let config = with(roles, ca).unwrap();
        let own = |kind: &str, value: &str| (kind.to_owned(), value.to_owned());
        let claims: Vec<_> = config
            .admin
            .https
            .client_roles
            .iter()
            .map(|entry| entry.claim.clone())
            .collect();
        assert_eq!(
            claims,
            [
                Claim::Subject(vec![own("OU", "a,b"), own("O", "E=x")]),
                Claim::Dns("a.test".to_owned()),
                Claim::Uri("spiffe://x/Y".to_owned()),
                Claim::Email("a@b".to_owned()),
            ]
        );
        assert_eq!(config.admin.https.client_roles[1].role, Role::Viewer);
        for (roles, rest, path, reason) in [
            (roles, "", "client_roles", "without `admin.https.client_ca`"),
            ("[{subject: CN=a}]", ca, "client_roles.0.role", "is missing"),
            (
                "[{role: admin}]",
                ca,
                "client_roles.0.subject",
                "is missing",
            ),
            (
                "[{subject: a, role: admin}]",
                ca,
                "client_roles.0.subject",
                "no list",
            ),
            (
                "[{subject: 'CN=', role: admin}]",
                ca,
                "client_roles.0.subject",
                "no list",
            ),
            (
                "[{subject: 'CN=a,', role: admin}]",
                ca,
                "client_roles.0.subject",
                "no list",
            ),
            (
                "[{san: 'ip:::1', role: admin}]",
                ca,
                "client_roles.0.san",
                "no alternative name",
            ),
            (
                "[{san: 'dns:', role: admin}]",
                ca,
                "client_roles.0.san",
                "no alternative name",
            ),
            (
                "[{subject: CN=a, san: 'dns:a', role: admin}]",
                ca,
                "client_roles.0.san",
                "beside `subject`",
            ),
        ] {
            let error = with(roles, rest).unwrap_err();
            let found = error.problems[0].path.strip_prefix("admin.https.");
            assert_eq!(found, Some(path), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn key_of_the_environment_joins_those_of_the_file() {
        let config = read("admin: {keys: [{name: n, key: k}]}", &[], Some("e")).unwrap();
        let names: Vec<&str> = config
            .admin
            .keys
            .iter()
            .map(|key| key.name.as_str())
            .collect();
        assert_eq!(names, ["environment", "n"]);
        assert_eq!(config.admin.keys[0].role, Role::Admin);
    }

    #[test]
    fn empty_key_of_the_environment_is_refused() {
        let error = read("", &[], Some("")).unwrap_err();
        assert!(error.to_string().contains("PORTCULLIS_ADMIN_KEY is empty"));
        assert!(read("", &[], Some("k")).is_ok());
    }
}
