//! What the machine says: modes of files that hold secrets, the account that the gateway runs
//! under, and programs that carry logs away.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::{Config, Kek};
use crate::control::survey::Surveyed;
use crate::store::sqlite;

/// Shells that let nobody in.
const NO_SHELLS: [&str; 5] = [
    "/bin/false",
    "/bin/nologin",
    "/sbin/nologin",
    "/usr/bin/false",
    "/usr/sbin/nologin",
];

/// A file that holds a secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SecretFile {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its mode, or why that cannot be told.
    pub(super) mode: Result<u32, String>,
}

/// Every file with a secret that the configuration names, that a stored object refers to for its key,
/// or that the gateway makes; of the last those that are there.
pub(super) fn secret_files(
    config: &Config,
    objects: &[Surveyed],
    kek_file: Option<PathBuf>,
) -> Vec<SecretFile> {
    let identity = config.admin.https.identity.as_ref();
    let report_key = config.fips.report_key.as_ref();
    let named = identity.map(|files| files.key.path.clone()).into_iter();
    let named = named.chain(report_key.map(|key| key.path.clone()));
    let passphrases = [identity.map(|files| &files.key), report_key];
    let passphrases = passphrases.into_iter().flatten();
    let named = named.chain(passphrases.filter_map(|key| key.passphrase_file.clone()));
    let keys = config.admin.keys.iter();
    let named = named.chain(keys.filter_map(|key| key.file.clone()));
    let named = named.chain(config.secrets.vault_token_file.clone());
    let proxy = config.secrets.proxy.as_ref();
    let named = named.chain(proxy.and_then(|proxy| {
        let credentials = proxy.credentials.as_ref();
        credentials.and_then(|own| own.password_file.clone())
    }));
    let referred = objects.iter().flat_map(|object| &object.key_files);
    let named = named.chain(referred.filter_map(|(name, path)| {
        let mut roots = config.secrets.file_roots.iter();
        Some(roots.find(|root| root.name == *name)?.path.join(path))
    }));
    let kek = match &config.kek {
        Kek::File(path) => Some(path.clone()),
        Kek::Value(_) | Kek::Search(_) => None,
    };
    let made = ["admin.key", "admin-https.key", sqlite::FILE_NAME];
    let made = made.map(|name| config.data_dir.join(name)).into_iter();
    let made = made.chain(kek_file).filter(|path| path.exists());
    let mut all: Vec<PathBuf> = named.chain(kek).chain(made).collect();
    all.sort();
    all.dedup();
    let all = all.into_iter().map(|path| {
        let mode = fs::metadata(&path).map(|metadata| metadata.permissions().mode() & 0o7777);
        SecretFile {
            mode: mode.map_err(|error| error.to_string()),
            path,
        }
    });
    all.collect()
}

/// The account that the gateway runs under.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// Where it was read.
    pub(super) place: String,
    /// Its number.
    pub(super) uid: u32,
    /// Its name and shell; `None` where `/etc/passwd` does not have it.
    pub(super) entry: Option<(String, String)>,
}

impl Account {
    /// Whether somebody can log in with it.
    pub(super) fn has_shell(&self) -> bool {
        let shell = self.entry.as_ref().map(|(_, shell)| shell.as_str());
        shell.is_some_and(|shell| !NO_SHELLS.contains(&shell))
    }
}

/// Who runs the gateway that has the data directory; while none runs, the directory's owner; before
/// the first start, who asks.
pub(super) fn account(data_dir: &Path) -> Account {
    let running = sqlite::holder(data_dir).and_then(|process| {
        let owner = fs::metadata(format!("/proc/{process}")).ok()?.uid();
        Some((format!("process {process}, which serves"), owner))
    });
    let (place, uid) = match (running, fs::metadata(data_dir)) {
        (Some(running), _) => running,
        (None, Ok(metadata)) => {
            let dir = data_dir.display();
            let place = format!("the owner of {dir}, since no gateway runs there");
            (place, metadata.uid())
        }
        (None, Err(_not_there)) => (
            "who runs this, since there is no data directory yet".to_owned(),
            rustix::process::getuid().as_raw(),
        ),
    };
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    Account {
        place: format!("{place}, /etc/passwd"),
        uid,
        entry: passwd_entry(&passwd, uid),
    }
}

/// Name and shell of a user (`passwd(5)`). An empty shell means `/bin/sh`.
fn passwd_entry(passwd: &str, uid: u32) -> Option<(String, String)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        let shell = fields.nth(3).unwrap_or_default();
        let shell = if shell.is_empty() { "/bin/sh" } else { shell };
        (number == uid).then(|| (name.to_owned(), shell.to_owned()))
    })
}

/// Where, below `/etc`, the configuration of a program lies that carries logs elsewhere, and what
/// its line begins with that says whereto. A file without one is a package that nobody set up.
const SHIPPERS: [(&str, &str); 9] = [
    ("filebeat/filebeat.yml", "hosts:"),
    ("fluent-bit/fluent-bit.conf", "Host "),
    ("fluent-bit/fluent-bit.yaml", "host:"),
    ("fluent/fluentd.conf", "host "),
    ("otelcol/config.yaml", "endpoint:"),
    ("promtail/config.yml", "url:"),
    ("splunkforwarder/outputs.conf", "server"),
    ("td-agent/td-agent.conf", "host "),
    ("vector/vector.yaml", "inputs:"),
];

