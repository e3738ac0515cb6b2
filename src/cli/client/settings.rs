//! Which server, with which key and certificates: flags, then environment, then the contexts of
//! the configuration file.
//!
//! The file is rewritten as a whole on each change; keys that are not ours survive, comments do
//! not.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::args::Globals;
use super::failed::Failed;
use super::yaml;

/// Where the commands of one run go, and how.
pub(super) struct Settings {
    /// Admin base URL, without `/apisix/admin`.
    pub(super) server: Option<String>,
    /// The admin key.
    pub(super) api_key: Option<Zeroizing<String>>,
    /// Trusted instead of the system's CAs.
    pub(super) ca_cert: Option<PathBuf>,
    /// Shown to an Admin API that asks for a certificate.
    pub(super) client_cert: Option<PathBuf>,
    /// Its key.
    pub(super) client_key: Option<PathBuf>,
    /// The server's certificate is not checked.
    pub(super) insecure: bool,
}

impl Settings {
    /// Each on its own: the flag, else the environment, else the context that `--context` names or
    /// the current one.
    ///
    /// # Errors
    /// An unknown `--context`, or a configuration file that cannot be read.
    pub(super) fn resolve(globals: &Globals) -> Result<Self, Failed> {
        let contexts = Contexts::load()?;
        let context = match &globals.context {
            Some(name) => Some(contexts.find(name).ok_or_else(|| unknown(name))?),
            None => contexts.current().and_then(|name| contexts.find(name)),
        };
        let member = |name: &str| context.and_then(|context| context.get(name)?.as_str());
        let choose = |flag: Option<&str>, variable: &str, name: &str| {
            flag.map(str::to_owned)
                .or_else(|| environment(variable))
                .or_else(|| member(name).map(str::to_owned))
        };
        let path = |flag: &Option<PathBuf>, variable: &str, name: &str| {
            flag.clone()
                .or_else(|| environment(variable).map(PathBuf::from))
                .or_else(|| member(name).map(PathBuf::from))
        };
        Ok(Self {
            server: choose(globals.server.as_deref(), "A6_SERVER", "server"),
            api_key: choose(globals.api_key.as_deref(), "A6_API_KEY", "api-key").map(Into::into),
            ca_cert: path(&globals.ca_cert, "A6_CA_CERT", "ca-cert"),
            client_cert: path(&globals.client_cert, "A6_CLIENT_CERT", "client-cert"),
            client_key: path(&globals.client_key, "A6_CLIENT_KEY", "client-key"),
            insecure: globals.insecure
                || context.and_then(|context| context.get("insecure")?.as_bool()) == Some(true),
        })
    }
}

/// A variable that is set and not empty.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn unknown(name: &str) -> Failed {
    Failed::new(format!("context {name:?} not found"))
}

/// The configuration file.
pub(super) struct Contexts {
    path: PathBuf,
    root: Map<String, Value>,
}

impl Contexts {
    /// Reads the file; one that is not there is empty.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it should be.
    pub(super) fn load() -> Result<Self, Failed> {
        Self::load_from(path())
    }

    fn load_from(path: PathBuf) -> Result<Self, Failed> {
        let shown = path.display();
        let wrong =
            |what: &str| Failed::new(format!("failed to parse config file {shown}: {what}"));
        let text = match fs::read_to_string(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Zeroizing::default(),
            Err(error) => {
                return Err(Failed::new(format!(
                    "failed to read config file {shown}: {error}"
                )));
            }
        };
        let mut documents = yaml::read(&text)
            .map_err(|error| wrong(&error))?
            .into_iter();
        let root = match (documents.next(), documents.next()) {
            (None, _) => Map::new(),
            (Some(Value::Object(root)), None) => root,
            _ => return Err(wrong("it is not one mapping")),
        };
        match root.get("contexts") {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) if list.iter().all(|it| name_of(it).is_some()) => {}
            Some(_) => return Err(wrong("`contexts` is not a list of mappings with a `name`")),
        }
        Ok(Self { path, root })
    }

    /// Writes the file: folder 0755, file 0600, the old one whole until the new one is.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn save(&self) -> Result<(), Failed> {
        self.write().map_err(|error| {
            Failed::new(format!("failed to write {}: {error}", self.path.display()))
        })
    }

    fn write(&self) -> std::io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)?;
        let new = folder.join(format!(".config.yaml.{}", std::process::id()));
        let text = Zeroizing::new(yaml::write(&Value::Object(self.root.clone())));
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())
                    .and_then(|()| file.sync_all())
            })
            .and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// The name of the current context.
    pub(super) fn current(&self) -> Option<&str> {
        self.root
            .get("current-context")?
            .as_str()
            .filter(|name| !name.is_empty())
    }

    /// Names and servers, in the order of the file.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list().iter().filter_map(|context| {
            let server = context.get("server").and_then(Value::as_str);
            Some((name_of(context)?, server.unwrap_or_default()))
        })
    }

    fn list(&self) -> &[Value] {
        self.root
            .get("contexts")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    fn find(&self, name: &str) -> Option<&Map<String, Value>> {
        let mut list = self.list().iter();
        list.find(|context| name_of(context) == Some(name))?
            .as_object()
    }

    /// Adds a context; the first one becomes current. Says whether it did.
    ///
    /// # Errors
    /// A name that is taken.
    pub(super) fn add(&mut self, name: &str, members: Map<String, Value>) -> Result<bool, Failed> {
        if self.find(name).is_some() {
            return Err(Failed::new(format!("context {name:?} already exists")));
        }
        let mut context = Map::new();
        context.insert("name".to_owned(), name.into());
        context.extend(members);
        let is_first = self.list().is_empty();
        let list = self.root.entry("contexts").or_insert(Value::Null);
        if let Value::Array(list) = list {
            list.push(Value::Object(context));
        } else {
            *list = Value::Array(vec![Value::Object(context)]);
        }
        if is_first {
            self.set_current(Some(name.to_owned()));
        }
        Ok(is_first)
    }

    /// Makes a context the current one.
    ///
    /// # Errors
    /// A name that is not there.
    pub(super) fn choose(&mut self, name: &str) -> Result<(), Failed> {
        self.find(name).ok_or_else(|| unknown(name))?;
        self.set_current(Some(name.to_owned()));
        Ok(())
    }

    /// Takes a context away; the first remaining one becomes current where it was.
    ///
    /// # Errors
    /// A name that is not there.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), Failed> {
        self.find(name).ok_or_else(|| unknown(name))?;
        if let Some(Value::Array(list)) = self.root.get_mut("contexts") {
            list.retain(|context| name_of(context) != Some(name));
        }
        if self.current() == Some(name) {
            let next = self.all().next().map(|(name, _)| name.to_owned());
            self.set_current(next);
        }
        Ok(())
    }

    fn set_current(&mut self, name: Option<String>) {
        let name = name.unwrap_or_default();
        let is_new = !self.root.contains_key("current-context");
        self.root.insert("current-context".to_owned(), name.into());
        if is_new && let Some(contexts) = self.root.shift_remove("contexts") {
            // The order of the public tool's file.
            self.root.insert("contexts".to_owned(), contexts);
        }
    }
}

