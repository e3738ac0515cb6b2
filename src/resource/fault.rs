//! Why a document was refused: the field, the reason, all of them at once.

use super::texts;

/// How many faults, and how many warnings, a verdict holds. A document with more has one cause.
pub(super) const FOUND_MAX: usize = 100;

/// One fault of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer to the member at fault, e.g. `/client/ca`; empty for the whole document.
    pub pointer: String,
    /// APISIX's text where it has one, e.g. `property "uri" is required`. Quotes no withheld value.
    pub reason: String,
    /// Whether `invalid configuration: ` precedes the reason in `error_msg`, as APISIX has it for
    /// schema faults.
    pub schema: bool,
}

impl Fault {
    /// The sentence of `error_msg`: the reason, behind APISIX's prefix where it has one.
    #[must_use]
    pub fn message(&self) -> String {
        if self.schema {
            format!("invalid configuration: {}", self.reason)
        } else {
            self.reason.clone()
        }
    }
}

/// All faults of a document, in schema order; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.first().map_or("", |fault| fault.reason.as_str()))]
pub struct Faults(pub Vec<Fault>);

/// Something accepted that its writer should know of; also in the reply's `warnings`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Stable name, e.g. `upstream_not_verified`.
    pub code: &'static str,
    /// JSON pointer to the member meant.
    pub pointer: String,
    /// A sentence for the operator, with the remedy.
    pub text: String,
}

/// What judging one document has found so far. Used inside this room.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Warning>,
}

impl Verdict {
    /// Refuses with a reason that stands alone.
    pub(super) fn refuse(&mut self, pointer: impl Into<String>, reason: impl Into<String>) {
        self.add(pointer.into(), reason.into(), false);
    }

    /// Refuses with a reason that APISIX puts behind `invalid configuration: `.
    pub(super) fn refuse_shape(&mut self, pointer: impl Into<String>, reason: impl Into<String>) {
        self.add(pointer.into(), reason.into(), true);
    }

    fn add(&mut self, pointer: String, reason: String, schema: bool) {
        if self.faults.len() < FOUND_MAX {
            self.faults.push(Fault {
                pointer: texts::shown_pointer(pointer),
                reason,
                schema,
            });
        }
    }

    /// Refuses what is known and not served yet: it is never accepted and dropped.
    pub(super) fn refuse_unsupported(&mut self, pointer: impl Into<String>, what: &str) {
        self.refuse(pointer, format!("{what} is not supported by this version"));
    }

    /// Accepts, and tells the writer.
    pub(super) fn warn(
        &mut self,
        code: &'static str,
        pointer: impl Into<String>,
        text: impl Into<String>,
    ) {
        if self.warnings.len() < FOUND_MAX {
            self.warnings.push(Warning {
                code,
                pointer: texts::shown_pointer(pointer.into()),
                text: text.into(),
            });
        }
    }

    /// Accepts what nothing reads, and tells the writer.
    pub(super) fn warn_unused(&mut self, pointer: impl Into<String>, why: impl Into<String>) {
        self.warn("member_unused", pointer, why);
    }
}
