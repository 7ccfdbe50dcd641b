# The few commands people type. `make` alone lists them.
# Everything needs the Rust toolchain only; a step that needs more is skipped loudly where that is missing.

CARGO ?= cargo
LOCKED := --locked
# One place for all that is built; the fuzz workspace would have its own.
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# Seconds for each target of `make fuzz`, and of the short round in `make test`.
FUZZ_SECONDS ?= 60
# 0: drawn anew each time.
FUZZ_SEED ?= 0
FUZZ_TARGETS := fleet_file bundle image lookup lease_ops lease_memory handover report trace

# $(call heading,text): a line that is easy to find in a long log.
heading = @printf '\n== %s ==\n' "$(1)"
# $(call skip,step,reason): loud, and not a failure.
skip = printf '!! SKIPPED %s: %s\n' "$(1)" "$(2)"

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test bench fuzz check fmt clippy doc unit replay bench-smoke fuzz-smoke loom shuttle miri deny

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a small fleet leases ports and connects, on this machine; FLEET=file takes another fleet
	$(CARGO) run $(LOCKED) --release -p aegis-net --example demo -- $(if $(FLEET),--fleet '$(FLEET)')

test: check unit replay bench-smoke fuzz-smoke loom shuttle miri deny ## everything below but `bench` and `demo`
	$(call heading,all tests passed)

check: fmt clippy doc ## formatting, lints, documentation

fmt:
	$(call heading,format)
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check

clippy:
	$(call heading,lints)
	$(CARGO) clippy $(LOCKED) --workspace --all-targets --all-features -- -D warnings
	$(CARGO) clippy $(LOCKED) --manifest-path fuzz/Cargo.toml --all-targets -- -D warnings

doc:
	$(call heading,documentation)
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(LOCKED) --workspace --all-features --no-deps

unit: ## unit tests, integration tests, examples in the documentation
	$(call heading,tests)
	$(CARGO) test $(LOCKED) --workspace --all-features

replay: ## every fuzz corpus, without a fuzzer
	$(call heading,fuzz corpora replayed)
	$(CARGO) test $(LOCKED) --manifest-path fuzz/Cargo.toml

bench: ## speed and memory, next to others in the same run
	$(CARGO) run $(LOCKED) --release -p aegis-benches

# Shows that they run; a test asserts no times.
bench-smoke:
	$(call heading,quick benchmarks)
	$(CARGO) run $(LOCKED) --release -p aegis-benches -- --quick

fuzz: ## attack every parser and table for FUZZ_SECONDS each
	@if ! $(CARGO) fuzz --version >/dev/null 2>&1; then \
	  $(call skip,fuzzing,no cargo-fuzz; cargo install cargo-fuzz); \
	elif ! $(CARGO) +nightly --version >/dev/null 2>&1; then \
	  $(call skip,fuzzing,no nightly toolchain; rustup toolchain install nightly); \
	else \
	  for target in $(FUZZ_TARGETS); do \
	    echo "fuzz $$target for $(FUZZ_SECONDS) s"; \
	    $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=20 \
	      -seed=$(FUZZ_SEED) -verbosity=0 -print_final_stats=1 || exit 1; \
	  done; \
	fi

# The same inputs wherever it runs, so that what it finds is found again; `make fuzz` draws new ones.
fuzz-smoke:
	$(call heading,short fuzzing)
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=10 FUZZ_SEED=1

# Every interleaving of a few threads: tests with `loom` in their name, in files that say cfg(loom).
loom:
	$(call heading,loom)
	@if grep -rqs 'loom::model' aegis-core/src; then \
	  RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/loom \
	    $(CARGO) test $(LOCKED) -p aegis-core --release --lib loom; \
	else $(call skip,loom,there are no loom tests); fi

# Some interleavings of whole threads, drawn at random; AEGIS_SHUTTLE_RUNS=1000000 for a long run.
shuttle:
	$(call heading,shuttle)
	RUSTFLAGS='--cfg shuttle' CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/shuttle \
	  $(CARGO) test $(LOCKED) -p aegis-core --release --lib shuttle

# The pure part with atomics and indices, and the file with the pointers into shared memory. The large model tests take
# hours under Miri.
miri:
	$(call heading,Miri)
	@if $(CARGO) +nightly miri --version >/dev/null 2>&1; then \
	  PROPTEST_CASES=4 MIRIFLAGS=-Zmiri-disable-isolation \
	    $(CARGO) +nightly miri test $(LOCKED) -p aegis-core --lib -- lease && \
	  MIRIFLAGS=-Zmiri-disable-isolation \
	    $(CARGO) +nightly miri test $(LOCKED) -p aegis-net --lib -- shared; \
	else $(call skip,Miri,no such component; rustup component add --toolchain nightly miri); fi

deny:
	$(call heading,dependencies)
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then \
	  $(call skip,cargo-deny,it is not installed; cargo install --locked cargo-deny); \
	else \
	  $(CARGO) deny --all-features $(LOCKED) check bans licenses sources || exit 1; \
	  if $(CARGO) deny $(LOCKED) fetch db; then \
	    $(CARGO) deny --all-features $(LOCKED) check --disable-fetch advisories; \
	  else $(call skip,advisories,the advisory database cannot be fetched here); fi; \
	fi
