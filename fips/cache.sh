#!/bin/sh
# Keeps a built FIPS module for the next clone on the same machine.
#
#   cache.sh restore CACHE OUT RECIPE   fails unless CACHE holds a whole module of RECIPE
#   cache.sh save    CACHE OUT RECIPE
#
# CACHE holds the files below, their SHA-256 sums, and the recipe they were made by.
set -eu

verb=$1
cache=$2
out=$3
recipe=$4
files='fips.so fipsmodule.cnf functional-build'

restore() {
    [ -d "$cache" ] || exit 1
    if [ "$(cat "$cache/recipe" 2>/dev/null)" != "$recipe" ] ||
        ! (cd "$cache" && sha256sum --check --strict --status SHA256SUMS) 2>/dev/null; then
        echo "fips: the module in $cache is damaged or of another recipe; building it again" >&2
        exit 1
    fi
    mkdir -p "$out"
    for file in $files; do
        install -m 0644 "$cache/$file" "$out/$file"
    done
    echo "fips: module taken from $cache"
}

save() {
    # A module that cannot be cached is still a module.
    mkdir -p "$(dirname "$cache")" 2>/dev/null || {
        echo "fips: $cache is not writable, so the next clone builds the module again" >&2
        exit 0
    }
    fresh=$(mktemp -d "$cache.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    for file in $files; do
        install -m 0644 "$out/$file" "$fresh/$file"
    done
    # shellcheck disable=SC2086
    (cd "$fresh" && sha256sum $files >SHA256SUMS)
    echo "$recipe" >"$fresh/recipe"
    rm -rf "$cache"
    # Somebody else may have been faster with the same module.
    mv -T "$fresh" "$cache" 2>/dev/null || true
    echo "fips: module kept in $cache"
}

case $verb in
restore | save) "$verb" ;;
*)
    echo "usage: cache.sh restore|save CACHE OUT RECIPE" >&2
    exit 2
    ;;
esac
