//! `a6 completion`, and what its scripts call: `a6 __complete WORDS…`, one candidate a line.
//!
//! Verbs and flags come from the arguments' own definition, ids from the server, briefly.

use std::time::Duration;

use clap::{Args as _, CommandFactory as _};
use serde_json::Value;

use super::api;
use super::args::{Args, Globals};
use super::envelope::Item;
use super::failed::Failed;
use super::settings::{Contexts, Settings};
use super::usage::exactly_one;
use crate::failure::Reason;
use crate::resource::Kind;

/// How long the server may take before there are no ids.
const PATIENCE: Duration = Duration::from_secs(2);

// Candidates are taken as they are: `compgen -W` would run a `$(…)` in one. Readline takes `:` and
// `=` for ends of words, so that the words come from the line, and what stands before the last of
// those is not completed again.
const BASH: &str = r#"# bash completion for a6: source <(a6 completion bash)
_a6() {
    local line=${COMP_LINE:0:COMP_POINT} cur candidate breaks=${COMP_WORDBREAKS//[^:=]/} kept=
    local -a words
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    cur=${words[${#words[@]} - 1]}
    [[ -n $breaks ]] && kept=${cur%"${cur##*[$breaks]}"}
    COMPREPLY=()
    while IFS= read -r candidate; do
        [[ -z $candidate ]] || COMPREPLY+=("${candidate#"$kept"}")
    done < <(a6 __complete -- "${words[@]:1}" 2>/dev/null)
}
complete -o default -F _a6 a6"#;

// The file `_a6` of a function path is read at the first completion, which it then has to make.
const ZSH: &str = r#"#compdef a6
# zsh completion for a6: source <(a6 completion zsh), or as the file _a6 in a folder of $fpath
_a6() {
    local -a candidates
    candidates=("${(@f)$(a6 __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if (( $#candidates )) && [[ -n ${candidates[1]} ]]; then
        compadd -- "${candidates[@]}"
    else
        _files
    fi
}
if [[ ${funcstack[1]} == _a6 ]]; then
    _a6
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _a6 a6
fi"#;

// Files are offered where nothing else is found.
const FISH: &str = r#"# fish completion for a6: a6 completion fish | source
function __a6_find
    set -l words (commandline -opc) (commandline -ct)
    set -g __a6_found (a6 __complete -- $words[2..-1] 2>/dev/null)
    set -q __a6_found[1]
end
complete -c a6 -n __a6_find -f -a '$__a6_found'"#;

const POWERSHELL: &str = r#"# PowerShell completion for a6: a6 completion powershell | Out-String | Invoke-Expression
Register-ArgumentCompleter -Native -CommandName a6 -ScriptBlock {
    param($word, $ast, $position)
    $words = @($ast.CommandElements | Select-Object -Skip 1 | ForEach-Object { $_.ToString() })
    if ($word -eq '') { $words += '""' }
    a6 __complete -- @words 2>$null | Where-Object { $_ -like "$word*" } |
        ForEach-Object { [System.Management.Automation.CompletionResult]::new($_) }
}"#;

/// The script of a shell.
///
/// # Errors
/// No shell, several, or one that is not known.
pub(super) fn script(shell: &[String]) -> Result<String, Failed> {
    let script = match exactly_one(shell)? {
        "bash" => BASH,
        "zsh" => ZSH,
        "fish" => FISH,
        "powershell" => POWERSHELL,
        other => {
            return Err(Failed::new(format!(
                "invalid argument {other:?} for \"a6 completion\""
            )));
        }
    };
    Ok(script.to_owned())
}

/// What the last of these words may become, a candidate a line. Never fails: no candidates then.
pub(super) fn complete(words: &[String]) -> String {
    let mut words: Vec<String> = words.iter().map(|word| unquoted(word)).collect();
    let last = words.pop().unwrap_or_default();
    let mut candidates = match last.split_once('=') {
        Some((flag, _)) if flag.starts_with("--") => {
            let values = values(flag).into_iter();
            values.map(|value| format!("{flag}={value}")).collect()
        }
        _ => candidates(&words, &last),
    };
    candidates.retain(|candidate| candidate.starts_with(&last) && is_one_word(candidate));
    candidates.dedup();
    candidates.join("\n")
}

/// A word without the quotes around it, which shells leave there; the last one may lack its end.
fn unquoted(word: &str) -> String {
    word.trim_matches(['"', '\'']).to_owned()
}

/// Whether a shell takes a candidate for one plain word: what a server calls its objects ends up on
/// a command line.
fn is_one_word(candidate: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._/:=@%+,".contains(c);
    !candidate.is_empty() && candidate.chars().all(is_plain)
}

fn candidates(before: &[String], last: &str) -> Vec<String> {
    let mut command = Args::command();
    command.build();
    let mut node = &command;
    let mut path = Vec::new();
    let mut given = 0;
    let mut words = before.iter();
    while let Some(word) = words.next() {
        if word.starts_with('-') {
            if takes_value(node, word) && words.next().is_none() {
                return values(word);
            }
        } else if let Some(inner) = node.find_subcommand(word) {
            node = inner;
            path.push(inner.get_name());
        } else {
            given += 1;
        }
    }
    if last.starts_with('-') {
        return flags(node);
    }
    let verbs = node.get_subcommands().filter(|inner| !inner.is_hide_set());
    let verbs: Vec<String> = verbs.map(|inner| inner.get_name().to_owned()).collect();
    if !verbs.is_empty() {
        return verbs;
    }
    if given == 0 {
        arguments(&path, before)
    } else {
        Vec::new()
    }
}

fn flags(node: &clap::Command) -> Vec<String> {
    let shown = node.get_arguments().filter(|arg| !arg.is_hide_set());
    let mut flags: Vec<String> = shown
        .filter_map(|arg| arg.get_long().map(|long| format!("--{long}")))
        .collect();
    flags.sort();
    flags
}

fn takes_value(node: &clap::Command, word: &str) -> bool {
    let name = word.trim_start_matches('-');
    node.get_arguments().any(|arg| {
        let is_meant = arg.get_long() == Some(name)
            || (name.chars().count() == 1 && arg.get_short() == name.chars().next());
        is_meant && arg.get_action().takes_values()
    })
}

/// What may follow a flag, beside files, which the shell knows.
fn values(flag: &str) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match flag {
        "-o" | "--output" => words(&["json", "yaml", "table"]),
        "--context" => contexts(),
        "--kind" => words(&Kind::ALL.map(Kind::singular)),
        "--action" => words(&["create", "update", "delete", "refresh"]),
        "-t" | "--type" => words(&["error", "access", "all"]),
        "--method" => words(&["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        _ => Vec::new(),
    }
}

fn arguments(path: &[&str], before: &[String]) -> Vec<String> {
    let shells = ["bash", "zsh", "fish", "powershell"];
    match path {
        ["completion"] => shells.map(str::to_owned).into(),
        ["explain"] => Reason::ALL.map(|reason| reason.code().to_owned()).into(),
        ["context", "use" | "delete"] => contexts(),
        [group, "get" | "update" | "delete" | "health"] => {
            let kind = Kind::ALL.into_iter().find(|kind| kind.singular() == *group);
            kind.map(|kind| ids(kind, before)).unwrap_or_default()
        }
        ["debug", "trace"] | ["probe", "route"] => ids(Kind::Route, before),
        ["probe", "upstream"] => ids(Kind::Upstream, before),
        ["probe", "service"] => ids(Kind::Service, before),
        ["probe", "listener"] => names(before),
        _ => Vec::new(),
    }
}

fn contexts() -> Vec<String> {
    let contexts = Contexts::load().ok();
    let names = contexts.iter().flat_map(Contexts::all);
    names.map(|(name, _)| name.to_owned()).collect()
}

/// The ids of a kind, with the flags of the line being completed.
fn ids(kind: Kind, before: &[String]) -> Vec<String> {
    let items = items(kind, before).into_iter();
    items.map(|item| item.id).collect()
}

/// The names that ssls have, but for wildcards.
fn names(before: &[String]) -> Vec<String> {
    let mut names = Vec::new();
    for ssl in items(Kind::Ssl, before) {
        let sni = ssl.value.get("sni").into_iter();
        let snis = ssl.value.get("snis").and_then(Value::as_array);
        let all = sni.chain(snis.into_iter().flatten());
        let all = all.filter_map(Value::as_str).map(str::to_owned);
        names.extend(all.filter(|name| !name.contains('*')));
    }
    names.sort();
    names
}

/// The objects of a kind, with the flags of the line being completed.
fn items(kind: Kind, before: &[String]) -> Vec<Item> {
    let globals = globals(before);
    let ask = async |network: &api::Network| {
        let settings = Settings::resolve(&globals)?;
        let api = network.api(&settings, false)?;
        let asked = tokio::time::timeout(PATIENCE, api.all(kind, &[])).await;
        asked.unwrap_or_else(|_elapsed| Ok(Vec::new()))
    };
    api::run(ask).unwrap_or_default()
}

/// The global flags among words that are no complete command line yet.
fn globals(words: &[String]) -> Globals {
    let words_of_verbs = clap::Arg::new("words").num_args(0..);
    let command = clap::Command::new("a6")
        .ignore_errors(true)
        .arg(words_of_verbs);
    Globals::augment_args(command.no_binary_name(true))
        .try_get_matches_from(words)
        .ok()
        .and_then(|matches| <Globals as clap::FromArgMatches>::from_arg_matches(&matches).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        complete(&words).lines().map(str::to_owned).collect()
    }

    #[test]
    fn groups_verbs_flags_and_values_are_completed() {
        let groups = completed("");
        assert!(groups.contains(&"ssl".to_owned()) && groups.contains(&"version".to_owned()));
        assert!(!groups.contains(&"__complete".to_owned()));
        assert_eq!(completed("ups"), ["upstream"]);
        assert_eq!(completed("ssl l"), ["list"]);
        assert_eq!(completed("-o json ssl ge"), ["get"]);
        assert_eq!(completed("route list --ur"), ["--uri"]);
        assert!(completed("ssl list --ur").is_empty());
        assert_eq!(completed("ssl list -o y"), ["yaml"]);
        assert_eq!(completed("completion z"), ["zsh"]);
        assert_eq!(completed("explain sni_unk"), ["sni_unknown"]);
        assert_eq!(
            completed("audit list --kind s"),
            ["secret", "ssl", "service"]
        );
        assert_eq!(completed("audit ls --action up"), ["update"]);
        assert_eq!(completed("debug logs -t a"), ["access", "all"]);
        assert_eq!(
            completed("debug trace r --method P"),
            ["POST", "PUT", "PATCH"]
        );
        assert!(completed("explain sni_unknown x").is_empty());
        assert_eq!(completed("route list --output=j"), ["--output=json"]);
        assert_eq!(completed("route list --page=1"), [""; 0]);
        assert_eq!(completed("completion \"z"), ["zsh"]);
    }

    #[test]
    fn candidates_are_words_that_no_shell_acts_on() {
        for word in ["vault/a", "a-b_c.d", "http://a:1"] {
            assert!(is_one_word(word), "{word}");
        }
        for word in [
            "",
            "$(id)",
            "`id`",
            "a b",
            "a;b",
            "a|b",
            "*",
            "a\u{1b}[2J",
            "~root",
            "a'b",
        ] {
            assert!(!is_one_word(word), "{word}");
        }
    }

    #[test]
    fn globals_are_found_on_an_unfinished_line() {
        let words = ["ssl", "--server", "http://a", "get", "--api-key", "k"];
        let globals = globals(&words.map(str::to_owned));
        assert_eq!(globals.server.as_deref(), Some("http://a"));
        assert_eq!(globals.api_key.as_deref(), Some("k"));
    }

    #[test]
    fn every_shell_has_a_script_and_others_are_refused() {
        for shell in ["bash", "zsh", "fish", "powershell"] {
            let script = script(&[shell.to_owned()]).unwrap();
            assert!(script.contains("a6 __complete"), "{shell}");
        }
        let told = script(&["tcsh".to_owned()]).unwrap_err().to_string();
        assert_eq!(told, "invalid argument \"tcsh\" for \"a6 completion\"");
    }
}
