//! The module's configuration as `openssl fipsinstall` wrote it, and the one OpenSSL is given.
//!
//! OpenSSL 3.0 takes a module's parameters from a file only. A private one is written for the
//! moment of the start, with the lines of the module's own file except `activate`: a module that
//! the file activates fails silently, and an explicit load then gives no reason.

use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs, io, process};

use super::error::FipsError;
use crate::crypto::digest::{SHA256_BYTES, Sha256};

/// The section that holds the module's parameters.
const SECTION: &str = "[fips_sect]";
/// The parameter with the HMAC-SHA256 of the module's file.
const MAC_KEY: &str = "module-mac";
/// The parameter that keeps a module out of its error state when it is 0 (`fips_config(5)`).
const ERRORS_KEY: &str = "conditional-errors";
/// What the private configuration begins with; the module's own section follows.
const PREAMBLE: &str = "\
config_diagnostics = 1
openssl_conf = openssl_init

[openssl_init]
providers = provider_sect
alg_section = algorithm_sect

[provider_sect]
fips = fips_sect
base = base_sect

[base_sect]
activate = 1

[algorithm_sect]
default_properties = fips=yes

[fips_sect]
";

/// The parameters of a module, as read from its configuration.
#[derive(Debug)]
pub(super) struct ModuleCnf {
    path: PathBuf,
    parameters: Parameters,
}

/// What the module's section holds.
#[derive(Debug, Default)]
struct Parameters {
    /// Name and value; never `activate`, and nothing OpenSSL would expand.
    lines: Vec<(String, String)>,
    /// The value of [`MAC_KEY`], which a module that carries its MAC within does not have.
    mac: Option<[u8; SHA256_BYTES]>,
}

/// A configuration file that only this user can read, removed with its directory when dropped.
pub(super) struct PrivateFile {
    dir: PathBuf,
    path: CString,
}

