//! Just enough of Rust to see which paths a source names: tokens, use trees, `super`.

// --- Paths ------------------------------------------------------------------------------------

/// A path that a source names, made whole: `use a::{b, c}` gives two.
#[derive(Debug)]
pub(super) struct NamedPath {
    pub(super) line: usize,
    pub(super) segments: Vec<String>,
}

/// All paths of two segments and more, and all single ones after `use`; those that climb to the root
/// by `super` begin with `crate`, other relative ones are left out.
pub(super) fn paths(tokens: &[Token], file_depth: usize) -> Vec<NamedPath> {
    let mut found = Vec::new();
    // How many inline modules are open, by the braces that opened them.
    let mut braces: Vec<bool> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if token.is("{") {
            let opens_module = at >= 2 && tokens[at - 2].is("mod");
            braces.push(opens_module);
        } else if token.is("}") {
            braces.pop();
        }
        let is_start = token.is_name() && !follows_segment(tokens, at);
        let is_use = at > 0 && (tokens[at - 1].is("use") || tokens[at - 1].is("::"));
        let is_path = tokens.get(at + 1).is_some_and(|next| next.is("::"));
        if is_start && (is_path || is_use) {
            let mut expanded = Vec::new();
            let end = expand(tokens, at, &mut Vec::new(), &mut expanded);
            let depth = file_depth + braces.iter().filter(|opens_module| **opens_module).count();
            let whole = expanded
                .into_iter()
                .filter_map(|segments| from_root(segments, depth));
            found.extend(whole.map(|segments| NamedPath {
                line: token.line,
                segments,
            }));
            at = end.max(at + 1);
        } else {
            at += 1;
        }
    }
    found
}

/// Whether the name at `at` goes on with a path; `::openssl` at the head of one does not.
fn follows_segment(tokens: &[Token], at: usize) -> bool {
    let before = |steps: usize| at.checked_sub(steps).map(|at| &tokens[at]);
    before(1).is_some_and(|token| token.is("::"))
        && before(2).is_some_and(|token| token.is_name() || token.is(">"))
}

/// Reads one use tree from `at` on, below `prefix`, and returns where it ends.
fn expand(
    tokens: &[Token],
    mut at: usize,
    prefix: &mut Vec<String>,
    into: &mut Vec<Vec<String>>,
) -> usize {
    let kept = prefix.len();
    while let Some(token) = tokens.get(at) {
        if token.is("{") {
            at += 1;
            while tokens.get(at).is_some_and(|token| !token.is("}")) {
                if tokens[at].is(",") {
                    at += 1;
                } else {
                    at = expand(tokens, at, prefix, into).max(at + 1);
                }
            }
            prefix.truncate(kept);
            return at + 1;
        }
        if !token.is_name() && !token.is("*") {
            break;
        }
        prefix.push(token.text.clone());
        at += 1;
        // `a::<T>` and `a::(…)` end the path; `a::b`, `a::*` and `a::{` go on.
        let goes_on = tokens.get(at).is_some_and(|next| next.is("::"))
            && tokens
                .get(at + 1)
                .is_some_and(|next| next.is_name() || next.is("*") || next.is("{"));
        if !goes_on {
            break;
        }
        at += 1;
    }
    into.push(prefix.clone());
    prefix.truncate(kept);
    if tokens.get(at).is_some_and(|token| token.is("as")) {
        at += 2;
    }
    at
}

/// The path from the crate's root, where it climbs there from `depth` modules down.
fn from_root(segments: Vec<String>, depth: usize) -> Option<Vec<String>> {
    match segments[0].as_str() {
        "self" | "Self" | "super" => {
            let rest: Vec<String> = segments
                .into_iter()
                .skip_while(|name| name == "self")
                .collect();
            let climbs = rest.iter().take_while(|name| *name == "super").count();
            (climbs >= depth && climbs > 0).then(|| {
                std::iter::once("crate".to_owned())
                    .chain(rest.into_iter().skip(climbs))
                    .collect()
            })
        }
        "portcullis" => Some(
            std::iter::once("crate".to_owned())
                .chain(segments.into_iter().skip(1))
                .collect(),
        ),
        _ => Some(segments),
    }
}

// --- Tokens -----------------------------------------------------------------------------------

/// A name, `::`, or a single mark.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) text: String,
}

impl Token {
    pub(super) fn is(&self, text: &str) -> bool {
        self.text == text
    }

    pub(super) fn is_name(&self) -> bool {
        self.text
            .starts_with(|c: char| c.is_alphabetic() || c == '_')
            && !matches!(
                self.text.as_str(),
                "as" | "use"
                    | "pub"
                    | "mod"
                    | "fn"
                    | "let"
                    | "impl"
                    | "for"
                    | "in"
                    | "dyn"
                    | "mut"
                    | "ref"
            )
    }
}

