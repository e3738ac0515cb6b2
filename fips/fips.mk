# Builds OpenSSL's FIPS module from the validated version's sources, for tests and evaluation.
# Included by the Makefile; works alone as well: make -f fips/fips.mk fips
#
#   make fips                     from the crate that carries the source
#   make fips FIPS_SRC=/path/to/openssl-3.1.2   from an unpacked official source tree (no network)
#   make fips-clean               removes what was built here; the machine's cache stays
#
# Needs, when there is no cached module yet: perl make gcc unifdef openssl (FIPS_PACKAGES).

FIPS_MK := $(abspath $(lastword $(MAKEFILE_LIST)))
FIPS_DIR := $(patsubst %/,%,$(dir $(FIPS_MK)))
FIPS_BUILD := $(FIPS_DIR)/build
FIPS_OUT := $(FIPS_DIR)/out

FIPS_VERSION := 3.1.2
# The SHA-256 of providers/fips-sources.checksums of that version, as its providers/fips.checksum
# states it: the digest of the digests of every source file inside the module's boundary.
FIPS_SOURCE_SHA256 := 89f749c416427df81cbc7fed9e9bfebb65bb201ae4a383b647cc5d774ced0129
# The SHA-256 of what recomputes these digests, util/fips-checksums.sh and util/lang-compress.pl one
# after the other: they are no part of the boundary, and must not vouch for themselves.
FIPS_CHECKERS_SHA256 := 01afca9b041ea0629fba2e14bbd61f69fb8d9b5187348c5e4bcefad1f06843ef
FIPS_SRC ?=
FIPS_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/portcullis/fips-$(FIPS_VERSION)-$(FIPS_SOURCE_SHA256)
FIPS_JOBS ?= $(shell nproc)
# Debian's names of what the build needs; the compiler driver is gcc.
FIPS_PACKAGES := gcc libc6-dev make openssl perl unifdef

# What decides the module's bytes, beside the compiler. A cached module of another recipe is rebuilt.
FIPS_RECIPE := openssl $(FIPS_VERSION) source $(FIPS_SOURCE_SHA256) \
  configure enable-fips install pedantic machine $(shell uname -m)
# The caller's variables and flags must not reach OpenSSL's build.
FIPS_ENV := env -i PATH="$$PATH" HOME="$$HOME" LC_ALL=C

FIPS_FILES := $(FIPS_OUT)/fips.so $(FIPS_OUT)/fipsmodule.cnf $(FIPS_OUT)/functional-build
FIPS_RECIPE_FILES := $(FIPS_MK) $(FIPS_DIR)/cache.sh $(FIPS_DIR)/verify-source.sh \
  $(FIPS_DIR)/fetch/Cargo.toml $(FIPS_DIR)/fetch/Cargo.lock

.PHONY: fips fips-clean fips-packages fips-module fips-tools fips-source

fips: $(FIPS_FILES) $(FIPS_OUT)/openssl.cnf

fips-clean:
	rm -rf "$(FIPS_BUILD)" "$(FIPS_OUT)"

# For the step that installs system packages.
fips-packages:
	@echo $(FIPS_PACKAGES)

$(FIPS_FILES) &: $(FIPS_RECIPE_FILES)
	@$(FIPS_DIR)/cache.sh restore "$(FIPS_CACHE)" "$(FIPS_OUT)" "$(FIPS_RECIPE)" || { \
	  $(MAKE) --no-print-directory -f "$(FIPS_MK)" fips-module && \
	  $(FIPS_DIR)/cache.sh save "$(FIPS_CACHE)" "$(FIPS_OUT)" "$(FIPS_RECIPE)"; }
	@touch $(FIPS_FILES)

# For the openssl command, to try what the module does; the gateway does not read it.
$(FIPS_OUT)/openssl.cnf: $(FIPS_DIR)/openssl.cnf.in | $(FIPS_FILES)
	@sed 's|@DIR@|$(FIPS_OUT)|' "$<" > "$@"

fips-tools:
	@missing=; \
	for tool in gcc make openssl perl unifdef; do \
	  command -v $$tool > /dev/null || missing="$$missing $$tool"; \
	done; \
	perl -MIPC::Cmd -MFindBin -e 1 2> /dev/null || missing="$$missing perl-modules"; \
	[ -z "$$missing" ] || { \
	  echo "fips: missing:$$missing; on Debian: apt-get install $(FIPS_PACKAGES)" >&2; exit 1; }

# Leaves a clean, verified source tree in $(FIPS_BUILD)/openssl.
fips-source: fips-tools
	@rm -rf "$(FIPS_BUILD)" && mkdir -p "$(FIPS_BUILD)"
ifeq ($(FIPS_SRC),)
	cargo vendor --quiet --locked --manifest-path "$(FIPS_DIR)/fetch/Cargo.toml" \
	  "$(FIPS_BUILD)/vendor" > /dev/null
	@mv "$(FIPS_BUILD)/vendor/openssl-src/openssl" "$(FIPS_BUILD)/openssl"
else
	@[ -f "$(FIPS_SRC)/Configure" ] || { \
	  echo "fips: FIPS_SRC=$(FIPS_SRC) is no OpenSSL source tree" >&2; exit 1; }
	@[ ! -e "$(FIPS_SRC)/configdata.pm" ] || { \
	  echo "fips: FIPS_SRC=$(FIPS_SRC) was configured already; unpack it anew" >&2; exit 1; }
	cp -R "$(FIPS_SRC)" "$(FIPS_BUILD)/openssl"
endif
	@chmod -R u+w "$(FIPS_BUILD)/openssl"
	@$(FIPS_DIR)/verify-source.sh "$(FIPS_BUILD)/openssl" $(FIPS_SOURCE_SHA256) $(FIPS_CHECKERS_SHA256)

# Configured and installed as the module's README and Security Policy say: enable-fips, then
# fipsinstall of the same version. Of the installation only the module and its MAC are kept, and
# `activate` is left to whoever loads it.
fips-module: fips-source
	@echo "fips: building the module, about a minute"
	@cd "$(FIPS_BUILD)/openssl" && \
	  run() { $(FIPS_ENV) "$$@" >> ../build.log 2>&1 || { tail -n 20 ../build.log >&2; \
	    echo "fips: the build failed; all of it is in $(FIPS_BUILD)/build.log" >&2; exit 1; }; }; \
	  run perl Configure enable-fips && \
	  run make -s -j$(FIPS_JOBS) build_generated && \
	  run make -s -j$(FIPS_JOBS) providers/fips.so apps/openssl && \
	  mkdir -p "$(FIPS_OUT)" && install -m 0644 providers/fips.so "$(FIPS_OUT)/fips.so" && \
	  run env LD_LIBRARY_PATH=. OPENSSL_CONF=/dev/null ./apps/openssl fipsinstall -pedantic \
	    -module "$(FIPS_OUT)/fips.so" -out ../fipsmodule.cnf
	@grep -v '^activate' "$(FIPS_BUILD)/fipsmodule.cnf" > "$(FIPS_OUT)/fipsmodule.cnf"
	@{ echo "A functional build of the OpenSSL FIPS provider, for tests and evaluation."; \
	   echo "recipe: $(FIPS_RECIPE)"; \
	   echo "compiler: $$(gcc --version | head -n 1)"; \
	   echo "sha256: $$(sha256sum < "$(FIPS_OUT)/fips.so" | cut -d' ' -f1)"; \
	 } > "$(FIPS_OUT)/functional-build"
	@rm -rf "$(FIPS_BUILD)"
