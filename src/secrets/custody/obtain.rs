//! Finding the key-encryption key at start, and when the first one may be made.
//!
//! It is never replaced by a new one while anything depends on it: a check value that the store
//! keeps tells a wrong key from the right one, and a missing key stops the start.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::kek::{Kek, KekError, hex};
use super::rotation::Rotation;
use crate::crypto::error::CryptoError;

/// The name of the key file, in the data directory and among systemd's credentials.
pub const FILE_NAME: &str = "kek";

/// The unit's data directory, whose key is never made here and never lies in it.
const UNIT_DATA_DIR: &str = "/var/lib/portcullis";

/// Where the unit's key lies, unless systemd hands it over as a credential.
const UNIT_FILE: &str = "/etc/portcullis/kek";

/// More than any key file holds.
const MAX_FILE_BYTES: u64 = 4096;

/// The key as the configuration gives it (`kek`). Its `Debug` shows no value.
#[derive(Clone)]
pub enum Configured {
    /// A file.
    Path(PathBuf),
    /// The text a reference led to, in one of the forms of a file.
    Value(Zeroizing<String>),
}

impl fmt::Debug for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "Path({})", path.display()),
            Self::Value(_) => f.write_str("Value(withheld)"),
        }
    }
}

/// Where a key is looked for, in this order.
#[derive(Clone, Debug)]
pub struct Sources {
    /// `kek` of the configuration. When given, nothing else is looked at.
    pub configured: Option<Configured>,
    /// `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    pub credentials: Option<PathBuf>,
    /// The unit's key file; when given, the data directory is not looked at.
    pub unit_file: Option<PathBuf>,
    /// The data directory; it exists.
    pub data_dir: PathBuf,
}

impl Sources {
    /// The sources of a process with this data directory: that of the unit, `/var/lib/portcullis`,
    /// has its key in `/etc/portcullis/kek`.
    #[must_use]
    pub fn new(
        configured: Option<Configured>,
        credentials: Option<PathBuf>,
        data_dir: PathBuf,
    ) -> Self {
        let is_unit = data_dir == Path::new(UNIT_DATA_DIR);
        Self {
            configured,
            credentials,
            unit_file: is_unit.then(|| UNIT_FILE.into()),
            data_dir,
        }
    }

    /// Where the next key lies, and what is done with it when it is in use.
    #[must_use]
    pub fn rotation(&self) -> Rotation {
        let credential = self.credentials.as_ref().map(|dir| dir.join(FILE_NAME));
        let is_credential = credential.is_some_and(|path| path.exists());
        let place = match (&self.configured, &self.unit_file) {
            (Some(Configured::Path(path)), _) => Some(path.clone()),
            (Some(Configured::Value(_)), _) => None,
            (None, _) if is_credential => None,
            (None, Some(path)) => Some(path.clone()),
            (None, None) => Some(self.data_dir.join(FILE_NAME)),
        };
        Rotation::of(place, &self.data_dir)
    }

    /// Where a key may lie, for a sentence.
    fn places(&self) -> String {
        let credential = self.credentials.as_ref().map(|dir| dir.join(FILE_NAME));
        let last = self
            .unit_file
            .clone()
            .unwrap_or_else(|| self.data_dir.join(FILE_NAME));
        let all: Vec<String> = credential
            .into_iter()
            .chain([last])
            .map(|path| path.display().to_string())
            .collect();
        all.join(" or ")
    }
}

/// What the store says about its key.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The note under [`CHECK_NAME`](super::kek::CHECK_NAME).
    pub check: Option<String>,
    /// Whether any document holds a sealed value.
    pub sealed_values: bool,
    /// The note under [`NEXT_NAME`](super::rotation::NEXT_NAME): the check value of the key that is
    /// being gone over to.
    pub next: Option<String>,
}

/// The key, and what the operator should know of it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The key.
    pub kek: Kek,
    /// The file it was read from; `None` for a configured value.
    pub path: Option<PathBuf>,
    /// Whether it was made just now.
    pub is_new: bool,
    /// A sentence for the log and for `check`.
    pub warning: Option<String>,
    /// The key that is being gone over to.
    pub next: Option<Kek>,
}

