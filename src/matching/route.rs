//! The route table: which rule a host and a path lead to, in APISIX's order.
//!
//! This is `radixtree_host_uri`. What else a rule asks (method, address, `vars`) is the caller's
//! `accept`; what the rule is, the caller's `R`.

use std::fmt;

use super::host::HostPattern;
use super::path::PathPattern;
use super::ranked::{Place, Ranked};
use super::tree::{Kept, Tree};

/// Where a route stands among routes on the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// Higher goes first. It never lifts a shorter prefix above a longer one.
    pub priority: i64,
    /// When the route was made; smaller goes first. Unique per route: it is what removal names.
    pub order: u64,
}

/// A route as it is put into the table.
#[derive(Debug, Clone)]
pub struct Entry<R> {
    /// Its precedence and identity.
    pub rank: Rank,
    /// What a match yields; cloned once per host and path, so an `Arc` or a small index.
    pub value: R,
}

/// All routes, found by host and path.
///
/// Order: the exact host, wildcard hosts from the longest suffix on, `*`, then routes without
/// host; in each of these the exact path, then prefixes from the longest on; on one path higher
/// priority, longer original path, smaller order. Persistent: a clone is O(1), and a change copies
/// at most as many nodes as its hosts and paths have bytes.
///
/// ```
/// use portcullis::matching::host::HostPattern;
/// use portcullis::matching::path::PathPattern;
/// use portcullis::matching::route::{Entry, Rank, RouteTable};
///
/// let mut table = RouteTable::default();
/// let hosts = [HostPattern::parse("*.example.com").unwrap()];
/// let paths = [PathPattern::parse("/api/*").unwrap()];
/// let rank = Rank { priority: 0, order: 1 };
/// table.insert(&hosts, &paths, Entry { rank, value: "api" });
/// assert_eq!(table.find("shop.example.com", b"/api/v1", |_| true), Some(&"api"));
/// assert_eq!(table.find("example.com", b"/api/v1", |_| true), None);
/// ```
#[derive(Clone)]
pub struct RouteTable<R> {
    /// By host suffix, written backwards; `*` is the empty suffix.
    hosts: Tree<HostGroup<R>>,
    hostless: PathTree<R>,
    place_count: usize,
}

/// By the path's text up to its first `*`.
type PathTree<R> = Tree<PathGroup<R>>;

/// The routes of one host text. Invariant: in the table at least one of the two is not empty.
#[derive(Debug, Clone)]
struct HostGroup<R> {
    /// For hosts that are this text.
    exact: PathTree<R>,
    /// For hosts that end in this text.
    suffix: PathTree<R>,
}

/// The routes of one path text. Invariant: in the table at least one of the two is not empty.
#[derive(Debug, Clone)]
struct PathGroup<R> {
    /// For paths that are this text.
    exact: Ranked<R>,
    /// For paths that start with this text.
    prefix: Ranked<R>,
}

impl<R: Clone> RouteTable<R> {
    /// Puts a route under each of its paths, at each of its hosts; no host means every host.
    ///
    /// A route that is replaced must be removed first, by the hosts and paths it was put in with.
    pub fn insert(&mut self, hosts: &[HostPattern], paths: &[PathPattern], entry: Entry<R>) {
        let Entry { rank, value } = entry;
        let mut added = 0;
        if hosts.is_empty() {
            added += insert_paths(&mut self.hostless, paths, rank, &value);
        }
        for host in hosts {
            added += self.hosts.edit(&host_key(host), |group| {
                insert_paths(group.side_mut(host), paths, rank, &value)
            });
        }
        self.place_count += added;
    }

    /// Takes out the route of this `order`, put in with these hosts and paths.
    ///
    /// True when it was there. What it was not put in with is left alone.
    pub fn remove(&mut self, hosts: &[HostPattern], paths: &[PathPattern], order: u64) -> bool {
        let mut removed = 0;
        if hosts.is_empty() {
            removed += remove_paths(&mut self.hostless, paths, order);
        }
        for host in hosts {
            self.hosts.edit_or_drop(&host_key(host), |group| {
                removed += remove_paths(group.side_mut(host), paths, order);
                kept(group.exact.is_empty() && group.suffix.is_empty())
            });
        }
        self.place_count = self.place_count.saturating_sub(removed);
        removed > 0
    }
}