/// Names, `::` and single marks; comments, strings, characters, lifetimes and numbers are dropped.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        let next = chars.get(at + 1).copied().unwrap_or('\0');
        match chars[at] {
            '/' if next == '/' => at = position(&chars, at, |c| c == '\n'),
            '/' if next == '*' => at = end_of_block_comment(&chars, at),
            '"' => at = end_of_string(&chars, at),
            'r' | 'b' | 'c' if starts_literal(&chars, at) => {
                at = end_of_prefixed_literal(&chars, at);
            }
            '\'' => at = end_of_quote(&chars, at),
            ':' if next == ':' => {
                found.push(Token {
                    line,
                    text: "::".to_owned(),
                });
                at += 2;
            }
            c if c.is_alphanumeric() || c == '_' => {
                at = position(&chars, at, |c| !c.is_alphanumeric() && c != '_');
                if !c.is_numeric() {
                    found.push(Token {
                        line,
                        text: chars[start..at].iter().collect(),
                    });
                }
            }
            c => {
                if !c.is_whitespace() {
                    found.push(Token {
                        line,
                        text: c.to_string(),
                    });
                }
                at += 1;
            }
        }
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn position(chars: &[char], from: usize, is_it: impl Fn(char) -> bool) -> usize {
    chars[from..]
        .iter()
        .position(|c| is_it(*c))
        .map_or(chars.len(), |found| from + found)
}

fn end_of_block_comment(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(chars.len())
}

fn end_of_string(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// Whether `r"`, `r#"`, `b"`, `br#"`, `b'` or `c"` begins here, and not a name.
fn starts_literal(chars: &[char], at: usize) -> bool {
    let prefix = position(chars, at, |c| !matches!(c, 'r' | 'b' | 'c'));
    let after = position(chars, prefix, |c| c != '#');
    match chars.get(after) {
        Some('"') => prefix - at <= 2,
        Some('\'') => after == at + 1 && chars[at] == 'b',
        _ => false,
    }
}

fn end_of_prefixed_literal(chars: &[char], from: usize) -> usize {
    let prefix = position(chars, from, |c| !matches!(c, 'r' | 'b' | 'c'));
    let open = position(chars, prefix, |c| c != '#');
    if chars[open] == '\'' {
        return end_of_quote(chars, open);
    }
    if !chars[from..prefix].contains(&'r') {
        return end_of_string(chars, open);
    }
    let hashes = open - prefix;
    let mut at = open + 1;
    while at < chars.len() {
        let closes =
            chars[at] == '"' && chars[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
        at += 1;
        if closes {
            return at + hashes;
        }
    }
    chars.len()
}

/// Past a character, or past the mark alone when a lifetime follows.
fn end_of_quote(chars: &[char], from: usize) -> usize {
    match (chars.get(from + 1), chars.get(from + 2)) {
        (Some('\\'), _) => {
            (position(chars, (from + 3).min(chars.len()), |c| c == '\'') + 1).min(chars.len())
        }
        (Some(_), Some('\'')) => from + 3,
        _ => position(chars, from + 1, |c| !c.is_alphanumeric() && c != '_'),
    }
}

const TEST_MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

fn is_test_mark(tokens: &[Token]) -> bool {
    tokens.len() >= TEST_MARK.len()
        && tokens
            .iter()
            .zip(TEST_MARK)
            .all(|(token, mark)| token.is(mark))
}

/// The names of the modules in files of their own that `#[cfg(test)]` marks.
pub(super) fn modules_for_tests(tokens: &[Token]) -> Vec<String> {
    let marks = (0..tokens.len()).filter(|at| is_test_mark(&tokens[*at..]));
    marks
        .filter_map(|at| {
            let item = &tokens[at + TEST_MARK.len()..end_of_item(tokens, at + TEST_MARK.len())];
            let at = item.iter().position(|token| token.is("mod"))?;
            let is_file = item.get(at + 2).is_some_and(|token| token.is(";"));
            is_file.then(|| item[at + 1].text.clone())
        })
        .collect()
}

/// Drops each item that `#[cfg(test)]` marks.
pub(super) fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_mark(&tokens[at..]) {
            at = end_of_item(tokens, at + TEST_MARK.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Past the `;` or the closing brace that ends the item at `from`.
fn end_of_item(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, token) in tokens[from..].iter().enumerate() {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && token.is("}") {
                    return from + offset + 1;
                }
            }
            ";" if depth == 0 => return from + offset + 1,
            _ => {}
        }
    }
    tokens.len()
}