/// Why there is no key. Sentences are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    /// The configured value is no key, or no key could be made.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The file's content is no key.
    #[error("{}: {reason}", .path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        reason: KekError,
    },
    /// Others than its owner may read the file.
    #[error(
        "{} can be read by others than its owner (mode {mode:04o}); run `chmod 600 {}`",
        .path.display(), .path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The store depends on a key that is not there.
    #[error(
        "the store was written with a key-encryption key{}, and there is none in {places}; put it \
         back or set `kek` to its path: a new one cannot open what is stored",
        .id.as_ref().map_or_else(String::new, |id| format!(" (id {id})"))
    )]
    Missing {
        /// The id of the key that is missed, where it is known.
        id: Option<String>,
        /// Where was looked.
        places: String,
    },
    /// The unit has no key yet.
    #[error(
        "there is no key-encryption key in {places}; make one, as the user the gateway runs as: \
         `(umask 077; openssl rand -hex 32 > {})`", .path.display()
    )]
    NotMade {
        /// Where was looked.
        places: String,
        /// Where to make it.
        path: PathBuf,
    },
    /// It is another key.
    #[error(
        "the key-encryption key{} (id {found}) is not the one the store was written with (id \
         {wanted}); put that one back: no other opens what is stored",
        .path.as_ref().map_or_else(String::new, |path| format!(" in {}", path.display()))
    )]
    Wrong {
        /// The file.
        path: Option<PathBuf>,
        /// The id of the key found.
        found: String,
        /// The id of the key the store was written with.
        wanted: String,
    },
    /// The store is on its way to a key that is not there.
    #[error(
        "the store is being sealed anew with the key-encryption key {id}, and it is not in {}; put \
         it back: what is sealed already opens with no other", .path.display()
    )]
    NextMissing {
        /// The id of the key that is missed.
        id: String,
        /// Where it belongs.
        path: PathBuf,
    },
    /// The operating system refused something.
    #[error("could not {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: std::io::Error,
    },
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Finds the key-encryption key, or makes the first one where that is allowed.
///
/// Called while the store's lock is held, so that two processes cannot make one each. After
/// success the caller has the store keep [`Kek::check_value`] unless it has one.
///
/// # Errors
/// As [`find`]; [`ObtainError::NotMade`] for the unit, whose key the installation makes.
pub fn obtain(sources: &Sources, known: &Known) -> Result<Found, ObtainError> {
    match find(sources, known)? {
        Some(found) => Ok(found),
        None => make_first(sources),
    }
}

/// Finds the key-encryption key; `None` when there is none and nothing depends on one. Makes
/// nothing.
///
/// # Errors
/// [`ObtainError::Missing`] when the store depends on a key that is nowhere;
/// [`ObtainError::Wrong`] when it depends on another; [`ObtainError::Exposed`],
/// [`ObtainError::InFile`], [`ObtainError::Io`] for a file that cannot be used.
pub fn find(sources: &Sources, known: &Known) -> Result<Option<Found>, ObtainError> {
    let found = search(sources)?;
    let Some(check) = &known.check else {
        return match found {
            None if known.sealed_values => Err(ObtainError::Missing {
                id: None,
                places: sources.places(),
            }),
            found => Ok(found),
        };
    };
    let files = sources.rotation();
    let found = match found {
        Some(found) if found.kek.fits(check)? => found,
        // A rotation that was interrupted left it beside its place.
        other => match files.beside(check)? {
            Some((kek, path)) => Found {
                kek,
                warning: Some(files.out_of_place(&path)),
                path: Some(path),
                is_new: false,
                next: None,
            },
            None => return Err(wrong(sources, check, other)),
        },
    };
    let next = match &known.next {
        None => None,
        Some(next) => Some(next_key(sources, &files, next)?),
    };
    Ok(Some(Found { next, ..found }))
}

