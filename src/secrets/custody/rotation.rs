//! The next key-encryption key: where it lies while the store goes over to it, and how it comes to
//! the place of the one before.
//!
//! The key in use is `kek`, the next one `kek.next` beside it, the one before `kek.old`. A key from
//! a reference or a credential has no file here: its successor lies in the data directory, until
//! whoever keeps the reference has it. At every moment the store says which keys it needs, by their
//! check values; a file that fits none of them is never used.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::kek::Kek;
use super::obtain::{FILE_NAME, Modes, ObtainError, read, settle_folder, write};

/// Under which name the store keeps the check value of the key that is being gone over to.
pub const NEXT_NAME: &str = "kek_next";

/// Under which name the store keeps the audit chain's keys before the last rotation, sealed.
pub const CHAIN_NAME: &str = "audit_keys";

/// The files of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The file of the key in use; `None` where it is a reference's or a credential.
    pub place: Option<PathBuf>,
    /// The file of the next key.
    pub next: PathBuf,
    /// The file that the key before is left in.
    pub old: PathBuf,
}

impl Rotation {
    pub(super) fn of(place: Option<PathBuf>, data_dir: &Path) -> Self {
        let base = place.clone().unwrap_or_else(|| data_dir.join(FILE_NAME));
        let beside = |suffix: &str| {
            let mut name = OsString::from(&base);
            name.push(suffix);
            PathBuf::from(name)
        };
        Self {
            next: beside(".next"),
            old: beside(".old"),
            place,
        }
    }

    /// The next key, where there is one.
    ///
    /// # Errors
    /// [`ObtainError::Exposed`], [`ObtainError::InFile`], [`ObtainError::Io`].
    pub fn read_next(&self) -> Result<Option<Kek>, ObtainError> {
        read(&self.next, Modes::OwnerOnly)
    }

    /// The key in a file, for its owner only; `None` where there is no such file.
    ///
    /// # Errors
    /// As [`Rotation::read_next`].
    pub fn read(path: &Path) -> Result<Option<Kek>, ObtainError> {
        read(path, Modes::OwnerOnly)
    }

    /// Puts a key where the gateway finds it as the next one.
    ///
    /// # Errors
    /// [`ObtainError::Io`].
    pub fn stage(&self, kek: &Kek) -> Result<(), ObtainError> {
        write(&self.next, kek).map_err(|source| ObtainError::Io {
            action: "write the next key-encryption key to",
            path: self.next.clone(),
            source,
        })
    }

    /// The key with this check value among those beside the place, and its file.
    pub(super) fn beside(&self, check: &str) -> Result<Option<(Kek, PathBuf)>, ObtainError> {
        for path in [&self.next, &self.old] {
            if let Some(kek) = read(path, Modes::OwnerOnly)?
                && kek.fits(check)?
            {
                return Ok(Some((kek, path.clone())));
            }
        }
        Ok(None)
    }

    /// Puts the next key, which the store needs from now on, into the place of the one before; that
    /// one is left in `kek.old`. Says whether it is there: a key that is no file is moved by whoever
    /// keeps it.
    ///
    /// After a crash there is a key in the place at any moment, and doing it again is harmless.
    ///
    /// # Errors
    /// [`ObtainError`]: the files cannot be read or moved.
    pub fn settle(&self, kek: &Kek) -> Result<bool, ObtainError> {
        let Some(place) = &self.place else {
            return Ok(false);
        };
        let is_next = self.read_next()?.is_some_and(|next| next.id() == kek.id());
        if !is_next {
            let found = read(place, Modes::OwnerOnly)?;
            return Ok(found.is_some_and(|found| found.id() == kek.id()));
        }
        let moved = |action, path: &Path| {
            let path = path.to_owned();
            move |source| ObtainError::Io {
                action,
                path,
                source,
            }
        };
        let is_settled = read(place, Modes::OwnerOnly)?.is_some_and(|own| own.id() == kek.id());
        if !is_settled && place.exists() {
            drop(std::fs::remove_file(&self.old));
            std::fs::hard_link(place, &self.old)
                .map_err(moved("keep the former key-encryption key in", &self.old))?;
        }
        std::fs::rename(&self.next, place)
            .and_then(|()| settle_folder(place))
            .map_err(moved("put the next key-encryption key into", place))?;
        Ok(true)
    }

