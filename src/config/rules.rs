//! The rules between keys, and what is accepted with a warning.

use super::listen::ListenAddr;
use super::reader::Reader;
use super::{Admin, ClientAuthNames, Config, KeySource, Store};

/// The rules between keys, and what is accepted with a warning.
pub(super) fn judge(reader: &Reader, config: &mut Config) {
    judge_admin(reader, &config.admin);
    judge_overlaps(reader, config);
    if config.http.client_auth_names == ClientAuthNames::Redirect && config.https.listen.is_empty()
    {
        reader.refuse(
            "http.client_auth_names",
            "is `redirect`, and `https.listen` is switched off",
            "give `https.listen` an address, or write `refuse`",
        );
    }
    let mut warn = |is_so: bool, text: &str| {
        if is_so {
            config.warnings.push(text.to_owned());
        }
    };
    warn(
        config
            .admin
            .key_sources
            .iter()
            .any(|source| *source != KeySource::Header),
        "admin.key_sources: keys in URLs and cookies end up in histories and in other programs' logs",
    );
    warn(
        config.http.client_auth_names == ClientAuthNames::Allow,
        "http.client_auth_names: `allow` serves names that ask for client certificates without one on the plain port",
    );
    warn(
        config
            .status
            .listen
            .iter()
            .any(|listen| !listen.is_loopback()),
        "status.listen: metrics and health are served in the clear and without a key to other machines",
    );
    warn(
        config.http.listen.is_empty() && config.https.listen.is_empty(),
        "http.listen, https.listen: both are switched off, no client is served",
    );
    warn(
        config.store == Store::Memory,
        "store: `memory` forgets every resource at the end of the process",
    );
}

fn judge_admin(reader: &Reader, admin: &Admin) {
    for listen in admin.listen.iter().filter(|listen| !listen.is_loopback()) {
        reader.refuse(
            "admin.listen",
            format!("{listen} can be reached from other machines, and the plain Admin API never leaves this one"),
            "write a loopback address, and use `admin.https.listen` for other machines",
        );
    }
    let https = &admin.https;
    if https.identity.is_some() || https.client_ca.is_some() {
        return;
    }
    for listen in https.listen.iter().filter(|listen| !listen.is_loopback()) {
        reader.refuse(
            "admin.https.listen",
            format!("{listen} can be reached from other machines, which cannot know the self-signed certificate"),
            "set `admin.https.cert` and `admin.https.key` to a certificate they trust, or `admin.https.client_ca` to ask them for theirs",
        );
    }
}

fn judge_overlaps(reader: &Reader, config: &Config) {
    let all: Vec<(&str, ListenAddr)> = [
        ("http.listen", &config.http.listen),
        ("https.listen", &config.https.listen),
        ("admin.listen", &config.admin.listen),
        ("admin.https.listen", &config.admin.https.listen),
        ("status.listen", &config.status.listen),
    ]
    .into_iter()
    .flat_map(|(path, listen)| listen.iter().map(move |addr| (path, *addr)))
    .collect();
    for (index, (path, addr)) in all.iter().enumerate() {
        let before = all
            .iter()
            .take(index)
            .find(|(_, other)| addr.overlaps(*other));
        if let Some((other_path, other)) = before {
            reader.refuse(
                path,
                format!("{addr} is already taken by {other} of `{other_path}`"),
                "give each listener its own address or port",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConfigError;
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        Config::from_text(text, &[], &|_| None)
    }

    #[test]
    fn refused_combination_names_its_key_and_its_twin_is_accepted() {
        for (path, refused, twin) in [
            (
                "admin.listen",
                "admin: {listen: '0.0.0.0:9180'}",
                "admin: {listen: '127.0.0.2:9180'}",
            ),
            (
                "admin.listen",
                "admin: {listen: ['[::1]:1', '10.0.0.1:1']}",
                "admin: {listen: localhost:1}",
            ),
            (
                "admin.https.listen",
                "admin: {https: {listen: '0.0.0.0:7443'}}",
                "admin: {https: {listen: '0.0.0.0:7443', client_ca: /ca}}",
            ),
            (
                "admin.https.listen",
                "admin: {https: {listen: '10.0.0.1:7443'}}",
                "admin: {https: {listen: '10.0.0.1:7443', cert: /c, key: /k}}",
            ),
            (
                "https.listen",
                "{http: {listen: '*:1'}, https: {listen: '127.0.0.1:1'}}",
                "{http: {listen: '127.0.0.2:1'}, https: {listen: '127.0.0.1:1'}}",
            ),
            (
                "status.listen",
                "status: {listen: '127.0.0.1:9180'}",
                "status: {listen: '127.0.0.1:0'}",
            ),
            (
                "http.client_auth_names",
                "{http: {client_auth_names: redirect}, https: {listen: []}}",
                "http: {client_auth_names: redirect}",
            ),
        ] {
            let error = read(refused).expect_err(refused);
            assert_eq!(error.problems.len(), 1, "{refused}: {error}");
            assert_eq!(error.problems[0].path, path, "{refused}: {error}");
            if let Err(error) = read(twin) {
                panic!("{twin}: {error}");
            }
        }
    }

    #[test]
    fn open_admin_address_is_refused_with_the_remedy() {
        let error = read("admin: {https: {listen: '0.0.0.0:7443'}}")
            .unwrap_err()
            .to_string();
        assert!(error.contains("`admin.https.cert`") && error.contains("`admin.https.client_ca`"));
    }

    #[test]
    fn unwise_but_accepted_is_warned_of() {
        for text in [
            "admin: {key_sources: [header, query]}",
            "http: {client_auth_names: allow}",
            "status: {listen: 9091}",
            "{http: {listen: []}, https: {listen: []}}",
            "store: memory",
        ] {
            assert_eq!(read(text).unwrap().warnings.len(), 1, "{text}");
        }
    }
}