fn name_of(context: &Value) -> Option<&str> {
    context.get("name")?.as_str()
}

/// `$A6_CONFIG_DIR`, else `$XDG_CONFIG_HOME/a6`, else `~/.config/a6`.
fn path() -> PathBuf {
    let folder = environment("A6_CONFIG_DIR").map(PathBuf::from);
    let folder = folder
        .or_else(|| environment("XDG_CONFIG_HOME").map(|home| Path::new(&home).join("a6")))
        .or_else(|| environment("HOME").map(|home| Path::new(&home).join(".config/a6")))
        .unwrap_or_else(|| PathBuf::from(".a6"));
    folder.join("config.yaml")
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::PermissionsExt as _;

    fn contexts(folder: &tempfile::TempDir, text: &str) -> Contexts {
        let path = folder.path().join("config.yaml");
        fs::write(&path, text).unwrap();
        Contexts::load_from(path).unwrap()
    }

    fn server(url: &str) -> Map<String, Value> {
        Map::from_iter([("server".to_owned(), Value::from(url))])
    }

    #[test]
    fn first_context_becomes_current_and_strange_keys_survive() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut contexts = contexts(&folder, "theme: dark\n");
        assert!(contexts.add("local", server("http://a")).unwrap());
        assert!(!contexts.add("other", server("http://b")).unwrap());
        contexts.save().unwrap();
        let text = fs::read_to_string(&contexts.path).unwrap();
        assert_eq!(
            text,
            "theme: dark\ncurrent-context: local\ncontexts:\n  - name: local\n    server: \
             http://a\n  - name: other\n    server: http://b\n"
        );
        let mode = fs::metadata(&contexts.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Contexts::load_from(contexts.path).unwrap();
        assert_eq!(again.current(), Some("local"));
        assert_eq!(again.all().count(), 2);
    }

    #[test]
    fn known_name_is_refused_and_unknown_ones_are_not_found() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut contexts = contexts(&folder, "");
        contexts.add("a", server("http://a")).unwrap();
        let told = contexts.add("a", server("http://b")).unwrap_err();
        assert_eq!(told.to_string(), "context \"a\" already exists");
        for told in [contexts.choose("b"), contexts.remove("b")] {
            assert_eq!(told.unwrap_err().to_string(), "context \"b\" not found");
        }
    }

    #[test]
    fn next_context_is_current_after_the_current_one_went() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut contexts = contexts(&folder, "");
        contexts.add("a", server("http://a")).unwrap();
        contexts.add("b", server("http://b")).unwrap();
        contexts.remove("a").unwrap();
        assert_eq!(contexts.current(), Some("b"));
        contexts.remove("b").unwrap();
        assert_eq!(contexts.current(), None);
    }

    #[test]
    fn file_that_is_no_configuration_is_told_by_name() {
        let folder = tempfile::TempDir::new().unwrap();
        for text in ["a: [", "- a", "contexts: {}", "contexts: [{server: x}]"] {
            let path = folder.path().join("config.yaml");
            fs::write(&path, text).unwrap();
            let told = Contexts::load_from(path)
                .map(|_| ())
                .unwrap_err()
                .to_string();
            assert!(told.starts_with("failed to parse config file"), "{told}");
        }
    }
}
