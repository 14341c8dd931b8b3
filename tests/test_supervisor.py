"""A process that watches another: its exit code, its signals, its end; and a sweep's crash by a signal."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curvexp.app import supervisor

ROOT = Path(__file__).parents[1]
linux_alone = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the supervisor needs Linux")
pytestmark = linux_alone

WATCHED = """
import os, signal, sys, time
from curvexp.app import supervisor
assert supervisor.possible()
words = supervisor.supervised(sys.argv[1:], lambda words, sweep, one_by_one: [])
print("child of", os.getppid(), "is", os.getpid(), words, flush=True)
"""
OWN = """
import os, signal
import jax.numpy as jnp
from curvexp import Problem

def start(key):
    return jnp.ones(3)

def loss(params, data):
    return data * (params**4).sum() / 4

def crash(*, scale=1.0, at=2.0, preprocess, dtype):
    if scale == at:
        os.kill(os.getpid(), signal.SIGSEGV)
    if scale == 5.0:
        os._exit(0)  # as a library of C may
    return Problem("quartic", start, loss, jnp.asarray(scale, dtype), lower_bound=0.0)
"""


def begun(code, here):
    """A supervised process, and the number of its child, which has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED + code, "a", "b"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    parent, child = re.findall(r"\d+", line)
    assert int(parent) == process.pid
    assert line.endswith("['a', 'b']\n")
    return process, int(child)


def ends(number):
    """Whether a process is gone, or a zombie, within 20 seconds."""
    for _ in range(400):
        try:
            if Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_the_exit_code_is_the_childs(tmp_path):
    process, _ = begun("sys.exit(7)", tmp_path)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 7


def test_signals_are_passed_on_and_a_death_by_one_is_both_processes(tmp_path):
    waiting = "signal.signal(signal.SIGINT, lambda *_: sys.exit(130))\nprint('ready', flush=True)\ntime.sleep(60)"
    process, _ = begun(waiting, tmp_path)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    process, child = begun("time.sleep(60)", tmp_path)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert ends(child)


