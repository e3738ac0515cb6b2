//! The service account of a pod: files that the kubelet keeps up to date, read again each time.
//! (Kubernetes, "Accessing the Kubernetes API from a Pod")

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::super::source::ReadFault;
use super::super::wire;

/// The folder with its files.
pub(super) struct Account(PathBuf);

impl Account {
    pub(super) fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// `token`.
    ///
    /// # Errors
    /// [`ReadFault::Unavailable`]: it cannot be read, or is empty.
    pub(super) async fn token(&self) -> Result<Zeroizing<String>, ReadFault> {
        let path = self.0.join("token");
        let shown = path.display().to_string();
        let token = wire::read_token(path).await?;
        if token.is_empty() {
            return Err(ReadFault::Unavailable(format!(
                "the token in {shown} is empty"
            )));
        }
        Ok(token)
    }

    /// `ca.crt`; `None` where there is no such file.
    ///
    /// # Errors
    /// [`ReadFault::Unavailable`]: it cannot be read.
    pub(super) async fn ca(&self) -> Result<Option<String>, ReadFault> {
        self.text("ca.crt").await
    }

    /// `namespace`.
    ///
    /// # Errors
    /// [`ReadFault::Unusable`]: there is none, so that references must say theirs.
    pub(super) async fn namespace(&self) -> Result<String, ReadFault> {
        let text = self.text("namespace").await?.unwrap_or_default();
        let text = text.trim();
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty() || !text.chars().all(is_plain) {
            return Err(ReadFault::Unusable(format!(
                "the reference says no namespace, and {} has none; write it before the secret's \
                 name",
                self.0.join("namespace").display()
            )));
        }
        Ok(text.to_owned())
    }

    async fn text(&self, name: &str) -> Result<Option<String>, ReadFault> {
        let path = self.0.join(name);
        let shown = path.display().to_string();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path));
        match read.await.map_err(|_ended| ReadFault::Internal)? {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ReadFault::Unavailable(format!(
                "{shown} cannot be read: {error}"
            ))),
        }
    }
}
