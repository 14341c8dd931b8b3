"""What the README says to type works as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from curvexp.__main__ import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    for line in block.splitlines()
    if language == "sh" and line.startswith("python -m curvexp")
]
STUDIES = [command for command in COMMANDS if "study" in command]
PYTHON = [block for language, block in BLOCKS if language == "python"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in STUDIES])
def test_commands_run(command, here, monkeypatch):
    """With fewer steps and one seed: what is tested is that they are accepted and end well."""
    (here / "mylab.py").write_text(next(block for block in PYTHON if "# mylab.py" in block))
    (here / "myconf" / "problem").mkdir(parents=True)
    (here / "myconf" / "problem" / "quartic.yaml").write_text(
        next(block for language, block in BLOCKS if language == "yaml")
    )
    monkeypatch.syspath_prepend(str(here))
    words = [word for word in shlex.split(command)[3:] if not word.startswith("seed=")]
    monkeypatch.setattr(sys, "argv", ["curvexp"])
    if "resume=" in command:
        _interrupted(here / next(word for word in words if word.startswith("resume=")).removeprefix("resume="), words)
    with pytest.raises(SystemExit) if "-m" in words or "resume=" in command else _nothing():
        main([*words, "steps=30", *(["probe=off"] if "resume=" not in command else [])])
    summaries = list(here.rglob("summary.json"))
    assert summaries
    assert all('"failed"' not in path.read_text() for path in summaries)


def _interrupted(folder, words):
    """A run or a sweep of one, of which the summary says that it was stopped; with what the test adds to the command."""
    steps, dir_ = ["steps=30", "probe=off", "checkpoint.every=10"], "run" if "-m" not in words else "sweep"
    with pytest.raises(SystemExit) if "-m" in words else _nothing():
        main([*words[: "-m" in words], *steps, "problem.dimension=8", f"hydra.{dir_}.dir={folder}"])
    (summary,) = folder.rglob("summary.json")
    summary.write_text(summary.read_text().replace('"completed"', '"interrupted"'))


def test_the_commands_of_studies_run(here):
    assert len(STUDIES) >= 3
    for command in STUDIES:
        _, *words = shlex.split(command)
        found = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=here, timeout=120)
        assert found.returncode == 0, found.stderr
        assert "level_sets" in found.stdout or "best_step" in found.stdout
    assert len(list(here.rglob("finding.json"))) == len(STUDIES) - 1


def test_every_study_is_in_the_findings():
    findings = (ROOT / "docs" / "findings.md").read_text()
    for file in (ROOT / "conf" / "study").glob("*.yaml"):
        assert f"\n## {file.stem}\n" in findings


class _nothing:
    def __enter__(self):
        return None

    def __exit__(self, *exception):
        return False


def test_library_example_runs():
    (example,) = [block for block in PYTHON if "eigsh" in block]
    found = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert found.returncode == 0, found.stderr


def test_examples_of_the_page_on_spectra_run():
    page = (ROOT / "docs" / "spectra.md").read_text()
    script = "".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert found.returncode == 0, found.stderr


def test_the_two_commands_are_targets_and_ci_runs_the_test_command():
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = re.findall(r"^make (\w+)", TEXT, flags=re.MULTILINE)
    assert named == ["run", "test"]
    assert set(named) <= set(targets)
    script = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert script[-1] == "make test"


def test_every_option_in_conf_is_named():
    for group in ("problem", "problem/data", "preprocess", "optim", "probe", "track"):
        for file in (ROOT / "conf" / group).glob("*.yaml"):
            assert re.search(rf"`{file.stem}`", TEXT), f"{group}={file.stem}"
