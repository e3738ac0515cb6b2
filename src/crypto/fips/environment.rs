//! What `OPENSSL_CONF` asks for, where that cannot be together with the module.
//!
//! The file is never in force: OpenSSL is told to read none. But whoever names one that activates
//! another provider for this process asks for two things at once, and is told so at the start rather
//! than left to believe in one of them. Which section means what: `config(5ossl)`.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use openssl::conf::{Conf, ConfMethod, ConfRef};

use super::error::FipsError;
use super::{MODULE_FILE, PROVIDER};
use crate::crypto::error::CryptoError;
use crate::crypto::sys;

/// Names the configuration of programs that use OpenSSL, `openssl-env(7)`.
const VARIABLE: &str = "OPENSSL_CONF";
/// The section of the assignments before the first section.
const TOP: &CStr = c"default";

/// Refuses a file in `OPENSSL_CONF` that activates another provider than `base` and `module`.
///
/// A file that is not there activates nothing.
///
/// # Errors
/// [`FipsError::Environment`] and [`FipsError::EnvironmentModule`], which name file and provider;
/// [`FipsError::EnvironmentUnreadable`].
pub(super) fn judge(module: &Path) -> Result<(), FipsError> {
    match env::var_os(VARIABLE) {
        Some(file) => judge_file(&file, module),
        None => Ok(()),
    }
}

fn judge_file(file: &OsStr, module: &Path) -> Result<(), FipsError> {
    // What came from the environment has no NUL within.
    let Ok(name) = CString::new(file.as_bytes()) else {
        return Ok(());
    };
    let mut conf =
        Conf::new(ConfMethod::default()).map_err(CryptoError::during("read OPENSSL_CONF"))?;
    if let Err(source) = sys::read_conf(&mut conf, &name) {
        return match fs::metadata(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(_) | Err(_) => Err(FipsError::EnvironmentUnreadable {
                file: PathBuf::from(file),
                source,
            }),
        };
    }
    for Activated { name, library } in activated(&conf) {
        if name != "base" && name != PROVIDER {
            return Err(FipsError::Environment {
                file: PathBuf::from(file),
                provider: name,
            });
        }
        if let Some(library) = library.filter(|library| !is_module(Path::new(library), module)) {
            return Err(FipsError::EnvironmentModule {
                file: PathBuf::from(file),
                provider: name,
                library,
                module: module.to_path_buf(),
            });
        }
    }
    Ok(())
}

/// Whether a library that a configuration names is the module: the same file, or its bare name.
fn is_module(library: &Path, module: &Path) -> bool {
    let is_bare = [MODULE_FILE, PROVIDER].map(Path::new).contains(&library);
    let real = |path: &Path| fs::canonicalize(path).ok();
    is_bare || (library.is_absolute() && real(library).is_some_and(|it| Some(it) == real(module)))
}

/// A provider that a configuration activates.
struct Activated {
    name: String,
    /// The library that it is to come from, where one is named.
    library: Option<String>,
}

/// The providers that a configuration activates, in its order.
fn activated(conf: &ConfRef) -> Vec<Activated> {
    let modules = value(conf, TOP, "openssl_conf").map(|name| section(conf, &name));
    let mut found = Vec::new();
    for (module, list) in modules.unwrap_or_default() {
        // What follows a dot tells modules of one name apart.
        if module.split('.').next() != Some("providers") {
            continue;
        }
        for (name, settings) in section(conf, &list) {
            let settings = section(conf, &settings);
            // Of several the last counts (`provider_conf.c`).
            let setting = |wanted: &str| {
                let mut settings = settings.iter().rev();
                let found = settings.find(|(name, _)| last(name) == wanted);
                found.map(|(_, value)| value.as_str())
            };
            // OpenSSL before 3.2 does not look at the value (`config(5ossl)`).
            if setting("activate").is_some() {
                let name = setting("identity").unwrap_or_else(|| last(&name));
                found.push(Activated {
                    name: name.to_owned(),
                    library: setting("module").map(str::to_owned),
                });
            }
        }
    }
    found
}

/// A name without what is before its dot, as OpenSSL reads the names of providers and settings.
fn last(name: &str) -> &str {
    name.split_once('.').map_or(name, |(_, last)| last)
}

fn section(conf: &ConfRef, name: &str) -> Vec<(String, String)> {
    let name = CString::new(name).unwrap_or_default();
    sys::conf_section(conf, &name)
}

