//! What `OPENSSL_CONF` asks for, where that cannot be together with the module.
//!
//! The file is never in force: OpenSSL is told to read none. But whoever names one that activates
//! another provider for this process asks for two things at once, and is told so at the start rather
//! than left to believe in one of them. Which section means what: `config(5ossl)`.

use std::env;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use openssl::conf::{Conf, ConfMethod, ConfRef};

use super::PROVIDER;
use super::error::FipsError;
use crate::crypto::error::CryptoError;
use crate::crypto::sys;

/// Names the configuration of programs that use OpenSSL, `openssl-env(7)`.
const VARIABLE: &str = "OPENSSL_CONF";
/// The section of the assignments before the first section.
const TOP: &CStr = c"default";
/// Values of `activate` that do not.
const OFF: [&str; 4] = ["0", "no", "false", "off"];

/// Refuses a file in `OPENSSL_CONF` that activates a provider beside `base` and the module.
///
/// A file that is not there or that OpenSSL cannot read activates nothing.
///
/// # Errors
/// [`FipsError::Environment`], which names file and provider.
pub(super) fn judge() -> Result<(), FipsError> {
    match env::var_os(VARIABLE) {
        Some(file) => judge_file(&file),
        None => Ok(()),
    }
}

fn judge_file(file: &OsStr) -> Result<(), FipsError> {
    // What came from the environment has no NUL within.
    let Ok(name) = CString::new(file.as_bytes()) else {
        return Ok(());
    };
    let mut conf =
        Conf::new(ConfMethod::default()).map_err(CryptoError::during("read OPENSSL_CONF"))?;
    if sys::read_conf(&mut conf, &name).is_err() {
        return Ok(());
    }
    let is_foreign = |name: &String| name != "base" && name != PROVIDER;
    match activated(&conf).into_iter().find(is_foreign) {
        None => Ok(()),
        Some(provider) => Err(FipsError::Environment {
            file: PathBuf::from(file),
            provider,
        }),
    }
}

/// The providers that a configuration activates, in its order.
fn activated(conf: &ConfRef) -> Vec<String> {
    let modules = value(conf, TOP, "openssl_conf").map(|name| section(conf, &name));
    let mut found = Vec::new();
    for (module, list) in modules.unwrap_or_default() {
        // What follows a dot tells modules of one name apart.
        if module.split('.').next() != Some("providers") {
            continue;
        }
        for (name, settings) in section(conf, &list) {
            let settings = section(conf, &settings);
            let setting = |wanted: &str| {
                let found = settings.iter().find(|(name, _)| last(name) == wanted);
                found.map(|(_, value)| value.as_str())
            };
            if setting("activate").is_some_and(|value| !OFF.contains(&value)) {
                let name = setting("identity").unwrap_or_else(|| last(&name));
                found.push(name.to_owned());
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

    /// The provider that a file of this text is refused for.
    fn refused(text: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("openssl.cnf");
        fs::write(&file, text).unwrap();
        match judge_file(file.as_os_str()) {
            Ok(()) => None,
            Err(FipsError::Environment {
                file: named,
                provider,
            }) if named == file => Some(provider),
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
        fs::write(&part, "[on]\nactivate = 0\n").unwrap();
        assert_eq!(refused(&text), None);
    }

    #[test]
    fn file_that_activates_nothing_else_is_none_of_our_business() {
        for text in [
            "",
            "no configuration",
            "openssl_conf = missing\n",
            "[all]\ndefault = on\n[on]\nactivate = 1\n",
            "openssl_conf = init\n[init]\nssl_conf = all\n[all]\ndefault = on\n[on]\nactivate = 1\n",
        ] {
            assert_eq!(refused(text), None, "{text}");
        }
        for text in [
            "[all]\ndefault = on\n[on]\n",
            "[all]\ndefault = on\n[on]\nactivate = 0\n",
            "[all]\nbase = on\nfips = on\n[on]\nactivate = 1\n",
            "[all]\ndefault = on\n",
        ] {
            assert_eq!(refused(&format!("{LISTING}{text}")), None, "{text}");
        }
        assert!(judge_file(OsStr::new("/nowhere/openssl.cnf")).is_ok());
        assert!(judge_file(OsStr::new("")).is_ok());
    }
}
