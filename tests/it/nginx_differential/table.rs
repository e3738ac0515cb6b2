//! `docs/nginx-differences.md`: what may differ, held against what does.

use std::fmt::Write as _;

/// One probe of both.
pub(super) struct Cell {
    /// `axis/case/…/version/client`.
    pub(super) id: String,
    pub(super) nginx: String,
    pub(super) ours: String,
    /// Whether nginx serves the same client on a connection that was opened for the request's name:
    /// asked where an outcome depends on what a connection or session was opened for.
    pub(super) serves_afresh: bool,
}

/// A row of the document: all cells below `prefix` differ, in this way.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    prefix: String,
    nginx: String,
    ours: String,
}

/// What begins the outcome of a request that was served.
const SERVED: &str = "200";

/// The axes; a row of none of them would never be held against anything.
const AXES: [&str; 9] = [
    "certificates",
    "chains",
    "bundles",
    "revocation",
    "keys",
    "names",
    "hosts",
    "sessions",
    "protocol",
];

fn document() -> &'static str {
    include_str!("../../../docs/nginx-differences.md")
}

/// Rows begin with a cell in backquotes: the cells, nginx's outcome, ours, and why.
fn rows(document: &str) -> Vec<Row> {
    let lines = document.lines().filter(|line| line.starts_with("| `"));
    lines
        .map(|line| {
            let mut cells = line.trim_matches('|').split(" | ");
            let mut next = || cells.next().expect("a row has four cells").trim();
            let row = Row {
                prefix: next().trim_matches('`').to_owned(),
                nginx: next().to_owned(),
                ours: next().to_owned(),
            };
            assert!(!next().is_empty(), "{line}: no reason");
            row
        })
        .collect()
}

impl Row {
    fn covers(&self, id: &str) -> bool {
        id.strip_prefix(&self.prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Holds the cells of one axis against the document.
///
/// # Panics
/// With every cell that differs and is not listed, every listed one that does not differ as it is
/// said, every row without a cell, and every cell where we serve what nginx refuses.
#[track_caller]
pub(super) fn compare(axis: &str, cells: &[Cell]) {
    assert!(AXES.contains(&axis) && !cells.is_empty());
    let faults = faults(axis, cells, &rows(document()));
    assert!(faults.is_empty(), "{faults}");
}

fn faults(axis: &str, cells: &[Cell], rows: &[Row]) -> String {
    let mut faults = String::new();
    for Cell {
        id,
        nginx,
        ours,
        serves_afresh,
    } in cells
    {
        assert!(id.split('/').next() == Some(axis), "{id} is not of {axis}");
        let row = rows.iter().find(|row| row.covers(id));
        let fault = match row {
            None if nginx == ours => None,
            None => Some("differs and is not listed"),
            Some(_) if nginx == ours => Some("agrees and is listed"),
            Some(row) if (&row.nginx, &row.ours) != (nginx, ours) => Some("differs otherwise"),
            Some(_) => None,
        };
        let is_wider = ours.starts_with(SERVED) && !nginx.starts_with(SERVED) && !serves_afresh;
        for fault in fault
            .into_iter()
            .chain(is_wider.then_some("is served by us alone"))
        {
            writeln!(faults, "{id} {fault}: nginx `{nginx}`, ours `{ours}`").unwrap();
        }
    }
    let of_axis = rows
        .iter()
        .filter(|row| row.prefix.split('/').next() == Some(axis));
    for row in of_axis.filter(|row| !cells.iter().any(|cell| row.covers(&cell.id))) {
        writeln!(faults, "the row {} has no cell", row.prefix).unwrap();
    }
    faults
}

#[test]
fn every_row_is_of_an_axis_that_is_compared() {
    let rows = rows(document());
    assert!(!rows.is_empty());
    for row in rows {
        let axis = row.prefix.split('/').next().unwrap();
        assert!(AXES.contains(&axis), "{row:?}");
    }
}

#[test]
fn unlisted_difference_stale_row_and_laxness_are_faults() {
    let cell = |id: &str, nginx: &str, ours: &str| Cell {
        id: id.to_owned(),
        nginx: nginx.to_owned(),
        ours: ours.to_owned(),
        serves_afresh: false,
    };
    let rows = rows("| `keys/a` | 200 | refused | because |\n");
    let judge = |id: &str, nginx: &str, ours: &str| {
        let agreeing = cell("keys/a/x", "200", "refused");
        faults("keys", &[agreeing, cell(id, nginx, ours)], &rows)
    };
    assert_eq!(judge("keys/a/y", "200", "refused"), "");
    assert_eq!(judge("keys/b", "200", "200"), "");
    for (id, nginx, ours, fault) in [
        ("keys/b", "200", "refused", "is not listed"),
        ("keys/ab", "200", "refused", "is not listed"),
        ("keys/a/y", "200", "200", "agrees and is listed"),
        ("keys/a/y", "200", "400", "differs otherwise"),
        ("keys/b", "400", "200", "is served by us alone"),
        ("keys/b", "421", "200", "is served by us alone"),
    ] {
        let told = judge(id, nginx, ours);
        assert!(told.contains(fault), "{id} {nginx} {ours}: {told}");
    }
    assert!(faults("keys", &[], &rows).contains("the row keys/a has no cell"));
    let coalesced = Cell {
        serves_afresh: true,
        ..cell("keys/a", "421", "200")
    };
    let listed = self::rows("| `keys/a` | 421 | 200 | because |\n");
    assert_eq!(faults("keys", &[coalesced], &listed), "");
}