fn value(conf: &ConfRef, group: &CStr, wanted: &str) -> Option<String> {
    let mut values = sys::conf_section(conf, group).into_iter();
    let found = values.find(|(name, _)| name == wanted);
    found.map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The provider that a file of this text is refused for, or the library that it is to be.
    fn refused(text: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("openssl.cnf");
        fs::write(&file, text).unwrap();
        match judge_file(file.as_os_str(), Path::new("/module/fips.so")) {
            Ok(()) => None,
            Err(FipsError::Environment {
                file: named,
                provider,
            }) if named == file => Some(provider),
            Err(FipsError::EnvironmentModule {
                file: named,
                library,
                ..
            }) if named == file => Some(library),
            Err(FipsError::EnvironmentUnreadable { file: named, .. }) if named == file => {
                Some("unreadable".to_owned())
            }
            Err(other) => panic!("{other}"),
        }
    }

    const LISTING: &str = "openssl_conf = init\n[init]\nproviders = all\n";

    #[test]
    fn provider_that_is_activated_beside_the_module_is_named() {
        for (text, provider) in [
            ("[all]\ndefault = on\n[on]\nactivate = 1\n", "default"),
            (
                "[all]\nfips = on\nlegacy = on\n[on]\nactivate = yes\n",
                "legacy",
            ),
            (
                "[all]\nx = on\n[on]\nidentity = default\nactivate = 1\n",
                "default",
            ),
            ("[all]\n1.default = on\n[on]\n1.activate = 1\n", "default"),
            ("[all]\ndefault = on\n[on]\nactivate = 0\n", "default"),
            (
                "[all]\nbase = on\n[on]\nidentity = base\nidentity = default\nactivate = 1\n",
                "default",
            ),
            (
                "[all]\nfips = on\n[on]\nmodule = /other/fips.so\nactivate = 1\n",
                "/other/fips.so",
            ),
            (
                "[all]\npkcs11 = on\n[on]\nmodule = /x/pkcs11.so\nactivate = 1\n",
                "pkcs11",
            ),
        ] {
            let found = refused(&format!("{LISTING}{text}"));
            assert_eq!(found.as_deref(), Some(provider), "{text}");
        }
        let numbered = LISTING.replace("providers", "providers.2");
        let text = format!("{numbered}[all]\ndefault = on\n[on]\nactivate = 1\n");
        assert_eq!(refused(&text), Some("default".to_owned()));
    }

    #[test]
    fn what_a_file_includes_counts() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("part.cnf");
        fs::write(&part, "[on]\nactivate = 1\n").unwrap();
        let text = format!(
            "{LISTING}[all]\ndefault = on\n.include {}\n",
            part.display()
        );
        assert_eq!(refused(&text), Some("default".to_owned()));
        fs::write(&part, "[on]\n").unwrap();
        assert_eq!(refused(&text), None);
    }

    #[test]
    fn file_that_activates_nothing_else_is_none_of_our_business() {
        for text in [
            "",
            "openssl_conf = missing\n",
            "[all]\ndefault = on\n[on]\nactivate = 1\n",
            "openssl_conf = init\n[init]\nssl_conf = all\n[all]\ndefault = on\n[on]\nactivate = 1\n",
        ] {
            assert_eq!(refused(text), None, "{text}");
        }
        for text in [
            "[all]\ndefault = on\n[on]\n",
            "[all]\nfips = on\n[on]\nmodule = fips.so\nactivate = 1\n",
            "[all]\nbase = on\nfips = on\n[on]\nactivate = 1\n",
            "[all]\ndefault = on\n",
        ] {
            assert_eq!(refused(&format!("{LISTING}{text}")), None, "{text}");
        }
        for absent in ["/nowhere/openssl.cnf", ""] {
            assert!(judge_file(OsStr::new(absent), Path::new("/module/fips.so")).is_ok());
        }
    }

    #[test]
    fn file_that_openssl_cannot_read_is_named() {
        for text in [
            "no configuration",
            "openssl_conf = $x\nx = init\n[init]\nproviders = all\n",
        ] {
            assert_eq!(refused(text).as_deref(), Some("unreadable"), "{text}");
        }
    }

    #[test]
    fn module_itself_may_be_named_by_another_path() {
        let folder = tempfile::tempdir().unwrap();
        let (module, link) = (folder.path().join("fips.so"), folder.path().join("link"));
        fs::write(&module, "").unwrap();
        std::os::unix::fs::symlink(&module, &link).unwrap();
        assert!(is_module(&module, &module) && is_module(&link, &module));
        assert!(!is_module(&folder.path().join("other.so"), &module));
        assert!(!is_module(Path::new("dir/fips.so"), &module));
    }
}
