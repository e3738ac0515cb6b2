//! Why a FIPS start, or a later self-test, was refused: one sentence each, with the remedy.

use std::io;
use std::path::{Path, PathBuf};

use openssl::error::ErrorStack;

use crate::crypto::error::CryptoError;

/// `ERR_LIB_PROV` of `err.h`.
const LIBRARY_PROVIDER: i32 = 57;
/// `PROV_R_MODULE_INTEGRITY_FAILURE` of `proverr.h`.
const MODULE_INTEGRITY_FAILURE: i32 = 214;
/// `PROV_R_INDICATOR_INTEGRITY_FAILURE`, `PROV_R_INVALID_CONFIG_DATA` and
/// `PROV_R_MISSING_CONFIG_DATA` of `proverr.h`.
const BAD_CONFIG_DATA: [i32; 3] = [210, 211, 213];
/// `PROV_R_SELF_TEST_KAT_FAILURE` and `PROV_R_SELF_TEST_POST_FAILURE` of `proverr.h`.
const SELF_TEST_FAILURE: [i32; 2] = [215, 216];

/// Why the process does not run on the FIPS module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FipsError {
    /// The directory is not absolute.
    #[error("the FIPS module directory {0:?} is not an absolute path; give one that starts with /")]
    RelativeDir(PathBuf),
    /// OpenSSL takes the directory as text.
    #[error("the FIPS module directory {0:?} is not UTF-8; move the module to one that is")]
    DirNotText(PathBuf),
    /// No module, or not readable.
    #[error(
        "the FIPS module {path:?} is missing or not readable; install it there or correct the \
         module directory"
    )]
    ModuleMissing {
        /// Where the module was looked for.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// No configuration of the module, or not readable.
    #[error(
        "the FIPS module configuration {path:?} is missing or not readable; make it with \
         `openssl fipsinstall` of the module's own version"
    )]
    CnfMissing {
        /// Where the configuration was looked for.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The configuration of the module holds something it should not.
    #[error(
        "the FIPS module configuration {path:?} {problem}; make it again with \
         `openssl fipsinstall` of the module's own version"
    )]
    CnfMalformed {
        /// The configuration's file.
        path: PathBuf,
        /// What is wrong, with the line where there is one.
        problem: String,
    },
    /// The module needs its MAC, and the configuration does not have it.
    #[error(
        "the FIPS module configuration {cnf:?} has no `module-mac`, and {module:?} does not carry \
         its MAC within; make it again with `openssl fipsinstall` of the module's own version"
    )]
    MacMissing {
        /// The module's file.
        module: PathBuf,
        /// The configuration's file.
        cnf: PathBuf,
    },
    /// OpenSSL or the module does not take the configuration.
    #[error(
        "OpenSSL does not accept the FIPS module configuration {path:?}; make it again with \
         `openssl fipsinstall` of the module's own version"
    )]
    CnfRefused {
        /// The configuration's file.
        path: PathBuf,
        /// OpenSSL's reason.
        #[source]
        source: ErrorStack,
    },
    /// The private copy of the configuration could not be written.
    #[error(
        "the start-up configuration for OpenSSL could not be written below {dir:?}; make it \
         writable or set TMPDIR to a directory that is"
    )]
    Scratch {
        /// The directory for temporary files.
        dir: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The process has already started OpenSSL.
    #[error("OpenSSL was already started in this process; FIPS mode needs a new process")]
    AlreadyStarted,
    /// `OPENSSL_CONF` contradicts FIPS mode.
    #[error(
        "OPENSSL_CONF names {file:?}, which activates OpenSSL's provider {provider:?}, and beside \
         the FIPS module there is none but `base`; unset OPENSSL_CONF for this process, which \
         takes no settings from that file, or take the `activate` of that provider away"
    )]
    Environment {
        /// The file that the variable names.
        file: PathBuf,
        /// The first such provider.
        provider: String,
    },
    /// `OPENSSL_CONF` takes another file for the module.
    #[error(
        "OPENSSL_CONF names {file:?}, which takes {library:?} for OpenSSL's provider {provider:?}, \
         and the FIPS module is {module:?}; unset OPENSSL_CONF for this process, which takes no \
         settings from that file, or take the `module` of that provider away"
    )]
    EnvironmentModule {
        /// The file that the variable names.
        file: PathBuf,
        /// The provider.
        provider: String,
        /// What that file takes for it.
        library: String,
        /// The configured module.
        module: PathBuf,
    },
    /// What `OPENSSL_CONF` asks for cannot be told.
    #[error(
        "OPENSSL_CONF names {file:?}, which OpenSSL cannot read, so that what it asks for is not \
         known; correct it, or unset OPENSSL_CONF for this process, which takes no settings from \
         that file"
    )]
    EnvironmentUnreadable {
        /// The file that the variable names.
        file: PathBuf,
        /// OpenSSL's reason.
        #[source]
        source: ErrorStack,
    },
    /// The module's file is no library: empty, cut short, or something else.
    #[error(
        "the FIPS module {0:?} is no shared library; install the module again, built for this \
         machine"
    )]
    NoLibrary(PathBuf),
    /// The file is no module that libcrypto can load.
    #[error(
        "OpenSSL cannot load {path:?} as a provider; check that it is a FIPS module built for \
         this machine"
    )]
    Unloadable {
        /// The module's file.
        path: PathBuf,
        /// OpenSSL's reason.
        #[source]
        source: ErrorStack,
    },
    /// The module's integrity check failed, and nothing tells whether its file or its MAC is wrong.
    #[error(
        "the FIPS module failed its integrity check: {module:?} is not the file that the MAC in \
         {cnf:?} was made for; install module and configuration again, from one source and \
         without stripping or patching"
    )]
    Integrity {
        /// The module's file.
        module: PathBuf,
        /// The file with the MAC.
        cnf: PathBuf,
        /// The module's own reason; `None` when it was not loaded any more.
        #[source]
        source: Option<ErrorStack>,
    },
    /// The module's file is neither the one of its MAC nor the one that `make fips` built.
    #[error(
        "the FIPS module failed its integrity check: {module:?} was changed after it was built, for \
         it is not the file that {record:?} names; install it again, without stripping or patching"
    )]
    Altered {
        /// The module's file.
        module: PathBuf,
        /// The file with the digest of what was built.
        record: PathBuf,
    },
    /// The module's file is the one that `make fips` built, and its MAC is another's.
    #[error(
        "the FIPS module failed its integrity check: the MAC in {cnf:?} is not that of {module:?}, \
         which is the file that was built; install the configuration again, from the same build"
    )]
    MacWrong {
        /// The module's file.
        module: PathBuf,
        /// The file with the MAC.
        cnf: PathBuf,
    },
    /// A known-answer test of the module failed.
    #[error("the FIPS module failed its self-tests; replace the module, then look at the machine")]
    SelfTest {
        /// OpenSSL's reason.
        #[source]
        source: ErrorStack,
    },
    /// The module is in its error state.
    #[error("the FIPS module is in its error state and refuses all work; restart the process")]
    ErrorState,
    /// Another version than the configured one.
    #[error(
        "the FIPS module is version {found:?}, expected is {expected:?}; install that version or \
         change the expected one"
    )]
    Version {
        /// What the configuration names.
        expected: String,
        /// What the module reports.
        found: String,
    },
    /// The module runs with its security checks off.
    #[error(
        "the FIPS module runs without its security checks; set `security-checks = 1` in its \
         configuration, by `openssl fipsinstall`"
    )]
    SecurityChecksOff,
    /// The module's random generators take digests that are cut short.
    #[error(
        "the FIPS module lets random generators use truncated digests; set `drbg-no-trunc-md = 1` \
         in its configuration, by `openssl fipsinstall -pedantic`"
    )]
    DrbgDigestsCut,
    /// Something used OpenSSL before the start.
    #[error(
        "OpenSSL's default provider is active beside the FIPS module: OpenSSL was used before \
         the FIPS start; this is a defect of the program, or of a library loaded into it"
    )]
    DefaultProviderActive,
    /// Providers are missing, or there are others.
    #[error(
        "the active OpenSSL providers are {{{found}}} instead of {{base, fips}}; check that \
         libcrypto has its base provider and that nothing is preloaded"
    )]
    ProviderSet {
        /// Their names, sorted, separated by commas.
        found: String,
    },
    /// `fips=yes` did not become the default.
    #[error("OpenSSL does not ask for fips=yes by default; use a libcrypto of 3.0 or later")]
    PropertiesNotSet,
    /// Something is available that FIPS mode excludes.
    #[error(
        "{name} is available, from provider {provider:?}, though FIPS mode excludes it; use \
         module and libcrypto as their makers ship them"
    )]
    NotExcluded {
        /// The algorithm or format.
        name: &'static str,
        /// Where it came from; empty when that cannot be told.
        provider: String,
    },
    /// Something that is needed does not come from the module.
    #[error("{name} comes from provider {provider:?} instead of the FIPS module; report it")]
    NotFromModule {
        /// The algorithm.
        name: &'static str,
        /// Where it came from; empty when from none.
        provider: String,
    },
    /// Something that is needed is not there.
    #[error("the FIPS module does not offer {name}; use a module that was built with it")]
    Unavailable {
        /// The algorithm.
        name: &'static str,
        /// OpenSSL's reason.
        #[source]
        source: ErrorStack,
    },
    /// A self-test was asked for in default mode.
    #[error("there is no FIPS module to test: the process runs on OpenSSL's default provider")]
    NotStarted,
    /// OpenSSL refused an operation that does not concern the module.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl FipsError {
    /// What a failed load of the module means, by the numbers of OpenSSL's error queue.
    pub(super) fn of_failed_load(
        module: &Path,
        cnf: &Path,
        has_mac: bool,
        source: ErrorStack,
    ) -> Self {
        let reasons: Vec<i32> = source
            .errors()
            .iter()
            .filter(|error| error.library_code() == LIBRARY_PROVIDER)
            .map(openssl::error::Error::reason_code)
            .collect();
        let (module, cnf) = (module.to_path_buf(), cnf.to_path_buf());
        match Cause::of(&reasons) {
            Cause::Integrity => Self::Integrity {
                module,
                cnf,
                source: Some(source),
            },
            Cause::Configuration if !has_mac => Self::MacMissing { module, cnf },
            Cause::Configuration => Self::CnfRefused { path: cnf, source },
            Cause::SelfTest => Self::SelfTest { source },
            Cause::Other => Self::Unloadable {
                path: module,
                source,
            },
        }
    }
}

