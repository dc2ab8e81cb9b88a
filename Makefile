# What a fresh clone needs is a Rust toolchain; tests/setup installs the rest where it may.
#
#   make build        the binaries, in $(CARGO_TARGET_DIR)/release
#   make demo         a cluster of three daemons, a volume, a daemon killed: shown step by step
#   make test         all tests of all crates, the system tests among them
#   make test-kernel  the kernel's own NBD driver and a file system, under User-Mode Linux
#   make bench        three daemons beside qemu-nbd on a file; CEPH=1: and beside Ceph, whose packages it installs;
#                     DOCS=1: the results become those in docs/
#   make bench-sustained  random writes on a volume that fills much of its cluster
#   make bench-metadata  the metadata service beside etcd, which it installs
#   make soak-metadata  five daemons under faults, for MINUTES (30); what clients saw must be linearizable
#   make simulate     the deterministic simulation, until it is stopped
#   make simulate-selftest  planted bugs that the simulation must find
#   make simulate-metadata  the same for the metadata group: SEEDS=1000 FROM=1, or SEED=7 for one
#   make simulate-metadata-selftest  planted bugs there
#   make lint         formatting and clippy

export CARGO_TARGET_DIR ?= $(HOME)/.cache/torus-target
export TORUS_BIN_DIR := $(abspath $(CARGO_TARGET_DIR))/release

# One profile and one set of flags everywhere: RocksDB is compiled once.
CARGO_FLAGS := --release --locked --workspace

.PHONY: build demo test test-kernel bench bench-sustained bench-metadata soak-metadata \
	simulate simulate-selftest simulate-metadata simulate-metadata-selftest lint

build:
	@tests/setup build
	cargo build --release --locked -p torus-cli

demo: build
	@tests/setup demo
	@tests/demo

test: build
	@tests/setup test
	cargo test $(CARGO_FLAGS)

test-kernel: build
	@tests/setup test-kernel
	@tests/kernel/run -- tests/kernel/selftest
	@tests/kernel/run -- tests/kernel/walk-through

bench: build
	@tests/setup bench $(if $(filter 1,$(CEPH)),bench-ceph)
	@$(if $(filter 1,$(CEPH)),BENCH_CEPH=1) $(if $(filter 1,$(DOCS)),BENCH_RESULTS=docs/performance.tsv) tests/bench

bench-sustained: build
	@tests/setup bench
	@tests/bench-sustained

bench-metadata: build
	@tests/setup bench-metadata
	cargo build --release --locked -p torus-tests --bin metadata-load
	@tests/bench-metadata

soak-metadata: build
	@tests/setup soak-metadata
	cargo run --release --locked -p torus-tests --bin soak-metadata -- --minutes $(or $(MINUTES),30) --from $(or $(SEED),1)

simulate:
	cargo run --release --locked -p torus-tests --bin simulate -- --minutes 1000000

simulate-selftest:
	cargo run --release --locked -p torus-tests --features planted --bin simulate -- --mutate all

SIMULATE_METADATA := cargo run --release --locked -p torus-simulate-metadata
SEEDS ?= 1000
FROM ?= 1

# Needs no C++: the log stands on a simulated disk in place of RocksDB.
simulate-metadata:
	$(SIMULATE_METADATA) -- $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --from $(FROM))

simulate-metadata-selftest:
	$(SIMULATE_METADATA) --features planted -- --mutate all

lint:
	@tests/setup build
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- --deny warnings
	# Alone it is built without RocksDB, unlike in the workspace.
	cargo clippy --release --locked -p torus-simulate-metadata -- --deny warnings