impl ModuleCnf {
    pub(super) fn read(path: &Path) -> Result<Self, FipsError> {
        let text = fs::read_to_string(path).map_err(|source| FipsError::CnfMissing {
            path: path.to_path_buf(),
            source,
        })?;
        match parse(&text) {
            Ok(parameters) => Ok(Self {
                path: path.to_path_buf(),
                parameters,
            }),
            Err(problem) => Err(FipsError::CnfMalformed {
                path: path.to_path_buf(),
                problem,
            }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The MAC that the module's file must have, where the configuration states it.
    pub(super) fn mac(&self) -> Option<&[u8; SHA256_BYTES]> {
        self.parameters.mac.as_ref()
    }

    /// The whole text of the configuration that OpenSSL is given.
    fn text(&self) -> String {
        let mut text = PREAMBLE.to_owned();
        for (name, value) in &self.parameters.lines {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name} = {value}");
        }
        text
    }

    /// Writes that text to a new file of mode 600, in a new directory of mode 700.
    pub(super) fn write_private(&self) -> Result<PrivateFile, FipsError> {
        let parent = env::temp_dir();
        let scratch = |source| FipsError::Scratch {
            dir: parent.clone(),
            source,
        };
        let dir = make_private_dir(&parent).map_err(scratch)?;
        let path = dir.join("openssl.cnf");
        let name = CString::new(path.as_os_str().as_bytes());
        let file = PrivateFile {
            dir,
            path: name.map_err(io::Error::from).map_err(scratch)?,
        };
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut opened| opened.write_all(self.text().as_bytes()))
            .map_err(scratch)?;
        Ok(file)
    }
}

impl PrivateFile {
    pub(super) fn path(&self) -> &CStr {
        &self.path
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        // What stays behind holds no secret; nothing better can be done about it here.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Makes a directory that did not exist before.
///
/// The name needs no randomness, which only OpenSSL could give and it is not started yet: making
/// the directory fails when somebody else made it first.
fn make_private_dir(parent: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    let mut attempt = 0_u128;
    loop {
        let serial = now.wrapping_add(attempt);
        let dir = parent.join(format!("portcullis-fips-{}-{serial:x}", process::id()));
        match builder.create(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempt < 100 => attempt += 1,
            Err(e) => return Err(e),
        }
    }
}

/// Reads `name = value` lines of the one section; the error says what is wrong.
fn parse(text: &str) -> Result<Parameters, String> {
    let mut parameters = Parameters::default();
    let mut is_in_section = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line == SECTION {
            is_in_section = true;
            continue;
        }
        if line.is_empty() {
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|_| is_in_section) else {
            return Err(format!(
                "has something else than {SECTION} and its values in line {number}"
            ));
        };
        let (name, value) = (name.trim(), value.trim());
        if !is_plain(name) || !is_plain(value) {
            return Err(format!(
                "has a character that does not belong there in line {number}"
            ));
        }
        // OpenSSL passes over what is before a dot (`provider_conf.c`, `skip_dot`).
        match name.split_once('.').map_or(name, |(_, last)| last) {
            "module" | "identity" | "soft_load" => {
                return Err(format!(
                    "sets {name:?} in line {number}, which would load another file"
                ));
            }
            MAC_KEY if parameters.mac.is_some() => {
                return Err(format!("has a second {MAC_KEY} in line {number}"));
            }
            MAC_KEY => parameters.mac = Some(parse_mac(value)?),
            ERRORS_KEY if value != "1" => {
                return Err(format!(
                    "sets {ERRORS_KEY} to {value:?} in line {number}: a test that fails when a key \
                     is made would not stop the module"
                ));
            }
            "activate" => continue,
            _ => {}
        }
        parameters.lines.push((name.to_owned(), value.to_owned()));
    }
    Ok(parameters)
}

/// Whether OpenSSL reads the text as it stands: no expansion, quoting or escape.
fn is_plain(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_:.".contains(&b);
    !text.is_empty() && text.bytes().all(is_allowed)
}

/// Reads the MAC as OpenSSL does: pairs of hex digits, with or without colons between them.
fn parse_mac(text: &str) -> Result<[u8; SHA256_BYTES], String> {
    let digits: String = text.chars().filter(|&c| c != ':').collect();
    match digits.parse::<Sha256>() {
        Ok(mac) => Ok(*mac.as_bytes()),
        Err(_) => Err(format!("has a {MAC_KEY} that is not 64 hex digits")),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const MAC: &str = "42:AF:88:C2:AD:AF:5D:12:C5:8E:38:39:16:89:A7:15:\
                       09:EF:41:D9:49:07:82:A5:65:73:8F:40:ED:3C:CF:5A";

    fn installed() -> String {
        format!(
            "# made by fipsinstall\n[fips_sect]\nactivate = 1\ninstall-version = 1\n\
             conditional-errors = 1\nsecurity-checks = 1\ntls1-prf-ems-check = 1\nmodule-mac = {MAC}\n"
        )
    }

    fn cnf(text: &str) -> ModuleCnf {
        ModuleCnf {
            path: "/x/fipsmodule.cnf".into(),
            parameters: parse(text).unwrap(),
        }
    }

    #[test]
    fn installed_configuration_is_taken_over_without_its_activation() {
        let text = cnf(&installed()).text();
        let (preamble, section) = text.split_once("[fips_sect]\n").unwrap();
        assert!(preamble.contains("default_properties = fips=yes"));
        assert_eq!(
            section,
            format!(
                "install-version = 1\nconditional-errors = 1\nsecurity-checks = 1\n\
                 tls1-prf-ems-check = 1\n\
                 module-mac = {MAC}\n"
            )
        );
    }

    #[test]
    fn configuration_without_activation_gives_the_same_text() {
        let inactive = installed().replace("activate = 1\n", "");
        assert_eq!(cnf(&installed()).text(), cnf(&inactive).text());
    }

    #[test]
    fn mac_is_read_with_and_without_colons() {
        let (with, without) = (cnf(&installed()), cnf(&installed().replace(':', "")));
        let mac = with.mac().unwrap();
        assert_eq!((mac[0], mac[31]), (0x42, 0x5a));
        assert_eq!(without.mac(), Some(mac));
    }

    #[test]
    fn module_that_carries_its_mac_within_needs_none_here() {
        assert_eq!(cnf("[fips_sect]\nactivate = 1\n").mac(), None);
    }

    #[test]
    fn foreign_content_is_refused_with_its_line() {
        let cases = [
            ("security-checks = 1\n", "in line 1"),
            ("[fips_sect]\n.include /etc/other.cnf\n", "in line 2"),
            ("[fips_sect]\nnonsense\n", "in line 2"),
            ("[fips_sect]\n[other]\n", "in line 2"),
            (
                "[fips_sect]\nmodule = other.so\n",
                "sets \"module\" in line 2",
            ),
            (
                "[fips_sect]\nmodule-mac = $ENV::MAC\n",
                "character that does not belong",
            ),
            (
                "[fips_sect]\nmodule-mac =\n",
                "character that does not belong",
            ),
            ("[fips_sect]\nmodule-mac = 42:AF\n", "not 64 hex digits"),
            (
                "[fips_sect]\n1.module = other.so\n",
                "which would load another file",
            ),
            (
                "[fips_sect]\nconditional-errors = 0\n",
                "sets conditional-errors to \"0\" in line 2",
            ),
            (
                "[fips_sect]\nx.conditional-errors = 0\n",
                "sets conditional-errors to",
            ),
        ];
        for (text, problem) in cases {
            let found = parse(text).unwrap_err();
            assert!(found.contains(problem), "{text:?}: {found}");
        }
        let twice = format!("{}module-mac = {MAC}\n", installed());
        assert!(
            parse(&twice)
                .unwrap_err()
                .contains("a second module-mac in line 9")
        );
        let foreign = installed().replace("5A", "5G");
        assert!(parse(&foreign).unwrap_err().contains("not 64 hex digits"));
    }

    #[test]
    fn missing_configuration_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fipsmodule.cnf");
        assert!(
            matches!(ModuleCnf::read(&path), Err(FipsError::CnfMissing { path: p, .. }) if p == path)
        );
        fs::write(&path, "x").unwrap();
        assert!(matches!(
            ModuleCnf::read(&path),
            Err(FipsError::CnfMalformed { .. })
        ));
        fs::write(&path, installed()).unwrap();
        assert_eq!(ModuleCnf::read(&path).unwrap().path(), path);
    }

    #[test]
    fn private_file_is_private_and_gone_when_dropped() {
        let cnf = cnf(&installed());
        let (one, other) = (cnf.write_private().unwrap(), cnf.write_private().unwrap());
        assert_ne!(one.path(), other.path());
        let path = PathBuf::from(OsStr::from_bytes(one.path().to_bytes()));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(fs::read_to_string(&path).unwrap(), cnf.text());
        drop(one);
        assert!(!path.parent().unwrap().exists());
        assert!(Path::new(OsStr::from_bytes(other.path().to_bytes())).exists());
    }
}
