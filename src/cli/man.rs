//! The man pages, made from the definitions of the arguments: `make man` writes them.
//!
//! A test like that of `docs/failures.md`, so that what makes the pages is no part of the programs.

use std::fs;
use std::path::Path;

use clap::Command;

use super::{client, server};

/// Where `make man` wants the pages.
const FOLDER: &str = "PORTCULLIS_MAN_DIR";

/// A command and all below it that are shown, each with the name of its page.
fn pages(command: &Command) -> Vec<(String, Command)> {
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    let name = command.get_display_name().unwrap_or(command.get_name());
    let mut all = vec![(format!("{name}.1"), command.clone())];
    let below = command.get_subcommands().filter(|it| !it.is_hide_set());
    all.extend(below.flat_map(pages));
    all
}

fn write(folder: &Path) {
    for command in [server::command(), client::command()] {
        clap_mangen::generate_to(command, folder).unwrap();
    }
}

#[test]
fn every_command_has_a_page_that_says_what_it_does() {
    let temporary = tempfile::TempDir::new().unwrap();
    let wanted = std::env::var_os(FOLDER);
    let folder = wanted.as_ref().map_or(temporary.path(), Path::new);
    write(folder);
    let mut names = Vec::new();
    for command in [server::command(), client::command()] {
        for (name, command) in pages(&command) {
            let page = fs::read_to_string(folder.join(&name)).unwrap();
            assert!(page.contains("\n.SH NAME\n"), "{name}");
            assert!(command.get_about().is_some(), "{name} has no sentence");
            let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
            for arg in shown.filter(|arg| arg.get_id() != "help") {
                assert!(
                    arg.get_help().is_some(),
                    "{name}: {} has none",
                    arg.get_id()
                );
            }
            names.push(name);
        }
    }
    for name in [
        "portcullis.1",
        "portcullis-fips-verify.1",
        "a6.1",
        "a6-ssl-create.1",
    ] {
        assert!(
            names.iter().any(|known| known == name),
            "{name} in {names:?}"
        );
    }
    let made = fs::read_dir(folder).unwrap().count();
    assert_eq!(made, names.len(), "pages of commands that are hidden");
}