/// Why a key that was found, or none, is not the one that this is the check value of.
fn wrong(sources: &Sources, check: &str, found: Option<Found>) -> ObtainError {
    match found {
        Some(found) => ObtainError::Wrong {
            path: found.path,
            found: found.kek.id().to_owned(),
            wanted: id_of_check(check),
        },
        None => ObtainError::Missing {
            id: Some(id_of_check(check)),
            places: sources.places(),
        },
    }
}

/// The key that is being gone over to: beside the one in use, or in its place already.
fn next_key(sources: &Sources, files: &Rotation, next: &str) -> Result<Kek, ObtainError> {
    if let Some((kek, _)) = files.beside(next)? {
        return Ok(kek);
    }
    match search(sources)? {
        Some(found) if found.kek.fits(next)? => Ok(found.kek),
        Some(_) | None => Err(ObtainError::NextMissing {
            id: id_of_check(next),
            path: files.next.clone(),
        }),
    }
}

/// As [`obtain`], but makes nothing: `None` where that would make the first key.
///
/// # Errors
/// Every one of [`obtain`], but for those of making a key.
pub fn foresee(sources: &Sources, known: &Known) -> Result<Option<Found>, ObtainError> {
    match (find(sources, known)?, &sources.unit_file) {
        (None, Some(path)) => Err(not_made(sources, path)),
        (found, _) => Ok(found),
    }
}

fn not_made(sources: &Sources, path: &Path) -> ObtainError {
    ObtainError::NotMade {
        places: sources.places(),
        path: path.to_owned(),
    }
}

fn search(sources: &Sources) -> Result<Option<Found>, ObtainError> {
    let found = |kek, path| Found {
        kek,
        path,
        is_new: false,
        warning: None,
        next: None,
    };
    match &sources.configured {
        Some(Configured::Value(text)) => {
            return Ok(Some(found(Kek::parse(text.as_bytes())?, None)));
        }
        Some(Configured::Path(path)) => {
            let kek = read(path, Modes::OwnerOnly)?.ok_or_else(|| ObtainError::Io {
                action: "read the key-encryption key",
                path: path.clone(),
                source: std::io::ErrorKind::NotFound.into(),
            })?;
            return Ok(Some(found(kek, Some(path.clone()))));
        }
        None => {}
    }
    if let Some(path) = sources.credentials.as_ref().map(|dir| dir.join(FILE_NAME)) {
        // systemd may give access by an ACL, whose mask shows as the group's bits.
        if let Some(kek) = read(&path, Modes::AsTheyAre)? {
            return Ok(Some(found(kek, Some(path))));
        }
    }
    if let Some(path) = &sources.unit_file {
        return Ok(read(path, Modes::OwnerOnly)?.map(|kek| found(kek, Some(path.clone()))));
    }
    let path = sources.data_dir.join(FILE_NAME);
    let kek = read(&path, Modes::OwnerOnly)?;
    Ok(kek.map(|kek| Found {
        warning: Some(beside(&path)),
        ..found(kek, Some(path))
    }))
}

fn make_first(sources: &Sources) -> Result<Found, ObtainError> {
    if let Some(path) = &sources.unit_file {
        return Err(not_made(sources, path));
    }
    let path = sources.data_dir.join(FILE_NAME);
    let kek = Kek::random()?;
    write(&path, &kek).map_err(|source| ObtainError::Io {
        action: "write a new key-encryption key to",
        path: path.clone(),
        source,
    })?;
    Ok(Found {
        kek,
        warning: Some(beside(&path)),
        path: Some(path),
        is_new: true,
        next: None,
    })
}

fn beside(path: &Path) -> String {
    format!(
        "the key-encryption key {} lies beside the data it protects: whoever copies the directory \
         has both; keep it elsewhere and set `kek` to its path",
        path.display()
    )
}

/// The id of the key that a check value is of.
#[must_use]
pub fn id_of_check(check: &str) -> String {
    check.split_once(':').map_or(check, |(id, _)| id).to_owned()
}

/// Which permission bits a key file may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Modes {
    OwnerOnly,
    AsTheyAre,
}

