//! How OpenSSL is started, with or without the FIPS module, and what is proved about it.
//!
//! One of [`start`] and [`start_default`] is the first OpenSSL call of the process, before any
//! thread: afterwards the set of providers cannot be taken back. Everything happens in the default
//! library context, since keys and certificates of the `openssl` crate live there. What TLS may
//! negotiate in FIPS mode is decided and proved by `tls`, not here.

mod cnf;
mod environment;
mod error;
mod integrity;
mod probe;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use openssl::pkey::PKeyRef;
use openssl::provider::{Provider, ProviderRef};

use self::cnf::ModuleCnf;
pub use self::error::FipsError;
pub use self::probe::{Expected, Probe};
use super::digest::{Sha256, sha256};
use super::error::CryptoError;
use super::{offer, sys};

/// The file name of the module in [`FipsRequest::module_dir`].
pub const MODULE_FILE: &str = "fips.so";
/// The file name of the module's configuration in [`FipsRequest::module_dir`].
pub const CNF_FILE: &str = "fipsmodule.cnf";
/// The file in which `make fips` leaves the digest of the module it built.
pub const BUILD_FILE: &str = "functional-build";
/// The name under which libcrypto knows the module.
pub const PROVIDER: &str = "fips";

/// What shared libraries begin with (elf(5)).
const ELF: &[u8] = b"\x7fELF";

/// Set by the first start, whether it succeeds or not.
static BEGUN: AtomicBool = AtomicBool::new(false);
/// Set by a FIPS start that succeeded.
static RUNNING: OnceLock<Running> = OnceLock::new();

/// Which cryptography the process runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// OpenSSL's default provider, as far as it is used.
    Default,
    /// The FIPS module, and nothing beside it but the `base` provider's encoders.
    Fips,
}

/// What a FIPS start is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FipsRequest {
    /// The directory that holds [`MODULE_FILE`] and [`CNF_FILE`]; absolute.
    pub module_dir: PathBuf,
    /// The version that the module must report, such as `3.1.2`.
    pub expected_version: String,
}

/// Where a module came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `make fips` built it: [`BUILD_FILE`] lies beside it and names its digest.
    FunctionalBuild,
    /// Anything else.
    Site,
}

/// What the running module says of itself, and what was found when it was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FipsFacts {
    /// The module's own name, such as `OpenSSL FIPS Provider`.
    pub name: String,
    /// The module's version; equal to the expected one.
    pub version: String,
    /// The module's build information.
    pub buildinfo: String,
    /// Where the module was loaded from.
    pub module_path: PathBuf,
    /// The digest of the module's file, read just before it was loaded.
    pub module_sha256: Sha256,
    /// Where the module came from, as far as its directory tells.
    pub origin: Origin,
    /// Whether TLS 1.2 without extended master secret is refused by the module; `None` when the
    /// module does not say.
    pub is_ems_required: Option<bool>,
    /// Whether hash-based random generators take whole digests only (`drbg-no-trunc-md`); `None`
    /// for a module that does not know the setting.
    pub is_drbg_digest_whole: Option<bool>,
    /// The full version line of the libcrypto that loaded the module.
    pub libcrypto_version: String,
    /// The active providers, sorted: exactly `base` and `fips`.
    pub providers: Vec<String>,
    /// Every probe that was made, with its result; all were as expected.
    pub probes: Vec<Probe>,
    /// When the module had loaded, passed its self-tests and passed every check.
    pub started_at: SystemTime,
}

/// Why the module's self-tests ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The start: at loading, and once more when everything was in place.
    Start,
    /// Time had come (`fips_self_test_interval`).
    Timer,
    /// Somebody asked.
    Demand,
}

/// What is known of the module's self-tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfTests {
    /// How often they ran since the start, the start's own counted once.
    pub count: u64,
    /// When they last ran.
    pub last_at: SystemTime,
    /// Why.
    pub last_occasion: Occasion,
    /// Whether they passed.
    pub last_passed: bool,
}

struct Running {
    /// Never unloaded: keys and contexts of the whole process live in it.
    provider: Provider,
    facts: FipsFacts,
    tests: Mutex<SelfTests>,
}

/// Starts OpenSSL without the FIPS module, with what is used of its default provider.
///
/// Ignores every configuration file, as [`start`] does, so that neither `OPENSSL_CONF` nor the
/// system's `openssl.cnf` changes what this process accepts; the gateway's own configuration
/// decides alone.
///
/// # Errors
/// When libcrypto cannot initialise.
pub fn start_default() -> Result<(), CryptoError> {
    BEGUN.store(true, Ordering::SeqCst);
    init()?;
    offer::begin().map_err(CryptoError::during("load its default provider"))
}

