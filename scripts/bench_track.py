"""What W&B costs a run: the training loop with `track=wandb` (offline) beside `track=off`, a record every 10 steps, in alternation.

python scripts/bench_track.py [--repeats 5] [--steps 5000]

Both in one process, one after the other, on an MLP on the digits, probe=off; the ratio is the median over the pairs. The loop is from the
first record to the last; what W&B needs to start and to end is printed apart.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from curvexp.__main__ import main as curvexp


def run(track: str, steps: int, folder: Path) -> tuple[float, float]:
    """(seconds of the loop, of the rest of the run)."""
    typed = ["problem=mlp", "optim=momentum", "optim.lr=0.05", "probe=off", f"steps={steps}", "record_every=10"]
    begun = time.perf_counter()
    sys.argv = ["curvexp"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        curvexp([*typed, f"track={track}", f"hydra.run.dir={folder}"])
    wall = time.perf_counter() - begun
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    loop = json.loads(lines[-1])["seconds"] - json.loads(lines[0])["seconds"]
    return loop, wall - loop


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5000)
    options = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    with tempfile.TemporaryDirectory() as folder:
        pairs = []
        for turn in range(options.repeats + 1):
            pair = {track: run(track, options.steps, Path(folder, f"{track}{turn}")) for track in ("off", "wandb")}
            if turn:
                pairs.append(pair)
    ratio = statistics.median(pair["wandb"][0] / pair["off"][0] for pair in pairs)
    each = statistics.median((pair["wandb"][0] - pair["off"][0]) / (options.steps / 10) for pair in pairs)
    bare = statistics.median(pair["off"][0] for pair in pairs)
    around = statistics.median(pair["wandb"][1] - pair["off"][1] for pair in pairs)
    print(f"loop of {options.steps} steps, {bare:.2f} s without: {100 * (ratio - 1):.1f} % more with W&B")
    print(f"{1e6 * each:.0f} µs a record; {around:.2f} s to start and to end")


if __name__ == "__main__":
    main()
