"""A thousand jobs of one sweep: each leaves its record, and the report reads them all."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curvexp import load_runs

ROOT = Path(__file__).parents[2]
JOBS = 1000
PEAK = """
import resource, sys
from curvexp.__main__ import main
sys.argv = ["curvexp"]
try:
    main({arguments!r})
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def sweep(jobs, launcher, cwd):
    """Seconds and peak memory in MB of a sweep of so many tiny quadratics, by the command line in a process of its own."""
    typed = ["-m", "problem=bowl", f"seed=range({jobs})", "steps=5", "record_every=5", "probe=off", "landscape=off"]
    typed += [f"hydra/launcher={launcher}", f"hydra.sweep.dir={launcher}{jobs}"]
    begun = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", PEAK.format(arguments=typed)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert f"{jobs} runs: {jobs} completed" in found.stdout
    return time.monotonic() - begun, int(re.findall(r"peak (\d+)", found.stderr)[-1]) / 1024


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("launcher", ["basic", "vmap"])
def test_a_thousand_jobs_are_recorded_and_read(tmp_path, launcher):
    _, few = sweep(10, launcher, tmp_path)
    seconds, many = sweep(JOBS, launcher, tmp_path)
    folder = tmp_path / f"{launcher}{JOBS}"
    summaries = [json.loads((folder / str(job) / "summary.json").read_text()) for job in range(JOBS)]
    recorded = sum(summary["status"] == "completed" and summary["steps"] == 5 for summary in summaries)
    begun = time.monotonic()
    found = load_runs(folder)
    reading = time.monotonic() - begun
    assert sorted(found.runs["seed"]) == list(range(JOBS))
    assert set(found.runs["records"]) == {2}
    page = (folder / "report.html").stat().st_size
    assert page < 2 * (tmp_path / f"{launcher}10" / "report.html").stat().st_size
    print(
        f"{JOBS} jobs by {launcher}: {recorded} recorded, {len(found.runs)} read, {seconds:.0f} s, read in {reading:.2f} s; the page has "
        f"{page / 1e6:.1f} MB; peak memory {many:.0f} MB, of 10 jobs {few:.0f} MB"
    )
    assert recorded == len(found.runs) == JOBS
    assert many < few + 1000