/// What the module's own reasons amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Integrity,
    Configuration,
    SelfTest,
    Other,
}

impl Cause {
    /// The most telling of the reasons: the module adds its "self test failure" to each of them.
    fn of(reasons: &[i32]) -> Self {
        if reasons.contains(&MODULE_INTEGRITY_FAILURE) {
            Self::Integrity
        } else if reasons
            .iter()
            .any(|reason| BAD_CONFIG_DATA.contains(reason))
        {
            Self::Configuration
        } else if reasons
            .iter()
            .any(|reason| SELF_TEST_FAILURE.contains(reason))
        {
            Self::SelfTest
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_telling_reason_names_the_cause() {
        // 224 is PROV_R_FIPS_MODULE_ENTERING_ERROR_STATE, which follows every failure.
        let cases: [(&[i32], Cause); 6] = [
            (&[214, 224, 216], Cause::Integrity),
            (&[213, 224, 216], Cause::Configuration),
            (&[211, 224, 216], Cause::Configuration),
            (&[215, 224, 216], Cause::SelfTest),
            (&[224], Cause::Other),
            (&[], Cause::Other),
        ];
        for (reasons, cause) in cases {
            assert_eq!(Cause::of(reasons), cause, "{reasons:?}");
        }
    }

    #[test]
    fn every_message_is_one_sentence_that_names_its_subject() {
        let missing = FipsError::ModuleMissing {
            path: "/opt/fips/fips.so".into(),
            source: io::ErrorKind::NotFound.into(),
        };
        assert_eq!(
            missing.to_string(),
            "the FIPS module \"/opt/fips/fips.so\" is missing or not readable; install it there \
             or correct the module directory"
        );
        let set = FipsError::ProviderSet {
            found: "base, fips, legacy".into(),
        };
        assert!(
            set.to_string()
                .contains("{base, fips, legacy} instead of {base, fips}")
        );
        assert!(!set.to_string().ends_with('.'));
    }
}
