//! Who may use the Admin API, and the certificate it shows: from the configuration, or made at the
//! first start.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::admin;
use crate::admin::auth::{Key, Keys, Sources};
use crate::cli::server::error::ServeError;
use crate::config::{self, Config, KeyFile, KeyMaterial, TrustFile};
use crate::control::evidence::{OwnKey, OwnMaterial};
use crate::crypto::digest::Sha256;
use crate::crypto::error::CryptoError;
use crate::crypto::rand;
use crate::crypto::sign::SigningKey;
use crate::crypto::symmetric::Cipher;
use crate::tls::material::{CaBundle, CertChain, KeyPair, MaterialError, PrivateKey};
use crate::tls::policy::{ClientAuth, ClientPolicy, Versions};
use crate::tls::select::Always;
use crate::tls::selfsigned;
use crate::tls::server::{Alpn, ListenerAcceptor, ServerContext, ServerSpec, SessionCache};
use crate::tls::trust::CaStore;

/// What the keys of session tickets are for.
const TICKETS: &str =
    "seal session tickets, with HMAC-SHA256; another one in each lifetime of a ticket";

/// What the keys of an APISIX are for.
const KEYRING: &str = "opens private keys that an APISIX has sealed; seals nothing";

/// More than any secret that is made here.
const SECRET_BYTES: usize = 16 * 1024;

/// The admin keys; the first start makes one when none is configured.
pub(super) fn keys(config: &Config) -> Result<Keys, ServeError> {
    let sources = Sources {
        header: config
            .admin
            .key_sources
            .contains(&config::KeySource::Header),
        query: config.admin.key_sources.contains(&config::KeySource::Query),
        cookie: config
            .admin
            .key_sources
            .contains(&config::KeySource::Cookie),
    };
    let mut keys = Vec::new();
    for key in &config.admin.keys {
        let role = match key.role {
            config::Role::Admin => admin::auth::Role::Admin,
            config::Role::Viewer => admin::auth::Role::Viewer,
        };
        keys.push(match &key.key {
            KeyMaterial::Plain(text) => Key::from_text(&key.name, text.expose(), role)?,
            KeyMaterial::Sha256(digest) => {
                Key::from_digest(&key.name, Sha256::from_bytes(*digest), role)
            }
        });
    }
    if keys.is_empty() {
        let path = config.data_dir.join("admin.key");
        let text = match read_secret(&path)? {
            Some(text) => text,
            None => {
                let text = Zeroizing::new(rand::hex_id(24)?);
                write_secret(&path, &text)?;
                tracing::warn!(
                    path = %path.display(),
                    "no admin key is configured: one was made and written there"
                );
                text
            }
        };
        keys.push(Key::from_text(
            "first",
            text.trim(),
            admin::auth::Role::Admin,
        )?);
    }
    Ok(Keys::new(keys, sources))
}

/// What the start would not get past of the files that this part of it reads; makes none.
pub(super) fn troubles(config: &Config) -> Vec<ServeError> {
    let made_key = || -> Result<(), ServeError> {
        if config.admin.keys.is_empty() {
            read_secret(&config.data_dir.join("admin.key"))?;
        }
        Ok(())
    };
    let all = [
        made_key(),
        admin_pair(config).map(drop),
        admin_client_ca(config).map(drop),
        report_signer(config).map(drop),
    ];
    all.into_iter().filter_map(Result::err).collect()
}

fn read(path: &Path) -> Result<String, ServeError> {
    fs::read_to_string(path).map_err(|source| file(path, source))
}

fn file(path: &Path, source: io::Error) -> ServeError {
    ServeError::File {
        path: path.display().to_string(),
        source,
    }
}

/// A file that holds a secret of ours; `None` when there is none.
///
/// # Errors
/// Others than its owner may read it, or it is empty.
fn read_secret(path: &Path) -> Result<Option<Zeroizing<String>>, ServeError> {
    let opened = match fs::File::open(path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(file(path, source)),
    };
    let mode = opened.metadata().map_err(|source| file(path, source))?;
    let mode = mode.permissions().mode() & 0o7777;
    let path_text = path.display().to_string();
    if mode & 0o077 != 0 {
        return Err(ServeError::Exposed {
            path: path_text,
            mode,
        });
    }
    // With room for all, so that no copy is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(SECRET_BYTES));
    let limit = u64::try_from(SECRET_BYTES).unwrap_or(u64::MAX);
    let read = opened.take(limit).read_to_string(&mut text);
    read.map_err(|source| file(path, source))?;
    if text.trim().is_empty() {
        return Err(ServeError::Empty { path: path_text });
    }
    Ok(Some(text))
}

