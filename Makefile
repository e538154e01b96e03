# vswitch. `make` lists the targets.

SHELL := /bin/sh
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
UNITDIR ?= $(PREFIX)/lib/systemd/system

# One target directory for everything below; rustup's proxies may not be in the PATH yet.
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin:/usr/sbin:/sbin
RELEASE := $(CARGO_TARGET_DIR)/release
DEBUG := $(CARGO_TARGET_DIR)/debug

# As root the suites make their own namespaces; anybody else runs them in a user namespace.
LAB := $(if $(filter 0,$(shell id -u)),,packaging/lab)
FUZZ_SECONDS ?= 60
SECONDS ?= 600

# Traffic is tested with each engine that works here, and with all other tests with the one that a daemon chooses.
TRAFFIC := traffic kill_switches vxlan_interop offloads
ALL_TRAFFIC := $(patsubst %,binary(%) |,$(TRAFFIC)) none()

.PHONY: help build demo test docker-test lint no-std audit bench bench-full bench-publish bench-cluster bench-docker bench-fairness soak fuzz install uninstall clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## build vswitchd and vswitchctl for use
	@packaging/setup build
	$(CARGO) build --locked --release -p vswitch -p vswitch-ctl

demo: ## replay the guide: containers, networks and pings, about a minute
	@packaging/setup demo
	@$(CARGO) build --locked --release -p vswitch -p vswitch-ctl
	@tests/demo/run $(RELEASE)

# Built outside of the lab, which has no network, and run inside. Binaries and tests in one go: built apart, they would
# agree on different features of their dependencies and build those twice. An engine needs root.
test: ## run every test
	@packaging/setup test $(if $(LAB),,docker)
	@$(if $(LAB),$(LAB) true)
	$(CARGO) build --locked --workspace --bins --tests
	@if $(CARGO) nextest --version >/dev/null 2>&1; then $(MAKE) --no-print-directory test-nextest; \
	else $(MAKE) --no-print-directory test-cargo; fi

.PHONY: test-nextest test-cargo
test-nextest:
	$(CARGO) test --locked --workspace --doc
	@engines=$$($(DEBUG)/engines) || exit 1; for engine in $$engines; do \
	  echo "traffic with $$engine"; \
	  VSWITCH_ENGINE=$$engine $(LAB) $(CARGO) nextest run --locked --offline --workspace \
	    -E '$(ALL_TRAFFIC)' $(if $(CI),--profile ci) || exit 1; \
	done
	$(LAB) $(CARGO) nextest run --locked --offline --workspace $(if $(CI),--profile ci) \
	  $(if $(LAB),-E 'not binary(docker)')

test-cargo:
	@engines=$$($(DEBUG)/engines) || exit 1; for engine in $$engines; do \
	  echo "traffic with $$engine"; \
	  VSWITCH_ENGINE=$$engine $(LAB) $(CARGO) test --locked --offline --workspace \
	    $(addprefix --test ,$(TRAFFIC)) || exit 1; \
	done
	$(LAB) $(CARGO) test --locked --offline --workspace $(if $(LAB),-- --skip with_docker)

docker-test: ## run only the tests with real Docker engines (root)
	@packaging/setup test docker
	$(CARGO) build --locked --workspace --bins --tests
	$(CARGO) test --locked --workspace --test docker

lint: ## formatting, clippy and documentation, warnings denied
	@packaging/setup lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) metadata --locked --format-version 1 --manifest-path tests/fuzz/Cargo.toml >/dev/null
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --locked --workspace --no-deps

# A target without an operating system would reject any use of std that #![no_std] let through by a dependency.
no-std: ## check that the vocabulary needs no operating system
	@packaging/setup build
	@if [ -d "$$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown" ]; then \
	  $(CARGO) check --locked -p vswitch-proto --target wasm32-unknown-unknown; \
	else \
	  grep -qx '#!\[no_std\]' proto/src/lib.rs && \
	  echo "wasm32 check skipped, the target is not installed; proto is #![no_std], so the compiler rejects std in it anyway"; \
	fi

