# Everything here needs Python 3.11 to 3.13 and make, nothing else: each target first
# builds what it needs in .venv, with the versions of requirements/, and keeps it there.

PYTHON ?= python3
WORKERS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=
# Ten million particles, too, beside what is stored:
# make bench KERNEL_ARGS="--full --check benchmarks/results/accel.jsonl"
KERNEL_ARGS ?=
# All ten cases with reference draws and three seeds: make bench GRADIENT_ARGS="--seeds 3"
GRADIENT_ARGS ?= --cases eight_schools,gp_regr --seeds 1

VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := $(wildcard requirements/constraints-*.txt)
EXTRAS := bench cluster dev docs test torch

# Compiled programs are kept from run to run.
CACHE := \
	JAX_COMPILATION_CACHE_DIR="$(CURDIR)/.jax_cache" \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
# One thread a worker in libraries of linear algebra, so that the workers do not wait for each
# other's cores. A word in XLA_FLAGS without two dashes would make XLA ignore what follows.
ONE_THREAD := \
	XLA_FLAGS="--xla_cpu_multi_thread_eigen=false" \
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
# Options by which XLA optimises less save nothing worth having: of 40 CPU seconds of a file with
# many programs 2 at most, as most programs ask for less already, and some tests run for longer.
# A worker keeps neighbouring tests, which share compiled programs, until another is idle.
PYTEST := $(CACHE) $(ONE_THREAD) $(BIN)/python -m pytest \
	--numprocesses $(WORKERS) --dist worksteal --durations 15 --durations-min 5

.DEFAULT_GOAL := install
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: install demo test test-slow test-torch test-cluster lint docs bench bench-gradient clean help

install: $(VENV)/.installed-core  ## make .venv and install bayeskit into it (the default)

demo: $(VENV)/.installed-core  ## fit a model to real data, check the kernel, write results to demo/
	$(BIN)/bayeskit demo --out demo

test: $(VENV)/.installed-test  ## all tests and doctests but the slow ones
	$(PYTEST) $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-test  ## the slow tests
	$(PYTEST) -m slow $(PYTEST_ARGS)

# Triton's interpreter computes on a CPU what its kernels compute on a GPU. Not a part of
# `test`: torch and Triton take about 2 GB.
test-torch: $(VENV)/.installed-test $(VENV)/.installed-triton  ## torch tensors, Pyro models, and Triton kernels in the interpreter (Linux)
	$(PYTEST) -m "slow or not slow" \
		tests/accel/torch tests/accel/kernels/test_triton.py bayeskit/accel/torch \
		tests/interop/torch bayeskit/interop/torch*.py bayeskit/interop/pyro*.py $(PYTEST_ARGS)

# Clusters of this machine, reached by loopback. Not a part of `test`: Ray takes about 0.2 GB.
test-cluster: $(VENV)/.installed-test $(VENV)/.installed-cluster  ## fits on Dask and Ray, particles in several processes
	$(PYTEST) -m "slow or not slow" tests/models/many_fits \
		tests/inference/test_engines_on_a_mesh.py $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## style, format, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs  ## the documentation, in docs/_build/html
	$(CACHE) $(BIN)/python -m sphinx -W --keep-going -q -j $(WORKERS) -b html docs docs/_build/html

bench: $(VENV)/.installed-bench  ## speed and accuracy beside other packages
	$(BIN)/python -m bayeskit.accel.bench $(KERNEL_ARGS)
	$(BIN)/python benchmarks/compile_times.py
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)
	$(BIN)/python benchmarks/particle_filters.py
	$(BIN)/python benchmarks/gradient_engines.py $(GRADIENT_ARGS)

bench-gradient: $(VENV)/.installed-bench  ## gradient engines on posteriors with reference draws
	$(BIN)/python benchmarks/gradient_engines.py $(GRADIENT_ARGS)

clean:  ## remove what the other targets wrote, except .venv
	rm -rf build demo dist docs/_build docs/reference/generated .jax_cache
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find bayeskit benchmarks docs tests -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The environment. A stamp is newer than pyproject.toml and the pinned versions while
# what it stands for is installed; the package itself is installed in place.

CONSTRAINTS = requirements/constraints-$$($(BIN)/python -c \
	'import sys; print("%d.%d" % sys.version_info[:2])').txt
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet \
	--constraint $(CONSTRAINTS)

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "bayeskit needs Python 3.11 to 3.13, and $(PYTHON) is another or none:" \
			"try 'make PYTHON=python3.11'" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# pip first, since an old one may not know what follows; the build tool once for all.
$(VENV)/.installed-tools: pyproject.toml $(REQUIREMENTS) | $(VENV)/.created
	@$(PIP_INSTALL) --upgrade pip
	@$(PIP_INSTALL) editables hatchling
	@touch $@

$(VENV)/.installed-core: $(VENV)/.installed-tools
	@echo "Installing bayeskit into $(VENV)"
	@$(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

$(EXTRAS:%=$(VENV)/.installed-%): $(VENV)/.installed-%: $(VENV)/.installed-tools
	@echo "Installing bayeskit[$*] into $(VENV)"
	@$(PIP_INSTALL) --no-build-isolation --editable ".[$*]"
	@touch $@ $(VENV)/.installed-core

# In the version that torch asks for, where it asks for one.
$(VENV)/.installed-triton: $(VENV)/.installed-torch
	@echo "Installing triton into $(VENV)"
	@$(PIP_INSTALL) triton
	@touch $@