/// Starts OpenSSL on the FIPS module alone, and proves that it is so.
///
/// Runs before any other OpenSSL call and before any thread. libcrypto reports success when a
/// module that its configuration activates does not come up, and then quietly works without it;
/// so the module is loaded explicitly, and provider set, version, state, properties and the origin
/// of the algorithms are checked. Loading runs the module's integrity check and self-tests. No
/// configuration file is in force; one that `OPENSSL_CONF` names and that asks for what cannot be
/// beside the module is refused (decision record 11).
///
/// # Errors
/// Each [`FipsError`] names the cause and the remedy. The process must end then: OpenSSL is
/// neither in one mode nor in the other.
pub fn start(request: &FipsRequest) -> Result<FipsFacts, FipsError> {
    let module = Module::find(&request.module_dir)?;
    let cnf = ModuleCnf::read(&request.module_dir.join(CNF_FILE))?;
    if BEGUN.swap(true, Ordering::SeqCst) {
        return Err(FipsError::AlreadyStarted);
    }
    init()?;
    environment::judge(&module.path)?;
    module.check(&cnf)?;
    let provider = load(&request.module_dir, &module.path, &cnf)?;
    let facts = prove(&provider, &module, &request.expected_version)?;
    let tests = Mutex::new(SelfTests {
        count: 1,
        last_at: facts.started_at,
        last_occasion: Occasion::Start,
        last_passed: true,
    });
    let running = RUNNING.get_or_init(|| Running {
        provider,
        facts,
        tests,
    });
    Ok(running.facts.clone())
}

/// Which mode the process runs in; [`Mode::Default`] until a FIPS start has succeeded.
#[must_use]
pub fn mode() -> Mode {
    if RUNNING.get().is_some() {
        Mode::Fips
    } else {
        Mode::Default
    }
}

/// What was found at the FIPS start; `None` in default mode.
#[must_use]
pub fn facts() -> Option<&'static FipsFacts> {
    RUNNING.get().map(|running| &running.facts)
}

/// Runs the module's self-tests again, about 7 ms, and checks that nothing was loaded beside it.
///
/// May be called from any thread, as often as wanted. A module that fails enters its error state
/// and refuses all work from then on.
///
/// # Errors
/// [`FipsError::NotStarted`] in default mode, [`FipsError::ErrorState`], [`FipsError::SelfTest`],
/// and the errors of the provider set.
pub fn self_test(occasion: Occasion) -> Result<(), FipsError> {
    let running = RUNNING.get().ok_or(FipsError::NotStarted)?;
    let tested = test(running);
    let mut tests = running.tests.lock().unwrap_or_else(PoisonError::into_inner);
    *tests = SelfTests {
        count: tests.count.saturating_add(1),
        last_at: SystemTime::now(),
        last_occasion: occasion,
        last_passed: tested.is_ok(),
    };
    tested
}

