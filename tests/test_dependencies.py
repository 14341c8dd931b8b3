"""Pins, least versions and the page that gives each dependency's reason agree with each other and with what is imported."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = ("requirements.txt", "requirements-build.txt")


def requirements(texts):
    return {canonicalize_name(found.name): found for found in map(Requirement, texts)}


def entries(lock):
    """(requirement, hashes) of each entry of a lock."""
    joined = (ROOT / lock).read_text().replace("\\\n", " ")
    for line in filter(None, map(str.strip, joined.splitlines())):
        pin, *hashes = line.split("--hash=")
        yield Requirement(pin.strip()), [text.strip() for text in hashes]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_is_one_version_with_hashes_and_no_address(lock):
    found = list(entries(lock))
    assert found
    for requirement, hashes in found:
        (version,) = requirement.specifier
        assert version.operator == "=="
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in hashes), requirement
        assert requirement.url is None
    assert "://" not in (ROOT / lock).read_text()


def test_the_pins_hold_what_the_project_asks_for():
    pinned: dict = {}
    for requirement, _ in entries(LOCKS[0]):
        pinned.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    wanted = requirements(
        [*PROJECT["dependencies"], *EXTRAS["docs"], *EXTRAS["test"], *EXTRAS["parallel"], *EXTRAS["slurm"]]
    )
    wanted.pop("curvexp")
    for name, requirement in wanted.items():
        assert name in pinned, f"{name} is not pinned: make pins"
        for pin in pinned[name]:
            (version,) = pin.specifier
            assert requirement.specifier.contains(version.version), (str(pin), str(requirement))


def test_every_dependency_has_its_reason():
    page = (ROOT / "docs" / "dependencies.md").read_text()
    always, extras = page.split("## Extras")
    rows = set(re.findall(r"^\| ([a-z0-9-]+) \|", always, flags=re.MULTILINE)) - {"package"}
    assert rows == set(requirements(PROJECT["dependencies"]))
    told = {
        (extra, name)
        for extra, names in re.findall(r"^\| (\w+) \| ([^|]+) \|", extras, flags=re.MULTILINE)
        for name in names.strip().split(", ")
        if extra != "extra"
    }
    asked = {(extra, name) for extra, texts in EXTRAS.items() for name in requirements(texts) if name != "curvexp"}
    assert told == asked


def test_what_is_imported_is_asked_for():
    """Also what another package would bring: it may leave it one day."""
    imported = set()
    for path in (ROOT / "curvexp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).split(".")[0])
    imported -= {*sys.stdlib_module_names, "curvexp"}
    optional = {"ray", "hydra_plugins", "joblib"}  # of extras, imported where their launchers are chosen
    homes, asked = packages_distributions(), set(requirements(PROJECT["dependencies"]))
    for module in imported - optional:
        assert {canonicalize_name(name) for name in homes[module]} & asked, module
