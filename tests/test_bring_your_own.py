"""What docs/bring_your_own.md says to type works as it stands."""

import json
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
from helpers import call

TEXT = (Path(__file__).parents[1] / "docs" / "bring_your_own.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
PYTHON = [block for language, block in BLOCKS if language == "python"]
MODELS = "".join(block for block in PYTHON if block.startswith("# mylab.py"))
SCRIPT = "".join(block for block in PYTHON if not block.startswith("# mylab.py"))
COMMANDS = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]


@pytest.fixture(autouse=True)
def lab(tmp_path, monkeypatch):
    """A person's folder: mylab.py, and the YAML files below myconf."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("mylab")
    exec(MODELS, module.__dict__)
    monkeypatch.setitem(sys.modules, "mylab", module)
    for language, block in BLOCKS:
        if language == "yaml":
            path = tmp_path / block.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command, tmp_path):
    """With fewer steps and examples: what is tested is that they are accepted and end well."""
    python, flag, package, *words = shlex.split(command)
    assert (python, flag, package) == ("python", "-m", "curvexp")
    probed = any(word.startswith("probe.") for word in words)
    cheap = ["probe.k=1", "probe.tol=0.1", "probe.dense_below=0"] if probed else ["probe=off"]
    fewer = ["steps=4", "+problem.data.test_fraction=0.95", *cheap]
    assert call(*words, *fewer) == 0
    found = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert [run["status"] for run in found] == ["completed"] * (2 if "-m" in words else 1)
    assert all(run["test_accuracy"] > 0 and (run["lambda_max"] is not None) == probed for run in found)


def test_examples_run(capsys):
    """On fewer examples, and with a cheaper probe."""
    script = SCRIPT
    for whole, fewer in (
        ("digits()", "digits(test_fraction=0.95)"),
        ("every=10)", "every=10, tol=0.1, dense_below=0)"),
    ):
        assert script.count(whole) == 1
        script = script.replace(whole, fewer)
    exec(script, {})
    *records, family, shapes = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in records] == ["0", "10", "20"]
    first, last = (float(records[i].split()[1]) for i in (0, -1))
    assert last < first
    assert family == "bernoulli"
    assert shapes == "{'Conv_0': {'bias': None, 'kernel': None}, 'Dense_0': {'bias': (10,), 'kernel': (64, 10)}}"


def test_each_wrapper_takes_at_most_three_lines():
    calls = re.findall(r"^\w+ = problem\.from_.*?\)$", SCRIPT, flags=re.DOTALL | re.MULTILINE)
    assert {re.search(r"from_\w+", text)[0] for text in calls} == {"from_flax", "from_nnx", "from_apply"}
    assert all(len(text.splitlines()) <= 3 for text in calls)