audit: ## licences, sources and known vulnerabilities of the dependencies (needs the internet)
	@packaging/setup audit
	$(CARGO) deny --locked check

bench: ## measure beside the kernel's bridge, a bare forwarder and other switches (6 minutes)
	@packaging/setup bench
	$(CARGO) build --locked --release -p vswitch -p vswitch-ctl -p vswitch-perf
	$(LAB) $(RELEASE)/vswitch-perf run --suite quick --out bench-out $(BENCH_ARGS)

bench-full: ## the same with every figure
	@packaging/setup bench
	$(CARGO) build --locked --release -p vswitch -p vswitch-ctl -p vswitch-perf
	$(LAB) $(RELEASE)/vswitch-perf run --suite full --out bench-out $(BENCH_ARGS)

bench-publish: ## put the tables and charts of the last bench-full into docs/performance.md
	$(RELEASE)/vswitch-perf publish bench-out docs/performance.md
	cp $(foreach chart,tcp-one rate64 rtt-mean ports-cpu macs-cpu,bench-out/$(chart).svg) docs/charts/

# No lab: loopback is enough, and the logs are to be on the real disk.
bench-cluster: ## measure the cluster's control plane: commits, a killed leader, 10,000 endpoints, 200 hosts (2 minutes)
	@packaging/setup build
	$(CARGO) build --locked --release -p vswitch-perf
	$(RELEASE)/vswitch-perf cluster --suite quick --out bench-out $(BENCH_ARGS)

bench-docker: ## measure Docker with vswitch beside Docker's own bridge (root, 3 minutes)
	@packaging/setup bench docker
	$(CARGO) build --locked --release -p vswitch -p vswitch-perf
	$(RELEASE)/vswitch-perf docker --out bench-out $(BENCH_ARGS)

bench-fairness: ## measure what one container at full power costs the others, on one host and on two (root, 4 minutes)
	@packaging/setup test
	$(CARGO) build --locked --release -p vswitch -p vswitch-ctl -p vswitch-perf -p vswitch-tests --bins
	$(RELEASE)/vswitch-perf fairness $(BENCH_ARGS)

# The simulator runs alone, so that its time is not the traffic's.
soak: ## mixed traffic with each engine and the cluster's simulator for SECONDS (600) each, and every size and offload
	@packaging/setup test
	$(CARGO) build --locked --release --workspace --bins
	SOAK_SECONDS=$(SECONDS) $(LAB) $(CARGO) test --locked --offline --release -p vswitch-tests \
	  --test soak --test traffic --test offloads soak_ -- --ignored --nocapture --test-threads 1
	SOAK_SECONDS=$(SECONDS) $(CARGO) test --locked --release -p vswitch-tests --test simulator soak_simulator \
	  -- --ignored --nocapture

# What it finds on its way stays out of the corpus that is kept, which is small on purpose.
fuzz: ## fuzz each target for FUZZ_SECONDS (needs nightly Rust and cargo-fuzz)
	@packaging/setup build
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 || { \
	  echo "fuzzing needs: rustup toolchain install nightly && cargo install cargo-fuzz" >&2; exit 1; }
	@for target in $$(cd tests/fuzz && $(CARGO) +nightly fuzz list --fuzz-dir .); do \
	  echo "fuzz $$target for $(FUZZ_SECONDS) s"; \
	  found="$$CARGO_TARGET_DIR/fuzz-corpus/$$target"; mkdir -p "$$found"; \
	  (cd tests/fuzz && $(CARGO) +nightly fuzz run --fuzz-dir . $$target "$$found" corpus/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS)) || exit 1; \
	done

install: build ## install both binaries, the systemd unit, completions and man pages (PREFIX, DESTDIR)
	packaging/install "$(RELEASE)" "$(DESTDIR)" "$(PREFIX)" "$(UNITDIR)"

uninstall: ## remove what install put in place
	packaging/uninstall "$(DESTDIR)" "$(PREFIX)" "$(UNITDIR)"

clean: ## remove everything that was built
	$(CARGO) clean
