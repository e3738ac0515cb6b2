//! A declared configuration: its sections and their objects, and what is wrong with its frame.

use serde_json::{Map, Value};

use super::super::envelope::id_text;
use super::super::failed::Failed;
use super::super::input::{self, Document};
use crate::resource::{Kind, shown};

/// Sections of the public tool that are not here.
const ABSENT: [&str; 8] = [
    "consumers",
    "consumer_groups",
    "global_rules",
    "plugin_configs",
    "plugin_metadata",
    "protos",
    "stream_routes",
    "credentials",
];
/// The sections that there are, as a hint may name them.
const PRESENT: [&str; 7] = [
    "version",
    "routes",
    "services",
    "upstreams",
    "ssl",
    "ssls",
    "secrets",
];

/// One object of a file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where it is, for messages: `routes[0]`.
    pub(super) place: String,
    /// Empty where the file gives none.
    pub(super) id: String,
    /// The object with its id as text.
    pub(super) value: Value,
}

/// All objects of a file, in its order.
#[derive(Debug, Default)]
pub(super) struct Declared(Vec<(Kind, Entry)>);

impl Declared {
    /// Reads all documents of a file or folder into one configuration. With it come the faults of
    /// the frame.
    ///
    /// # Errors
    /// What cannot be read or parsed at all.
    pub(super) fn read(file: &str) -> Result<(Self, Vec<String>), Failed> {
        Self::of(&input::read(file)?)
    }

    fn of(documents: &[Document]) -> Result<(Self, Vec<String>), Failed> {
        let mut declared = Self::default();
        let mut faults = Vec::new();
        let mut has_version = false;
        for document in documents {
            let Value::Object(root) = &document.value else {
                return Err("a document of the file is not a mapping of sections".into());
            };
            if let Some(version) = root.get("version") {
                has_version = true;
                let is_one = version.as_str() == Some("1") || version.as_i64() == Some(1);
                if !is_one {
                    faults.push("version must be \"1\"".to_owned());
                }
            }
            if root.contains_key("ssl") && root.contains_key("ssls") {
                faults.push("ssl and ssls are the same section: keep one of them".to_owned());
            }
            for (name, section) in root {
                declared.add(name, section, document, &mut faults)?;
            }
        }
        if !has_version {
            faults.insert(0, "version is required".to_owned());
        }
        Ok((declared, faults))
    }

    fn add(
        &mut self,
        name: &str,
        section: &Value,
        document: &Document,
        faults: &mut Vec<String>,
    ) -> Result<(), Failed> {
        let kind = match name {
            "version" => return Ok(()),
            "ssl" => Some(Kind::Ssl),
            other => Kind::from_plural(other),
        };
        let list = match section {
            Value::Array(list) => list.as_slice(),
            Value::Null => &[],
            Value::Object(none) if none.is_empty() => &[],
            Value::Object(_) | Value::String(_) | Value::Number(_) | Value::Bool(_) => {
                faults.push(match kind {
                    Some(_) => format!("{name}: must be a list"),
                    None => unknown(name),
                });
                return Ok(());
            }
        };
        let Some(kind) = kind else {
            if !ABSENT.contains(&name) {
                faults.push(unknown(name));
            } else if !list.is_empty() {
                faults.push(format!(
                    "{name}: this a6 manages routes, services, upstreams, ssls and secrets only; \
                     take the section out"
                ));
            }
            return Ok(());
        };
        let before = self.of_kind(kind).count();
        for (position, value) in list.iter().enumerate() {
            let place = format!("{name}[{}]", before + position);
            let mut value = value.clone();
            document
                .follow(&mut value)
                .map_err(|failed| failed.at(&place))?;
            let Value::Object(members) = &mut value else {
                faults.push(format!("{place}: must be a mapping"));
                continue;
            };
            let id = take_id(members);
            self.0.push((kind, Entry { place, id, value }));
        }
        Ok(())
    }

    /// The objects of a kind, in the order of the file.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        let of_kind = self.0.iter().filter(move |(of, _)| *of == kind);
        of_kind.map(|(_, entry)| entry)
    }

    /// All objects.
    pub(super) fn all(&self) -> impl Iterator<Item = (Kind, &Entry)> {
        self.0.iter().map(|(kind, entry)| (*kind, entry))
    }
}

/// The id as text, which is how it goes back into the object.
fn take_id(members: &mut Map<String, Value>) -> String {
    let id = members.get("id").and_then(id_text).unwrap_or_default();
    if !id.is_empty() {
        members.insert("id".to_owned(), id.as_str().into());
    }
    id
}

fn unknown(name: &str) -> String {
    let nearest = PRESENT
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 3);
    let name = shown(name);
    match nearest {
        Some((_, known)) => format!("unknown section \"{name}\"; did you mean {known}?"),
        None => format!(
            "unknown section \"{name}\"; there are {}",
            PRESENT.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Declared, Vec<String>) {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, text).unwrap();
        Declared::read(file.to_str().unwrap()).unwrap()
    }

    #[test]
    fn sections_of_all_documents_are_one_configuration() {
        let (declared, faults) = read(
            "version: 1\nroutes: [{id: 1}]\nssl: [{id: a}]\n---\nroutes: [{id: b}]\nconsumers: []\n",
        );
        assert_eq!(faults, Vec::<String>::new());
        let places: Vec<(&str, &str)> = declared
            .of_kind(Kind::Route)
            .map(|entry| (entry.place.as_str(), entry.id.as_str()))
            .collect();
        assert_eq!(places, [("routes[0]", "1"), ("routes[1]", "b")]);
        assert_eq!(declared.of_kind(Kind::Ssl).count(), 1);
        assert_eq!(declared.all().count(), 3);
    }

    #[test]
    fn faults_of_the_frame_are_all_told() {
        for (text, fault) in [
            ("routes: []", "version is required"),
            ("version: \"2\"", "version must be \"1\""),
            (
                "version: 1\nssl: []\nssls: []",
                "ssl and ssls are the same section: keep one of them",
            ),
            (
                "version: 1\nroute: []",
                "unknown section \"route\"; did you mean routes?",
            ),
            ("version: 1\nroutes: {a: 1}", "routes: must be a list"),
            ("version: 1\nroutes: [1]", "routes[0]: must be a mapping"),
        ] {
            assert_eq!(read(text).1, [fault], "{text}");
        }
        let (_, faults) = read("version: 1\nconsumers: [{username: a}]\nweather: []");
        assert!(
            faults[0].starts_with("consumers: this a6 manages"),
            "{faults:?}"
        );
        assert!(
            faults[1].contains("there are version, routes"),
            "{faults:?}"
        );
    }
}
