# make run: the main job. make test: lint, types and tests. Both set up .venv first, with uv where it is there, else with venv and pip.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-slow faults lint picture bench pins clean

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

picture: .venv/.ready
	$(BIN)/python scripts/picture.py docs/run.svg
	$(BIN)/python scripts/picture_spectra.py docs/spectra.svg

bench: .venv/.ready
	$(BIN)/python scripts/bench_runner.py
	$(BIN)/python scripts/bench_spectrum.py

# Pins for reproduction: every package at the version that the tests ran with. The peers of the benchmark are left free: it is of their newest.
pins:
	uv pip compile pyproject.toml --extra test --extra docs --no-annotate --no-header --universal --output-file constraints.txt

.venv/.ready: pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) .venv && \
		uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraints constraints.txt --editable '.[test,docs]'; \
	else \
		$(PYTHON) -m venv .venv && \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,docs]'; \
	fi
	@touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
