"""What is light stays without JAX; `make lint` holds who may import whom, by the contracts in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "curvexp"


@pytest.mark.parametrize(
    "name",
    [
        "store",
        "track",
        "report",
        "record",
        "quantities",
        "errors",
        "memory",
        "theory",
        "console",
        "app.build",
        "app.job",
    ],
)
def test_rooms_without_jax(name):
    script = f"import sys, curvexp.{name}; print('jax' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert found.stdout.strip() == "False"


def test_no_module_bears_the_name_of_an_exported_function():
    import curvexp

    modules = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert not modules & set(curvexp.__all__)
