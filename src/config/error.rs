//! What is wrong with a configuration: each problem with its place, its reason and its remedy.

use std::fmt;

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it came from: a file's path, `--set` or `PORTCULLIS_SET`, `PORTCULLIS_ADMIN_KEY`.
    pub origin: String,
    /// Dotted path of the key, e.g. `admin.https.cert`; empty for the whole document.
    pub path: String,
    /// What is wrong. Quotes no secret.
    pub reason: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Everything wrong with the configuration; at least one problem. Displayed one per line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    /// In the order of the keys in the documentation.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// Whether it is about FIPS mode: which module, and whether it is required.
    #[must_use]
    pub fn is_about_fips(&self) -> bool {
        let keys = ["fips", "fips_module_dir", "fips_version"];
        let mut problems = self.problems.iter();
        problems.any(|problem| keys.contains(&problem.path.as_str()))
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}
