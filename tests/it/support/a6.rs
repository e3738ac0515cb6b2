//! The real `a6`, with a home of its own: no context, variable or colour of whoever runs the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::gateway::{ADMIN_KEY, Gateway};
use super::{Finished, SOON, program, run_to_end};

/// A user of `a6`: what is set in the environment, and the folder that commands run in.
pub(crate) struct A6 {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl A6 {
    /// Nobody in particular: no server, no key.
    pub(crate) fn new() -> Self {
        Self {
            folder: TempDir::new().expect("a folder"),
            variables: Vec::new(),
        }
    }

    /// The administrator of this URL.
    pub(crate) fn of(url: &str) -> Self {
        Self::new()
            .env("A6_SERVER", url)
            .env("A6_API_KEY", ADMIN_KEY)
    }

    /// The administrator of a gateway, by its plain Admin API.
    #[track_caller]
    pub(crate) fn at(gateway: &Gateway) -> Self {
        Self::of(&format!("http://127.0.0.1:{}", gateway.port("admin")))
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where commands run.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file there.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder().join(name);
        std::fs::write(&path, text).expect("the folder takes a file");
        path
    }

    /// Runs `a6` with these arguments.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        self.feed(args, "")
    }

    /// Runs `a6` with these arguments and this standard input.
    #[track_caller]
    pub(crate) fn feed(&self, args: &[&str], stdin: &str) -> Finished {
        let mut command = Command::new(env!("CARGO_BIN_EXE_a6"));
        command.args(args);
        run_to_end(self.prepare(command), stdin.as_bytes(), 6 * SOON)
    }

    /// Runs a script of `bash` that finds `a6` on its path.
    #[track_caller]
    pub(crate) fn bash(&self, script: &str) -> Finished {
        let mut command = program("bash");
        command.args(["-e", "-c", script]);
        run_to_end(self.prepare(command), b"", 12 * SOON)
    }

    /// Runs `a6` on a terminal where `typed` is typed; what it shows is all in `stdout`.
    #[track_caller]
    pub(crate) fn on_terminal(&self, args: &str, typed: &str) -> Finished {
        let mut command = program("script");
        command.args(["-qefc", &format!("a6 {args}"), "/dev/null"]);
        run_to_end(self.prepare(command), typed.as_bytes(), 6 * SOON)
    }

    fn prepare(&self, mut command: Command) -> Command {
        for (name, _) in std::env::vars_os() {
            let name_bytes = name.as_encoded_bytes();
            if name_bytes.starts_with(b"A6_") || name_bytes.starts_with(b"APISIX_") {
                command.env_remove(name);
            }
        }
        let binaries = Path::new(env!("CARGO_BIN_EXE_a6")).parent();
        let mut path = binaries
            .expect("a binary is in a folder")
            .as_os_str()
            .to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        command
            .current_dir(self.folder())
            .env("PATH", path)
            .env("HOME", self.folder())
            .env("TERM", "xterm")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("NO_COLOR")
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Finished {
    /// The same, after making sure that it succeeded.
    #[track_caller]
    pub(crate) fn expect_success(self) -> Self {
        assert_eq!(self.status.code(), Some(0), "{self:?}");
        self
    }

    /// The same, after making sure that it ended with 1 and exactly this line of error.
    #[track_caller]
    pub(crate) fn expect_failure(self, line: &str) -> Self {
        assert_eq!(
            (self.status.code(), self.stderr.trim_end()),
            (Some(1), line),
            "{self:?}"
        );
        self
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}