    /// What the operator is to do with a key that is in use and not in its place.
    #[must_use]
    pub fn out_of_place(&self, found: &Path) -> String {
        match &self.place {
            Some(place) => format!(
                "the key-encryption key in use is in {}, as a rotation left it; run `mv {} {}`",
                found.display(),
                found.display(),
                place.display()
            ),
            None => format!(
                "the key-encryption key in use is in {}, as a rotation left it; put it where \
                 `kek` of the configuration or the credential comes from, then remove the file",
                found.display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::super::obtain::{Configured, Known, Sources, find};
    use super::*;

    fn kek(seed: u8) -> Kek {
        Kek::from_bytes(&[seed; 32]).unwrap()
    }

    fn known(check: u8, next: Option<u8>) -> Known {
        Known {
            check: Some(kek(check).check_value().unwrap()),
            sealed_values: true,
            next: next.map(|next| kek(next).check_value().unwrap()),
        }
    }

    fn sources(dir: &TempDir) -> Sources {
        Sources::new(None, None, dir.path().to_owned())
    }

    /// The ids of the keys that are found: in use, and next.
    #[track_caller]
    fn found(sources: &Sources, known: &Known) -> (String, Option<String>) {
        let found = find(sources, known).unwrap().unwrap();
        (
            found.kek.id().to_owned(),
            found.next.map(|next| next.id().to_owned()),
        )
    }

    #[test]
    fn every_moment_of_a_rotation_finds_the_keys_that_the_store_needs() {
        let dir = TempDir::new().unwrap();
        let sources = sources(&dir);
        let files = sources.rotation();
        let place = files.place.clone().unwrap();
        write(&place, &kek(1)).unwrap();
        let (one, two) = (kek(1).id().to_owned(), kek(2).id().to_owned());
        assert_eq!(found(&sources, &known(1, None)), (one.clone(), None));
        files.stage(&kek(2)).unwrap();
        let mode = files.next.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Staged; under way; done and not yet in its place; the place taken by hand too early.
        assert_eq!(found(&sources, &known(1, None)), (one.clone(), None));
        let both = (one.clone(), Some(two.clone()));
        assert_eq!(found(&sources, &known(1, Some(2))), both);
        let done = find(&sources, &known(2, None)).unwrap().unwrap();
        assert_eq!(done.kek.id(), two);
        assert!(done.warning.unwrap().contains("run `mv "));
        assert!(files.settle(&kek(2)).unwrap() && files.settle(&kek(2)).unwrap());
        assert!(!files.next.exists() && files.old.exists());
        assert_eq!(found(&sources, &known(2, None)), (two, None));
        assert_eq!(found(&sources, &known(1, Some(2))), both);
        // The key before is one that nothing needs any more.
        let refused = find(&sources, &known(3, None)).unwrap_err().to_string();
        assert!(refused.contains(kek(2).id()), "{refused}");
        std::fs::rename(&files.old, &place).unwrap();
        let refused = find(&sources, &known(2, None)).unwrap_err().to_string();
        assert!(
            refused.contains("is not the one the store was"),
            "{refused}"
        );
    }

    #[test]
    fn next_key_that_is_lost_while_the_store_needs_it_is_told_with_its_place() {
        let dir = TempDir::new().unwrap();
        let sources = sources(&dir);
        write(&dir.path().join("kek"), &kek(1)).unwrap();
        let refused = find(&sources, &known(1, Some(2))).unwrap_err().to_string();
        assert!(
            refused.contains(kek(2).id()) && refused.contains("kek.next; put it back"),
            "{refused}"
        );
        sources.rotation().stage(&kek(2)).unwrap();
        found(&sources, &known(1, Some(2)));
        let exposed = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(dir.path().join("kek.next"), exposed).unwrap();
        let refused = find(&sources, &known(1, Some(2))).unwrap_err().to_string();
        assert!(refused.contains("chmod 600"), "{refused}");
    }

    #[test]
    fn successor_of_a_key_that_is_no_file_waits_in_the_data_directory() {
        let dir = TempDir::new().unwrap();
        let value = Configured::Value(super::super::kek::hex(&[1; 32]).into());
        let sources = Sources::new(Some(value), None, dir.path().to_owned());
        let files = sources.rotation();
        assert_eq!(
            (&files.place, &files.next),
            (&None, &dir.path().join("kek.next"))
        );
        files.stage(&kek(2)).unwrap();
        assert!(!files.settle(&kek(2)).unwrap());
        let done = find(&sources, &known(2, None)).unwrap().unwrap();
        assert!(done.warning.unwrap().contains("put it where `kek` of"));
        assert!(files.next.exists());
    }
}
