"""Who may import whom: arrows run down one list, and the rooms without JAX stay without it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "curvexp"
ANY = {
    "errors",
    "home",
    "memory",
    "number",
    "record",
    "quantities",
}  # plain data, errors, and what the machine has of memory and folders: free for all
MAY_IMPORT = {
    "errors": set(),
    "home": set(),
    "memory": set(),
    "number": set(),
    "texts": set(),
    "quantities": set(),
    "record": set(),
    "theory": set(),
    "host": set(),
    "programs": set(),
    "linalg": {"host", "programs"},
    "curvature": {"linalg", "programs"},
    "preprocess": set(),
    "problem": {"preprocess"},
    "optim": {"host", "programs", "theory"},
    "probe": {"curvature", "host", "linalg", "programs", "theory"},
    "ledger": {"curvature", "host", "linalg", "optim", "probe", "programs", "theory"},
    "training": {"problem", "optim", "probe", "programs", "ledger", "curvature", "host", "linalg", "theory"},
    "store": set(),
    "track": {"console", "private"},
    "private": set(),
    "console": set(),
    "report": {"store", "console", "theory", "__init__"},
    "landscape": {"curvature", "linalg", "programs"},
    "config": {"optim", "preprocess", "private", "problem", "store", "texts", "training"},
    "around": {"config"},
    "supervisor": {"console", "report", "store"},
    "job": {
        "checkpoint",
        "private",
        "resume",
        "config",
        "console",
        "landscape",
        "store",
        "report",
        "training",
        "supervisor",
        "__init__",
    },
    "study": {
        *("config", "console", "curvature", "linalg", "optim", "preprocess", "probe", "problem", "theory", "training")
    },
    "testing": {"curvature", "optim", "probe", "problem", "theory"},
    "launcher": {"cluster", "config", "console", "job", "track", "training"},
    "cluster": {"config", "console", "plugins", "resume", "store"},
    "checkpoint": set(),
    "resume": {"checkpoint", "config", "ledger", "store", "training"},
    "plugins": {"cluster", "config", "console", "job", "launcher", "resume", "supervisor"},
    "checks": {"around", "config", "launcher", "resume"},
    "__main__": {"checks", "config", "console", "job", "plugins", "resume", "study", "supervisor"},
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "curvexp":
            parts = node.module.split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            found |= {
                name if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists() else "__init__" for name in names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("curvexp.")}
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py" and "_conf" not in path.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_run_down(path):
    name = room(path)
    assert name in MAY_IMPORT, f"{name}: a new room needs a place in this list"
    forbidden = imported(path) - MAY_IMPORT[name] - ANY - {name}
    assert not forbidden, f"{name} imports {forbidden}"


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
        "config",
        "job",
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
