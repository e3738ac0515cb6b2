#!/bin/sh
# Checks an OpenSSL source tree against the checksums of its FIPS module's boundary.
#
#   verify-source.sh TREE EXPECTED CHECKERS
#
# EXPECTED is the SHA-256 of the tree's providers/fips-sources.checksums, as OpenSSL published it in
# providers/fips.checksum. Every file of that list is then digested by OpenSSL's own recipe
# (util/fips-checksums.sh: comments and non-FIPS branches removed), and must match. The recipe comes
# with the tree: CHECKERS is the SHA-256 of its two files, one after the other.
set -eu

tree=$1
expected=$2
wanted_checkers=$3
list=providers/fips-sources.checksums
checkers='util/fips-checksums.sh util/lang-compress.pl'

fail() {
    echo "fips: $*" >&2
    exit 1
}

cd "$tree" || fail "there is no source tree at $tree"
[ -f "$list" ] || fail "$tree has no $list: it is no source tree of OpenSSL 3"

found=$(sha256sum <"$list" | cut -d' ' -f1)
[ "$found" = "$expected" ] ||
    fail "$tree is not the validated version's source: $list has SHA-256 $found, expected is $expected"
[ "$(cut -d' ' -f1 providers/fips.checksum)" = "$expected" ] ||
    fail "$tree/providers/fips.checksum does not name its own $list"

# shellcheck disable=SC2086
[ "$(cat $checkers 2>/dev/null | sha256sum | cut -d' ' -f1)" = "$wanted_checkers" ] ||
    fail "$tree is not the validated version's source: $checkers, which check it, are others or missing"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sort "$list" >"$work/expected"
# A few files per call, so that they spread over the cores; one short line is written at once.
sed 's/^[0-9a-f]*  //' "$list" |
    xargs -n 20 -P "$(nproc)" sh ./util/fips-checksums.sh |
    sort >"$work/found"
if ! cmp -s "$work/expected" "$work/found"; then
    diff "$work/expected" "$work/found" | sed -n 's/^[<>] [0-9a-f]*  /fips: differs: /p' | sort -u >&2
    fail "the sources in $tree are not those of the validated module"
fi
echo "fips: $(wc -l <"$list") boundary checksums of the source match"
