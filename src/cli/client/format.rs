//! Output formats: which one a command uses, and values in it.

use serde_json::Value;

use super::failed::Failed;
use super::{terminal, yaml};

/// An output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Indented by two.
    Json,
    /// Sequences indented, texts of several lines as literal blocks.
    Yaml,
    /// Columns for people.
    Table,
    /// Sentences for people.
    Text,
}

/// What a command prints, and so what it prints unless `-o` says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One value: YAML on a terminal, JSON elsewhere.
    Value,
    /// Rows: a table on a terminal, JSON elsewhere.
    List,
    /// A file: YAML everywhere.
    File,
    /// Sentences everywhere.
    Text,
}

impl Format {
    /// The format that `-o` names, or the shape's own.
    ///
    /// # Errors
    /// The public `a6`'s message for one that is unknown or not offered.
    pub(super) fn choose(given: Option<&str>, shape: Shape) -> Result<Self, Failed> {
        Self::chosen(given, shape, terminal::is_shown())
    }

    fn chosen(given: Option<&str>, shape: Shape, on_terminal: bool) -> Result<Self, Failed> {
        match (given, shape) {
            (Some("json"), _) => Ok(Self::Json),
            (Some("yaml"), _) => Ok(Self::Yaml),
            (Some("table"), Shape::List) => Ok(Self::Table),
            (Some("text"), Shape::Text) => Ok(Self::Text),
            (Some(other), _) => Err(Failed::new(format!("unsupported output format: {other}"))),
            (None, Shape::Value) if on_terminal => Ok(Self::Yaml),
            (None, Shape::List) if on_terminal => Ok(Self::Table),
            (None, Shape::Value | Shape::List) => Ok(Self::Json),
            (None, Shape::File) => Ok(Self::Yaml),
            (None, Shape::Text) => Ok(Self::Text),
        }
    }

    /// Shows a value; `text` makes the form for people.
    pub(super) fn show(self, value: &Value, text: impl FnOnce() -> String) -> String {
        match self {
            Self::Json => format!("{value:#}"),
            Self::Yaml => yaml::write(value),
            Self::Table | Self::Text => text(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_and_terminal_choose_where_the_flag_does_not() {
        for (given, shape, on_terminal, expected) in [
            (None, Shape::Value, true, Format::Yaml),
            (None, Shape::Value, false, Format::Json),
            (None, Shape::List, true, Format::Table),
            (None, Shape::List, false, Format::Json),
            (None, Shape::File, false, Format::Yaml),
            (None, Shape::Text, false, Format::Text),
            (Some("table"), Shape::List, false, Format::Table),
            (Some("yaml"), Shape::Text, false, Format::Yaml),
        ] {
            let chosen = Format::chosen(given, shape, on_terminal);
            assert_eq!(chosen, Ok(expected), "{given:?} {shape:?} {on_terminal}");
        }
    }

    #[test]
    fn unknown_format_is_refused_and_so_is_a_table_of_one_value() {
        for (given, shape) in [("xml", Shape::List), ("table", Shape::Value)] {
            let refused = Format::chosen(Some(given), shape, false).unwrap_err();
            let expected = format!("unsupported output format: {given}");
            assert_eq!(refused.to_string(), expected);
        }
    }
}