/// Writes a file that only its owner reads.
fn write_secret(path: &Path, text: &str) -> Result<(), ServeError> {
    write_whole(path, text, 0o600)
}

/// Writes a file so that after a crash there is either all of it or nothing under its name.
fn write_whole(path: &Path, text: &str, mode: u32) -> Result<(), ServeError> {
    let write = || -> io::Result<()> {
        let mut draft = path.as_os_str().to_owned();
        draft.push(".new");
        // What a crash has left there may have any mode.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| file(path, source))
}

/// Reads the text of a private key's file, with the passphrase that `passphrase_at` of the
/// configuration has for it.
fn private_key(
    file: &KeyFile,
    text: &str,
    passphrase_at: &'static str,
) -> Result<PrivateKey, ServeError> {
    let path = file.path.display();
    let is_encrypted = PrivateKey::is_encrypted(text);
    let key = match &file.passphrase {
        Some(passphrase) => {
            if !is_encrypted {
                tracing::warn!(%path, "the private key is not encrypted: `{passphrase_at}` opens nothing");
            }
            PrivateKey::parse_encrypted(text, passphrase.expose())
        }
        None if is_encrypted => {
            let path = path.to_string();
            return Err(ServeError::NoPassphrase {
                path,
                passphrase_at,
            });
        }
        None => PrivateKey::parse(text),
    };
    key.map_err(material(&file.path))
}

fn material(path: &Path) -> impl FnOnce(MaterialError) -> ServeError + use<> {
    let path = path.display().to_string();
    move |source| ServeError::Material { path, source }
}

/// Where certificate and key of the admin listener are: as configured, else in the data directory.
fn admin_files(config: &Config) -> (PathBuf, KeyFile) {
    match &config.admin.https.identity {
        Some(files) => (files.cert.clone(), files.key.clone()),
        None => {
            let key = KeyFile {
                path: config.data_dir.join("admin-https.key"),
                passphrase: None,
                passphrase_file: None,
            };
            (config.data_dir.join("admin-https.crt"), key)
        }
    }
}

/// Certificate and key of the admin listener; `None` where the first start has yet to make them.
pub(super) fn admin_pair(config: &Config) -> Result<Option<KeyPair>, ServeError> {
    let (cert, key_file) = admin_files(config);
    let is_ours = config.admin.https.identity.is_none();
    if is_ours && (!cert.exists() || !key_file.path.exists()) {
        return Ok(None);
    }
    let key_text = if is_ours {
        read_secret(&key_file.path)?.unwrap_or_default()
    } else {
        Zeroizing::new(read(&key_file.path)?)
    };
    let chain = CertChain::parse(&read(&cert)?).map_err(material(&cert))?;
    let key = private_key(&key_file, &key_text, "admin.https.key_passphrase")?;
    KeyPair::join(chain, key)
        .map(Some)
        .map_err(material(&key_file.path))
}

/// What signs reports on FIPS mode, where a key is configured for that.
pub(super) fn report_signer(config: &Config) -> Result<Option<SigningKey>, ServeError> {
    let (Some(key_file), Some(key)) = (&config.fips.report_key, report_key(config)?) else {
        return Ok(None);
    };
    key.signing_key()
        .map(Some)
        .map_err(|source| ServeError::ReportKey {
            path: key_file.path.display().to_string(),
            source,
        })
}

/// The key that signs reports on FIPS mode, where one is configured.
pub(super) fn report_key(config: &Config) -> Result<Option<PrivateKey>, ServeError> {
    let Some(key_file) = &config.fips.report_key else {
        return Ok(None);
    };
    let text = Zeroizing::new(read(&key_file.path)?);
    private_key(key_file, &text, "fips_report_key_passphrase").map(Some)
}

/// What can be told of the keys that the configuration names or has made; `admin` is what the admin
/// listener shows.
pub(super) fn own_keys(
    config: &Config,
    admin: Option<&KeyPair>,
) -> Result<Vec<OwnKey>, ServeError> {
    let mut keys = Vec::new();
    let mut tell = |member, purpose, from, material| {
        keys.push(OwnKey {
            member,
            purpose,
            from,
            material,
        });
    };
    let failed = || CryptoError::during("tell a key");
    if let Some(pair) = admin {
        let (key, certificate) = pair.facts().map_err(failed())?;
        let from = admin_files(config).1.path.display().to_string();
        let pair = OwnMaterial::Pair(key, certificate);
        tell("admin.https", "shown by the admin listener", from, pair);
    }
    if let (Some(file), Some(key)) = (&config.fips.report_key, report_key(config)?) {
        let key = OwnMaterial::Private(key.facts().map_err(failed())?);
        let from = file.path.display().to_string();
        tell("fips_report_key", "signs reports like this one", from, key);
    }
    if config.https.session_tickets {
        let from = match config.https.session_ticket_secret {
            Some(_) => "derived from `https.session_ticket_secret` (SP 800-108)",
            None => "drawn by the process that serves",
        };
        let cipher = OwnMaterial::Secret(Cipher::Aes256Cbc.facts()?);
        tell("https.session_tickets", TICKETS, from.to_owned(), cipher);
    }
    for key in &config.keyring {
        let cipher = match key.expose().len() {
            16 => Cipher::Aes128Cbc,
            _ => Cipher::Aes256Cbc,
        };
        let from = "the configuration".to_owned();
        let cipher = OwnMaterial::Secret(cipher.facts()?);
        tell("data_encryption.keyring", KEYRING, from, cipher);
    }
    Ok(keys)
}

/// What `fips: required` would refuse of the files that the configuration names: the member and
/// its file with the flaw. What cannot be read is not told here ([`troubles`]).
pub(super) fn would_be_refused(config: &Config) -> Vec<String> {
    let mut told = Vec::new();
    let mut tell = |member: &str, path: &Path, flaw: &dyn std::fmt::Display| {
        told.push(format!("{member}: {}: {flaw}", path.display()));
    };
    let (cert, key_file) = admin_files(config);
    if let Ok(Some(pair)) = admin_pair(config) {
        for flaw in pair.chain.flaws() {
            tell("admin.https.cert", &cert, &flaw);
        }
        if let Err(flaw) = pair.key.approve() {
            tell("admin.https.key", &key_file.path, &flaw);
        }
    }
    if let (Some(path), Ok(Some(bundle))) = (&config.admin.https.client_ca, admin_client_ca(config))
    {
        for flaw in bundle.flaws() {
            tell("admin.https.client_ca", path, &flaw);
        }
    }
    if let (Some(key_file), Ok(Some(key))) = (&config.fips.report_key, report_key(config))
        && let Err(flaw) = key.approve()
    {
        tell("fips_report_key", &key_file.path, &flaw);
    }
    let encrypted = [
        ("admin.https.key", Some(&key_file)),
        ("fips_report_key", config.fips.report_key.as_ref()),
    ];
    for (member, key_file) in encrypted {
        let Some(key_file) = key_file else { continue };
        let text = Zeroizing::new(read(&key_file.path).unwrap_or_default());
        if let Some(weak) = PrivateKey::unapproved_encryption(&text) {
            let flaw = format!("the private key is encrypted {weak}");
            tell(member, &key_file.path, &flaw);
        }
    }
    let secrets = &config.secrets;
    let lists = [
        ("upstream.trust_file", config.upstream.trust_file.as_ref()),
        ("secrets.vault.trust_file", Some(&secrets.vault.trust_file)),
        ("secrets.aws.trust_file", Some(&secrets.aws.trust_file)),
        ("secrets.gcp.trust_file", Some(&secrets.gcp.trust_file)),
        (
            "secrets.kubernetes.trust_file",
            Some(&secrets.kubernetes.trust_file),
        ),
    ];
    for (member, file) in lists {
        // Of the system's list FIPS mode leaves out what it does not take: nobody here chose that.
        let Some(TrustFile::Path(path)) = file else {
            continue;
        };
        let bundle = read(path).ok().and_then(|pem| CaBundle::parse(&pem).ok());
        for flaw in bundle.iter().flat_map(CaBundle::flaws) {
            tell(member, path, &flaw);
        }
    }
    told
}

/// Makes the admin listener's own certificate.
fn make_admin_pair(config: &Config) -> Result<(), ServeError> {
    let (cert, key_file) = admin_files(config);
    let made = selfsigned::make().map_err(|error| ServeError::AdminTls(error.to_string()))?;
    // The certificate last: a key without one is replaced at the next start.
    write_secret(&key_file.path, &made.key)?;
    write_whole(&cert, &made.cert, 0o644)
}

/// Certificate and key of the admin listener: the configured ones, else made at the first start.
pub(super) fn obtain_admin_pair(config: &Config) -> Result<KeyPair, ServeError> {
    if let Some(pair) = admin_pair(config)? {
        return Ok(pair);
    }
    make_admin_pair(config)?;
    admin_pair(config)?.ok_or_else(|| ServeError::AdminTls("its certificate went away".to_owned()))
}

/// Whom administrators must come from, where `admin.https.client_ca` says so.
pub(super) fn admin_client_ca(config: &Config) -> Result<Option<CaBundle>, ServeError> {
    let Some(path) = &config.admin.https.client_ca else {
        return Ok(None);
    };
    CaBundle::parse(&read(path)?)
        .map(Some)
        .map_err(material(path))
}

/// TLS of the admin listener.
pub(super) fn acceptor(
    config: &Config,
    pair: KeyPair,
) -> Result<Arc<ListenerAcceptor>, ServeError> {
    let failed = |error: &dyn std::fmt::Display| ServeError::AdminTls(error.to_string());
    let fingerprint = pair.chain.fingerprint().map_err(|error| failed(&error))?;
    tracing::info!(
        certificate = %admin_files(config).0.display(),
        sha256 = %Sha256::from_bytes(fingerprint),
        "the admin listener's certificate"
    );
    let (policy, ca) = match admin_client_ca(config)? {
        None => (ClientPolicy::off(), None),
        Some(bundle) => {
            let policy = ClientPolicy::new(ClientAuth::Required, 1, bundle.digest, Vec::new())
                .map_err(|error| failed(&error))?;
            let store = CaStore::new(&bundle).map_err(|error| failed(&error))?;
            (policy, Some(Arc::new(store)))
        }
    };
    let context = ServerContext::build(ServerSpec {
        ssl_id: "admin".into(),
        pairs: vec![pair],
        policy: Arc::new(policy),
        ca,
        versions: Versions::default(),
        alpn: Alpn::Http1,
    })
    .map_err(|error| failed(&error))?;
    let always = Arc::new(Always(Arc::new(context)));
    let acceptor = ListenerAcceptor::new_wiping(always, SessionCache::default());
    Ok(Arc::new(acceptor.map_err(|error| failed(&error))?))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn config_in(dir: &Path) -> Config {
        let text = format!("data_dir: {}", dir.display());
        Config::from_text(&text, &[], &|_| None).unwrap()
    }

    #[test]
    fn first_start_makes_a_key_that_only_its_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let config = config_in(dir.path());
        keys(&config).unwrap();
        let path = dir.path().join("admin.key");
        let made = fs::read_to_string(&path).unwrap();
        assert_eq!(made.trim().len(), 48);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
        keys(&config).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), made);
    }

    #[test]
    fn key_that_others_can_read_or_that_is_empty_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let config = config_in(dir.path());
        let path = dir.path().join("admin.key");
        for (content, mode, wanted) in [
            ("k", 0o640, Some("run `chmod 600 ")),
            ("k", 0o604, Some("mode 0604")),
            ("", 0o600, Some("is empty; remove it")),
            (" \n", 0o600, Some("is empty; remove it")),
            ("0123456789abcdef0123456789abcdef", 0o600, None),
        ] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            match (keys(&config), wanted) {
                (Ok(_), None) => {}
                (Err(error), Some(wanted)) => {
                    assert!(error.to_string().contains(wanted), "{error}");
                }
                (other, _) => panic!("{mode:o}: {:?}", other.err()),
            }
        }
    }

    #[test]
    fn what_a_crash_left_behind_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let config = config_in(dir.path());
        fs::write(dir.path().join("admin.key.new"), "half").unwrap();
        fs::write(dir.path().join("admin-https.key"), "half").unwrap();
        keys(&config).unwrap();
        for _ in 0..2 {
            let pair = obtain_admin_pair(&config).unwrap();
            acceptor(&config, pair).unwrap();
        }
        let key = dir.path().join("admin-https.key");
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!dir.path().join("admin.key.new").exists());
    }
}
