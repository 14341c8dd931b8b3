"""Runs for the report's tests: a real sweep, once, and what else may lie in a folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from curvexp.app.studies.show import write as write_finding
from curvexp.record import Reading, Record
from curvexp.store import RunFolder
from curvexp.study import Finding, at_most, equal

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="session")
def real_sweep(tmp_path_factory):
    """6 runs of 50 steps: bowl, saddle (unbounded below) and a quadratic whose whole spectrum is measured;
    two optimizers."""
    folder = tmp_path_factory.mktemp("real") / "sweep"
    command = [sys.executable, "-m", "curvexp", "-m", "problem=bowl,saddle,quadratic", "optim=sgd,momentum"]
    command += ["steps=50", "probe=exact", "probe.every=10", "precision=float64", f"hydra.sweep.dir={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="session")
def mixed(real_sweep, tmp_path_factory):
    """The real sweep with a run of hostile names and a density, an unfinished, a failed, a damaged and a foreign one, and two studies."""
    folder = tmp_path_factory.mktemp("mixed") / "sweep"
    shutil.copytree(real_sweep, folder)
    (folder / "report.html").unlink()
    hostile = folder / "<script>alert(1)<"
    write_run(hostile, problem=HOSTILE, optim="<b>bold</b>", reason=HOSTILE, status="diverged", density=True)
    write_run(folder / "unfinished", problem="bowl", finish=False)
    write_run(folder / "failed", problem="bowl", status="failed", reason="RuntimeError: no")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "summary.json").write_text("{")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "config.json").write_text('{"model_type": "gpt2"}')
    write_finding(study(), {}, folder / "good")
    (folder / "broken").mkdir()
    (folder / "broken" / "finding.json").write_text("[1, 2")
    return folder


def study():
    """A finding as studies write it: one that holds, one that fails and has an interval, a bound, one of zero, one that is not finite."""
    claims = [
        equal(HOSTILE, 1.0, 1.02, absolute=0.1, because="a tolerance <b>argued</b> for"),
        equal("slope", 1.0, 1.5, absolute=0.1, because="fitted", interval=(1.4, 1.6)),
        at_most("bound", 2.0, 1.0, because="exact"),
        equal("zero", 0.0, 0.0, because="exact"),
        equal("lost", 1.0, np.inf, because="exact"),
    ]
    finding = Finding(
        "rates", 5, "The rate is (κ−1)/(κ+1).", "a book", "fail", [claim._asdict() for claim in claims], 0.1, {}
    )
    return finding


def write_run(
    path, *, problem="mlp", preprocess="raw", optim="sgd", seed=0, records=5, finish=True, density=False,
    status="completed", reason=None, config=None, **fields,
):  # fmt: skip
    """A run as the store writes it, with `records` records whose loss falls by half and whose top eigenvalue grows."""
    folder = RunFolder(path)
    names = {"problem": problem, "preprocess": preprocess, "optim": optim, "seed": seed}
    folder.start({"optim": {"lr": 0.1}, "seed": seed, **(config or {})}, names)
    for index in range(records):
        extra = {}
        if density:
            x = np.linspace(-1, 2, 50)
            curve = np.exp(-(x**2) * 20)
            extra["density"] = {"x": x, "density": curve / np.trapezoid(curve, x), "stderr": 0.05 * curve}
        reading = Reading(
            np.array([-0.5, 1.0, 4.0 + index]), np.full(3, 1e-3), np.array([0.1, 0.2, 0.5]), False, {}, extra
        )
        scalars = {"loss": 2.0**-index, "grad_norm": 1.0, "lambda_max": 4.0 + index, "sharpness": 4.0 + index}
        scalars |= {"threshold": 20.0, "change_predicted": -0.1, "change_actual": -0.1 + 0.01 * index}
        folder.append(Record(index * 10, scalars, reading, None, seconds=0.1))
    if finish:
        figures = {"loss": 0.1, "loss_start": 1.0, "steps": 10 * records, "lambda_max": 8.0, "lambda_max_start": 4.0}
        folder.finish(status=status, reason=reason, **figures | fields)
