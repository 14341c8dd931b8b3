"""A sink of one's own by config: it takes every record of every run, and what it raises harms nothing else."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from curvexp.__main__ import main

MYLAB = """
import json, os, signal
from curvexp.probe import Probe
from curvexp.record import Reading
import numpy as np

class Lines:
    "Writes what it is given, a line a call; interrupts the process at a step where it is told to."
    def __init__(self, prefix="", stop=None):
        self.prefix, self.stop = prefix, stop

    def write(self, *words):
        with open(f"{self.prefix}{self.name}.jsonl", "a") as file:
            print(json.dumps(words), file=file)

    def start(self, run):
        self.name, self.figures = run.folder.name, run.figures
        run.add(lines=f"{self.name}.jsonl")
        self.write("start", run.step, run.parameters, run.names["problem"], dict(run.before).get("lines"))

    def append(self, record):
        self.write("append", record.step, record.scalars["loss"], self.figures["loss"])
        if record.step == self.stop and not os.path.exists("stopped"):  # once: a second signal stops at once
            open("stopped", "w").close()
            os.kill(os.getpid(), signal.SIGINT)

    def finish(self, outcome):
        self.write("finish", outcome.status, outcome.summary["steps"], sorted(outcome.figures()))

class Raises:
    def __init__(self, at):
        self.at = at

    def start(self, run):
        self.call("start")

    def append(self, record):
        self.call("append")

    def finish(self, outcome):
        self.call("finish")

    def call(self, method):
        if method in self.at:
            raise RuntimeError(f"no {method}\\nand more")

class Exits(Raises):
    def call(self, method):
        raise SystemExit(3)

def unsteady(every=10):
    "A probe of the host, which raises when it is called a second time."
    seen = []
    def measure(loss, params, state, key):
        seen.append(float(params[0]))
        if len(seen) > 1:
            raise RuntimeError("no more")
        return Reading(np.zeros(0), np.zeros(0), None, complete=False, scalars={}, extra={}), state
    return Probe("unsteady", measure, every)

def number():
    return 1
