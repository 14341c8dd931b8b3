"""A disk that is full, a folder that turns read-only: one clear error, what was recorded stays, the other jobs go on."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curvexp import load_runs

ROOT = Path(__file__).parents[2]
LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, {bytes}))
from curvexp.__main__ import main
sys.argv = ["curvexp"]
main({arguments!r})
"""


def python(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def records(folder):
    """Every line of the records, whole."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_job_that_fills_its_file_fails_alone(tmp_path):
    """The system refuses a file of more than 20 kB: to the run that is a full disk."""
    typed = [
        "-m",
        "problem=bowl",
        "probe=off",
        "landscape=off",
        "record_every=1",
        "optim.lr=1e-3",
        "steps=30,3000,31",
        "hydra.sweep.dir=out",
    ]
    found = python("-c", LIMITED.format(bytes=20_000, arguments=typed), cwd=tmp_path)
    assert found.returncode == 1, found.stderr
    assert "Traceback" not in found.stderr
    summaries = [json.loads((tmp_path / f"out/{n}/summary.json").read_text()) for n in range(3)]
    assert [summary["status"] for summary in summaries] == ["completed", "failed", "completed"]
    assert "cannot be written: " in summaries[1]["reason"]
    assert found.stderr.count("cannot be written: ") == 1
    steps = [line["step"] for line in records(tmp_path / "out/1")]
    assert steps == list(range(len(steps)))
    assert len(steps) > 50
    assert load_runs(tmp_path / "out").runs["records"].tolist()[1] == len(steps)


def test_a_checkpoint_that_cannot_be_written_ends_no_run(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/checkpoints").write_text("in the way")
    typed = ["problem=bowl", "probe=off", "landscape=off", "steps=30", "checkpoint.every=10", "hydra.run.dir=out"]
    found = python("-m", "curvexp", *typed, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("no checkpoint at step") == 1
    assert json.loads((tmp_path / "out/summary.json").read_text())["status"] == "completed"


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory, of 400 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("cannot mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_one_error_and_a_resume_with_room_completes_it(tmp_path, small_disk):
    typed = ["problem=bowl", "probe=off", "landscape=off", "record_every=1", "optim.lr=1e-3", "steps=4000"]
    found = python("-m", "curvexp", *typed, f"hydra.run.dir={small_disk}/run", cwd=tmp_path)
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert found.stderr.count("No space left on device") == 1
    before = len(records(small_disk / "run"))
    assert before > 100
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert python("-m", "curvexp", f"resume={small_disk}/run", cwd=tmp_path).returncode == 0
    assert [line["step"] for line in records(small_disk / "run")] == list(range(4001))


@pytest.mark.slow
def test_a_folder_turned_read_only_ends_the_run_with_one_error(tmp_path, small_disk):
    """Records still go into the open file; the summary, which is replaced as a whole, cannot."""
    typed = ["problem=bowl", "probe=off", "landscape=off", "record_every=1", "optim.lr=1e-6", "steps=40000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300"}
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    call = [sys.executable, "-m", "curvexp", *typed, f"hydra.run.dir={small_disk}/run"]
    with subprocess.Popen(call, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        metrics = small_disk / "run/metrics.jsonl"
        while not metrics.exists() or metrics.stat().st_size < 10_000:
            time.sleep(0.02)
        subprocess.run(["mount", "--bind", str(small_disk), str(small_disk)], check=True)  # over it: without open files
        subprocess.run(["mount", "-o", "remount,bind,ro", str(small_disk)], check=True)
        assert process.poll() is None
        _, error = process.communicate(timeout=200)
    lines = records(small_disk / "run")
    status = json.loads((small_disk / "run/summary.json").read_text())["status"]
    subprocess.run(["umount", "-l", str(small_disk)], check=True)
    assert process.returncode == 1
    assert "Traceback" not in error
    assert error.count("Read-only file system") == 1
    assert status == "running"  # as it was: the report says that no end was recorded
    assert [line["step"] for line in lines] == list(range(40001))
