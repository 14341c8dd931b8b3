"""kill -9 at random moments, checkpoint writing included: a resumed run is the one that was never disturbed."""

import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from curvexp.app import checkpoint

ROOT = Path(__file__).parents[2]
KILLS, SEED = 50, 20_250
RUN = [
    *(
        "problem=mlp",
        "problem/data=gaussian",
        "problem.data.samples=60",
        "problem.hidden=[4]",
        "optim=momentum",
        "optim.lr=0.05",
    ),
    *(
        "batch_size=10",
        "steps=1500",
        "record_every=5",
        "probe.every=300",
        "probe.k=1",
        "checkpoint.every=20",
        "landscape=off",
    ),
]  # a checkpoint takes some 40 ms, the steps between two of them less: most kills meet one that is being written
CLOCKS = ("seconds", "probe_seconds")


def start(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "curvexp", *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def records(folder):
    found = {}
    for name in ("metrics.jsonl", "spectrum.jsonl"):
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        found[name] = [{key: repr(value) for key, value in line.items() if key not in CLOCKS} for line in lines]
    return found


def end(folder):
    """The bytes of the last checkpoint's arrays: of the run's end."""
    (last,) = checkpoint.steps(folder)[-1:]
    path = folder / "checkpoints" / str(last)
    text = json.loads((path / "facts/metadata").read_bytes())["text"]
    data = checkpoint._read(path / "arrays")
    return last, json.loads(text)["forms"], data


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_random_moments_nothing_is_lost(tmp_path):
    for name in ("whole", "again"):  # the second finds all programs compiled, as those do that are killed
        process, begun = start(*RUN, f"hydra.run.dir={name}", cwd=tmp_path), time.monotonic()
        _, error = process.communicate()  # not wait(): its pipes are small
        assert process.returncode == 0, error.decode()
        length = time.monotonic() - begun
    wanted, (last, forms, data) = records(tmp_path / "whole"), end(tmp_path / "whole")
    moments = random.Random(SEED)

    def disturbed(number, times):
        """A run killed so often, each time after some seconds; how many of the kills met a living process."""
        folder, killed = tmp_path / str(number), 0
        for seconds in times:
            again = (folder / "config.json").exists()
            process = start(*([f"resume={number}"] if again else [*RUN, f"hydra.run.dir={number}"]), cwd=tmp_path)
            try:
                process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
            if not (folder / "config.json").exists():  # killed before there was a run
                subprocess.run(["rm", "-rf", str(folder)], check=True)
        again = (folder / "config.json").exists()
        process = start(*([f"resume={number}"] if again else [*RUN, f"hydra.run.dir={number}"]), cwd=tmp_path)
        _, error = process.communicate()
        assert process.returncode == 0 or b"this run is completed" in error, error.decode()
        return killed

    plans = [(number, [moments.uniform(0.3 * length, length) for _ in range(2)]) for number in range(KILLS // 2 + 3)]
    with ThreadPoolExecutor(2) as pool:
        killed = sum(pool.map(lambda plan: disturbed(*plan), plans))
    lost = 0
    for number, _ in plans:
        found = records(tmp_path / str(number))
        lost += sum(len(wanted[name]) - len(found[name]) for name in wanted)
        assert found == wanted, number
        ended, its_forms, its_data = end(tmp_path / str(number))
        assert (ended, its_forms) == (last, forms)
        parameters = [form for form in forms if "params" in form[0]]
        size = sum(4 * int(np.prod(form[2])) for form in parameters)
        np.testing.assert_array_equal(its_data[:size], data[:size])
    print(f"{killed} kills, {lost} records lost")
    assert killed >= KILLS  # some of those planned come after the run's end