/// What is known of the module's self-tests; `None` in default mode.
#[must_use]
pub fn self_tests() -> Option<SelfTests> {
    let running = RUNNING.get()?;
    Some(*running.tests.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The property query that every fetch is made with; empty in default mode.
#[must_use]
pub fn property_query() -> &'static str {
    if sys::is_fips_default() {
        "fips=yes"
    } else {
        ""
    }
}

fn test(running: &Running) -> Result<(), FipsError> {
    check_status(&running.provider)?;
    sys::provider_self_test(&running.provider).map_err(|source| FipsError::SelfTest { source })?;
    check_status(&running.provider)?;
    check_properties()?;
    active_providers().map(|_| ())
}

/// Whether cryptography works: in FIPS mode, whether the module is not in its error state.
///
/// Reads one number; made for readiness and a gauge.
#[must_use]
pub fn is_operational() -> bool {
    RUNNING
        .get()
        .is_none_or(|running| check_status(&running.provider).is_ok())
}

/// The name of the provider that holds a key; `None` for a key outside all providers.
///
/// In FIPS mode only a key of [`PROVIDER`] may be used: OpenSSL loads some keys that the module
/// refuses through a legacy path, without an error.
#[must_use]
pub fn key_provider<T>(key: &PKeyRef<T>) -> Option<String> {
    sys::key_provider(key)
}

/// Initialises libcrypto and libssl without any configuration file.
fn init() -> Result<(), CryptoError> {
    sys::ignore_config_files().map_err(CryptoError::during("initialise"))?;
    openssl::init();
    Ok(())
}

/// The module's file, as it was before it was loaded.
struct Module {
    path: PathBuf,
    image: Vec<u8>,
}

impl Module {
    /// Reads the module's file, which must be there and named by an absolute path.
    fn find(dir: &Path) -> Result<Self, FipsError> {
        if !dir.is_absolute() {
            return Err(FipsError::RelativeDir(dir.to_path_buf()));
        }
        let path = dir.join(MODULE_FILE);
        match fs::read(&path) {
            Ok(image) => Ok(Self { path, image }),
            Err(source) => Err(FipsError::ModuleMissing { path, source }),
        }
    }

    /// Refuses a file that is not the one its configuration was made for, before loading it.
    fn check(&self, cnf: &ModuleCnf) -> Result<(), FipsError> {
        if !self.image.starts_with(ELF) {
            return Err(FipsError::NoLibrary(self.path.clone()));
        }
        let Some(mac) = cnf.mac() else {
            return Ok(());
        };
        let is_altered = integrity::is_altered(&self.image, mac)
            .map_err(CryptoError::during("check the module's file"))?;
        if is_altered {
            return Err(self.misfit(cnf)?);
        }
        Ok(())
    }

    /// Which of the file and its MAC is the wrong one, where a record of the build tells.
    ///
    /// OpenSSL is used for that in default mode: the process ends after it.
    fn misfit(&self, cnf: &ModuleCnf) -> Result<FipsError, CryptoError> {
        let (module, cnf) = (self.path.clone(), cnf.path().to_path_buf());
        let digest = sha256(&[&self.image])?;
        Ok(match self.recorded() {
            Some(recorded) if recorded == digest.to_string() => FipsError::MacWrong { module, cnf },
            Some(_) => FipsError::Altered {
                record: self.path.with_file_name(BUILD_FILE),
                module,
            },
            None => FipsError::Integrity {
                module,
                cnf,
                source: None,
            },
        })
    }

    /// Where the file came from, by what lies beside it.
    fn origin(&self, digest: Sha256) -> Origin {
        if self.recorded() == Some(digest.to_string()) {
            Origin::FunctionalBuild
        } else {
            Origin::Site
        }
    }

    /// The digest that the record of a build beside the file names, in hex.
    fn recorded(&self) -> Option<String> {
        let record = fs::read_to_string(self.path.with_file_name(BUILD_FILE)).ok()?;
        let mut digests = record
            .lines()
            .filter_map(|line| line.strip_prefix("sha256: "));
        digests.next().map(str::to_owned)
    }
}

/// Activates `base`, hands the module its parameters, and loads it.
fn load(dir: &Path, module_path: &Path, cnf: &ModuleCnf) -> Result<Provider, FipsError> {
    let search_path = dir
        .to_str()
        .ok_or_else(|| FipsError::DirNotText(dir.to_path_buf()))?;
    Provider::set_default_search_path(None, search_path)
        .map_err(CryptoError::during("set the provider directory"))?;
    let file = cnf.write_private()?;
    sys::load_config(file.path()).map_err(|source| FipsError::CnfRefused {
        path: cnf.path().to_path_buf(),
        source,
    })?;
    drop(file);
    Provider::load(None, PROVIDER).map_err(|source| {
        FipsError::of_failed_load(module_path, cnf.path(), cnf.mac().is_some(), source)
    })
}

/// Checks everything that must hold once the module is loaded.
fn prove(
    provider: &ProviderRef,
    module: &Module,
    expected_version: &str,
) -> Result<FipsFacts, FipsError> {
    let providers = active_providers()?;
    check_status(provider)?;
    let version = sys::provider_text(provider, c"version").unwrap_or_default();
    if version != expected_version {
        let expected = expected_version.to_owned();
        return Err(FipsError::Version {
            expected,
            found: version,
        });
    }
    if sys::provider_number(provider, c"security-checks") != Some(1) {
        return Err(FipsError::SecurityChecksOff);
    }
    let is_drbg_digest_whole =
        sys::provider_number(provider, c"drbg-no-trunc-md").map(|number| number == 1);
    if is_drbg_digest_whole == Some(false) {
        return Err(FipsError::DrbgDigestsCut);
    }
    sys::make_fips_default().map_err(CryptoError::during("ask for fips=yes by default"))?;
    check_properties()?;
    sys::provider_self_test(provider).map_err(|source| FipsError::SelfTest { source })?;
    let probes = probe::all(&version)?;
    let module_sha256 = sha256(&[&module.image])?;
    Ok(FipsFacts {
        name: sys::provider_text(provider, c"name").unwrap_or_default(),
        version,
        buildinfo: sys::provider_text(provider, c"buildinfo").unwrap_or_default(),
        module_path: module.path.clone(),
        module_sha256,
        origin: module.origin(module_sha256),
        is_ems_required: sys::provider_number(provider, c"tls1-prf-ems-check").map(|n| n == 1),
        is_drbg_digest_whole,
        libcrypto_version: openssl::version::version().to_owned(),
        providers,
        probes,
        started_at: SystemTime::now(),
    })
}

/// The active providers, sorted, when they are exactly the two that are meant to be.
fn active_providers() -> Result<Vec<String>, FipsError> {
    let mut names =
        sys::provider_names().map_err(CryptoError::during("list the active providers"))?;
    names.sort();
    judge_providers(&names)?;
    Ok(names)
}

/// Refuses every provider set but {base, fips}; `names` is sorted.
fn judge_providers(names: &[String]) -> Result<(), FipsError> {
    if names == ["base", PROVIDER] {
        return Ok(());
    }
    if names.iter().any(|name| name == "default") {
        return Err(FipsError::DefaultProviderActive);
    }
    Err(FipsError::ProviderSet {
        found: names.join(", "),
    })
}

fn check_status(provider: &ProviderRef) -> Result<(), FipsError> {
    match sys::provider_number(provider, c"status") {
        Some(1) => Ok(()),
        _ => Err(FipsError::ErrorState),
    }
}

fn check_properties() -> Result<(), FipsError> {
    if sys::is_fips_default() {
        Ok(())
    } else {
        Err(FipsError::PropertiesNotSet)
    }
}

#[cfg(test)]
mod tests {
    // The state of a FIPS start is the process's, so the start itself is tested with the binary.
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn only_base_and_fips_are_accepted() {
        assert!(judge_providers(&names(&["base", "fips"])).is_ok());
        for set in [&["fips"][..], &["base"], &[], &["base", "fips", "legacy"]] {
            let refusal = judge_providers(&names(set)).unwrap_err();
            assert!(matches!(refusal, FipsError::ProviderSet { .. }), "{set:?}");
        }
    }

    #[test]
    fn default_provider_is_named_as_such() {
        let refusal = judge_providers(&names(&["base", "default", "fips"])).unwrap_err();
        assert!(matches!(refusal, FipsError::DefaultProviderActive));
    }

    #[test]
    fn relative_directory_is_refused() {
        let refusal = Module::find(Path::new("fips/out")).err().unwrap();
        assert!(matches!(refusal, FipsError::RelativeDir(_)));
    }

    #[test]
    fn missing_module_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = Module::find(dir.path()).err().unwrap();
        assert!(matches!(&refusal, FipsError::ModuleMissing { path, .. }
            if *path == dir.path().join(MODULE_FILE)));
        fs::write(dir.path().join(MODULE_FILE), b"x").unwrap();
        assert!(Module::find(dir.path()).is_ok());
    }

    #[test]
    fn file_that_is_no_library_is_named_before_it_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let cnf = dir.path().join(CNF_FILE);
        fs::write(&cnf, "[fips_sect]\n").unwrap();
        let cnf = ModuleCnf::read(&cnf).unwrap();
        for (image, is_library) in [(&b""[..], false), (&b"text"[..], false), (ELF, true)] {
            fs::write(dir.path().join(MODULE_FILE), image).unwrap();
            let checked = Module::find(dir.path()).unwrap().check(&cnf);
            assert_eq!(checked.is_ok(), is_library);
            assert!(is_library || matches!(checked, Err(FipsError::NoLibrary(_))));
        }
    }

    #[test]
    fn only_a_module_with_a_record_of_its_digest_is_a_functional_build() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MODULE_FILE), b"abc").unwrap();
        let module = Module::find(dir.path()).unwrap();
        let digest = sha256(&[&module.image]).unwrap();
        assert_eq!(module.origin(digest), Origin::Site);
        let record = |digest| {
            fs::write(
                dir.path().join(BUILD_FILE),
                format!("x\nsha256: {digest}\n"),
            )
        };
        record(digest).unwrap();
        assert_eq!(module.origin(digest), Origin::FunctionalBuild);
        record(sha256(&[b"another"]).unwrap()).unwrap();
        assert_eq!(module.origin(digest), Origin::Site);
    }

    #[test]
    fn process_without_a_start_is_in_default_mode() {
        assert_eq!(mode(), Mode::Default);
        assert!(facts().is_none());
        assert!(is_operational());
        assert!(matches!(
            self_test(Occasion::Demand),
            Err(FipsError::NotStarted)
        ));
        assert_eq!(self_tests(), None);
    }

    #[test]
    fn key_names_its_provider() {
        let key = openssl::pkey::PKey::generate_ed25519().unwrap();
        assert_eq!(key_provider(&key).as_deref(), Some("default"));
    }
}
