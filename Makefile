# Every target does all of its own set-up: it needs a Python of at least 3.11 (with venv), make, and a package index.
# The environment lives in .venv and is brought up to date when pyproject.toml changes.
#
#   make demo          train a small model on handwritten digits
#   make test          the tests (PYTEST_ARGS="-k tape" for some of them)
#   make test-all      also those marked slow and exhaustive, with PyTorch, which results are compared with
#   make programs      20,000 random programs, eagerly and staged (PROGRAMS_ARGS="--seconds 600": goes on next time)
#   make lint          ruff and mypy
#   make bench         ratios against PyTorch and JAX, measured here, in interleaved runs (BENCH_ARGS=--quick)
#   make conformance   the Array API consortium's test suite
#   make clean         remove everything that these targets made

.NOTPARALLEL:
.PHONY: demo test test-all programs lint bench conformance clean help

VENV ?= .venv
BENCH_VENV ?= .bench-venv
TEST_VENV ?= .test-venv
RUN = $(VENV)/bin/python
JOBS ?= auto

# The first Python that is new enough and can make virtual environments.
FITS = import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(FITS)' >/dev/null 2>&1 && { echo $$p; break; }; done)

define environment
@p='$(PYTHON)'; if [ -z "$$p" ] || ! $$p -c '$(FITS)' >/dev/null 2>&1; then \
	echo "No Python >= 3.11 with venv was found (on Debian and Ubuntu: apt install python3-venv)." >&2; \
	echo "Install one, or name it: make PYTHON=/path/to/python3.12 $@" >&2; exit 1; fi; \
	$$p scripts/environment.py $(1)
endef

help:
	@sed -n 's/^#   //p' Makefile

demo:
	$(call environment,$(VENV) demo)
	$(RUN) -m examples.digits $(DEMO_ARGS)

test:
	$(call environment,$(VENV) test)
	$(RUN) -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

test-all:
	$(call environment,$(TEST_VENV) test -r tests/requirements.txt)
	$(TEST_VENV)/bin/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal -m '' $(PYTEST_ARGS)

programs:
	$(call environment,$(VENV) test)
	$(RUN) scripts/random_programs.py $(PROGRAMS_ARGS)

lint:
	$(call environment,$(VENV) lint test)
	$(RUN) -m ruff check .
	$(RUN) -m mypy

bench:
	$(call environment,$(VENV))
	$(call environment,$(BENCH_VENV) -r benchmarks/requirements.txt)
	$(RUN) benchmarks/eager.py --peer-python $(BENCH_VENV)/bin/python $(BENCH_ARGS)
	$(RUN) benchmarks/staged.py --peer-python $(BENCH_VENV)/bin/python $(STAGED_ARGS)
	$(RUN) benchmarks/compiled.py --peer-python $(BENCH_VENV)/bin/python $(COMPILED_ARGS)
	$(RUN) benchmarks/shapes.py --peer-python $(BENCH_VENV)/bin/python $(SHAPES_ARGS)
	$(RUN) benchmarks/networks.py --peer-python $(BENCH_VENV)/bin/python $(NETWORKS_ARGS)
	$(RUN) benchmarks/operations.py --peer-python $(BENCH_VENV)/bin/python $(OPERATIONS_ARGS)

conformance:
	$(call environment,$(VENV) conformance)
	$(RUN) scripts/conformance.py $(CONFORMANCE_ARGS)

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(TEST_VENV) .conformance .programs .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist agog.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