def test_a_killed_parent_leaves_no_child(tmp_path):
    process, child = begun("time.sleep(200)", tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert ends(child)


def test_a_crash_before_a_sweep_began_is_said(tmp_path):
    process, _ = begun("os.kill(os.getpid(), signal.SIGSEGV)", tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert err == "error: its process died by SIGSEGV before the first job began\n"


def test_an_exit_from_within_before_a_sweep_began_is_said(tmp_path):
    for code in (0, 7):
        process, _ = begun(f"os._exit({code})", tmp_path)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert err == f"error: its process was ended from within, with exit code {code} before the first job began\n"


def test_a_crash_after_the_table_changes_no_exit_code(tmp_path):
    code = (
        "from pathlib import Path\n"
        "supervisor.began(Path('sweep'), sweeper='OnceSweeper', launcher='BasicLauncher', line='')\n"
        "supervisor.note(code=0)\nos.kill(os.getpid(), signal.SIGABRT)"
    )
    process, _ = begun(code, tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "SIGABRT after the sweep's table was made" in err


def test_a_process_that_is_not_to_be_forked_is_not(monkeypatch):
    assert "jax" in sys.modules or supervisor.possible()
    monkeypatch.setitem(sys.modules, "jax", object())
    assert not supervisor.possible()


# ---- sweeps ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mylab.py").write_text(OWN)
    (tmp_path / "myconf/problem").mkdir(parents=True)
    (tmp_path / "myconf/problem/crash.yaml").write_text("_target_: mylab.crash\n_partial_: true\nscale: 1.0\nat: 2.0\n")
    return tmp_path


def sweep(*words):
    """A supervised sweep of an own problem."""
    return subprocess.Popen(
        [sys.executable, "-m", "curvexp", "--config-dir", "myconf", "-m", "problem=crash", "probe=off", *words],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.getcwd()}", "COLUMNS": "160"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "closed", [">&-", *(pytest.param(one, marks=pytest.mark.slow) for one in ("2>&-", ">/dev/full"))]
)
def test_a_stream_that_is_closed_or_full_ends_no_sweep(here, closed):
    line = f"{sys.executable} -m curvexp -m problem=bowl probe=off steps=2 landscape=off hydra.sweep.dir=sweep seed=1,2 {closed}"
    found = subprocess.run(
        ["sh", "-c", line], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert statuses(here / "sweep") == ["completed", "completed"]
    assert (here / "sweep/report.html").exists()


def statuses(folder):
    summaries = sorted(folder.glob("*/summary.json"), key=lambda path: int(path.parent.name))
    return [json.loads(path.read_text())["status"] for path in summaries]


SMALL = ("optim.lr=0.1", "steps=2", "hydra.sweep.dir=sweep")


def test_a_crash_by_a_signal_or_an_exit_ends_one_job_and_the_sweep_goes_on(here):
    process = sweep(*SMALL, "problem.scale=1,2,5,3")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1, out + err
    assert statuses(here / "sweep") == ["completed", "failed", "failed", "completed"]
    summary = json.loads((here / "sweep/2/summary.json").read_text())
    assert summary["reason"] == "its process was ended from within, with exit code 0"
    summary = json.loads((here / "sweep/1/summary.json").read_text())
    assert summary["reason"] == "its process died by SIGSEGV"
    assert "mylab.py" in (here / "sweep/1/traceback.txt").read_text()
    assert "4 runs: 2 completed, 2 failed" in out
    assert "SIGSEGV" in (here / "sweep/report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_of_jobs_in_step_one_by_one_is_tried_after_a_crash(here):
    process = sweep(*SMALL, "problem.scale=1,3,2,4", "hydra/launcher=vmap", "hydra.launcher.max_batch=3")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1, out + err
    assert statuses(here / "sweep") == ["completed", "completed", "failed", "completed"]
    assert "#0, #1, #2: its process died by SIGSEGV; they go on one by one" in err
    assert (here / "sweep/report.html").exists()


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_sweep_is_one_signal(here):
    """As `timeout`, Slurm and systemd send it: the step is finished and recorded, and there is a checkpoint to go on from."""
    process = sweep("optim.lr=0.1", "steps=100000000", "problem.scale=1,3", "hydra.sweep.dir=sweep")
    recorded(here / "sweep/0", process)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for number in (process.pid, int(child)):
        os.kill(number, signal.SIGTERM)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 143, out + err
    assert statuses(here / "sweep") == ["interrupted"]
    assert list((here / "sweep/0/checkpoints").iterdir())
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_dead_worker_of_joblib_does_not_take_the_table_along(here):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    process = sweep(*SMALL, "problem.scale=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1, out + err
    assert "failed" in statuses(here / "sweep")
    assert "running" not in statuses(here / "sweep")
    assert (here / "sweep/report.html").exists()
    assert "Go on with it: python -m curvexp --config-dir myconf -m resume=sweep trust=mylab retry=failed" in err


@pytest.mark.slow
def test_a_sweep_that_retries_ends_in_its_table_after_a_crash(here):
    sweep(*SMALL, "problem.scale=2,3").communicate(timeout=240)
    assert statuses(here / "sweep") == ["failed", "completed"]
    process = sweep("optim.lr=0.1", "steps=2", "problem.scale=2,3", "resume=sweep", "retry=failed", "trust=mylab")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1, out + err
    assert statuses(here / "sweep") == ["failed", "completed"]
    assert "2 runs: 1 completed, 1 failed" in out
    assert "Go on with it: python -m curvexp" in err


@pytest.mark.slow
def test_killed_for_memory_and_then_interrupted_the_sweep_goes_on_by_the_line_that_it_prints(here):
    process = sweep("optim.lr=0.1", "steps=100000000", "problem.scale=1,3", "hydra.sweep.dir=sweep")
    recorded(here / "sweep/0", process)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    recorded(here / "sweep/1", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, out + err
    assert statuses(here / "sweep") == ["failed", "interrupted"]
    assert "SIGKILL" in json.loads((here / "sweep/0/summary.json").read_text())["reason"]
    line = err.split("Go on with it: ")[1].splitlines()[0]
    assert line == "python -m curvexp --config-dir myconf -m resume=sweep trust=mylab"
    reached = json.loads((here / "sweep/1/summary.json").read_text())["steps"]
    found = subprocess.run(
        [sys.executable, *shlex.split(line)[1:], f"steps={reached + 10}"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{here}"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 1, found.stderr  # the killed job stays failed
    assert statuses(here / "sweep") == ["failed", "completed"]


def recorded(run, process):
    """Waits until a run has some records."""
    deadline = time.monotonic() + 120
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
