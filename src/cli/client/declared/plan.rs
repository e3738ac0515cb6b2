//! What has to be created, updated and deleted, and how that is told.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::super::envelope::Item;
use super::super::terminal::{Colour, paint};
use super::compare::{has_credential_in_clear, is_same, redact};
use super::file::Declared;
use super::{Remote, SECTIONS};
use crate::resource::{Kind, escaped};

/// What becomes of the objects of one kind, each list ordered by id.
#[derive(Debug, Default)]
pub(super) struct Section {
    pub(super) create: Vec<Item>,
    pub(super) update: Vec<Item>,
    pub(super) delete: Vec<Item>,
    unchanged: Vec<String>,
}

/// What becomes of all objects.
#[derive(Debug)]
pub(super) struct Plan(Vec<(Kind, Section)>);

impl Plan {
    /// Compares a file with what a server has.
    pub(super) fn new(declared: &Declared, remote: &Remote) -> Self {
        let sections = Kind::ALL.into_iter().map(|kind| {
            let mut section = Section::default();
            let mut left: HashMap<&str, &Item> = remote
                .of(kind)
                .iter()
                .map(|item| (item.id.as_str(), item))
                .collect();
            for entry in declared.of_kind(kind) {
                let item = || Item {
                    id: entry.id.clone(),
                    value: entry.value.clone(),
                };
                match left.remove(entry.id.as_str()) {
                    None => section.create.push(item()),
                    Some(there) if is_same(kind, &entry.value, &there.value) => {
                        section.unchanged.push(entry.id.clone());
                    }
                    Some(_) => section.update.push(item()),
                }
            }
            section.delete = left.into_values().cloned().collect();
            for list in [
                &mut section.create,
                &mut section.update,
                &mut section.delete,
            ] {
                list.sort_by(|a, b| a.id.cmp(&b.id));
            }
            section.unchanged.sort();
            (kind, section)
        });
        Self(sections.collect())
    }

    /// The section of a kind.
    pub(super) fn of(&self, kind: Kind) -> Option<&Section> {
        let found = self.0.iter().find(|(of, _)| *of == kind);
        found.map(|(_, section)| section)
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, section)| {
            section.create.is_empty() && section.update.is_empty() && section.delete.is_empty()
        })
    }

    /// How many objects are to be deleted.
    pub(super) fn deleted(&self) -> usize {
        self.0.iter().map(|(_, section)| section.delete.len()).sum()
    }

    /// How many objects are to be updated that have a credential in clear, which cannot be compared.
    pub(super) fn not_comparable(&self) -> usize {
        let sections = self.0.iter().map(|(kind, section)| {
            let updates = section.update.iter();
            updates
                .filter(|item| has_credential_in_clear(*kind, &item.value))
                .count()
        });
        sections.sum()
    }

    /// In words; without `deletes`, those are left out.
    pub(super) fn text(&self, deletes: bool) -> String {
        if self.is_empty() || (!deletes && self.deleted() == self.changes()) {
            return "No differences found.".to_owned();
        }
        let mut text = String::from("Differences found:\n");
        for (kind, name) in SECTIONS {
            let Some(section) = self.of(kind) else {
                continue;
            };
            let delete: &[Item] = if deletes { &section.delete } else { &[] };
            let _ = writeln!(
                text,
                "{name}: create={} update={} delete={} unchanged={}",
                section.create.len(),
                section.update.len(),
                delete.len(),
                section.unchanged.len()
            );
            for (verb, colour, list) in [
                ("CREATE", Colour::Green, section.create.as_slice()),
                ("UPDATE", Colour::Yellow, section.update.as_slice()),
                ("DELETE", Colour::Red, delete),
            ] {
                for item in list {
                    let id = escaped(&item.id, usize::MAX);
                    let _ = writeln!(text, "  {} {id}", paint(colour, verb));
                }
            }
        }
        text
    }

    fn changes(&self) -> usize {
        let count =
            |section: &Section| section.create.len() + section.update.len() + section.delete.len();
        self.0.iter().map(|(_, section)| count(section)).sum()
    }

    /// As JSON, without secrets; empty lists are left out.
    pub(super) fn to_json(&self) -> Value {
        let mut root = Map::new();
        for (kind, name) in SECTIONS {
            let Some(section) = self.of(kind) else {
                continue;
            };
            let mut members = Map::new();
            for (verb, list) in [
                ("create", &section.create),
                ("update", &section.update),
                ("delete", &section.delete),
            ] {
                if !list.is_empty() {
                    let list: Value = list
                        .iter()
                        .map(|item| json!({"key": item.id, "value": redact(kind, &item.value)}))
                        .collect();
                    members.insert(verb.to_owned(), list);
                }
            }
            if !section.unchanged.is_empty() {
                members.insert("unchanged".to_owned(), json!(section.unchanged));
            }
            root.insert(name.to_owned(), Value::Object(members));
        }
        Value::Object(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_server_do_nothing_to_a_terminal() {
        let item = Item {
            id: "a\u{1b}[2J".to_owned(),
            value: Value::Null,
        };
        let remote = Remote(vec![(Kind::Route, vec![item])]);
        let text = Plan::new(&Declared::default(), &remote).text(true);
        assert!(text.contains("  DELETE a\\u{1b}[2J\n"), "{text}");
    }
}