impl<R> RouteTable<R> {
    /// The first route in order that covers `host` and `path` and that `accept` takes.
    ///
    /// `host` as [`super::authority::Authority::host`] spells it, empty when the request has none;
    /// `path` as [`super::path::normalise`] leaves it. A refusal by `accept` continues the search,
    /// down to routes without host. No allocation but for more than eight nested prefixes.
    pub fn find(&self, host: &str, path: &[u8], mut accept: impl FnMut(&R) -> bool) -> Option<&R> {
        let groups = self.hosts.prefixes(host.bytes().rev());
        for (used, group) in groups.longest_first() {
            let exact = (used == host.len()).then_some(&group.exact);
            for paths in exact.into_iter().chain([&group.suffix]) {
                let found = find_path(paths, path, &mut accept);
                if found.is_some() {
                    return found;
                }
            }
        }
        find_path(&self.hostless, path, &mut accept)
    }

    /// The suffixes of wildcard hosts that cover hosts that end in `end` and have routes, and the
    /// empty one where a route has no host or `*`.
    pub fn suffixes_over<'a>(&'a self, end: &'a str) -> impl Iterator<Item = &'a str> {
        let hostless = (!self.hostless.is_empty()).then_some("");
        let groups = self.hosts.prefixes(end.bytes().rev());
        let used: Vec<usize> = groups
            .longest_first()
            .filter(|(_, group)| !group.suffix.is_empty())
            .map(|(used, _)| used)
            .collect();
        let suffixes = used.into_iter();
        suffixes
            .filter_map(move |used| end.get(end.len().checked_sub(used)?..))
            .chain(hostless)
    }

    /// How many places are taken: a route counts once per host and path.
    pub fn len(&self) -> usize {
        self.place_count
    }

    /// True when there is no route.
    pub fn is_empty(&self) -> bool {
        self.place_count == 0
    }
}

/// The key of a host in the tree of suffixes.
fn host_key(host: &HostPattern) -> Vec<u8> {
    let text = match host {
        HostPattern::Exact(text) | HostPattern::Suffix(text) => text,
        HostPattern::Any => "",
    };
    text.bytes().rev().collect()
}

fn insert_paths<R: Clone>(
    tree: &mut PathTree<R>,
    paths: &[PathPattern],
    rank: Rank,
    value: &R,
) -> usize {
    let mut added = 0;
    for path in paths {
        let place = Place::new(rank, path);
        added += tree.edit(path.literal(), |group| {
            group.side_mut(path).insert(place, value.clone())
        });
    }
    added
}

fn remove_paths<R: Clone>(tree: &mut PathTree<R>, paths: &[PathPattern], order: u64) -> usize {
    let mut removed = 0;
    for path in paths {
        let tail = path.tail();
        tree.edit_or_drop(path.literal(), |group| {
            removed += group.side_mut(path).remove(order, tail.as_deref());
            kept(group.exact.is_empty() && group.prefix.is_empty())
        });
    }
    removed
}

