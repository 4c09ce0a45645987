# make demo   makes a virtual environment, installs shmkit into it, and runs `shmkit demo`
# make test   does the same, and runs every test
#
# PYTHON=/path/to/python uses another interpreter, with a virtual environment of its own.
# ARGS="..." is passed on: make test ARGS="-k ring", make demo ARGS="--workers 4 README.md".

ifeq ($(origin PYTHON),undefined)
PYTHON = $(shell .ci/pythons --default)
VENV ?= .venv
else
VENV ?= .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
VENV := $(VENV)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# EDITABLE= installs a built wheel, as users get it, and again whenever a source is newer.
EDITABLE ?= --editable
COMPILED := setup.py $(addprefix src/shmkit/,_core.c segment/words.py core.py)
SOURCES := $(COMPILED) $(if $(EDITABLE),,$(shell find src -name '*.py'))

.PHONY: demo test lint types arch measure coverage bench captures conformance model killmatrix soak \
    sanitize steps clean
.DEFAULT_GOAL := test

demo: $(VENV)/.installed
	$(BIN)/shmkit demo $(ARGS)

test: $(VENV)/.tests
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev
	$(BIN)/mypy

arch: $(VENV)/.dev
	$(BIN)/lint-imports

# How readable the sources are, in numbers. Another package beside ours, by its directory:
# make measure ARGS="src/shmkit:tests ../trio/src/trio"
measure: $(VENV)/.installed
	$(BIN)/python -m tests.measure $(ARGS)

# Lines that run only in a child process count, too: each process writes a file of its own.
coverage: $(VENV)/.tests
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/ring.py $(ARGS)

# The pictures of docs/commands.md, in a /dev/shm of their own.
captures: $(VENV)/.tests
	unshare --map-root-user --mount sh -c 'mount -t tmpfs shm /dev/shm && exec "$$@"' sh \
	    $(BIN)/python -m tests.tools.captures docs/captures

# CPython's own test suites, run with shmkit's classes: docs/conformance.md.
conformance: $(VENV)/.tests
	$(BIN)/python conformance/run.py $(ARGS)

# Spin checks the models of the protocols in tests/model. FULL=1 checks all cases with wide bounds,
# which takes minutes and gigabytes.
model: $(VENV)/.tests
	$(BIN)/python -m tests.model.run $(if $(FULL),--full) $(ARGS)

# Every process killed and stopped at every step; `make test` runs a part of this.
killmatrix: $(VENV)/.tests
	SHMKIT_KILLMATRIX=whole $(BIN)/python -m pytest tests/kill $(ARGS)

# The compiled core's build for tests, in which a process can be killed at each step.
steps: $(VENV)/.tests
	SHMKIT_BUILD_CORE=1 SHMKIT_STEPS=1 \
	    $(BIN)/python setup.py --quiet build_ext --force --inplace --build-temp build/steps
	$(BIN)/python -m pytest tests/test_core.py -k killed_at_a_step_in_c $(ARGS)

# The compiled core under gcc's AddressSanitizer and UndefinedBehaviorSanitizer, in a copy of the
# package. Their allocator keeps what was freed: resident memory is not measured.
SANITIZED = tests/test_core.py tests/channels/ring tests/sync
sanitize: $(VENV)/.tests
	rm -rf build/sanitize
	SHMKIT_BUILD_CORE=1 SHMKIT_LDFLAGS="-fsanitize=address,undefined" \
	    SHMKIT_CFLAGS="-Werror -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined \
	    -fno-sanitize-recover=undefined" \
	    $(BIN)/python setup.py --quiet build --build-base build/sanitize --build-lib build/sanitize/lib
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=$(CURDIR)/build/sanitize/lib \
	    $(BIN)/python -m pytest $(SANITIZED) -k "not million_calls" $(ARGS)

SECONDS ?= 300
soak: $(VENV)/.tests
	$(BIN)/python -m tests.kill.soak --seconds $(SECONDS) $(ARGS)

clean:
	rm -f src/shmkit/_core*.so
	rm -rf .venv .venv-* build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache \
	    .ruff_cache .hypothesis .import_linter_cache src/*.egg-info
	find src tests demos benchmarks -name __pycache__ -prune -exec rm -rf {} +

# These files are stamps: nothing is installed again until pyproject.toml changes, or what the
# compiled core is made of.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "found no Python 3.11 or newer that can make a virtual \
	environment: install one with its venv module, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml $(SOURCES) | $(BIN)/python
	$(PIP) --upgrade 'pip>=25.1'
	$(if $(EDITABLE),,rm -rf build)
	$(PIP) $(EDITABLE) '.[cli]'
	@touch $@

$(VENV)/.tests: $(VENV)/.installed
	$(PIP) --group test
	@touch $@

$(VENV)/.dev: $(VENV)/.tests
	$(PIP) --group dev
	@touch $@

# If a contender cannot be installed, this run goes without it and the next run tries again.
$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python benchmarks/install.py && touch $@ || true