/// The key in a file; `None` when there is no such file.
pub(super) fn read(path: &Path, modes: Modes) -> Result<Option<Kek>, ObtainError> {
    let io = |source| ObtainError::Io {
        action: "read the key-encryption key",
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io(source)),
    };
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
    if modes == Modes::OwnerOnly && mode & 0o077 != 0 {
        return Err(ObtainError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    // With room for all, so that no copy is left behind by growing.
    let mut content = Zeroizing::new(Vec::with_capacity(
        usize::try_from(MAX_FILE_BYTES).unwrap_or(0),
    ));
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut content)
        .map_err(io)?;
    let in_file = |reason| ObtainError::InFile {
        path: path.to_owned(),
        reason,
    };
    Kek::parse(&content).map(Some).map_err(in_file)
}

/// Writes a key so that after a crash there is either all of it or nothing under its name.
pub(super) fn write(path: &Path, kek: &Kek) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    let mut content = Zeroizing::new(hex(kek.key().expose()));
    content.push('\n');
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    settle_folder(path)
}

/// Has the folder's own change on disk.
pub(super) fn settle_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use tempfile::TempDir;

    use super::super::kek::tests::BYTES;
    use super::*;

    fn sources(dir: &TempDir) -> Sources {
        Sources::new(None, None, dir.path().to_owned())
    }

    fn write_file(path: &Path, content: &[u8], mode: u32) {
        std::fs::write(path, content).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(sources: &Sources, known: &Known) -> String {
        obtain(sources, known).unwrap_err().to_string()
    }

    #[test]
    fn first_start_of_a_user_makes_a_key_and_says_so() {
        let dir = TempDir::new().unwrap();
        assert!(find(&sources(&dir), &Known::default()).unwrap().is_none());
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        let made = obtain(&sources(&dir), &Known::default()).unwrap();
        assert!(made.is_new);
        let path = dir.path().join("kek");
        assert_eq!(made.path.as_deref(), Some(path.as_path()));
        assert!(made.warning.unwrap().contains("beside the data"));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);

        let known = Known {
            check: Some(made.kek.check_value().unwrap()),
            sealed_values: true,
            next: None,
        };
        let again = obtain(&sources(&dir), &known).unwrap();
        assert!(!again.is_new && again.warning.is_some());
        assert_eq!(again.kek.id(), made.kek.id());
    }

    #[test]
    fn no_new_key_is_made_when_the_store_depends_on_one() {
        let dir = TempDir::new().unwrap();
        let kek = Kek::from_bytes(&BYTES).unwrap();
        let check = Some(kek.check_value().unwrap());
        for known in [
            Known {
                check: check.clone(),
                sealed_values: false,
                next: None,
            },
            Known {
                check,
                sealed_values: true,
                next: None,
            },
            Known {
                check: None,
                sealed_values: true,
                next: None,
            },
        ] {
            let text = refusal(&sources(&dir), &known);
            assert!(text.contains("put it back or set `kek`"), "{text}");
            assert_eq!(text.contains(kek.id()), known.check.is_some(), "{text}");
            assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        }
        write_file(&dir.path().join("kek"), &BYTES, 0o600);
        let known = Known {
            check: Some(kek.check_value().unwrap()),
            sealed_values: true,
            next: None,
        };
        assert!(obtain(&sources(&dir), &known).is_ok());
    }

    #[test]
    fn wrong_key_is_refused_by_name() {
        let dir = TempDir::new().unwrap();
        let (right, wrong) = (Kek::from_bytes(&BYTES).unwrap(), Kek::random().unwrap());
        write_file(
            &dir.path().join("kek"),
            hex(wrong.key().expose()).as_bytes(),
            0o600,
        );
        let known = Known {
            check: Some(right.check_value().unwrap()),
            sealed_values: false,
            next: None,
        };
        let text = refusal(&sources(&dir), &known);
        assert!(
            text.contains(right.id()) && text.contains(wrong.id()),
            "{text}"
        );
        assert!(!text.contains(&hex(wrong.key().expose())), "{text}");
        let known = Known {
            check: Some(wrong.check_value().unwrap()),
            sealed_values: false,
            next: None,
        };
        assert!(obtain(&sources(&dir), &known).is_ok());
    }

    #[test]
    fn file_that_others_can_read_is_refused_with_the_remedy() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("kek");
        for mode in [0o640, 0o604, 0o620] {
            write_file(&path, &BYTES, mode);
            let text = refusal(&sources(&dir), &Known::default());
            assert!(
                text.contains(&format!("run `chmod 600 {}`", path.display())),
                "{text}"
            );
        }
        for mode in [0o600, 0o400] {
            write_file(&path, &BYTES, mode);
            assert!(obtain(&sources(&dir), &Known::default()).is_ok());
        }
    }

    #[test]
    fn sources_are_asked_in_order() {
        let dir = TempDir::new().unwrap();
        let file = |name: &str| {
            let kek = Kek::random().unwrap();
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_file(&path, kek.key().expose(), 0o600);
            (path, kek.id().to_owned())
        };
        let (configured, configured_id) = file("elsewhere");
        let (credential, credential_id) = file("credentials/kek");
        let (unit, unit_id) = file("etc");
        let (in_data, data_id) = file("kek");
        let mut sources = Sources {
            configured: Some(Configured::Path(configured)),
            credentials: credential.parent().map(Path::to_owned),
            unit_file: Some(unit),
            data_dir: dir.path().to_owned(),
        };
        let found = |sources: &Sources| obtain(sources, &Known::default()).unwrap();
        assert_eq!(found(&sources).kek.id(), configured_id);
        sources.configured = Some(Configured::Value(Zeroizing::new(hex(&BYTES))));
        assert_eq!(found(&sources).path, None);
        assert!(format!("{sources:?}").contains("configured: Some(Value(withheld))"));
        sources.configured = None;
        assert_eq!(found(&sources).kek.id(), credential_id);
        // The directory is systemd's, and with an ACL the mode looks wider than it is.
        write_file(&credential, &BYTES, 0o440);
        assert!(found(&sources).warning.is_none());
        std::fs::remove_file(&credential).unwrap();
        assert_eq!(found(&sources).kek.id(), unit_id);
        assert!(found(&sources).warning.is_none());
        sources.unit_file = None;
        let last = found(&sources);
        assert_eq!(
            (last.kek.id().to_owned(), last.path),
            (data_id, Some(in_data))
        );
        assert!(last.warning.is_some());
    }

    #[test]
    fn configured_key_that_is_absent_or_broken_is_an_error() {
        let dir = TempDir::new().unwrap();
        let mut sources = sources(&dir);
        let path = dir.path().join("mine");
        sources.configured = Some(Configured::Path(path.clone()));
        assert!(refusal(&sources, &Known::default()).contains("could not read"));
        write_file(&path, b"too short", 0o600);
        let text = refusal(&sources, &Known::default());
        assert!(
            text.contains("mine: a key-encryption key is 32 random bytes"),
            "{text}"
        );
        write_file(&path, &BYTES, 0o600);
        assert!(obtain(&sources, &Known::default()).is_ok());
    }

    #[test]
    fn key_of_the_unit_is_never_made_here() {
        let dir = TempDir::new().unwrap();
        let unit = Sources::new(None, None, UNIT_DATA_DIR.into());
        assert_eq!(unit.unit_file.as_deref(), Some(Path::new(UNIT_FILE)));
        assert_eq!(sources(&dir).unit_file, None);
        let first = foresee(&sources(&dir), &Known::default()).unwrap();
        assert!(first.is_none(), "the first start makes it, not a look");

        let file = dir.path().join("etc-kek");
        let sources = Sources {
            unit_file: Some(file.clone()),
            ..sources(&dir)
        };
        let text = refusal(&sources, &Known::default());
        assert!(
            text.contains(&format!("openssl rand -hex 32 > {}", file.display())),
            "{text}"
        );
        let foreseen = foresee(&sources, &Known::default()).unwrap_err();
        assert_eq!(foreseen.to_string(), text);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        write_file(&file, &BYTES, 0o600);
        assert!(foresee(&sources, &Known::default()).unwrap().is_some());
        assert!(
            obtain(&sources, &Known::default())
                .unwrap()
                .warning
                .is_none()
        );
    }
}
