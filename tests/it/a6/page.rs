//! `docs/a6.md`, run: each command of the page against a real gateway, its output compared.

use crate::support::a6::A6;
use crate::support::gateway::{ADMIN_KEY, Gateway};
use crate::support::origin::{Nginx, Origin};
use crate::support::pki::Ca;
use crate::support::upstream::NAME;

const PAGE: &str = include_str!("../../../docs/a6.md");
/// Stands for any text in a line, and alone for any lines.
const MASK: char = '…';

/// A command of the page and what it prints.
#[derive(Debug)]
struct Step {
    command: String,
    expected: Vec<String>,
}

/// The commands of all blocks, here-documents and all, in order.
fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_inside = false;
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        match line.strip_prefix("$ ") {
            _ if line.starts_with("```") => is_inside = line == "```console",
            Some(command) if is_inside => {
                let mut command = command.to_owned();
                if command.contains("<<'EOF'") {
                    while !command.ends_with("\nEOF") {
                        command.push('\n');
                        command.push_str(lines.next().expect("the here-document ends"));
                    }
                }
                let expected = Vec::new();
                steps.push(Step { command, expected });
            }
            None if is_inside => {
                let step = steps.last_mut().expect("a block begins with a command");
                step.expected.push(line.to_owned());
            }
            _ => {}
        }
    }
    steps
}

/// Whether lines are what the page shows.
fn fits(expected: &[String], told: &[&str]) -> bool {
    match (expected.split_first(), told.split_first()) {
        (None, None) => true,
        (Some((mask, rest)), _) if mask.chars().eq([MASK]) => {
            (0..=told.len()).any(|skipped| fits(rest, &told[skipped..]))
        }
        (Some((line, rest)), Some((first, more))) => line_fits(line, first) && fits(rest, more),
        _ => false,
    }
}

fn line_fits(expected: &str, told: &str) -> bool {
    let mut parts = expected.split(MASK);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = told.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn page_is_what_happens() {
    let gateway = Gateway::start();
    let a6 = A6::new().env("API_KEY", ADMIN_KEY);
    let ca = Ca::root("Upstream CA");
    ca.write(a6.folder(), "upstream-ca");
    ca.client("gateway").write(a6.folder(), "gateway");
    a6.write("gateway.log", "one\ntwo\n");
    let origin = Origin::nginx(&Nginx::mutual(ca.server(NAME), ca.pem()));
    let ports = [
        (9180, gateway.port("admin")),
        (9443, gateway.https_port()),
        (9091, gateway.port("status")),
        (8443, origin.port()),
    ];
    let address = |port: u16| format!("127.0.0.1:{port}");
    for Step { command, expected } in steps() {
        let mut script = command.clone();
        for (shown, real) in ports {
            script = script.replace(&address(shown), &address(real));
        }
        let ran = a6.bash(&format!("{{ {script}\n}} 2>&1"));
        let mut told = ran.stdout;
        for (shown, real) in ports {
            told = told.replace(&address(real), &address(shown));
        }
        let code = format!("(exit code {})", ran.status.code().unwrap_or(-1));
        let mut lines: Vec<&str> = told.lines().collect();
        if !ran.status.success() {
            lines.push(&code);
        }
        assert!(
            fits(&expected, &lines),
            "$ {command}\nthe page says:\n{}\nand it says:\n{}",
            expected.join("\n"),
            lines.join("\n")
        );
    }
}

#[test]
fn every_verb_is_on_the_page() {
    let a6 = A6::new();
    // `  verb    What it does`, under a heading of its own.
    let below = |words: &[&str]| -> Vec<String> {
        let help = a6.run(&[words, &["--help"]].concat()).stdout;
        let (_, list) = help.split_once("Commands:\n").unwrap_or_default();
        let list = list.lines().take_while(|line| line.starts_with("  "));
        let names = list.filter(|line| !line.starts_with("   "));
        names
            .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
            .collect()
    };
    let commands: Vec<String> = steps().into_iter().map(|step| step.command).collect();
    let mut count = 0;
    for group in below(&[]) {
        let verbs = below(&[&group]);
        let shown = match verbs.as_slice() {
            [] => vec![format!("a6 {group}")],
            verbs => verbs
                .iter()
                .map(|verb| format!("a6 {group} {verb}"))
                .collect(),
        };
        for verb in shown {
            count += 1;
            let is_shown = commands.iter().any(|command| command.starts_with(&verb));
            assert!(is_shown, "{verb}");
        }
    }
    assert!(count > 45, "{count} verbs were found");
}

#[test]
fn mask_stands_for_what_differs_and_for_nothing_else() {
    let expected = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (page, told, fit) in [
        (&["a"][..], &["a"][..], true),
        (&["a"], &["a", "b"], false),
        (&["a", "b"], &["a"], false),
        (&["a…c"], &["abbc"], true),
        (&["a…c…e"], &["abcdf"], false),
        (&["a…c"], &["ac"], true),
        (&["…", "b"], &["x", "y", "b"], true),
        (&["…", "b"], &["b"], true),
        (&["…"], &[], true),
        (&["a", "…"], &["b"], false),
    ] {
        assert_eq!(fits(&expected(page), told), fit, "{page:?} {told:?}");
    }
}
