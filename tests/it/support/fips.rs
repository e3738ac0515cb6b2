//! The FIPS module: where it is, and copies of it to break.
//!
//! `make test-fips` names it in `PORTCULLIS_TEST_FIPS`; then every gateway of every test runs with
//! `fips: required`. `make test` builds it with `make fips` and finds it there; where cargo is
//! run by hand without one, the tests that are about the module itself say so and end.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::gateway::Setup;

/// The exit code where FIPS mode is required and not met: `EX_CONFIG` of `sysexits.h`.
pub(crate) const EX_CONFIG: i32 = 78;

/// Names the directory of the module that every gateway is to run on.
const VARIABLE: &str = "PORTCULLIS_TEST_FIPS";
const FILES: [&str; 2] = ["fips.so", "fipsmodule.cnf"];

/// The module that every gateway is to run on, if so.
pub(crate) fn everywhere() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from)
}

/// A copy of the module, for one test.
pub(crate) struct Module {
    folder: TempDir,
    original: PathBuf,
}

impl Module {
    /// `None` where there is no module, after a word about it.
    pub(crate) fn copy() -> Option<Self> {
        let built = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fips/out");
        let dir = everywhere().unwrap_or_else(built);
        if everywhere().is_none() && !FILES.iter().all(|file| dir.join(file).exists()) {
            eprintln!("skipped: there is no FIPS module; `make test-fips` builds one");
            return None;
        }
        let folder = TempDir::new().expect("a folder for the module");
        for file in FILES {
            fs::copy(dir.join(file), folder.path().join(file)).expect("the module is there");
        }
        Some(Self {
            folder,
            original: dir,
        })
    }

    /// Copies what `make fips` noted of its build as well.
    pub(crate) fn record(&self) {
        let name = "functional-build";
        fs::copy(self.original.join(name), self.file(name)).expect("the module was built here");
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How a gateway is started on this copy.
    pub(crate) fn setup(&self) -> Setup {
        let dir = self.folder.path().to_str().expect("a path of text");
        Setup::default()
            .set("fips", "required")
            .set("fips_module_dir", dir)
    }

    /// Puts another text in the place of `fipsmodule.cnf`.
    pub(crate) fn change_cnf(&self, change: impl FnOnce(String) -> String) {
        let path = self.file("fipsmodule.cnf");
        let text = fs::read_to_string(&path).expect("a text");
        let changed = change(text.clone());
        assert_ne!(text, changed, "a change");
        fs::write(path, changed).expect("a writable folder");
    }

    /// Puts another module, with one flipped bit, in the place of `fips.so`; a process that has
    /// loaded it keeps the file it loaded.
    pub(crate) fn flip_a_bit(&self) {
        let path = self.file("fips.so");
        let mut image = fs::read(&path).expect("a module");
        let middle = image.len() / 2;
        image[middle] ^= 1;
        let fresh = self.file("fips.so.new");
        fs::write(&fresh, image).expect("a writable folder");
        fs::rename(fresh, path).expect("a writable folder");
    }
}