fn find_path<'t, R>(
    tree: &'t PathTree<R>,
    path: &[u8],
    accept: &mut impl FnMut(&R) -> bool,
) -> Option<&'t R> {
    let groups = tree.prefixes(path.iter().copied());
    for (used, group) in groups.longest_first() {
        let (_, rest) = path.split_at_checked(used)?;
        let exact = rest.is_empty().then_some(&group.exact);
        for ranked in exact.into_iter().chain([&group.prefix]) {
            let found = ranked.find(|place, value| place.covers(rest) && accept(value));
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

fn kept(is_empty: bool) -> Kept {
    match is_empty {
        true => Kept::No,
        false => Kept::Yes,
    }
}

impl<R> HostGroup<R> {
    fn side_mut(&mut self, host: &HostPattern) -> &mut PathTree<R> {
        match host {
            HostPattern::Exact(_) => &mut self.exact,
            HostPattern::Suffix(_) | HostPattern::Any => &mut self.suffix,
        }
    }
}

impl<R> PathGroup<R> {
    fn side_mut(&mut self, path: &PathPattern) -> &mut Ranked<R> {
        match path.is_exact() {
            true => &mut self.exact,
            false => &mut self.prefix,
        }
    }
}

impl<R> Default for HostGroup<R> {
    fn default() -> Self {
        Self {
            exact: Tree::default(),
            suffix: Tree::default(),
        }
    }
}

impl<R> Default for PathGroup<R> {
    fn default() -> Self {
        Self {
            exact: Ranked::default(),
            prefix: Ranked::default(),
        }
    }
}

impl<R> Default for RouteTable<R> {
    fn default() -> Self {
        Self {
            hosts: Tree::default(),
            hostless: Tree::default(),
            place_count: 0,
        }
    }
}

impl<R> fmt::Debug for RouteTable<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RouteTable({} places)", self.place_count)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A route as written, for the table and for the scan that the table must agree with.
    #[derive(Debug, Clone)]
    struct Rule {
        hosts: Vec<String>,
        paths: Vec<String>,
        rank: Rank,
    }

    impl Rule {
        fn new(hosts: &[&str], paths: &[&str], priority: i64, order: u64) -> Self {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            Self {
                hosts: owned(hosts),
                paths: owned(paths),
                rank: Rank { priority, order },
            }
        }

        fn hosts(&self) -> Vec<HostPattern> {
            let parse = |host: &String| HostPattern::parse(host).unwrap();
            self.hosts.iter().map(parse).collect()
        }

        fn paths(&self) -> Vec<PathPattern> {
            let parse = |path: &String| PathPattern::parse(path).unwrap();
            self.paths.iter().map(parse).collect()
        }

        fn put(&self, table: &mut RouteTable<u64>) {
            let entry = Entry {
                rank: self.rank,
                value: self.rank.order,
            };
            table.insert(&self.hosts(), &self.paths(), entry);
        }

        fn take(&self, table: &mut RouteTable<u64>) -> bool {
            table.remove(&self.hosts(), &self.paths(), self.rank.order)
        }

        /// All precedences this rule has for a request, as the specification words them.
        fn claims(&self, host: &str, path: &str) -> Vec<impl Ord + use<>> {
            let mut hosts = Vec::new();
            for text in &self.hosts {
                if HostPattern::parse(text).unwrap().matches(host) {
                    // Exact 0; then suffixes, the longest first; `*` has length 0.
                    let class = u8::from(text.starts_with('*'));
                    hosts.push((class, Reverse(text.trim_start_matches('*').len())));
                }
            }
            if self.hosts.is_empty() {
                hosts.push((2, Reverse(0)));
            }
            let mut claims = Vec::new();
            for text in &self.paths {
                if PathPattern::parse(text).unwrap().matches(path.as_bytes()) {
                    let star = text.find('*');
                    let class = (star.is_some(), Reverse(star));
                    let Rank { priority, order } = self.rank;
                    let rank = (Reverse(priority), Reverse(text.len()), order);
                    claims.extend(hosts.iter().map(|host| (*host, class, rank)));
                }
            }
            claims
        }
    }

    fn table(rules: &[Rule]) -> RouteTable<u64> {
        let mut table = RouteTable::default();
        rules.iter().for_each(|rule| rule.put(&mut table));
        table
    }

    /// The orders of all accepting routes, in the order in which the table offers them, once each.
    fn offered(table: &RouteTable<u64>, host: &str, path: &str) -> Vec<u64> {
        let mut seen = Vec::new();
        let found = table.find(host, path.as_bytes(), |order| {
            if !seen.contains(order) {
                seen.push(*order);
            }
            false
        });
        assert_eq!(found, None);
        seen
    }

    fn scanned(rules: &[Rule], host: &str, path: &str) -> Vec<u64> {
        let best = |rule: &Rule| {
            let claim = rule.claims(host, path).into_iter().min()?;
            Some((claim, rule.rank.order))
        };
        let ranked: BTreeMap<_, _> = rules.iter().filter_map(best).collect();
        ranked.into_values().collect()
    }

    #[test]
    fn wildcards_over_a_name_are_those_with_routes_longest_first() {
        let mut table = RouteTable::default();
        let over = |table: &RouteTable<u64>, end: &str| -> Vec<String> {
            table.suffixes_over(end).map(str::to_owned).collect()
        };
        Rule::new(&["a.x.com", "*.x.com", "*.com", "*.b.x.com"], &["/"], 0, 1).put(&mut table);
        assert_eq!(over(&table, "a.x.com"), [".x.com", ".com"]);
        assert_eq!(over(&table, ".x.com"), [".x.com", ".com"]);
        assert_eq!(over(&table, "x.com"), [".com"]);
        assert!(over(&table, "x.org").is_empty());
        Rule::new(&[], &["/"], 0, 2).put(&mut table);
        assert_eq!(over(&table, "x.org"), [""]);
    }

    #[test]
    fn hosts_go_from_exact_over_longest_suffix_to_none() {
        let table = table(&[
            Rule::new(&[], &["/x"], 99, 1),
            Rule::new(&["*"], &["/x"], 9, 2),
            Rule::new(&["*.com"], &["/x"], 9, 3),
            Rule::new(&["*.a.com"], &["/x"], 9, 4),
            Rule::new(&["x.a.com"], &["/*"], 0, 5),
        ]);
        assert_eq!(offered(&table, "x.a.com", "/x"), [5, 4, 3, 2, 1]);
        assert_eq!(offered(&table, "z.y.a.com", "/x"), [4, 3, 2, 1]);
        assert_eq!(offered(&table, "a.com", "/x"), [3, 2, 1]);
        assert_eq!(offered(&table, "", "/x"), [2, 1]);
        assert_eq!(offered(&table, "x.a.com", "/y"), [5]);
    }

    #[test]
    fn paths_go_from_exact_over_longest_prefix_whatever_the_priority() {
        let table = table(&[
            Rule::new(&[], &["/*"], 99, 1),
            Rule::new(&[], &["/a/*"], 9, 2),
            Rule::new(&[], &["/a/b/*"], 5, 3),
            Rule::new(&[], &["/a/b/c"], 0, 4),
        ]);
        assert_eq!(offered(&table, "h", "/a/b/c"), [4, 3, 2, 1]);
        assert_eq!(offered(&table, "h", "/a/b/"), [3, 2, 1]);
        assert_eq!(offered(&table, "h", "/a/b"), [2, 1]);
        assert_eq!(offered(&table, "h", "/a"), [1]);
    }

    #[test]
    fn one_path_is_ordered_by_priority_then_length_then_age() {
        let table = table(&[
            Rule::new(&[], &["/a/*"], 1, 4),
            Rule::new(&[], &["/a/*"], 1, 3),
            Rule::new(&[], &["/a/*/b"], 1, 5),
            Rule::new(&[], &["/a/*"], 2, 6),
        ]);
        assert_eq!(offered(&table, "h", "/a/x/b"), [6, 5, 3, 4]);
        assert_eq!(offered(&table, "h", "/a/x/c"), [6, 3, 4]);
    }

    #[test]
    fn the_first_accepted_route_is_found() {
        let table = table(&[
            Rule::new(&["a.com"], &["/a"], 0, 1),
            Rule::new(&["a.com"], &["/*"], 0, 2),
            Rule::new(&[], &["/a"], 0, 3),
        ]);
        for (refused, found) in [(0, Some(1)), (1, Some(2)), (2, Some(3)), (3, None)] {
            let accept = |order: &u64| *order > refused;
            assert_eq!(table.find("a.com", b"/a", accept).copied(), found);
        }
    }

    #[test]
    fn a_host_with_a_port_is_stored_and_never_matches() {
        let mut table = table(&[Rule::new(&["a.com:9080"], &["/*"], 0, 1)]);
        assert_eq!(offered(&table, "a.com", "/"), [0; 0]);
        assert!(Rule::new(&["a.com:9080"], &["/*"], 0, 1).take(&mut table));
    }

    #[test]
    fn removal_takes_only_what_was_put_in_with_it() {
        let rules = [
            Rule::new(&["a.com", "*.a.com"], &["/a", "/a/*", "/a/*/b"], 0, 1),
            Rule::new(&["a.com"], &["/a/*"], 0, 2),
        ];
        let mut table = table(&rules);
        assert_eq!(table.len(), 7);
        assert!(!Rule::new(&["a.com"], &["/a/*"], 0, 3).take(&mut table));
        assert!(!Rule::new(&[], &["/a/*"], 0, 1).take(&mut table));
        assert!(Rule::new(&["a.com"], &["/a/*/b"], 0, 1).take(&mut table));
        assert_eq!(offered(&table, "a.com", "/a/x/b"), [1, 2]);
        assert!(rules[0].take(&mut table));
        assert_eq!(offered(&table, "a.com", "/a/x"), [2]);
        assert_eq!(table.len(), 1);
        assert!(rules[1].take(&mut table));
        assert!(table.is_empty() && table.hosts.is_empty());
        assert!(!rules[1].take(&mut table));
    }

    #[test]
    fn a_repeated_host_or_path_takes_one_place() {
        let rule = Rule::new(&["a.com", "A.com"], &["/a", "/a"], 0, 1);
        let mut table = table(std::slice::from_ref(&rule));
        assert_eq!(table.len(), 1);
        rule.put(&mut table);
        assert_eq!(table.len(), 1);
        assert!(rule.take(&mut table));
        assert!(table.is_empty());
    }

    #[test]
    fn many_routes_on_one_path_keep_their_order() {
        // More than a sorted list is used for.
        let rules: Vec<_> = (0..128)
            .map(|order| Rule::new(&[], &["/*"], i64::try_from(order % 3).unwrap(), order))
            .collect();
        let mut table = table(&rules);
        assert_eq!(table.len(), rules.len());
        assert_eq!(offered(&table, "h", "/"), scanned(&rules, "h", "/"));
        let (gone, left) = rules.split_at(rules.len() - 3);
        assert!(gone.iter().all(|rule| rule.take(&mut table)));
        assert_eq!(offered(&table, "h", "/"), scanned(left, "h", "/"));
        assert!(left.iter().all(|rule| rule.take(&mut table)));
        assert!(table.is_empty() && table.hostless.is_empty());
    }

    #[test]
    fn a_change_in_a_clone_leaves_the_original_as_it_was() {
        let rules = [
            Rule::new(&["a.com"], &["/a/*"], 0, 1),
            Rule::new(&["*.com"], &["/a/b"], 0, 2),
            Rule::new(&[], &["/*"], 0, 3),
        ];
        let before = table(&rules);
        let mut after = before.clone();
        Rule::new(&["a.com"], &["/a/*", "/a/b"], 1, 4).put(&mut after);
        rules.iter().for_each(|rule| assert!(rule.take(&mut after)));
        assert_eq!(offered(&before, "a.com", "/a/b"), [1, 2, 3]);
        assert_eq!(offered(&after, "a.com", "/a/b"), [4]);
        assert_eq!((before.len(), after.len()), (3, 2));
    }

    #[test]
    fn a_large_table_agrees_with_a_scan_before_and_after_removals() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let host = |seed: u64| format!("h{}.g{}.com", seed % 50, seed % 7);
        let mut rules = Vec::new();
        for order in 0..20_000 {
            let hosts = match next(4) {
                0 => Vec::new(),
                1 => vec![format!("*.g{}.com", next(9))],
                _ => vec![host(next(400)), host(next(400))],
            };
            let path = format!("/p{}/q{}", next(900), next(20));
            let star = ["", "/*", "*", "/*/end"][usize::try_from(next(4)).unwrap()];
            let rank = Rank {
                priority: i64::try_from(next(3)).unwrap(),
                order,
            };
            let paths = vec![path + star];
            rules.push(Rule { hosts, paths, rank });
        }
        let mut table = table(&rules);
        let mut requests = Vec::new();
        for end in ["", "", "", "/x/end"].repeat(20) {
            let path = format!("/p{}/q{}{end}", next(900), next(20));
            requests.push((host(next(400)), path));
        }
        for removed in [0, 10_000, 9_990] {
            for rule in rules.drain(..removed) {
                assert!(rule.take(&mut table));
            }
            for (host, path) in &requests {
                // Only what could match by its first segment: a scan of all is slow.
                let start = &path[..path[1..].find('/').unwrap() + 2];
                let near = rules.iter().filter(|rule| rule.paths[0].starts_with(start));
                let near: Vec<_> = near.cloned().collect();
                assert_eq!(
                    offered(&table, host, path),
                    scanned(&near, host, path),
                    "{path}"
                );
            }
        }
        assert!(rules.iter().all(|rule| rule.take(&mut table)));
        assert!(table.is_empty() && table.hosts.is_empty() && table.hostless.is_empty());
    }

    fn rule() -> impl Strategy<Value = (Vec<String>, Vec<String>, i64)> {
        let host = r"\*|(\*\.|\*)?([ab]\.){0,2}[ab]";
        let path = r"/(([ab]|ab)?/){0,2}([ab]?\*?|\*/b)|\*";
        (
            proptest::collection::vec(host, 0..3),
            proptest::collection::vec(path, 1..3),
            0_i64..3,
        )
    }

    proptest! {
        #[test]
        fn the_table_offers_what_a_scan_offers_in_the_same_order(
            rules in proptest::collection::vec(rule(), 0..24),
            removed in proptest::collection::vec(any::<bool>(), 24),
            requests in proptest::collection::vec(
                (r"([ab]\.){0,3}[ab]", r"/([ab]{1,2}/){0,3}[ab]?"), 1..12),
        ) {
            let rules: Vec<_> = (0_u64..)
                .zip(rules)
                .map(|(order, (hosts, paths, priority))| Rule {
                    hosts,
                    paths,
                    rank: Rank { priority, order },
                })
                .collect();
            let full = table(&rules);
            let mut rest = full.clone();
            let mut left = Vec::new();
            for (rule, is_removed) in rules.iter().zip(removed) {
                match is_removed {
                    true => prop_assert!(rule.take(&mut rest)),
                    false => left.push(rule.clone()),
                }
            }
            for (host, path) in &requests {
                prop_assert_eq!(offered(&full, host, path), scanned(&rules, host, path));
                prop_assert_eq!(offered(&rest, host, path), scanned(&left, host, path));
            }
            left.iter().for_each(|rule| assert!(rule.take(&mut rest)));
            prop_assert!(rest.is_empty() && rest.hosts.is_empty() && rest.hostless.is_empty());
        }
    }
}
