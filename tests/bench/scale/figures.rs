//! Figures, as a growth table and as JSON: a row for each measure, a column for each size.

use std::fmt::Write as _;
use std::time::Duration;

/// What was measured.
#[derive(Default)]
pub(crate) struct Figures(Vec<Figure>);

struct Figure {
    part: &'static str,
    size: usize,
    measure: String,
    value: f64,
}

impl Figures {
    /// Adds one, and says it.
    pub(crate) fn add(&mut self, part: &'static str, size: usize, measure: &str, value: f64) {
        eprintln!("scale: {size} {part}: {measure}: {}", shown(value));
        self.0.push(Figure {
            part,
            size,
            measure: measure.to_owned(),
            value,
        });
    }

    /// Adds the median and the 99th percentile of these, in milliseconds.
    pub(crate) fn add_spread(
        &mut self,
        part: &'static str,
        size: usize,
        measure: &str,
        mut all: Vec<Duration>,
    ) {
        all.sort_unstable();
        let at = |percent: usize| {
            let index = all.len().saturating_sub(1) * percent / 100;
            millis(all.get(index).copied().unwrap_or_default())
        };
        self.add(part, size, &format!("{measure}, p50 ms"), at(50));
        self.add(part, size, &format!("{measure}, p99 ms"), at(99));
    }

    /// A table in Markdown for each part.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for part in distinct(self.0.iter().map(|figure| figure.part)) {
            let own: Vec<_> = self.0.iter().filter(|own| own.part == part).collect();
            let sizes = distinct(own.iter().map(|figure| figure.size));
            let _ = write!(text, "| {part} |");
            for size in &sizes {
                let _ = write!(text, " {size} |");
            }
            let _ = write!(text, "\n|---|{}", "---:|".repeat(sizes.len()));
            for measure in distinct(own.iter().map(|figure| figure.measure.as_str())) {
                let _ = write!(text, "\n| {measure} |");
                for size in &sizes {
                    let found = own
                        .iter()
                        .find(|figure| figure.size == *size && figure.measure == measure);
                    let value = found.map_or_else(|| "-".to_owned(), |figure| shown(figure.value));
                    let _ = write!(text, " {value} |");
                }
            }
            text.push_str("\n\n");
        }
        text
    }

    /// An object for each figure.
    pub(crate) fn json(&self) -> String {
        let all = self.0.iter().map(|figure| {
            serde_json::json!({
                "part": figure.part,
                "size": figure.size,
                "measure": figure.measure,
                "value": figure.value,
            })
        });
        format!("{:#}\n", serde_json::Value::Array(all.collect()))
    }
}

/// As milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// In the order of their first appearance.
fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for one in all {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    seen
}