/// Whether a line says whereto, with something that is no comment and not this machine.
fn is_whereto(line: &str, word: &str) -> bool {
    let line = line.trim_start().trim_start_matches("- ");
    let value = line
        .strip_prefix(word)
        .map(|rest| rest.trim_matches([' ', '=', '"', '[', ']']));
    let local = [
        "localhost",
        "127.",
        "0.0.0.0",
        "http://localhost",
        "http://127.",
    ];
    value.is_some_and(|value| {
        !value.is_empty()
            && !value.starts_with('#')
            && !local.iter().any(|it| value.starts_with(it))
    })
}

/// The files that have logs carried to another machine; `etc` is `/etc`.
pub(super) fn log_shippers(etc: &Path) -> Vec<PathBuf> {
    let set_up = SHIPPERS.iter().filter(|(name, word)| {
        let text = text(&etc.join(name));
        text.lines().any(|line| is_whereto(line, word))
    });
    let mut found: Vec<PathBuf> = set_up.map(|(name, _)| etc.join(name)).collect();
    let journal = etc.join("systemd/journal-upload.conf");
    if text(&journal).lines().any(|line| is_set(line, "URL")) {
        found.push(journal);
    }
    let mut rules = vec![etc.join("rsyslog.conf")];
    if let Ok(folder) = fs::read_dir(etc.join("rsyslog.d")) {
        rules.extend(folder.flatten().map(|entry| entry.path()));
    }
    rules.retain(|path| text(path).lines().any(is_forwarding));
    rules.sort();
    found.extend(rules);
    found
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// `NAME=value`, with a value (`journal-upload.conf(5)`).
fn is_set(line: &str, name: &str) -> bool {
    let rest = line.trim_start().strip_prefix(name);
    let value = rest.and_then(|rest| rest.trim_start().strip_prefix('='));
    value.is_some_and(|value| !value.trim().is_empty())
}

/// `selector @host`, `@@host`, or an `omfwd` or `omrelp` action (`rsyslog.conf(5)`).
fn is_forwarding(line: &str) -> bool {
    let line = line.trim();
    if line.starts_with(['#', '$']) {
        return false;
    }
    let second = line.split_ascii_whitespace().nth(1);
    second.is_some_and(|word| word.starts_with('@'))
        || line.contains("\"omfwd\"")
        || line.contains("\"omrelp\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_of_an_account_is_read_from_its_line() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n\
                      # a comment\n\
                      portcullis:x:997:997::/var/lib/portcullis:/usr/sbin/nologin\n\
                      old:x:998:998::/:\n";
        for (uid, name, has_shell) in [
            (0, Some("root"), true),
            (997, Some("portcullis"), false),
            (998, Some("old"), true),
            (61_184, None, false),
        ] {
            let account = Account {
                place: String::new(),
                uid,
                entry: passwd_entry(passwd, uid),
            };
            let found = account.entry.as_ref().map(|(name, _)| name.as_str());
            assert_eq!((found, account.has_shell()), (name, has_shell));
        }
    }

    #[test]
    fn forwarding_is_told_from_writing_to_files() {
        let etc = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = etc.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let local = "*.* /var/log/all\n#*.* @@old.example.com\n$ModLoad \"omfwd\"\n";
        write("rsyslog.conf", local);
        let journal = "systemd/journal-upload.conf";
        write(journal, "[Upload]\n# URL=https://old.example.com\nURL=\n");
        assert_eq!(log_shippers(etc.path()), Vec::<PathBuf>::new());
        let old = write("rsyslog.d/10.conf", "*.* @@logs.example.com:6514\n");
        let action = "action(type=\"omfwd\" target=\"logs.example.com\")\n";
        let new = write("rsyslog.d/20.conf", action);
        assert_eq!(log_shippers(etc.path()), [old, new]);
        let journal = write(journal, "[Upload]\nURL = https://l.example.com\n");
        assert_eq!(log_shippers(etc.path())[0], journal);
        // A package that nobody has set up carries nothing away.
        for idle in ["sinks: {}\n", "#  inputs: [a]\n", ""] {
            write("vector/vector.yaml", idle);
            assert_eq!(log_shippers(etc.path())[0], journal);
        }
        let filebeat = "filebeat/filebeat.yml";
        write(
            filebeat,
            "output.elasticsearch:\n  #hosts: [\"a:9200\"]\n  hosts: [\"localhost:9200\"]\n",
        );
        assert_eq!(log_shippers(etc.path())[0], journal);
        let elsewhere = write(
            filebeat,
            "output.logstash:\n  hosts: [\"logs.example.com:5044\"]\n",
        );
        assert_eq!(log_shippers(etc.path())[0], elsewhere);
        write(filebeat, "");
        let vector = write("vector/vector.yaml", "sinks:\n  a:\n    inputs: [\"b\"]\n");
        assert_eq!(log_shippers(etc.path())[0], vector);
    }
}