"""
SMALL = ["problem=bowl", "optim.lr=0.05", "probe=off", "steps=20", "landscape=off"]
LINES = "sinks=[{_target_: mylab.Lines}]"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mylab", raising=False)
    Path("mylab.py").write_text(MYLAB)
    yield tmp_path
    sys.modules.pop("mylab", None)


def call(*arguments):
    """The exit code of the command line, run in this process."""
    try:
        main(arguments)
    except SystemExit as end:
        return end.code or 0
    return 0


def told(name):
    return [json.loads(line) for line in Path(f"{name}.jsonl").read_text().splitlines()]


def metrics(folder):
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def summary(folder):
    return json.loads(Path(folder, "summary.json").read_text())


def check(name, folder, status):
    """The sink was given all that is in the folder, in order, and the end once."""
    first, *records, last = told(name)
    stored = [["append", line["step"], line["loss"], line["loss"]] for line in metrics(folder)]
    assert first[0] == "start"
    assert records == stored
    assert last[:2] == ["finish", status]
    assert summary(folder)["status"] == status
    assert summary(folder)["lines"] == f"{name}.jsonl"


def test_a_sink_of_ones_own_takes_every_record_and_the_end(here):
    assert call(*SMALL, LINES, "hydra.run.dir=out") == 0
    check("out", "out", "completed")
    assert told("out")[0] == ["start", 0, 2, "bowl", None]
    assert told("out")[-1] == ["finish", "completed", 20, []]


@pytest.mark.parametrize("launcher", ["basic", "vmap"])
def test_each_job_of_a_sweep_has_its_own(here, launcher):
    typed = [*SMALL, "optim.lr=0.05,1", f"+{LINES}", "diverge_at=10", f"hydra/launcher={launcher}"]
    assert call("-m", *typed, "hydra.sweep.dir=out") == 0
    check("0", "out/0", "completed")
    check("1", "out/1", "diverged")


@pytest.mark.parametrize("launcher", [None, "vmap"])
def test_an_interrupted_run_is_finished_once_and_goes_on_in_the_sink(here, launcher):
    sweep = ["-m", f"hydra/launcher={launcher}", "seed=0,1", "hydra.sweep.dir=out"]
    where = sweep if launcher else ["hydra.run.dir=out"]
    assert call(*SMALL, "sinks=[{_target_: mylab.Lines, stop: 10}]", *where) == 130
    jobs = {"0": "out/0", "1": "out/1"} if launcher else {"out": "out"}
    for name, folder in jobs.items():
        check(name, folder, "interrupted")
        Path(f"{name}.jsonl").unlink()
    resumed = ["-m", "resume=out", f"hydra/launcher={launcher}"] if launcher else ["resume=out"]
    assert call(*resumed, LINES, "trust=mylab") == 0
    for name, folder in jobs.items():
        first, *records, last = told(name)
        assert first == ["start", 10, 2, "bowl", f"{name}.jsonl"]
        assert [words[1] for words in records] == [20]
        assert last[:3] == ["finish", "completed", 20]
        assert [line["step"] for line in metrics(folder)] == [0, 10, 20]


def test_a_run_that_fails_is_finished_as_failed(here):
    Path("conf/probe").mkdir(parents=True)
    Path("conf/probe/unsteady.yaml").write_text("_target_: mylab.unsteady\n")
    typed = [*SMALL, "probe=unsteady", "seed=0,1", LINES, "--config-dir=conf", "hydra/launcher=vmap"]
    assert call("-m", *typed, "hydra.sweep.dir=out") == 1
    for name in ("0", "1"):
        check(name, f"out/{name}", "failed")


@pytest.mark.parametrize("launcher, at", [("basic", "start"), ("vmap", "append,finish")])
def test_what_a_sink_raises_is_told_once_and_ends_nothing(here, capsys, launcher, at):
    both = f"sinks=[{{_target_: mylab.Raises, at: [{at}]}}, {{_target_: mylab.Lines}}]"
    typed = [*SMALL, both, "seed=0,1", f"hydra/launcher={launcher}", "hydra.sweep.dir=out"]
    assert call("-m", *typed) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "mylab.Raises" in line]
    assert len(notes) == 2  # one a run
    first = at.split(",")[0]
    assert all(
        f"sinks.0 (mylab.Raises) failed, the run goes on without it: RuntimeError: no {first}" in note for note in notes
    )
    for name in ("0", "1"):
        check(name, f"out/{name}", "completed")


def test_a_sink_that_exits_ends_nothing(here, capsys):
    assert call(*SMALL, "sinks=[{_target_: mylab.Exits, at: []}]", "hydra.run.dir=out") == 0
    assert capsys.readouterr().err.count("SystemExit: 3") == 1
    assert summary("out")["status"] == "completed"


def test_a_tracker_of_ones_own_is_a_sink(here, capsys):
    Path("conf/track").mkdir(parents=True)
    Path("conf/track/mine.yaml").write_text("_target_: mylab.Lines\nprefix: tracked-\n")
    assert call(*SMALL, "track=mine", "--config-dir=conf", "checkpoint.every=10", "hydra.run.dir=out") == 0
    assert [words[0] for words in told("tracked-out")] == ["start", *["append"] * 3, "finish"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "typed, words",
    [
        ("sinks=1", r"sinks=1: expected a list of mappings with _target_"),
        ("sinks=[a]", r"sinks=\['a'\]: expected a list of mappings with _target_"),
        ("sinks=[{at: []}]", r"expected a list of mappings with _target_"),
        ("sinks=[{_target_: mylab.Nothing}]", r"sinks\.0\._target_=mylab\.Nothing: cannot be imported"),
        (
            "sinks=[{_target_: mylab.Lines, colour: 1}]",
            r"sinks\.0\.colour=1: unknown key; mylab\.Lines takes prefix, stop",
        ),
        ("sinks=[{_target_: mylab.Raises}]", r"sinks\.0: .*missing 1 required .*'at'"),
        (
            "sinks=[{_target_: mylab.number}]",
            r"sinks\.0\._target_=mylab\.number: .*the methods start, append and finish; int has no start",
        ),
        ("sinks=[{_target_: os.system, command: touch x}]", r"sinks\.0"),
    ],
)
def test_a_wrong_sink_is_refused_before_any_compute(here, capsys, typed, words):
    assert call(*["-m"] * ("number" in typed), *SMALL, typed) == 2
    assert re.search(words, capsys.readouterr().err)
    assert sorted(os.listdir()) in (["mylab.py"], ["__pycache__", "mylab.py"])


def test_a_recorded_sink_is_called_where_its_package_is_trusted_alone(here, capsys):
    assert call(*SMALL, "sinks=[{_target_: mylab.Lines, stop: 10}]", "hydra.run.dir=out") == 130
    Path("out.jsonl").unlink()
    assert call("resume=out") == 2
    assert "sinks.0._target_=mylab.Lines: not a trusted package's" in capsys.readouterr().err
    assert not Path("out.jsonl").exists()
