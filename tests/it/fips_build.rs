//! `make fips`: which source it builds from, and which finished module it takes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::{Finished, SOON, program, run_to_end};

/// Files of a source tree that is checked as OpenSSL's is: two within the boundary, one outside, the
/// two that check, the list of digests and its own.
const SOURCES: [(&str, &str); 3] = [
    ("crypto/sha/sha256.c", "int inside;\n"),
    ("providers/fips/fipsprov.c", "int inside_as_well;\n"),
    ("apps/openssl.c", "int outside;\n"),
];
const CHECKER: (&str, &str) = ("util/fips-checksums.sh", "sha256sum \"$@\"\n");
const HELPER: (&str, &str) = ("util/lang-compress.pl", "# does nothing here\n");
const LIST: &str = "providers/fips-sources.checksums";
const LIST_DIGEST: &str = "providers/fips.checksum";

/// A source tree, and where `make fips` works and keeps things.
struct Workshop {
    folder: TempDir,
}

impl Workshop {
    /// With a source tree as its makers published it.
    fn open() -> Self {
        let workshop = Self {
            folder: TempDir::new().unwrap(),
        };
        for (file, text) in SOURCES.into_iter().chain([CHECKER, HELPER]) {
            workshop.write(file, text);
        }
        workshop.write("Configure", "exit 1\n");
        workshop.publish();
        // What the build needs and the check does not.
        for tool in ["unifdef", "perl"] {
            workshop.write(&format!("../bin/{tool}"), "#!/bin/sh\n");
            let path = workshop.at(&format!("bin/{tool}"));
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        workshop
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.at("source").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes the list of digests anew, with its own.
    fn publish(&self) {
        let inside: Vec<&str> = SOURCES[..2].iter().map(|(file, _)| *file).collect();
        self.write(LIST, &sum(&self.at("source"), &inside));
        let digest = sum(&self.at("source"), &[LIST]);
        self.write(LIST_DIGEST, &digest);
    }

    /// The digest of these files of the tree, one after the other.
    fn digest(&self, files: &[&str]) -> String {
        let read = |file: &&str| fs::read(self.at("source").join(file)).unwrap();
        let text: Vec<u8> = files.iter().flat_map(read).collect();
        let told = run_to_end(program("sha256sum"), &text, SOON);
        told.stdout.split(' ').next().unwrap().to_owned()
    }

    /// Flips a bit of a file.
    fn tamper(&self, path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        bytes[0] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    /// `make` with the project's recipe, in this workshop.
    fn make(&self, target: &str, more: &[String]) -> Finished {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("fips/fips.mk");
        let mut make = program("make");
        make.arg("--file").arg(recipe).arg("--no-print-directory");
        make.arg(target).current_dir(self.folder.path());
        for (name, folder) in [
            ("FIPS_SRC", "source"),
            ("FIPS_BUILD", "build"),
            ("FIPS_OUT", "out"),
            ("FIPS_CACHE", "cache"),
        ] {
            make.arg(format!("{name}={}", self.at(folder).display()));
        }
        make.args(more);
        let path = std::env::var("PATH").unwrap_or_default();
        make.env("PATH", format!("{}:{path}", self.at("bin").display()));
        for name in ["MAKEFLAGS", "MAKELEVEL", "MFLAGS"] {
            make.env_remove(name);
        }
        run_to_end(make, b"", SOON)
    }
}

/// What `sha256sum` prints.
fn sum(folder: &Path, files: &[&str]) -> String {
    let mut sum = program("sha256sum");
    sum.args(files).current_dir(folder);
    run_to_end(sum, b"", SOON).stdout
}

/// A change of the tree, and what is said of it.
type Tamper = (fn(&Workshop), &'static [&'static str]);

#[test]
fn source_that_is_not_the_validated_one_is_not_built_and_its_file_is_named() {
    let changes: [Tamper; 7] = [
        (
            |it| it.tamper(&it.at("source/crypto/sha/sha256.c")),
            &[
                "fips: differs: crypto/sha/sha256.c\n",
                "are not those of the validated module",
            ],
        ),
        (
            |it| fs::remove_file(it.at("source/providers/fips/fipsprov.c")).unwrap(),
            &["fips: differs: providers/fips/fipsprov.c\n"],
        ),
        // Who changes the list as well, and its digest, meets the one that the recipe has.
        (
            |it| {
                it.tamper(&it.at("source/crypto/sha/sha256.c"));
                it.publish();
            },
            &[
                "is not the validated version's source: providers/fips-sources.checksums has SHA-256",
            ],
        ),
        (
            |it| it.write(LIST_DIGEST, "0  of another version\n"),
            &["fips.checksum does not name its own providers/fips-sources.checksums"],
        ),
        // A check that says whatever is wanted.
        (
            |it| {
                it.tamper(&it.at("source/crypto/sha/sha256.c"));
                it.write(CHECKER.0, "cat providers/fips-sources.checksums\n");
            },
            &[
                "util/fips-checksums.sh util/lang-compress.pl, which check it, are others or missing",
            ],
        ),
        (
            |it| it.write("configdata.pm", ""),
            &["was configured already; unpack it anew"],
        ),
        (
            |it| fs::remove_file(it.at("source/Configure")).unwrap(),
            &["is no OpenSSL source tree"],
        ),
    ];
    let nothing: Tamper = (|_| {}, &[]);
    let outside: Tamper = (|it| it.tamper(&it.at("source/apps/openssl.c")), &[]);
    for (change, sentences) in changes.into_iter().chain([nothing, outside]) {
        let workshop = Workshop::open();
        let published = [
            format!("FIPS_SOURCE_SHA256={}", workshop.digest(&[LIST])),
            format!(
                "FIPS_CHECKERS_SHA256={}",
                workshop.digest(&[CHECKER.0, HELPER.0])
            ),
        ];
        change(&workshop);
        let told = workshop.make("fips-source", &published);
        let is_good = sentences.is_empty();
        assert_eq!(told.status.success(), is_good, "{sentences:?}: {told:?}");
        assert!(
            sentences.iter().all(|text| told.stderr.contains(text)),
            "{told:?}"
        );
        let is_checked = told
            .stdout
            .contains("2 boundary checksums of the source match");
        assert_eq!(is_checked, is_good, "{told:?}");
        // What ends there does not build, either.
        if !is_good {
            let told = workshop.make("fips", &published);
            assert!(!told.status.success(), "{told:?}");
            assert!(!told.stdout.contains("building the module"), "{told:?}");
            assert!(!workshop.at("out/fips.so").exists());
        }
    }
}

/// A change of the finished module, and whether it is taken then.
type Finish = (fn(&Workshop), bool);

#[test]
fn finished_module_is_taken_whole_and_of_the_same_recipe_or_not_at_all() {
    let changes: [Finish; 5] = [
        (|_| {}, true),
        (|it| it.tamper(&it.at("cache/fips.so")), false),
        (|it| it.tamper(&it.at("cache/fipsmodule.cnf")), false),
        (
            |it| fs::remove_file(it.at("cache/functional-build")).unwrap(),
            false,
        ),
        (
            |it| fs::write(it.at("cache/recipe"), "another\n").unwrap(),
            false,
        ),
    ];
    for (n, (change, is_taken)) in changes.into_iter().enumerate() {
        let workshop = Workshop::open();
        let files = ["fips.so", "fipsmodule.cnf", "functional-build"];
        fs::create_dir_all(workshop.at("cache")).unwrap();
        for file in files {
            fs::write(workshop.at("cache").join(file), format!("a whole {file}\n")).unwrap();
        }
        let sums = sum(&workshop.at("cache"), &files);
        fs::write(workshop.at("cache/SHA256SUMS"), sums).unwrap();
        let recipe = workshop.make(
            "recipe",
            &["--eval=recipe:;@echo '$(FIPS_RECIPE)'".to_owned()],
        );
        assert!(
            recipe.stdout.starts_with("openssl 3.1.2 source 89f749c4"),
            "{recipe:?}"
        );
        fs::write(workshop.at("cache/recipe"), recipe.stdout).unwrap();
        change(&workshop);
        // The tree is not OpenSSL's, so that what is not taken is not made either.
        let told = workshop.make("fips", &[]);
        assert_eq!(told.status.success(), is_taken, "change {n}: {told:?}");
        for file in files {
            let kept = fs::read_to_string(workshop.at("out").join(file)).ok();
            let whole = is_taken.then(|| format!("a whole {file}\n"));
            assert_eq!(kept, whole, "change {n}");
        }
        let says = if is_taken {
            told.stdout.contains("fips: module taken from ")
        } else {
            told.stderr
                .contains("is damaged or of another recipe; building it again")
                && told
                    .stderr
                    .contains("is not the validated version's source")
        };
        assert!(says, "change {n}: {told:?}");
    }
}
