# make run: the main job. make test: lint, types and tests. Both set up .venv first, with uv where it is there, else with venv and pip.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-slow faults lint picture bench bench-gpu pins audit clean

run: .venv/.ready
	$(BIN)/python -m curvexp problem=mlp optim=momentum

test: lint
	$(BIN)/python -m pytest -q -n auto

test-slow: .venv/.ready
	$(BIN)/python -m pytest -q -m slow

# Faults injected for real: kills, full and read-only disks. As root those of disks too, which mount a file system in memory.
faults: .venv/.ready
	$(BIN)/python -m pytest -q -s -m 'slow or not slow' tests/faults tests/test_resume.py

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

picture: .venv/.ready
	$(BIN)/python scripts/picture.py docs/run.svg
	$(BIN)/python scripts/picture_spectra.py docs/spectra.svg

bench: .venv/.ready
	$(BIN)/python scripts/bench_runner.py
	$(BIN)/python scripts/bench_spectrum.py

# All that the project promises about speed, on the device at hand; no row begins after 340 s, an H100 gets through three of ten by 165 s: ROWS="pairs
# density" for some of it, JSON=file to keep the figures. No environment is set up: the one in .venv where it is there, else $(PYTHON) with what it has.
bench-gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) scripts/bench_gpu.py $(ROWS) $(if $(JSON),--json $(JSON))

# Pins for reproduction: every package at the version that the tests ran with, each file by its hash; one file for what packages are built with.
# The peers of the benchmark are left free: it is of their newest. So is Ray, whose tests are run by hand.
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet
pins:
	printf 'hatchling>=1.25\neditables\nsetuptools\nwheel\n' | $(LOCK) - --output-file requirements-build.txt
	$(LOCK) pyproject.toml --extra test --extra docs --output-file requirements.txt

# Known vulnerabilities of what is pinned, from the advisories of PyPI; fails where one is found or a package could not be looked up.
audit: .venv/audit/bin/pip-audit
	.venv/audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements.txt -r requirements-build.txt

.venv/audit/bin/pip-audit: .venv/.ready
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet pip-audit

.venv/.ready: pyproject.toml requirements.txt requirements-build.txt
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) .venv && \
		uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements-build.txt && \
		uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes --no-build-isolation --requirement requirements.txt && \
		uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .; \
	else \
		$(PYTHON) -m venv .venv && \
		$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-build.txt && \
		$(BIN)/python -m pip install --quiet --require-hashes --no-build-isolation --requirement requirements.txt && \
		$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .; \
	fi
	@touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
