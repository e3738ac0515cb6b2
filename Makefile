# Two commands do everything on a Debian 12 machine with a Rust toolchain, git and make:
#   make run     make test
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
# For the tour: ONCE=1 ends after it; FIPS=1 gives it in FIPS mode; HTTP_PORT=… and its siblings move it
# (tests/tour/run).
export ONCE FIPS HTTP_PORT HTTPS_PORT ADMIN_PORT ADMIN_HTTPS_PORT STATUS_PORT UPSTREAM_PORT

.PHONY: help install rust build release run test test-unit test-it test-fips test-vendored test-vendored-fips smoke-vendored vendored-tools fips-module-ready managers rotation bench bench-quick bench-instr bench-build bench-scale fmt fmt-check lint deny doc man certs ci clean

help: ## Lists every target.
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## Installs the Debian packages that are missing here; without root it prints the command and stops.
	@.ci/install-packages

rust:
	@command -v $(CARGO) >/dev/null || { echo "There is no '$(CARGO)' here: install a Rust toolchain (https://rustup.rs), then try again." >&2; exit 1; }

build: install rust ## Builds the debug binaries.
	@$(CARGO) build --locked

release: install rust ## Builds the release binaries.
	@$(CARGO) build --locked --release

run: release $(if $(filter 1,$(FIPS)),fips-module-ready) ## Shows both mTLS flows on a real nginx and stays up until Ctrl-C; ONCE=1 ends after the tour, FIPS=1 is in FIPS mode.
	@tests/tour/run

test: install rust managers fips-module-ready ## Runs every test; those about FIPS mode on the module that `make fips` builds.
	@$(CARGO) test --locked

test-unit: install rust managers ## Runs the tests of the library alone.
	@$(CARGO) test --locked --lib

test-it: install rust managers fips-module-ready ## Runs the tests that start the real binary.
	@$(CARGO) test --locked --test it

test-fips: install rust managers fips-module-ready ## Runs every test on the FIPS module, and says which it left out.
	@.ci/test-fips

# OpenSSL of its own, linked statically: built once, which takes minutes. In a folder of its own, so that
# the programs in target/ stay what they are; CI, which is done with those, shares what it built there.
VENDORED_TARGET ?= target/vendored
VENDORED := --features vendored --target-dir $(VENDORED_TARGET)

test-vendored: install rust managers vendored-tools ## Runs every test on a pinned OpenSSL 3.5, linked statically.
	@$(CARGO) test --locked $(VENDORED)

test-vendored-fips: install rust managers vendored-tools fips-module-ready ## The same on the FIPS module, which that OpenSSL loads.
	@.ci/test-fips $(VENDORED)

smoke-vendored: install rust vendored-tools fips-module-ready ## Builds that program and runs the tests of mutual TLS and of FIPS mode.
	@$(CARGO) test --locked $(VENDORED) --test it -- fips client_mtls upstream_mtls

managers: install ## Installs the secret managers that tests start.
	@.ci/install-managers

vendored-tools:
	@.ci/install-packages vendored

# A module that is cached on this machine needs no packages.
fips-module-ready:
	@[ -d "$(FIPS_CACHE)" ] || [ -e "$(FIPS_OUT)/fips.so" ] || .ci/install-packages fips
	@$(MAKE) fips

# How many rotations of each kind, and how often over.
ROTATIONS ?= 1000
REPEAT ?= 1

rotation: install rust managers ## Rotates certificates and key types, client CAs, revocation lists, identity and trust 1,000 times each, and all of it in OpenBao 100 times, at 200 requests and 50 new connections a second; ROTATIONS= and REPEAT= say otherwise.
	@$(CARGO) test --locked --release --no-run --test it
	@for ((run = 1; run <= $(REPEAT); run++)); do \
	  PORTCULLIS_TEST_ROTATIONS=$(ROTATIONS) $(CARGO) test --locked --release --test it -- \
	    --nocapture --test-threads=1 rotate_under_load rotates_under_load_by_a_superset |& grep -v '^gateway: '; done

bench-build: install rust
	@.ci/install-packages bench
	@$(CARGO) build --locked --release --bin portcullis
	@$(CARGO) build --locked --release --bench load --bench scale

bench-quick: bench-build ## Measures requests and handshakes against nginx and HAProxy, within five minutes once built.
	@tests/bench/run quick

bench-instr: bench-build ## Counts instructions per request and handshake, beside those of tests/bench/instructions.json, which it replaces; COMPARE=1 leaves it.
	@tests/bench/instructions $(if $(filter 1,$(COMPARE)),--compare)

bench: bench-build ## The same with more repetitions; docs/performance.md says what is measured.
	@tests/bench/run full

# For example SCALE_ARGS="--parts ssls --ssls 1000": tests/bench/scale/main.rs lists them.
SCALE_ARGS ?=

bench-scale: install rust ## Measures what 50,000 ssls, 100,000 routes, 10,000 idle connections and 10,000 objects of each kind cost; takes half an hour, SCALE_ARGS= chooses parts.
	@$(CARGO) build --locked --release --bin portcullis
	@$(CARGO) bench --locked --bench scale -- $(SCALE_ARGS)

fmt: rust ## Formats the sources.
	@$(CARGO) fmt

fmt-check: rust ## Fails when a source is not formatted.
	@$(CARGO) fmt --check

lint: fmt-check install ## Checks the format and the lints; a warning fails.
	@$(CARGO) clippy --locked --all-targets -- -D warnings

deny: install rust ## Checks bans, licences and sources of all dependencies; advisories where a database is at hand.
	@.ci/cargo-deny

doc: install rust ## Builds the documentation of the code; a warning fails.
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

man: install rust ## Writes the man pages of both programs, a page for each verb, to target/man.
	@rm -rf target/man && mkdir -p target/man
	@PORTCULLIS_MAN_DIR="$(CURDIR)/target/man" $(CARGO) test --locked --lib --quiet -- cli::man::
	@echo "target/man has $$(ls target/man | wc -l) pages; read one with: man -l target/man/a6.1"

certs: install ## Makes the demo certificates anew in certs/out.
	@certs/make-demo

ci: ## Runs what CI runs: install, lint, deny, doc, the tour, the tests without and with the FIPS module, counted instructions, and a smoke test of the static build.
	@.ci/run

clean: ## Removes what was built and what the tour left.
	@rm -rf run certs/out target

-include fips/fips.mk
