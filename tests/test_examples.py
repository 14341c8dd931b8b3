"""Every public function and class of these packages has an example, which pytest runs with the doctests."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "curvexp"
WITHOUT = {
    "Numbers",
    "Found",
    "Tally",
    "State",
    "Plan",
    "Seen",
    "UnderTraceError",
}  # which Krylov-Schur keeps to itself


@pytest.mark.parametrize("room", ["linalg", "curvature", "theory"])
def test_what_is_public_has_an_example(room):
    found = [
        f"{path.stem}.{node.name}"
        for path in sorted((PACKAGE / room).glob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and node.name not in WITHOUT
        and ">>>" not in (ast.get_docstring(node) or "")
    ]
    assert not found
